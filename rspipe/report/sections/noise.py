"""Section: how far the noise of members is their own, within and across methods and architectures."""

from collections.abc import Iterator

from rspipe.ensembles.diagnostics import NoiseStructure, noise_structure
from rspipe.records import Interval
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import TONES, Cell, Table, bracketed, interval_cell
from rspipe.smoothing.inference import verdict


def _noise_rows(structure: NoiseStructure, average: str) -> Iterator[dict[str, Cell]]:
    pairs = [(name, name) for name in structure.models] + [pair for pair in structure.covariance if pair[0] != pair[1]]
    for a, b in pairs:
        name = f"{a}, within" if a == b else f"{a} and {b}, across"
        mixing = None if a == b else structure.mixing.get((a, b))
        back = None if a == b else structure.mixing.get((b, a))
        models = f"{structure.models[a]}" if a == b else f"{structure.models[a]} + {structure.models[b]}"
        yield {
            "margins of": Cell(average),
            "methods": Cell(name),
            "models": Cell(models),
            "variance of one [95 %]": interval_cell(structure.variance[a] if a == b else None),
            "covariance of two [95 %]": interval_cell(structure.covariance.get((a, b))),
            "share that stays [95 %]": interval_cell(structure.floor.get(a) if a == b else None),
            "mixed less two of the first [95 %]": _lower_is_better(mixing),
            "mixed less two of the second [95 %]": _lower_is_better(back),
        }


def _lower_is_better(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–")
    tone = {"lower": "higher", "higher": "lower"}.get(verdict(interval), "not significant")
    return Cell(bracketed(interval, signed=True), interval.estimate, tone=TONES[tone])


def noise_level(results: Results, *, sigma: float) -> Level | None:
    """Return variances and covariances of margins at a noise level, and where mixing changes them; None without."""
    rows, sentences = [], []
    for margins in results.margins_at(sigma):
        methods = [results.model_label(member) for member in margins.members]
        structure = noise_structure(margins.calibration, methods)
        if structure is None:
            continue
        rows += list(_noise_rows(structure, margins.average))
        lower = [f"{a} + {b} against {a} x2" for (a, b), one in structure.mixing.items() if one.high < 0]
        higher = [f"{a} + {b} against {a} x2" for (a, b), one in structure.mixing.items() if one.low > 0]
        for word, mixtures in (("lowers", lower), ("raises", higher)):
            if mixtures:
                sentences.append(f"Of {margins.average}: mixing {word} the variance for {', '.join(mixtures)}.")
    return Level(sigma, Table.of(rows), tuple(sentences)) if rows else None


def section(results: Results) -> Section | None:
    """Return the section; None where no margins were read."""
    levels = [level for sigma in results.sigmas if (level := noise_level(results, sigma=sigma)) is not None]
    return Section("noise", {"levels": levels}) if levels else None

"""Section: how far the noise of members is their own, within and across methods and architectures."""

from collections.abc import Iterator

from rspipe.ensembles.diagnostics import Across, NoiseStructure, noise_structure
from rspipe.records import Interval
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import TONES, Cell, Table, bracketed, interval_cell
from rspipe.smoothing.inference import verdict


def _noise_rows(structure: NoiseStructure, average: str) -> Iterator[dict[str, Cell]]:
    for name, models in structure.models.items():
        yield {
            "margins of": Cell(average),
            "methods": Cell(f"{name}, within"),
            "models": Cell(f"{models}"),
            "variance of one [95 %]": interval_cell(structure.variance[name]),
            "covariance of two [95 %]": interval_cell(structure.covariance.get(name)),
            "share that stays [95 %]": interval_cell(structure.floor.get(name)),
            "mixed less two of the first [95 %]": Cell("–"),
            "mixed less two of the second [95 %]": Cell("–"),
        }
    for one in structure.across:
        yield {
            "margins of": Cell(average),
            "methods": Cell(f"{_mixture(one, ' and ')}, across"),
            "models": Cell(f"{structure.models[one.first]} + {structure.models[one.second]}"),
            "variance of one [95 %]": Cell("–"),
            "covariance of two [95 %]": interval_cell(one.covariance),
            "share that stays [95 %]": Cell("–"),
            "mixed less two of the first [95 %]": _lower_is_better(one.less_first),
            "mixed less two of the second [95 %]": _lower_is_better(one.less_second),
        }


def _mixture(one: Across, joint: str) -> str:
    return f"{one.first}{joint}{one.second}{' with the same seed' if one.common_seed else ''}"


def _changes(structure: NoiseStructure) -> Iterator[tuple[str, Interval]]:
    """Yield what mixing does to the variance, by the averages compared."""
    for one in structure.across:
        for label, change in ((one.first, one.less_first), (one.second, one.less_second)):
            if change is not None:
                yield f"{_mixture(one, ' + ')} against {label} x2", change


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
        models = map(results.model, margins.members)
        seeds = [None if model is None else model.common_seed for model in models]
        structure = noise_structure(margins.calibration, methods, common_seeds=seeds)
        if structure is None:
            continue
        rows += list(_noise_rows(structure, margins.average))
        lower = [name for name, one in _changes(structure) if one.high < 0]
        higher = [name for name, one in _changes(structure) if one.low > 0]
        for word, mixtures in (("lowers", lower), ("raises", higher)):
            if mixtures:
                sentences.append(f"Of {margins.average}: mixing {word} the variance for {', '.join(mixtures)}.")
    return Level(sigma, Table.of(rows), tuple(sentences)) if rows else None


def section(results: Results) -> Section | None:
    """Return the section; None where no margins were read."""
    levels = [level for sigma in results.sigmas if (level := noise_level(results, sigma=sigma)) is not None]
    return Section("noise", {"levels": levels}) if levels else None

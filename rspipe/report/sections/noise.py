"""Section: how far the noise of members is their own, within and across methods and architectures."""

from collections.abc import Iterator

from rspipe.ensembles.noise_structure import Across, NoiseStructure, noise_structure
from rspipe.records import Interval, TrainedModel
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import Cell, Table, Tone, bracketed, interval_cell
from rspipe.smoothing.inference import Difference, Relation, holm_by_scope, relation


def _noise_rows(structure: NoiseStructure, average: str) -> Iterator[dict[str, Cell]]:
    for name, models in structure.models.items():
        yield {
            "margins of": Cell(average),
            "methods": Cell(f"{name}, within"),
            "models": Cell(f"{models}"),
            "variance of one [95 %]": interval_cell(structure.variance[name]),
            "covariance of two [95 %]": interval_cell(structure.covariance.get(name)),
            "share that stays [95 %]": interval_cell(structure.floor.get(name)),
        }
    for one in structure.across:
        yield {
            "margins of": Cell(average),
            "methods": Cell(f"{_mixture(one, ' and ')}, across"),
            "models": Cell(f"{structure.models[one.first]} + {structure.models[one.second]}"),
            "variance of one [95 %]": Cell("–"),
            "covariance of two [95 %]": interval_cell(one.covariance),
            "share that stays [95 %]": Cell("–"),
        }


def _mixture(one: Across, joint: str) -> str:
    return f"{one.first}{joint}{one.second}{' with the same seed' if one.common_seed else ''}"


def _changes(structure: NoiseStructure) -> Iterator[tuple[str, str, Difference]]:
    """Yield what mixing does to the variance: of which mixture, against two of which method, and the difference."""
    for one in structure.across:
        for label, change in ((one.first, one.less_first), (one.second, one.less_second)):
            if change is not None:
                yield _mixture(one, " + "), label, change


def _lower_is_better(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("not judged", tone="muted")
    tone: Tone = "good" if interval.high < 0 else "bad" if interval.low > 0 else "muted"
    return Cell(bracketed(interval, signed=True), interval.estimate, tone=tone)


def _mixing_rows(structure: NoiseStructure, average: str) -> Iterator[dict[str, Cell]]:
    for mixture, label, change in _changes(structure):
        yield {
            "margins of": Cell(average),
            "average of": Cell(mixture),
            "less two of": Cell(label),
            "variance, these procedures [95 %]": _lower_is_better(change.procedures),
            "variance, these models [95 %]": _lower_is_better(change.models),
        }


def _sentences(structure: NoiseStructure, average: str) -> Iterator[str]:
    """Yield for which mixtures the variance is lower or higher, by scope; all of them are one family."""
    changes = [*_changes(structure)]
    holm = holm_by_scope([change for *_, change in changes])
    for scope, sure in zip(("procedures", "models"), holm, strict=True):
        names: dict[Relation, list[str]] = {"lower": [], "higher": []}
        for (mixture, label, change), holds in zip(changes, sure.tolist(), strict=True):
            judged = getattr(change, scope)
            if judged is not None and relation(judged) in names:
                names[relation(judged)].append(f"{mixture} against {label} ×2{'' if holds else ', taken alone'}")
        for word, of_word in zip(("lowers", "raises"), names.values(), strict=True):
            if of_word:
                about = "Trained again" if scope == "procedures" else "For these models alone"
                of = "" if average == "probabilities" else f" of {average}"
                yield f"{about}, mixing {word} the variance{of}: {'; '.join(of_word)}."


def _structures(results: Results, sigma: float) -> Iterator[tuple[str, NoiseStructure]]:
    """Yield the noise structure of the members at a noise level, by what is averaged."""
    for margins in results.margins_at(sigma):
        models = [results.model(member) for member in margins.members]
        known = [at for at, model in enumerate(models) if model is not None]
        trained: list[TrainedModel] = [model for model in models if model is not None]
        structure = noise_structure(
            margins.of([margins.members[at] for at in known]),
            [(model.label, model.seed) for model in trained],
            common_seeds=[model.common_seed for model in trained],
        )
        if structure is not None:
            yield margins.average, structure


def noise_level(results: Results, *, sigma: float) -> Level | None:
    """Return variances and covariances of margins at a noise level, and where mixing changes them; None without."""
    structures = list(_structures(results, sigma))
    rows = [row for average, structure in structures for row in _noise_rows(structure, average)]
    sentences = [text for average, structure in structures for text in _sentences(structure, average)]
    return Level(sigma, Table.of(rows), tuple(sentences)) if rows else None


def mixing_table(results: Results, *, sigma: float) -> Table:
    """Return what mixing does to the variance of an average of two, over all pairs of models."""
    structures = _structures(results, sigma)
    return Table.of(row for average, structure in structures for row in _mixing_rows(structure, average))


def section(results: Results) -> Section | None:
    """Return the section; None where no margins were read."""
    levels = [level for sigma in results.sigmas if (level := noise_level(results, sigma=sigma)) is not None]
    mixing = [Level(level.sigma, mixing_table(results, sigma=level.sigma)) for level in levels]
    content = {"levels": levels, "mixing": [level for level in mixing if level.table.rows]}
    return Section("noise", content) if levels else None

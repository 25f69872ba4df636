"""Tables of a study: the same cells for the terminal, the HTML page and a spreadsheet."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rspipe.certificates import Certificates
from rspipe.claims import JudgedClaim, PublishedComparison, compare_with_published, judge_claims
from rspipe.derivation import ClassifierCounts
from rspipe.logs import write_log
from rspipe.metrics import acr_interval, certified_accuracy
from rspipe.records import (
    Difference,
    EnsembleWeights,
    Interval,
    SearchResult,
    SeedAverage,
    Summary,
    TrainedModel,
    TrialStatus,
)
from rspipe.study_config import StudyConfig
from rspipe.summaries import Results, average_over_seeds, display_name

RULES = {"fixed": "CERTIFY (Cohen et al. 2019)", "planned": "planned CERTIFY", "radius_grid": "radius grid"}
"""The rules in words, by name."""

Tone = Literal["", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place."""

    text: str
    value: float | None = None
    """What numeric columns are sorted by."""
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows; `numeric` columns are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Cell]]) -> "Table":
        """Return the table of rows that all have the same columns, in order."""
        listed = list(rows)
        columns = tuple(listed[0]) if listed else ()
        numeric = tuple(any(row[column].value is not None for row in listed) for column in columns)
        return cls(columns, tuple(tuple(row[column] for column in columns) for row in listed), numeric)


def number(value: float, *, digits: int = 3, signed: bool = False) -> str:
    """Return a number with a fixed count of decimals; a dash where it is not finite."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def bracketed(interval: Interval, *, signed: bool = False) -> str:
    """Return "estimate [low, high]"."""
    estimate, low, high = (number(v, signed=signed) for v in (interval.estimate, interval.low, interval.high))
    return f"{estimate} [{low}, {high}]"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def quantity(count: float) -> str:
    """Return a count in thousands, millions or billions."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def _number(value: float, *, digits: int = 3) -> Cell:
    return Cell(number(value, digits=digits), value)


def _percent(share: float, *, tone: Tone = "") -> Cell:
    return Cell(f"{100 * share:.1f} %", share, tone)


def _estimate(interval: Interval) -> Cell:
    half = number((interval.high - interval.low) / 2)
    return Cell(f"{number(interval.estimate)} ± {half}", interval.estimate)


def result_table(summaries: Sequence[Summary]) -> Table:
    """Return one row per certified classifier; the noise level is a column where there are several.

    Radii that no classifier reaches are left out.
    """
    several = len({summary.sigma for summary in summaries}) > 1
    reached = {r for one in summaries for r, share in zip(one.radii, one.certified_accuracy, strict=True) if share}

    def row(summary: Summary) -> dict[str, Cell]:
        sigma = {"σ": _number(summary.sigma, digits=2)} if several else {}
        accuracy = zip(summary.radii, summary.certified_accuracy, strict=True)
        return {
            **sigma,
            "classifier": Cell(display_name(summary)),
            "ACR ± 95 %": _estimate(summary.acr),
            **{f"CA({radius:g})": _number(share) for radius, share in accuracy if radius in reached or not reached},
            "abstained": _percent(summary.abstained),
            "saturated": _percent(summary.saturated),
            "two-sided ACR": _number(summary.acr_two_sided),
            "samples": Cell(quantity(summary.samples), summary.samples),
            "training": Cell(duration(summary.training_seconds), summary.training_seconds),
            "passes": Cell(quantity(summary.passes), summary.passes),
        }

    return Table.of(map(row, summaries))


def derived_table(
    rows: Mapping[str, tuple[ClassifierCounts, Certificates]], *, radii: Sequence[float], with_radius: bool
) -> Table:
    """Return one row per classifier with what certificates that were derived from its counts say of it."""

    def row(name: str, counts: ClassifierCounts, found: Certificates) -> dict[str, Cell]:
        correct = found.prediction == counts.label
        shown = radii if with_radius else [0.0]
        accuracy = zip(shown, certified_accuracy(found.radius, correct, shown), strict=True)
        return {
            "classifier": Cell(name),
            **({"ACR ± 95 %": _estimate(acr_interval(found.radius, correct))} if with_radius else {}),
            **{f"CA({radius:g})" if with_radius else "accuracy": _number(float(share)) for radius, share in accuracy},
            "abstained": _percent(float(np.mean((found.prediction < 0) & (counts.stop != "label")))),
            "images": _number(len(correct), digits=0),
        }

    return Table.of(row(name, *pair) for name, pair in rows.items())


_LOG_DECIMALS = 6


def certification_log(counts: ClassifierCounts, found: Certificates) -> str:
    """Return certificates as tab-separated values in the six columns of Cohen et al. 2019, radii rounded down.

    The time is that of the pass over the image, shared by all classifiers of it.
    """
    floors = np.floor(found.radius * 10**_LOG_DECIMALS) / 10**_LOG_DECIMALS
    seconds = f"{counts.seconds / len(counts.example):.3f}"
    return write_log(
        (example, label, prediction, f"{radius:.{_LOG_DECIMALS}f}", int(prediction == label), seconds)
        for example, label, prediction, radius in zip(
            counts.example, counts.label, found.prediction, floors, strict=True
        )
    )


def seed_table(averages: Sequence[SeedAverage]) -> Table:
    """Return one row per label and noise level, averaged over seeds."""
    return Table.of(
        {
            "σ": _number(average.sigma, digits=2),
            "method": Cell(average.label),
            "seeds": _number(average.seeds, digits=0),
            "mean ACR ± 95 %": _estimate(average.acr),
            "lowest seed": _number(average.lowest),
            "highest seed": _number(average.highest),
            "training of one": Cell(duration(average.training_seconds), average.training_seconds),
            "passes of one": Cell(quantity(average.passes), average.passes),
        }
        for average in averages
    )


TONES: dict[str, Tone] = {
    "higher": "good",
    "lower": "bad",
    "not significant": "muted",
    "reproduced": "good",
    "contradicted": "bad",
    "agrees": "good",
}


def difference_table(differences: Sequence[Difference]) -> Table:
    """Return one row per paired comparison."""
    return Table.of(
        {
            "σ": _number(difference.sigma, digits=2),
            "first": Cell(difference.first_label),
            "second": Cell(difference.second_label),
            "first − second [95 %]": Cell(
                bracketed(difference.difference, signed=True), difference.difference.estimate
            ),
            "first is": Cell(difference.verdict, tone=TONES[difference.verdict]),
            "images": _number(difference.images, digits=0),
        }
        for difference in differences
    )


def published_table(comparisons: Sequence[PublishedComparison]) -> Table:
    """Return one row per published result: published, measured, difference."""

    def row(one: PublishedComparison) -> dict[str, Cell]:
        published, (low, high) = one.published, one.published.span
        span = f" [{number(low, digits=4)}, {number(high, digits=4)}]" if low < high else ""
        return {
            "σ": _number(published.sigma, digits=2),
            "entry": Cell(one.label),
            "published ACR": Cell(f"{number(published.acr, digits=4)}{span}", published.acr),
            "measured [95 %]": Cell(bracketed(one.measured), one.measured.estimate),
            "difference [95 %]": Cell(bracketed(one.difference, signed=True), one.difference.estimate),
            "measured": Cell(one.verdict, tone=TONES[one.verdict]),
            "images": Cell(f"{one.images:,} of {published.images:,}", one.images),
            "source": Cell(published.source),
            "other than published": Cell(published.differs or "nothing"),
        }

    return Table.of(map(row, comparisons))


def claim_table(claims: Sequence[JudgedClaim]) -> Table:
    """Return one row per claim and noise level: what was published, what is measured, and the verdict."""

    numbers = any(one.claim.by is not None for one in claims)
    sources = any(one.claim.source for one in claims)

    def row(one: JudgedClaim) -> dict[str, Cell]:
        difference, by = one.difference, one.claim.by
        return {
            "σ": _number(difference.sigma, digits=2),
            "larger ACR": Cell(difference.first_label),
            "than": Cell(difference.second_label),
            **({"published": Cell("–" if by is None else number(by, signed=True), by)} if numbers else {}),
            "measured [95 %]": Cell(bracketed(difference.difference, signed=True), difference.difference.estimate),
            "verdict": Cell(one.verdict, tone=TONES[one.verdict]),
            "images": _number(difference.images, digits=0),
            **({"source": Cell(one.claim.source)} if sources else {}),
        }

    return Table.of(map(row, claims))


def ensemble_table(ensembles: Sequence[EnsembleWeights], models: Sequence[TrainedModel]) -> Table:
    """Return one row per ensemble: members, weights, and how good the solver says they are."""
    known = {model.id: model for model in models}

    def members(record: EnsembleWeights) -> str:
        """Return members in their order, the seeds of a label together."""
        named = [known.get(member) for member in record.members]
        said: list[tuple[str, list[str]]] = []
        for member, model in zip(record.members, named, strict=True):
            if model is not None and said and said[-1][0] == model.label:
                said[-1][1].append(str(model.seed))
            else:
                said.append((model.label, [str(model.seed)]) if model is not None else (member, []))
        plural = {0: "", 1: ", seed "}
        return "; ".join(f"{label}{plural.get(len(seeds), ', seeds ')}{', '.join(seeds)}" for label, seeds in said)

    return Table.of(
        {
            "σ": _number(record.sigma, digits=2),
            "ensemble": Cell(display_name(record)),
            "members": Cell(members(record)),
            "weights": Cell(", ".join(number(weight) for weight in record.weights)),
            "objective": Cell(f"{record.objective:.5g}", record.objective),
            "at uniform weights": Cell(f"{record.uniform_objective:.5g}", record.uniform_objective),
            "solver": Cell(f"{record.solver}: {record.status}" if record.solver != "none" else record.status),
            "gap": Cell(f"{record.gap:.1e}" if record.gap else "0", record.gap),
            "images × draws": Cell(f"{record.images} × {record.draws}"),
        }
        for record in ensembles
    )


def settings(parameters: dict[str, Any]) -> str:
    """Return hyper-parameters as "lbd = 4, m = 2"."""
    return ", ".join(f"{name} = {value:.4g}" for name, value in parameters.items())


def search_table(searches: Sequence[SearchResult]) -> Table:
    """Return one row per search: the winner against the settings it started from, on the validation split."""
    return Table.of(
        {
            "σ": _number(search.sigma, digits=2),
            "search": Cell(search.label),
            "winner": Cell(settings(search.best)),
            "trial": _number(search.best_index, digits=0),
            "its ACR": _number(search.objective),
            "ACR of the default": _number(search.default_objective),
            "gain": Cell(
                number(search.objective - search.default_objective, signed=True),
                search.objective - search.default_objective,
            ),
            "trials": _number(search.trials, digits=0),
        }
        for search in searches
    )


_ENDS: dict[TrialStatus, Tone] = {"finished": "", "stopped": "muted"}


def trial_table(results: Results, search: SearchResult) -> Table:
    """Return one row per trial of a search."""
    trials = [trial for trial in results.trials if trial.search == search.id]
    names = sorted({name for trial in trials for name in trial.parameters})

    def row(index: int) -> dict[str, Cell]:
        trial = trials[index]
        values = {name: trial.parameters.get(name, math.nan) for name in names}
        return {
            "trial": _number(trial.index, digits=0),
            **{name: Cell(f"{value:.4g}", value) for name, value in values.items()},
            "validation ACR": _number(trial.objective if trial.status == "finished" else math.nan),
            "standard error": _number(math.nan if trial.error is None else trial.error),
            "clean accuracy": _number(trial.accuracy if trial.status == "finished" else math.nan),
            "noisy accuracy": _number(trial.noisy_accuracy),
            "status": Cell(trial.status, tone=_ENDS.get(trial.status, "bad")),
            "training": Cell(duration(trial.seconds), trial.seconds),
            "passes": Cell(quantity(trial.passes), trial.passes),
        }

    return Table.of(map(row, range(len(trials))))


def model_table(models: Sequence[TrainedModel]) -> Table:
    """Return one row per trained model; accuracies are those on the validation split."""

    def state(model: TrainedModel) -> Cell:
        if model.status != "finished":
            return Cell(f"{model.status}: {model.message}" if model.message else model.status, tone="bad")
        return Cell("one class only", tone="bad") if model.collapsed else Cell("finished")

    return Table.of(
        {
            "σ": _number(model.train_sigma, digits=2),
            "model": Cell(display_name(model)),
            "state": state(model),
            "clean accuracy": _number(model.clean_accuracy),
            "noisy accuracy": _number(model.noisy_accuracy),
            "epochs": _number(len(model.history), digits=0),
            "training": Cell(duration(model.seconds), model.seconds),
            "passes": Cell(quantity(model.passes), model.passes),
            "parameters": Cell(quantity(model.parameters), model.parameters),
            "device": Cell(model.device),
            "precision": Cell(model.precision),
        }
        for model in models
    )


def flattened(content: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """Return nested JSON-like content as texts by dotted name."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{place}{key}.")
        else:
            flat[f"{place}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def setting_table(content: dict[str, Any]) -> Table:
    """Return nested JSON-like content as rows of a dotted name and a value."""
    return Table.of({"parameter": Cell(key), "value": Cell(value)} for key, value in flattened(content).items())


def method_table(study: StudyConfig) -> Table:
    """Return every parameter of every entry that trains models: one row each, one column per entry."""
    entries = {
        f"{group.label}, σ {', '.join(f'{sigma:g}' for sigma in group.sigma)}": flattened(group.model_dump(mode="json"))
        for group in study.groups
    }
    names = dict.fromkeys(name for entry in entries.values() for name in entry if name not in ("label", "sigma"))
    ordered = sorted(names, key=lambda name: name.startswith("space."))
    return Table.of(
        {"parameter": Cell(name)} | {head: Cell(entry.get(name, "–")) for head, entry in entries.items()}
        for name in ordered
    )


def markdown(table: Table) -> str:
    """Return a table as Markdown; names are escaped, as they may hold pipes."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = line("--:" if numeric else ":--" for numeric in table.numeric)
    return "\n".join([line(table.columns), rule, *(line(cell.text for cell in row) for row in table.rows)]) + "\n"


def summary_markdown(results: Results, summaries: Sequence[Summary]) -> str:
    """Return a study's tables as Markdown: claims, published results, means over seeds, every classifier."""
    certify = results.study.certify
    images = ", ".join(dict.fromkeys(f"{summary.images}" for summary in summaries))
    head = (
        f"{results.study.title or results.study.name}: rule {certify.rule.name}, n0 = {certify.n0}, "
        f"n = {certify.n:,}, α = {certify.alpha:g}, {certify.precision}"
    )
    tables = (
        claim_table(judge_claims(results)),
        published_table(compare_with_published(results)),
        seed_table(average_over_seeds(results)),
        result_table(summaries),
    )
    shown = [markdown(table) for table in tables if table.rows]
    return "\n".join([f"{head}, {images} test images, study {results.study.id}\n", *shown])


_PLAIN = ("id", "label", "kind", "seed", "sigma", "images")
_ACR = ("acr", "acr_low", "acr_high", "acr_two_sided", "accuracy", "abstained", "saturated")
_ORIGIN = ("rule", "samples", "training_seconds", "passes", "weighting", "average", "members", "weights")


def summary_tsv(summaries: Sequence[Summary], *, delimiter: Literal["\t", ","] = "\t") -> str:
    """Return summaries as separated values in full precision, one row per classifier; lists hold commas."""
    radii = list(dict.fromkeys(radius for summary in summaries for radius in summary.radii))
    text = io.StringIO()
    columns = [*_PLAIN, *_ACR, *(f"certified_accuracy_{radius:g}" for radius in radii), *_ORIGIN]
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for summary in summaries:
        shares = zip(summary.radii, summary.certified_accuracy, strict=True)
        special = {
            "acr": summary.acr.estimate,
            "acr_low": summary.acr.low,
            "acr_high": summary.acr.high,
            **{f"certified_accuracy_{radius:g}": share for radius, share in shares},
            "members": ",".join(summary.members),
            "weights": ",".join(map(repr, summary.weights)),
        }
        writer.writerow(summary.to_json() | special)
    return text.getvalue()

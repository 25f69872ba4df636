"""What a study found, in one table and three sentences: the first screen of the report, the end in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rspipe.records import Interval
from rspipe.report.conclusions import Levels, conclusions
from rspipe.report.differences import judge_group
from rspipe.report.names import legend
from rspipe.report.results import Results
from rspipe.report.standings import Entry, constant_acr, entries, scoped, told_apart
from rspipe.report.tables import Cell, Table, number, number_cell, sigma_cell
from rspipe.smoothing.certificates import radius_cap

MOST_ROWS = 18
"""That a screen has room for, over all noise levels."""

_ENSEMBLES = 3
"""Rows of a noise level that methods leave to ensembles."""


@dataclass(frozen=True)
class Row:
    """The numbers of an entry at one noise level."""

    sigma: float
    entry: Entry
    acr: Interval | None
    """None where the rule gives no ACR."""
    scope: Literal["procedures", "models"]
    """That its interval is about."""
    accuracy: tuple[float, ...]
    """Certified, at the radii of the headline."""
    best_acr: bool
    """Whether it is the largest of its noise level, or cannot be told apart from it."""
    best: tuple[bool, ...]
    """The same at each radius; nowhere at one where nothing can be told apart."""


@dataclass(frozen=True)
class Headline:
    """The message of a study."""

    sentences: tuple[str, ...]
    """Which method; whether ensembles pay; how sure that is. One that says so where nothing is certified."""
    rows: tuple[Row, ...]
    """By noise level, then by ACR."""
    radii: tuple[float, ...]
    caps: Mapping[float, float]
    """By noise level, the largest radius that n samples can prove."""
    left_out: int
    """Entries that have no row."""
    notes: tuple[str, ...]
    """What a reader of the table must know, and the legend of its names."""

    def at(self, sigma: float) -> list[Row]:
        """Return the rows of a noise level."""
        return [row for row in self.rows if row.sigma == sigma]


def headline(results: Results, *, most: int = MOST_ROWS) -> Headline:
    """Return the message of a study.

    Args:
        results: Of the study, finished or not.
        most: Rows over all noise levels; every noise level has four at least.
    """
    levels = {sigma: found for sigma in results.sigmas if (found := entries(results, sigma))}
    if not levels:
        return Headline(("Nothing is certified yet, so there is nothing to conclude.",), (), results.radii, {}, 0, ())
    room = max(4, most // len(levels))
    rows, left_out = list[Row](), 0
    for sigma, found in levels.items():
        shown = _shown(results, found, room)
        rows += _rows(results, found, shown, sigma=sigma)
        left_out += len(found) - len(shown)
    certify = results.study.certify
    caps = {sigma: radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha) for sigma in levels}
    notes = (*_below_constant(results, levels), *_notes(results, rows, left_out))
    notes = (*notes, *legend([row.entry.name for row in rows]))
    return Headline(conclusions(results, levels), tuple(rows), results.radii, caps, left_out, notes)


def _shown(results: Results, found: Sequence[Entry], room: int) -> list[int]:
    """Return which entries of a noise level have a row: the baseline, methods, and the best of the others."""
    methods = [at for at, one in enumerate(found) if one.kind == "model"]
    methods.sort(key=lambda at: found[at].name != results.baseline)
    others = [at for at, one in enumerate(found) if one.kind != "model"]
    kept = methods[: max(2, room - min(_ENSEMBLES, len(others)))]
    return sorted([*kept, *others[: room - len(kept)]])


def _rows(results: Results, found: Sequence[Entry], shown: Sequence[int], *, sigma: float) -> Iterator[Row]:
    columns = [[one.reaching(radius) for one in found] for radius in results.radii]
    below = [told_apart(results, column, sigma=sigma) for column in columns]
    below = [of_radius if any(of_radius) else [True] * len(found) for of_radius in below]
    groups = [one.group for one in found]
    lower = [True] * len(found) if results.decided else told_apart(results, groups, sigma=sigma)
    for at in shown:
        judged = judge_group(groups[at], population=results.population(groups[at].examples.size))
        shares = [column[at].acr for column in columns]
        yield Row(
            sigma=sigma,
            entry=found[at],
            acr=None if results.decided else scoped(judged),
            scope="models" if judged.procedures is None else "procedures",
            accuracy=tuple(shares),
            best_acr=not lower[at],
            best=tuple(share > 0 and not of_radius[at] for share, of_radius in zip(shares, below, strict=True)),
        )


def headline_table(message: Headline) -> Table:
    """Return the table of a headline: a row per entry and noise level; `strong` is the best and what may be it."""

    shown = [at for at, _ in enumerate(message.radii) if any(row.accuracy[at] for row in message.rows)]

    def cells(row: Row) -> Iterator[tuple[str, Cell]]:
        yield "σ", sigma_cell(row.sigma)
        yield "classifier", Cell(row.entry.name, tone="strong" if row.best_acr else "")
        yield "mean of", number_cell(len(row.entry.classifiers), digits=0)
        if row.acr is not None:
            half, mark = number((row.acr.high - row.acr.low) / 2), "" if row.scope == "procedures" else "†"
            text = f"{number(row.acr.estimate)} ± {half}{mark}"
            yield "ACR ± 95 %", Cell(text, row.acr.estimate, tone="strong" if row.best_acr else "")
        for at in shown or range(len(message.radii)):
            cell = number_cell(row.accuracy[at])
            if message.radii[at] > message.caps[row.sigma]:
                cell = Cell("–", 0.0)
            yield f"CA({message.radii[at]:g})", replace(cell, tone="strong" if row.best[at] else "")

    return Table.of(dict(cells(row)) for row in message.rows)


def _below_constant(results: Results, levels: Levels) -> Iterator[str]:
    """Yield a note for each noise level at which an answer that looks at no image has the larger ACR."""
    certify = results.study.certify
    grid = certify.rule.grid if certify.rule.name == "radius_grid" else ()
    for sigma, found in {} if results.decided else levels.items():
        constant = constant_acr(found, sigma=sigma, n=certify.n, alpha=certify.alpha, grid=grid)
        if constant > found[0].acr:
            yield (
                f"At σ = {sigma:g} nothing reaches the ACR of always answering the most frequent class, "
                f"{number(constant)}: read the certified accuracies"
            )


def _notes(results: Results, rows: Sequence[Row], left_out: int) -> Iterator[str]:
    first = "certified accuracy" if results.decided else "value"
    yield (
        f"Bold: the largest {first} of its σ, and what cannot be told apart from it among all there is; no certified "
        "accuracy where nothing can"
    )
    for sigma in dict.fromkeys(row.sigma for row in rows):
        top = max((row for row in rows if row.sigma == sigma), key=lambda row: row.entry.acr)
        if not results.decided and top.scope == "models" and any(row.scope != "models" for row in rows):
            yield f"Bold ACRs at σ = {sigma:g} are against {top.entry.name}, for these trained models alone"
    if not results.decided:
        scopes = {row.scope for row in rows}
        if "procedures" in scopes:
            yield f"±: half the 95 % interval for training again with other seeds, on {results.images_meant}"
        if "models" in scopes:
            yield f"†: for these trained models alone, on {results.images_meant}"
    yield "Mean of: seeds of a method, choices of seeds of an ensemble"
    yield "CA(r): certified accuracy at L2 radius r; –: beyond what n samples can prove"
    if left_out:
        yield f"{left_out} more in the full tables"

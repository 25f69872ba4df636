"""Section: every method and every classifier against every other one, by differences of ACR on the same images."""

from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import numpy as np

from rspipe.arrays import BoolArray
from rspipe.report.differences import Comparison, Group, with_holm
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import Cell, Table, difference_cells, ends_cell, number, number_cell, relation_cell
from rspipe.smoothing.inference import holm_by_scope

MOST = 30
"""Classifiers whose pairs are shown at one noise level: 435 pairs."""


@dataclass(frozen=True)
class Contest:
    """Classifiers of one noise level, each compared with every other one on the images that all share."""

    sigma: float
    groups: tuple[Group, ...]
    """One classifier each, in the order of the tables."""
    comparisons: tuple[Comparison, ...]
    """Of every pair, the classifier of larger ACR first."""
    significant: BoolArray
    """[comparison] whether the verdict stays after Holm's correction for the pairs of all classifiers, shown or not."""
    left_out: int
    """Classifiers certified on fewer images, or of smaller ACR than the `MOST` that are shown."""

    @property
    def images(self) -> int:
        """Images that all classifiers share."""
        return self.comparisons[0].images


def compare_all(results: Results, *, sigma: float, most: int = MOST) -> Contest | None:
    """Return the differences between all classifiers at a noise level, in the order of the tables.

    Of more than `most`, those of largest ACR are shown; that they were chosen on the same images is in the correction,
    which is for the pairs of all. None where there are no two, or fewer than two images in common.
    """
    at = results.listed_at(sigma)
    whole = max((summary.images for summary in at), default=0)
    found = [(s, c) for s in at if s.images == whole and (c := results.certificates(s.id)) is not None]
    groups = [Group.of([c], id_=summary.id, label=summary.name) for summary, c in found]
    if len(groups) < 2:
        return None
    examples = reduce(np.intersect1d, [group.examples for group in groups])
    if examples.size < 2:
        return None
    groups = [group.on(examples) for group in groups]
    pairs = ((a, b) if a.acr >= b.acr else (b, a) for a, b in combinations(groups, 2))
    every = [one for a, b in pairs if (one := results.compare(a, b, sigma=sigma)) is not None]
    _, significant = holm_by_scope([one.difference for one in every])
    best = {group.id for group in sorted(groups, key=lambda group: -group.acr)[:most]}
    shown = [at for at, one in enumerate(every) if {one.first, one.second} <= best]
    return Contest(
        sigma=sigma,
        groups=tuple(group for group in groups if group.id in best),
        comparisons=tuple(every[at] for at in shown),
        significant=significant[shown],
        left_out=len(at) - len(best),
    )


def label_table(results: Results, *, sigma: float) -> Table:
    """Return one row per pair of labels at a noise level, the one of larger ACR first; they are one family."""
    groups = [group for group in results.groups(sigma).values() if group.seeds]
    pairs = ((a, b) if a.acr >= b.acr else (b, a) for a, b in combinations(groups, 2))
    compared = [one for a, b in pairs if (one := results.compare(a, b, sigma=sigma)) is not None]
    return Table.of(
        {
            "first": Cell(one.first_label),
            "second": Cell(one.second_label),
            **difference_cells(one.difference, procedures=procedures, models=models),
        }
        for one, procedures, models in with_holm(compared)
    )


def pair_table(contest: Contest) -> Table:
    """Return one row per pair of classifiers, the one of larger ACR first."""
    return Table.of(
        {
            "first": Cell(one.first_label),
            "second": Cell(one.second_label),
            "first − second": number_cell(one.difference.estimate, digits=4, signed=True),
            "these models [95 %]": ends_cell(one.difference.models),
            "first is": relation_cell(one.difference, one.difference.models, sure=bool(sure)),
        }
        for one, sure in zip(contest.comparisons, contest.significant, strict=True)
    )


def pair_matrix(contest: Contest) -> Table:
    """Return differences as a matrix, row minus column, in thousandths; strong where they stay with Holm."""
    cells = {(group.id, group.id): Cell("·") for group in contest.groups}
    for one, sure in zip(contest.comparisons, contest.significant.tolist(), strict=True):
        for first, second, sign in ((one.first, one.second, 1), (one.second, one.first, -1)):
            thousandths = round(1000 * one.difference.estimate) * sign
            text = number(thousandths, digits=0, signed=True)
            cells[first, second] = Cell(text, thousandths, tone="strong" if sure else "muted")
    return Table.of(
        {"classifier": Cell(f"{row + 1} {one.label}")}
        | {f"{at + 1}": cells[one.id, other.id] for at, other in enumerate(contest.groups)}
        for row, one in enumerate(contest.groups)
    )


def section(results: Results) -> Section | None:
    """Return the section; None where no noise level has two classifiers."""
    contests = [one for sigma in results.sigmas if (one := compare_all(results, sigma=sigma)) is not None]
    if not contests:
        return None
    labels = [Level(sigma, label_table(results, sigma=sigma)) for sigma in results.sigmas]
    content = {
        "labels": [level for level in labels if level.table.rows],
        "contests": [(one, pair_matrix(one), pair_table(one)) for one in contests],
    }
    return Section("pairs", content)

"""Every classifier against every other one: paired differences of ACR on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtr, ndtri

from rspipe.arrays import BoolArray, FloatArray
from rspipe.records import Interval
from rspipe.report.figures import STYLE
from rspipe.report.page import details, element, figure_grid, paragraph, table_html
from rspipe.report.results import Results
from rspipe.report.summaries import Summary
from rspipe.report.tables import TONES, Cell, Table, bracketed, number
from rspipe.smoothing.metrics import verdict

MOST = 30
"""Classifiers that are compared with each other at one noise level: 435 pairs."""


@dataclass(frozen=True)
class Pairs:
    """Classifiers of one noise level and what lies between them. Matrices are [row, column], row minus column."""

    sigma: float
    names: tuple[str, ...]
    acr: FloatArray
    """[classifier]"""
    difference: FloatArray
    error: FloatArray
    """Standard error of the difference, for the choice of images."""
    holm: BoolArray
    """Whether the difference is significant at 5 % after Holm's correction for all pairs of the noise level."""
    images: int
    left_out: int
    """Classifiers certified on fewer images, or of smaller ACR than the `MOST` that are compared."""

    def interval(self, row: int, column: int) -> Interval:
        """Return the difference with its paired 95 % interval (normal)."""
        middle, half = float(self.difference[row, column]), float(ndtri(0.975) * self.error[row, column])
        return Interval(estimate=middle, low=middle - half, high=middle + half)


def all_pairs(results: Results, summaries: Sequence[Summary], *, sigma: float, most: int = MOST) -> Pairs | None:
    """Return the paired differences between all classifiers at a noise level, in the order of the tables.

    Of more than `most`, those of largest ACR. None where there are no two, or fewer than two images in common.
    """
    at = [summary for summary in summaries if summary.sigma == sigma]
    whole = max((summary.images for summary in at), default=0)
    best = sorted((s for s in at if s.images == whole), key=lambda s: -s.acr.estimate)[:most]
    chosen = [summary for summary in at if summary in best]
    certified = {one.id: one for one in results.certified if one.sigma == sigma}
    ones = [certified[summary.id] for summary in chosen]
    if len(ones) < 2:
        return None
    examples = ones[0].example
    for one in ones[1:]:
        examples = np.intersect1d(examples, one.example)
    if examples.size < 2:
        return None
    credit = np.stack([one.credited_radius[np.searchsorted(one.example, examples)] for one in ones])
    acr = credit.mean(1)
    # Of each difference by itself: differences of covariances would lose what nearly equal classifiers share.
    error = np.stack([(row - credit).std(1, ddof=1) for row in credit]) / np.sqrt(examples.size)
    difference = acr[:, None] - acr
    return Pairs(
        sigma=sigma,
        names=tuple(summary.name for summary in chosen),
        acr=acr,
        difference=difference,
        error=error,
        holm=_holm(difference, error),
        images=int(examples.size),
        left_out=len(at) - len(chosen),
    )


def _holm(difference: FloatArray, error: FloatArray, *, level: float = 0.05) -> BoolArray:
    """Return where normal tests of all pairs reject, so that with probability 1 - level no rejection is false."""
    rows, columns = np.triu_indices(len(difference), 1)
    size, spread = np.abs(difference[rows, columns]), error[rows, columns]
    certain = np.where(size > 0, np.inf, 0.0)
    p = 2 * ndtr(-np.divide(size, spread, out=certain, where=spread > 0))
    order = np.argsort(p, kind="stable")
    passed = np.cumprod(p[order] <= level / np.arange(len(p), 0, -1)).astype(bool)
    found = np.zeros(difference.shape, dtype=np.bool_)
    found[rows[order[passed]], columns[order[passed]]] = True
    return found | found.T


def pair_table(pairs: Pairs) -> Table:
    """Return one row per pair, the classifier of larger ACR first."""
    rows = []
    for a in range(len(pairs.names)):
        for b in range(a + 1, len(pairs.names)):
            first, second = (a, b) if pairs.acr[a] >= pairs.acr[b] else (b, a)
            interval = pairs.interval(first, second)
            said = verdict(interval)
            rows.append({
                "first": Cell(pairs.names[first]),
                "second": Cell(pairs.names[second]),
                "first − second [95 %]": Cell(bracketed(interval, signed=True), interval.estimate),
                "first is": Cell(said, tone=TONES[said]),
                "with Holm's correction": Cell(said if pairs.holm[first, second] else "not significant",
                                               tone=TONES[said] if pairs.holm[first, second] else "muted"),
            })  # fmt: skip
    return Table.of(rows)


def pair_figure(pairs: Pairs) -> Figure:
    """Return the matrix of differences, row minus column, in thousandths; bold where significant after correction."""
    count = len(pairs.names)
    largest = float(np.abs(pairs.difference).max()) or 1.0
    with mpl.rc_context(STYLE):
        side = 1.2 + 0.27 * count
        figure = Figure(figsize=(max(5.6, 2.6 + 0.32 * count), max(2.2, side)), layout="constrained", facecolor="white")
        axes = figure.add_subplot(facecolor="white")
        axes.set_title(f"ACR, row minus column, in thousandths, σ = {pairs.sigma:g}", loc="left")
        shade = np.where(pairs.holm, pairs.difference, 0.0)
        edges = np.arange(count + 1) - 0.5
        axes.pcolormesh(edges, edges, shade, cmap="PuOr_r", vmin=-1.9 * largest, vmax=1.9 * largest)
        axes.set_ylim(count - 0.5, -0.5)
        for row in range(count):
            for column in range(count):
                if row != column:
                    sure = bool(pairs.holm[row, column])
                    text = f"{1000 * pairs.difference[row, column]:+.0f}".replace("-", "−")
                    colour, weight = ("#000000", "bold") if sure else ("#8a8f96", "normal")
                    axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour,
                              fontweight=weight)  # fmt: skip
        axes.set_xticks(range(count), [str(at + 1) for at in range(count)])
        axes.set_yticks(range(count), [f"{name}  {at + 1}" for at, name in enumerate(pairs.names)])
        axes.tick_params(labelsize=7, length=0)
        axes.xaxis.tick_top()
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def pair_note(pairs: Sequence[Pairs]) -> str:
    """Return how to read table and figure."""
    text = (
        "Every classifier against every other one at its noise level, on the same images. Intervals are paired, "
        "normal, and each for itself; Holm's correction is for all pairs of the noise level together. Coloured: "
        "significant after correction; grey figures are not."
    )
    left = [f"{number(one.sigma, digits=2)}: {one.left_out}" for one in pairs if one.left_out]
    if left:
        text += f" Left out, of smaller ACR or certified on fewer images, at σ = {'; '.join(left)}."
    return text


def pairs_part(results: Results, summaries: Sequence[Summary], figures: dict[str, Figure]) -> str:
    sigmas = sorted({summary.sigma for summary in summaries})
    found = [pairs for sigma in sigmas if (pairs := all_pairs(results, summaries, sigma=sigma)) is not None]
    if not found:
        return ""
    content = element("h3", "All classifiers against each other") + figure_grid(figures, "pairs-")
    for pairs in found:
        title = f"All pairs at σ = {pairs.sigma:g}, on {pairs.images:,} images"
        content += details(title, table_html(pair_table(pairs), name="first"))
    return content + paragraph(pair_note(found), style="soft")

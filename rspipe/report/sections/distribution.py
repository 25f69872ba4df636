"""Section: where an ACR comes from, by how the images spread over p_A, the probability of the predicted class.

Two classifiers of one ACR can be very different ones: many images at middling radii, or some at the largest radius
that n samples can prove and the others wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rspipe.report.figures import DARK, STYLE, drawn, new_panel
from rspipe.report.names import short_name
from rspipe.report.results import Results, seeds_label
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, number
from rspipe.smoothing.derivation import CertifiedClassifier, on_common_images

EDGES = (0.7, 0.9, 0.99, 0.999, 0.9999)
"""Of the bins of the lower bound on p_A, above 1/2."""

_MOST_ROWS = 12

_FEWER, _SAME, _MORE = "#E9A57F", "#F4F4F4", "#86B7DC"
"""Grounds of a share below and above the baseline's, light enough for dark letters."""


@dataclass(frozen=True)
class Spread:
    """How the images of one entry spread, averaged over its seeds; shares sum to 1."""

    label: str
    acr: float
    wrong: float
    abstained: float
    bins: tuple[float, ...]
    """Of the images that are right: lower bound on p_A in [1/2, EDGES[0]), ..., the last without saturated ones."""
    saturated: float
    """Right, and all n samples fell on the class."""
    quartiles: tuple[float, float, float]
    """Of the lower bound on p_A over all images that are right; NaN where none is."""
    of_saturated: float
    """Share of the ACR that saturated images bring."""


def spread(label: str, classifiers: Sequence[CertifiedClassifier]) -> Spread:
    """Return how images spread over p_A, averaged over classifiers."""
    rows = []
    for one in classifiers:
        saturated, credit = one.correct & one.saturated, one.credited_radius
        right = one.correct & ~saturated
        place = np.searchsorted(EDGES, one.p_a_lower, side="right")
        bins = [np.mean(right & (place == at)) for at in range(len(EDGES) + 1)]
        abstained = np.mean((one.prediction < 0) & ~one.stopped)
        gained = credit[saturated].sum() / credit.sum() if credit.sum() else 0.0
        rows.append([credit.mean(), abstained, saturated.mean(), gained, *bins])
    acr, abstained, saturated_share, gained, *bins = np.mean(rows, axis=0).tolist()
    bounds = np.concatenate([one.p_a_lower[one.correct] for one in classifiers])
    low, middle, high = np.quantile(bounds, [0.25, 0.5, 0.75]).tolist() if bounds.size else (np.nan,) * 3
    return Spread(
        label=label,
        acr=acr,
        wrong=max(0.0, 1 - abstained - saturated_share - sum(bins)),
        abstained=abstained,
        bins=tuple(bins),
        saturated=saturated_share,
        quartiles=(low, middle, high),
        of_saturated=gained,
    )


def spreads(results: Results, *, sigma: float) -> list[Spread]:
    """Return the spread of every label, averaged over its seeds, and of every ensemble over its choices of seeds.

    Their images are those that all have in common, if there are any.
    """
    named: list[tuple[str, Sequence[CertifiedClassifier]]] = [
        (seeds_label(label, len(classifiers)), classifiers) for label, classifiers in results.models_at(sigma).items()
    ]
    named += [(short_name(one.name), one.classifiers) for one in results.compositions(sigma)]
    common = on_common_images([classifiers for _, classifiers in named]) if named else []
    return [spread(label, classifiers) for (label, _), classifiers in zip(named, common, strict=True)]


def _names(spreads_: Sequence[Spread]) -> list[str]:
    """Return names of the bins; those above the largest bound that n samples can give are left out."""
    ends = ["1/2", *(f"{edge:g}" for edge in EDGES), "1"]
    used = max((at for one in spreads_ for at, share in enumerate(one.bins) if share), default=0)
    return [f"p_A ≥ {low}" for low in ends[: used + 1]]


def spread_table(spreads_: Sequence[Spread]) -> Table:
    """Return one row per entry."""

    def share(value: float) -> Cell:
        return Cell(f"{100 * value:.1f} %", value)

    names = _names(spreads_)
    return Table.of(
        {
            "classifier": Cell(one.label),
            "ACR": Cell(number(one.acr), one.acr),
            "wrong": share(one.wrong),
            "abstained": share(one.abstained),
            **{name: share(value) for name, value in zip(names, one.bins, strict=False)},
            "saturated": share(one.saturated),
            "quartiles of p_A": Cell(", ".join(number(q, digits=4) for q in one.quartiles), one.quartiles[1]),
            "ACR of saturated": share(one.of_saturated),
        }
        for one in spreads_
    )


def _drawn(results: Results, every: Sequence[Spread]) -> tuple[list[Spread], Spread | None]:
    """Return the spreads of methods and the best of the others, by ACR; and that of the baseline, if there is one."""
    models = {seeds_label(model.label, count) for model in results.models for count in (1, 2)}
    kept = sorted(every, key=lambda one: (one.label not in models, -one.acr))[:_MOST_ROWS]
    ordered = sorted(kept, key=lambda one: -one.acr)
    names = {seeds_label(results.baseline, count) for count in (1, 2)}
    baseline = next((one for one in ordered if one.label in names), None)
    return ordered, baseline


def spread_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the shares of images by p_A, a row per entry by ACR, less those of the baseline; None without entries.

    The baseline's own row has its shares, in percent; without a baseline every row has. Of many entries
    methods and the others of largest ACR are drawn.
    """
    every = spreads(results, sigma=sigma)
    if not every:
        return None
    shown, baseline = _drawn(results, every)
    names = ["wrong", "abstained", *(name.removeprefix("p_A ") for name in _names(every)), "saturated"]
    shares = 100 * np.array([[one.wrong, one.abstained, *one.bins[: len(names) - 3], one.saturated] for one in shown])
    less = shares if baseline is None else shares - shares[shown.index(baseline)]
    title = f"Images by p_A, σ = {sigma:g}" if baseline is None else f"Images by p_A less the baseline's, σ = {sigma:g}"
    if len(shown) < len(every):
        title += f"\n{len(shown)} of {len(every)}: methods and the others of largest ACR"
    labels = [f"{one.label}{' (baseline, %)' if one is baseline else ''}  {number(one.acr)}" for one in shown]
    shades = LinearSegmentedColormap.from_list("shares", [_FEWER, _SAME, _MORE])
    largest = max(1.0, float(abs(less).max()))
    with mpl.rc_context(STYLE):
        width = 2.9 + 0.055 * max(len(label) for label in labels)
        x = "share of images in percent" if baseline is None else "share of images, difference in points"
        figure, axes = new_panel("", x, "", height=1.3 + 0.2 * len(shown), width=width)
        # Above the names of the rows, too, which leave little room.
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10)
        axes.pcolormesh(less, cmap=shades, vmin=-largest, vmax=largest, edgecolors="white", linewidth=0.8)
        for row, one in enumerate(shown):
            for at, _ in enumerate(names):
                text = number(less[row, at], digits=1, signed=True)
                if one is baseline or baseline is None:
                    text = number(shares[row, at], digits=1)
                axes.text(at + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=DARK)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(shown)) + 0.5, labels)
        axes.tick_params(labelsize=7, length=0)
        axes.set_ylim(len(shown), 0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    figures = drawn({f"spread-sigma-{sigma:g}": spread_figure(results, sigma=sigma) for sigma in results.sigmas})
    tables = {sigma: spread_table(spreads(results, sigma=sigma)) for sigma in results.sigmas}
    return Section("distribution", {"tables": tables}, figures) if figures else None

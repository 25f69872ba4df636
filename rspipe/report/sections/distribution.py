"""Section: where an ACR comes from, by how the images spread over p_A, the probability of the predicted class.

Two classifiers of one ACR can be very different ones: many images at middling radii, or some at the largest radius
that n samples can prove and the others wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rspipe.report.figures import STYLE, draw_legend, drawn, new_panel
from rspipe.report.names import short_name
from rspipe.report.results import Results, seeds_label
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, number
from rspipe.smoothing.derivation import CertifiedClassifier

EDGES = (0.7, 0.9, 0.99, 0.999, 0.9999)
"""Of the bins of the lower bound on p_A, above 1/2."""

_MOST_ROWS = 24

_COLOURS = ("#B3261E", "#B9BDC2", "#E3EEF8", "#C2D9EE", "#93BADF", "#5C97CB", "#3378B6", "#1B5A99",
            "#08305B")  # fmt: skip
"""Wrong, abstained, then the bins from low to high; the last one is for saturated images."""


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
    """Return the spread of every label, averaged over its seeds, and of every ensemble over its choices of seeds."""
    models = results.models_at(sigma)
    labels = [spread(seeds_label(label, len(classifiers)), classifiers) for label, classifiers in models.items()]
    return labels + [spread(short_name(one.name), one.classifiers) for one in results.compositions(sigma)]


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


def spread_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return stacked bars: the shares of wrong, abstained and certified images by p_A; None without classifiers.

    Of many entries those of largest ACR are drawn.
    """
    every = spreads(results, sigma=sigma)
    if not every:
        return None
    kept = sorted(sorted(range(len(every)), key=lambda at: -every[at].acr)[:_MOST_ROWS])
    shown = sorted((every[at] for at in kept), key=lambda one: -one.acr)
    title = f"Images by p_A, σ = {sigma:g}"
    if len(shown) < len(every):
        title += f": {len(shown)} of {len(every)} with the largest ACR"
    names = ["wrong", "abstained", *_names(every), "saturated"]
    shades = [*_COLOURS[: len(names) - 1], _COLOURS[-1]]
    labels = [f"{one.label}  {number(one.acr)}" for one in shown]
    with mpl.rc_context(STYLE):
        # Beside names of any length the bars keep a width that their title fits.
        width = 4.4 + 0.055 * max(len(label) for label in labels)
        figure, axes = new_panel(title, "share of images", "", height=1.5 + 0.2 * len(shown), width=width)
        left = np.zeros(len(shown))
        for at, (name, colour) in enumerate(zip(names, shades, strict=True)):
            shares = np.array(
                [[one.wrong, one.abstained, *one.bins[: len(names) - 3], one.saturated][at] for one in shown]
            )
            hatch = "///" if name == "abstained" else None
            axes.barh(range(len(shown)), shares, left=left, color=colour, label=name, height=0.78, hatch=hatch,
                      edgecolor="white", linewidth=0.4)  # fmt: skip
            left += shares
        axes.set_yticks(range(len(shown)), labels)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    figures = drawn({f"spread-sigma-{sigma:g}": spread_figure(results, sigma=sigma) for sigma in results.sigmas})
    tables = {sigma: spread_table(spreads(results, sigma=sigma)) for sigma in results.sigmas}
    return Section("distribution", {"tables": tables}, figures) if figures else None

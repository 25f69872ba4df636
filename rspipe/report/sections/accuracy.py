"""Section: certified accuracy against the radius."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from rspipe.arrays import FloatArray
from rspipe.report.figures import COLOURS, GREY, STYLE, WIDTH, draw_legend, drawn, entry_colours, legend_text, new_panel
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.standings import Entry, entries
from rspipe.report.tables import number
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import accuracy_band, certified_accuracy

_MOST_LINES = 8
_ENSEMBLES = 2
"""Lines of a figure that methods leave to ensembles."""

_MOST_CURVES = 40
"""Of a noise level, that a reader can switch on."""

_PLACES = 161
"""Radii at which a reader can read them."""


def draw_curve(
    axes: Axes,
    classifiers: Sequence[CertifiedClassifier],
    grid: FloatArray,
    *,
    name: str,
    colour: str,
    line: str,
    width: float = 1.6,
    band: bool = True,
) -> None:
    """Draw certified accuracy, averaged over classifiers, with pointwise 95 % Wilson intervals over images.

    For an average over classifiers the interval is conservative: its variance is at most the binomial one.
    """
    share = np.mean([certified_accuracy(c.radius, c.correct, grid) for c in classifiers], axis=0)
    # Certified accuracy is constant from the left up to each radius at which an image is lost.
    axes.plot(grid, share, line, drawstyle="steps-pre", color=colour, linewidth=width, label=legend_text(name))
    if band:
        low, high = accuracy_band(share, min(c.example.size for c in classifiers))
        axes.fill_between(grid, low, high, step="pre", color=colour, alpha=0.13, linewidth=0)


def radius_panel(results: Results, *, sigma: float, title: str) -> tuple[Figure, Axes, FloatArray]:
    """Return a figure for certified accuracy at a noise level, and the radii to draw it at."""
    classifiers = [c for c in results.certified if c.sigma == sigma]
    alpha = results.study.certify.alpha
    cap = radius_cap(sigma=sigma, n=results.study.certify.n, alpha=alpha)
    largest = max(float(c.credited_radius.max(initial=0.0)) for c in classifiers)
    end = min(cap * 1.02, max(largest * 1.05, 0.1 * cap))
    figure, axes = new_panel(
        f"{title}, σ = {sigma:g}", "certified L2 radius (pixel units)", "certified accuracy", height=3.8
    )
    if end >= cap:
        axes.axvline(cap, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate("largest radius of n samples", (cap, 1.0), xytext=(-3, 0), textcoords="offset points",
                      rotation=90, ha="right", va="top", fontsize=7, color="#555555")  # fmt: skip
    axes.set_xlim(0.0, end)
    axes.set_ylim(0.0, 1.0)
    top = axes.secondary_xaxis("top", functions=(lambda r: np.asarray(r) / sigma, lambda z: np.asarray(z) * sigma))
    ticks = np.array([0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999])
    shown = ticks[ndtri(ticks) * sigma <= end]
    top.set_xticks(ndtri(shown), [f"{p:.6g}" for p in shown])
    top.set_xlabel("lower bound on p_A", fontsize=8)
    top.tick_params(labelsize=7)
    return figure, axes, np.unique(np.append(np.linspace(0.0, end, 241), min(cap, end)))


def shares(entry: Entry, grid: FloatArray) -> FloatArray:
    """Return certified accuracy at radii, averaged over an entry's classifiers."""
    curves = [certified_accuracy(one.radius, one.correct, grid) for one in entry.classifiers]
    return np.asarray(np.mean(curves, axis=0), dtype=np.float64)


def radii_of(levels: Iterable[Sequence[Entry]]) -> FloatArray:
    """Return the radii to draw entries at: from 0 to a little beyond the largest."""
    largest = max(float(one.radius.max()) for found in levels for entry in found for one in entry.classifiers)
    return np.linspace(0.0, max(1.02 * largest, 1e-3), 241)


def curve_panels(title: str, grid: FloatArray, *, gains: bool) -> tuple[Figure, Axes, Axes | None]:
    """Return a figure for certified accuracy against radius and, below, for gains on the baseline, if there are any.

    Curves of several classifiers lie so close together that only their differences show them.
    """
    figure = Figure(figsize=(WIDTH, 5.0 if gains else 3.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1 + gains, 1, sharex=True, squeeze=False, height_ratios=(2, 1)[: 1 + gains])[:, 0]
    for axes in panels:
        axes.set_facecolor("white")
    axes = panels[0]
    axes.set_title(title, loc="left")
    axes.set_xlim(0.0, float(grid[-1]))
    axes.set_ylim(0.0, 1.0)
    axes.set_ylabel("certified accuracy")
    panels[-1].set_xlabel("certified L2 radius (pixel units)")
    if not gains:
        return figure, axes, None
    panels[1].axhline(0.0, color=GREY, linewidth=1.0)
    panels[1].set_ylabel("gain on the\nbaseline (points)")
    return figure, axes, panels[1]


def _drawn(results: Results, sigma: float) -> list[Entry]:
    """Return the baseline, then the others of a noise level that have a line: methods before ensembles."""
    found = entries(results, sigma)
    methods = [one for one in found if one.kind == "model"]
    methods.sort(key=lambda one: one.name != results.baseline)
    others = [one for one in found if one.kind == "ensemble"]
    kept = methods[: max(1, _MOST_LINES - min(_ENSEMBLES, len(others)))]
    return [*kept, *others[: _MOST_LINES - len(kept)]]


def accuracy_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return certified accuracy against radius for methods and the best ensembles, and their gains on the baseline.

    Each is the mean over seeds, or choices of seeds. None where nothing is certified.
    """
    found = _drawn(results, sigma)
    if not found:
        return None
    grid = radii_of([found])
    first = shares(found[0], grid)
    with mpl.rc_context(STYLE):
        # The baseline may not be certified at this noise level.
        gains = len(found) > 1 and found[0].name == results.baseline
        figure, axes, below = curve_panels(f"Certified accuracy, σ = {sigma:g}", grid, gains=gains)
        models, others = [model.label for model in results.models], [one.name for one in found if one.kind != "model"]
        styles = entry_colours(models, baseline=results.baseline, others=others)
        for entry in found:
            baseline = entry is found[0] and below is not None
            share, (colour, line) = shares(entry, grid), styles[entry.name]
            name = legend_text(f"{entry.name} (baseline)" if baseline else entry.name)
            # Certified accuracy is constant from the left up to each radius at which an image is lost.
            axes.plot(grid, share, line, drawstyle="steps-pre", color=colour, linewidth=1.3, label=name)
            if below is not None and not baseline:
                below.plot(grid, 100 * (share - first), line, drawstyle="steps-pre", color=colour, linewidth=1.2)
        draw_legend(figure)
    return figure


def curve_data(results: Results) -> dict[str, Any]:
    """Return the curves that a reader can switch on, as plain data: by noise level, entries by ACR.

    Shares are whole numbers of 1/10,000, `shown` and `baseline` places in `names`.
    """
    levels = []
    for sigma in results.sigmas:
        drawn_ = _drawn(results, sigma)
        others = [one for one in entries(results, sigma) if one.name not in {shown.name for shown in drawn_}]
        kept = [*drawn_, *others[: max(0, _MOST_CURVES - len(drawn_))]]
        if kept:
            # In the order that colours go by.
            models = dict.fromkeys(model.label for model in results.models)
            shown = sorted((one.name for one in drawn_), key=lambda name: [*models, name].index(name))
            kept.sort(key=lambda one: -one.acr)
            names = [one.name for one in kept]
            grid = np.linspace(0.0, float(radii_of([kept])[-1]), _PLACES)
            levels.append(
                {
                    "sigma": sigma,
                    "names": names,
                    "acr": [number(one.acr) for one in kept],
                    "baseline": names.index(results.baseline) if results.baseline in names else None,
                    "shown": [names.index(name) for name in shown],
                    "radii": grid.round(4).tolist(),
                    "shares": [(10_000 * shares(one, grid)).round().astype(int).tolist() for one in kept],
                }
            )
    return {"colours": COLOURS, "levels": levels}


def gain_sentence(results: Results) -> str:
    """Return where the largest gain on the baseline is; empty with one classifier."""
    parts = []
    for sigma in results.sigmas:
        found = _drawn(results, sigma)
        if len(found) > 1 and found[0].name == results.baseline:
            grid = radii_of([found])
            gains = [100 * (shares(one, grid) - shares(found[0], grid)) for one in found[1:]]
            best = max(range(len(gains)), key=lambda at: gains[at].max())
            most, radius = gains[best].max(), float(grid[gains[best].argmax()])
            what = f"{found[1 + best].name} up to {number(most, digits=1, signed=True)} points at radius {radius:.2f}"
            parts.append(f"{what if most > 0 else 'none at any radius'}, σ = {sigma:g}")
    return f"Largest gain on {results.baseline}: {'; '.join(parts)}." if parts else ""


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    figures = drawn({f"accuracy-sigma-{sigma:g}": accuracy_figure(results, sigma=sigma) for sigma in results.sigmas})
    if not figures:
        return None
    return Section("accuracy", {"curves": curve_data(results)}, figures, finding=gain_sentence(results))

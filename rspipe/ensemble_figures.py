"""Figures of ensembles: ACR against the number of members, and solved weights on the landscape of their objective."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rspipe.diagnostics import MemberMargins
from rspipe.ensemble_report import radii_by_size
from rspipe.ensembles import COMBINATIONS
from rspipe.figures import MARKERS, STYLE, draw_legend, label_colours, new_panel
from rspipe.membership import names_seeds
from rspipe.records import EnsembleWeights
from rspipe.summaries import Results, certified_ensembles, certified_models, credited_radius, display_name
from rspipe.weight_choice import Calibration

FloatArray = NDArray[np.float64]

_MIXED = "several methods"
_STEPS = {2: 200, 3: 40}
"""Steps of the grid on the simplex, by number of members."""
_MOST_LANDSCAPES = 4


def size_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the ACR of uniform ensembles against their number of members, of one method and of several.

    Points are single models and ensembles, lines their means. None without an ensemble of probabilities.
    """
    labels = [*certified_models(results, sigma=sigma), None]
    curves = {label or _MIXED: radii_by_size(results, sigma=sigma, label=label) for label in labels}
    curves = {name: sizes for name, sizes in curves.items() if len(sizes) > 1 or (name == _MIXED and sizes)}
    if not curves:
        return None
    colours = label_colours([model.label for model in results.models]) | {_MIXED: ("#333333", "--")}
    methods = {model.id: model.label for model in results.models}
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"ACR against the number of members, σ = {sigma:g}", "members", "ACR")
        for name, sizes in curves.items():
            colour, line = colours[name]
            means = [float(radii.mean()) for radii in sizes.values()]
            axes.plot(list(sizes), means, line, color=colour, marker="o", markersize=5, label=name)
        for record, classifier in certified_ensembles(results, sigma=sigma):
            inside = {methods.get(member, member) for member in record.members}
            name = inside.pop() if len(inside) == 1 else _MIXED
            if record.method == "uniform" and record.average == "probabilities" and name in curves:
                acr = float(credited_radius(classifier).mean())
                axes.plot(len(record.members), acr, ".", color=colours[name][0], alpha=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        draw_legend(figure)
    return figure


def simplex_grid(k: int, steps: int) -> FloatArray:
    """Return every weight vector [point, k] whose entries are multiples of 1 / steps."""
    axes = np.meshgrid(*[np.arange(steps + 1)] * (k - 1), indexing="ij")
    first = np.stack([axis.ravel() for axis in axes], axis=1)
    first = first[first.sum(1) <= steps]
    return np.concatenate([first, steps - first.sum(1, keepdims=True)], axis=1) / steps


def landscape(calibration: Calibration, *, sigma: float) -> tuple[FloatArray, FloatArray]:
    """Return weights [point, k] all over the simplex, and the ACR [point] of Gaussian margins there, in pixel units."""
    k = calibration.mean.shape[-1]
    grid = simplex_grid(k, _STEPS[k])
    return grid, np.array([sigma * calibration.radii(weights).mean() for weights in grid])


def _draw_line(
    axes: Axes, grid: FloatArray, acr: FloatArray, records: Sequence[EnsembleWeights], names: list[str]
) -> None:
    axes.plot(grid[:, 0], acr, color="#555555", linewidth=1.2)
    axes.set_xlabel(f"weight of {names[0]} (the rest: {names[1]})")
    axes.set_ylabel("ACR of Gaussian margins")
    for index, record in enumerate(records):
        height = float(np.interp(record.weights[0], grid[:, 0], acr))
        axes.plot(record.weights[0], height, MARKERS[index % len(MARKERS)], markersize=7, label=record.method)


def _draw_triangle(
    axes: Axes, grid: FloatArray, acr: FloatArray, records: Sequence[EnsembleWeights], names: list[str]
) -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    x, y = (grid @ corners).T
    shades = axes.tricontourf(x, y, acr, levels=12, cmap="cividis")
    axes.figure.colorbar(shades, ax=axes, label="ACR of Gaussian margins", shrink=0.8)
    for index, record in enumerate(records):
        place = np.asarray(record.weights) @ corners
        axes.plot(*place, MARKERS[index % len(MARKERS)], markersize=8, markeredgecolor="white", label=record.method)
    for corner, name, where in zip(corners, names, ("top", "top", "bottom"), strict=True):
        axes.annotate(name, corner, ha="center", va=where, fontsize=8, annotation_clip=False)
    axes.set_ylim(-0.08, 0.95)
    axes.set_aspect("equal")
    axes.axis("off")


def _landscape_figure(margins: MemberMargins, records: Sequence[EnsembleWeights], names: list[str]) -> Figure:
    grid, acr = landscape(margins.of(records[0].members), sigma=margins.sigma)
    best = grid[acr.argmax()]
    found = ", ".join(f"{weight:.2f}" for weight in best)
    with mpl.rc_context(STYLE):
        title = f"{records[0].label}, σ = {margins.sigma:g}"
        figure, axes = new_panel(
            f"{title}\n{margins.average}, largest of {len(grid)} points: {acr.max():.4f} at {found}", "", "", height=4.4
        )
        (_draw_line if len(names) == 2 else _draw_triangle)(axes, grid, acr, records, names)
        draw_legend(figure)
    return figure


def landscape_figures(results: Results, *, sigma: float) -> list[Figure]:
    """Return, for ensembles of two and three members with several weightings, their weights on the whole simplex.

    The objective is the ACR of Gaussian margins on the calibration images, by brute force.
    """
    display = {model.id: display_name(model) for model in results.models}
    figures = []
    for margins in sorted(results.margins, key=lambda one: one.average != "probabilities"):
        groups: dict[tuple[str, ...], list[EnsembleWeights]] = {}
        for record in results.ensembles:
            alike = (record.sigma, record.average) == (sigma, margins.average) and margins.sigma == sigma
            average = record.method not in COMBINATIONS and not names_seeds(record.label)
            if alike and average and len(record.members) in _STEPS and {*record.members} <= {*margins.members}:
                groups.setdefault(record.members, []).append(record)
        for members, records in groups.items():
            if len(records) > 1:
                figures.append(_landscape_figure(margins, records, [display.get(one, one) for one in members]))
    return figures[:_MOST_LANDSCAPES]


def ensemble_figures(results: Results) -> dict[str, Figure]:
    """Return the figures of the report's section on ensembles by a name that serves as a file name."""
    found: dict[str, Figure] = {}
    for sigma in sorted({c.sigma for c in results.certified}):
        if (sizes := size_figure(results, sigma=sigma)) is not None:
            found[f"size-sigma-{sigma:g}"] = sizes
        for index, figure in enumerate(landscape_figures(results, sigma=sigma)):
            found[f"landscape-{index}-sigma-{sigma:g}"] = figure
    return found

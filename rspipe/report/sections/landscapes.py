"""Section: solved weights on the landscape of their objective, for ensembles of two and three members."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rspipe.arrays import FloatArray
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.members import names_seeds
from rspipe.records import EnsembleWeights
from rspipe.report.figures import MARKERS, STYLE, draw_legend, new_panel
from rspipe.report.names import short_name
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.smoothing.classifiers import COMBINATIONS

_STEPS = {2: 200, 3: 40}
"""Steps of the grid on the simplex, by number of members."""

_MOST_LANDSCAPES = 1


def simplex_grid(k: int, steps: int) -> FloatArray:
    """Return every weight vector [point, k] whose entries are multiples of 1 / steps."""
    axes = np.meshgrid(*[np.arange(steps + 1)] * (k - 1), indexing="ij")
    first = np.stack([axis.ravel() for axis in axes], axis=1)
    first = first[first.sum(1) <= steps]
    return np.concatenate([first, steps - first.sum(1, keepdims=True)], axis=1) / steps


@dataclass(frozen=True)
class Landscape:
    """The ACR all over the simplex of weights, in pixel units, on the calibration images."""

    weights: FloatArray
    """[point, k]."""
    counted: FloatArray
    """[point], by the draws at which the ensemble is right (`Calibration.radii`)."""
    gaussian: FloatArray
    """[point], of Gaussian margins: what esbrs_acr maximizes."""


def landscape(calibration: Calibration, *, sigma: float) -> Landscape:
    """Return the ACR at every point of a grid on the simplex of two or three members' weights."""
    k = calibration.mean.shape[-1]
    grid = simplex_grid(k, _STEPS[k])
    gaussian = np.array([sigma * calibration.gaussian_radii(weights).mean() for weights in grid])
    return Landscape(grid, sigma * calibration.radii(grid).mean(1), gaussian)


def _draw_line(axes: Axes, surface: Landscape, records: Sequence[EnsembleWeights], names: list[str]) -> None:
    first = surface.weights[:, 0]
    middle = len(first) // 2
    counted, gaussian = surface.counted - surface.counted[middle], surface.gaussian - surface.gaussian[middle]
    axes.plot(first, gaussian, "--", color="#999999", linewidth=1.2, label="Gaussian margins")
    axes.plot(first, counted, color="#222222", linewidth=1.2, label="counted")
    axes.set_xlabel(f"weight of {names[0]} (the rest: {names[1]})")
    axes.set_ylabel("ACR less that of uniform weights")
    for index, record in enumerate(records):
        height = float(np.interp(record.weights[0], first, counted))
        axes.plot(record.weights[0], height, MARKERS[index % len(MARKERS)], markersize=7, label=record.method)


def _draw_triangle(axes: Axes, surface: Landscape, records: Sequence[EnsembleWeights], names: list[str]) -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    x, y = (surface.weights @ corners).T
    shades = axes.tricontourf(x, y, surface.counted, levels=12, cmap="cividis")
    axes.figure.colorbar(shades, ax=axes, label="ACR, counted", shrink=0.8)
    if np.ptp(surface.gaussian) > 0:
        axes.tricontour(x, y, surface.gaussian, levels=8, colors="white", linewidths=0.6, linestyles="--")
    for index, record in enumerate(records):
        place = np.asarray(record.weights) @ corners
        axes.plot(*place, MARKERS[index % len(MARKERS)], markersize=8, markeredgecolor="white", label=record.method)
    for corner, name, where in zip(corners, names, ("top", "top", "bottom"), strict=True):
        axes.annotate(name, corner, ha="center", va=where, fontsize=8, annotation_clip=False)
    axes.set_ylim(-0.08, 0.95)
    axes.set_aspect("equal")
    axes.axis("off")


def _largest(name: str, weights: FloatArray, acr: FloatArray) -> str:
    best = ", ".join(f"{weight:.2f}" for weight in weights[acr.argmax()])
    return f"{name}: at most {acr.max():.4f}, at {best}"


def _landscape_figure(margins: MemberMargins, records: Sequence[EnsembleWeights], names: list[str]) -> Figure:
    calibration = margins.of(records[0].members)
    surface = landscape(calibration, sigma=margins.sigma)
    at_end = 100 * calibration.saturated(np.full(len(names), 1 / len(names)))
    end = f"{at_end:.0f} % of the images end at {margins.sigma * calibration.largest_radius:.2f} (uniform weights)"
    with mpl.rc_context(STYLE):
        lines = (
            short_name(records[0].label),
            f"σ = {margins.sigma:g}, {margins.average}",
            _largest("counted", surface.weights, surface.counted),
            end,
            _largest("Gaussian", surface.weights, surface.gaussian),
        )
        figure, axes = new_panel("\n".join(lines), "", "", height=4.8)
        (_draw_line if len(names) == 2 else _draw_triangle)(axes, surface, records, names)
        draw_legend(figure)
    return figure


def landscape_figures(results: Results, *, sigma: float, most: int = _MOST_LANDSCAPES) -> list[Figure]:
    """Return, for ensembles of two and three members with several weightings, their weights on the whole simplex.

    The ACR is that on the calibration images, by brute force: counted, and that of Gaussian margins.
    """
    figures: list[Figure] = []
    for margins in sorted(results.margins_at(sigma), key=lambda one: one.average != "probabilities"):
        groups: dict[tuple[str, ...], list[EnsembleWeights]] = {}
        for record in results.ensembles:
            alike = (record.sigma, record.average) == (sigma, margins.average)
            average = record.method not in COMBINATIONS and not names_seeds(record.label)
            if alike and average and len(record.members) in _STEPS and {*record.members} <= {*margins.members}:
                groups.setdefault(record.members, []).append(record)
        for members, records in groups.items():
            if len(records) > 1 and len(figures) < most:
                figures.append(_landscape_figure(margins, records, [results.model_name(member) for member in members]))
    return figures


def section(results: Results) -> Section | None:
    """Return the section; None where no two or three members have several weightings."""
    figures = {
        f"landscape-{index}-sigma-{sigma:g}": figure
        for sigma in results.sigmas
        for index, figure in enumerate(landscape_figures(results, sigma=sigma))
    }
    return Section("landscapes", {}, figures) if figures else None

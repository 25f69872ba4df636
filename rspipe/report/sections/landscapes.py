"""Section: solved weights on the landscape of their objective, for ensembles of two and three members."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rspipe.arrays import FloatArray
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.members import names_seeds
from rspipe.records import EnsembleWeights
from rspipe.report.figures import COLOURS, GREY, MARKERS, STYLE, draw_legend, new_panel
from rspipe.report.names import short_name, weighting_name
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import adding_up, number
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
    axes.plot(first, counted, color=GREY, linewidth=1.6, label="counted")
    axes.plot(first, gaussian, "--", color="#000000", linewidth=1.0, label="if margins were Gaussian")
    axes.set_xlabel(f"weight of {names[0]}; the rest: {names[1]}")
    axes.set_ylabel("ACR on calibration images,\nless that of equal weights")
    for record, marker, colour in zip(records, cycle(MARKERS), cycle(COLOURS)):
        height = float(np.interp(record.weights[0], first, counted))
        name = weighting_name(record.method)
        axes.plot(record.weights[0], height, marker, color=colour, markersize=7, ls="none", label=name)


def _draw_triangle(axes: Axes, surface: Landscape, records: Sequence[EnsembleWeights], names: list[str]) -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    x, y = (surface.weights @ corners).T
    shades = axes.tricontourf(x, y, surface.counted, levels=12, cmap="cividis")
    axes.figure.colorbar(shades, ax=axes, label="ACR on calibration images, counted", shrink=0.8)
    if np.ptp(surface.gaussian) > 0:
        axes.tricontour(x, y, surface.gaussian, levels=8, colors="white", linewidths=0.6, linestyles="--")
    for record, marker, colour in zip(records, cycle(MARKERS), cycle(COLOURS[1:])):
        place, name = np.asarray(record.weights) @ corners, weighting_name(record.method)
        axes.plot(*place, marker, color=colour, markersize=8, markeredgecolor="white", ls="none", label=name)
    for corner, name, where in zip(corners, names, ("top", "top", "bottom"), strict=True):
        axes.annotate(name, corner, ha="center", va=where, fontsize=8, annotation_clip=False)
    axes.set_ylim(-0.08, 0.95)
    axes.set_aspect("equal")
    axes.axis("off")


def _title(margins: MemberMargins, records: Sequence[EnsembleWeights]) -> str:
    average = "" if margins.average == "probabilities" else f" ({margins.average})"
    return f"Weights of {short_name(records[0].label)}{average}, σ = {margins.sigma:g}"


def _sentence(title: str, calibration: Calibration, surface: Landscape, *, sigma: float) -> str:
    """Return where the landscape is highest, and how many images lie beyond what the draws show."""

    def largest(acr: FloatArray) -> str:
        weights = ", ".join(f"{weight:.2f}" for weight in adding_up(surface.weights[acr.argmax()].tolist(), digits=2))
        return f"{number(float(acr.max()), digits=4)} at weights {weights}"

    k = surface.weights.shape[1]
    ended = 100 * calibration.saturated(np.full(k, 1 / k))
    return (
        f"{title}: counted, the ACR is largest, {largest(surface.counted)}; if margins were Gaussian, "
        f"{largest(surface.gaussian)}. With equal weights {ended:.0f} % of the images are right at all draws, which "
        f"show no radius beyond {number(sigma * calibration.largest_radius, digits=2)}."
    )


def _draw(margins: MemberMargins, records: Sequence[EnsembleWeights], names: list[str]) -> tuple[Figure, str]:
    calibration, title = margins.of(records[0].members), _title(margins, records)
    surface = landscape(calibration, sigma=margins.sigma)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(title, "", "")
        (_draw_line if len(names) == 2 else _draw_triangle)(axes, surface, records, names)
        draw_legend(figure)
    return figure, _sentence(title, calibration, surface, sigma=margins.sigma)


def landscapes(results: Results, *, sigma: float, most: int = _MOST_LANDSCAPES) -> list[tuple[Figure, str]]:
    """Return, for ensembles of two and three members with several weightings, their weights on the whole simplex.

    The ACR is that on the calibration images, by brute force: counted, and that of Gaussian margins. With each figure
    comes a sentence on where it is largest.
    """
    shown: list[tuple[Figure, str]] = []
    for margins in sorted(results.margins_at(sigma), key=lambda one: one.average != "probabilities"):
        groups: dict[tuple[str, ...], list[EnsembleWeights]] = {}
        for record in results.ensembles:
            alike = (record.sigma, record.average) == (sigma, margins.average)
            average = record.method not in COMBINATIONS and not names_seeds(record.label)
            if alike and average and len(record.members) in _STEPS and {*record.members} <= {*margins.members}:
                groups.setdefault(record.members, []).append(record)
        for members, records in groups.items():
            if len(records) > 1 and len(shown) < most:
                shown.append(_draw(margins, records, [results.model_name(member) for member in members]))
    return shown


def section(results: Results) -> Section | None:
    """Return the section; None where no two or three members have several weightings."""
    shown = {
        f"landscape-{index}-sigma-{sigma:g}": pair
        for sigma in results.sigmas
        for index, pair in enumerate(landscapes(results, sigma=sigma))
    }
    if not shown:
        return None
    sentences = [sentence for _, sentence in shown.values()]
    return Section("landscapes", {"sentences": sentences}, {name: figure for name, (figure, _) in shown.items()})

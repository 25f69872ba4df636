"""Section: the ACR of uniform ensembles against their number of members."""

from collections.abc import Iterable, Iterator
from functools import reduce

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rspipe.arrays import FloatArray
from rspipe.report.differences import Group
from rspipe.report.figures import MARKERS, STYLE, draw_legend, drawn, entry_colours, new_panel
from rspipe.report.questions import mean_of_members
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import Cell, Table, interval_cell, scope_cells
from rspipe.smoothing.inference import contrast

_GREYS = ("#000000", "#777777", "#A8A8A8")

Sizes = dict[int, FloatArray]
"""By number of members: [image] credited radii, averaged over all ensembles of that many."""


def _groups(results: Results, *, sigma: float) -> dict[tuple[str, ...], dict[int, Group]]:
    """Return single models and uniform ensembles of probabilities by the labels of their members and their number."""
    models = results.models_at(sigma)
    groups: dict[tuple[str, ...], dict[int, Group]] = {
        (label,): {1: results.label_group(label, certified)} for label, certified in models.items()
    }
    for composition in results.compositions(sigma):
        if composition.method == "uniform" and composition.average == "probabilities":
            named = [results.model_label(member) for member in composition.records[0].members]
            # In the order in which they were named first.
            same = next((key for key in groups if {*key} == {*named}), tuple(dict.fromkeys(named)))
            of_labels, size = groups.setdefault(same, {}), len(named)
            # Three of two labels are two of the first and one of the second, or the other way round.
            alike = [of_labels[size], composition.group] if size in of_labels else [composition.group]
            of_labels[size] = Group.union(alike)
    return groups


def curves_by_size(results: Results, *, sigma: float) -> dict[str, Sizes]:
    """Return the ACR by number of members, image by image, by the methods of the members, e.g. "advmacer + macer".

    Methods without an ensemble are left out. Images are those that all classifiers of a curve share.
    """
    curves = {}
    for labels, sizes in _groups(results, sigma=sigma).items():
        if any(size > 1 for size in sizes):
            shared = reduce(np.intersect1d, [group.examples for group in sizes.values()])
            curves[" + ".join(labels)] = {size: sizes[size].on(shared).mean_credits for size in sorted(sizes)}
    return curves


def _best_method(results: Results, labels: Iterable[str], *, sigma: float) -> str:
    """Return the label whose models do best on the validation images; empty of none.

    On test images the best of several is best partly by luck. Checkpoints may have been evaluated on these alone.
    """
    certified = results.models_at(sigma)
    models = {
        label: [model for c in certified[label] if (model := results.model(c.id)) is not None]
        for label in labels
        if label in certified
    }
    if any(model.source == "checkpoint" for alike in models.values() for model in alike):
        return ""
    return max(models, key=lambda label: float(np.mean([one.noisy_accuracy for one in models[label]])), default="")


def _means_of_members(results: Results, *, sigma: float) -> dict[tuple[frozenset[str], int], Group]:
    """Return the mean of the members of each ensemble in `_groups`, by the methods of its members and their number."""
    groups: dict[tuple[frozenset[str], int], Group] = {}
    for composition in results.compositions(sigma):
        if composition.method == "uniform" and composition.average == "probabilities":
            whole = results.with_certified_members(composition)
            if whole is not None:
                place, mean = (frozenset(whole.labels), len(whole.labels)), mean_of_members(results, whole)
                groups[place] = Group.union([groups[place], mean]) if place in groups else mean
    return groups


def _size_rows(results: Results, *, sigma: float) -> Iterator[dict[str, Cell]]:
    groups, means = _groups(results, sigma=sigma), _means_of_members(results, sigma=sigma)
    for labels, sizes in groups.items():
        for size in sorted(sizes) if max(sizes) > 1 else ():
            group = sizes[size]
            # The methods mixed, each alone with as many models.
            alone = {label: groups.get((label,), {}).get(size) for label in labels} if len(labels) > 1 else {}
            there = {label: one for label, one in alone.items() if one is not None}
            best = _best_method(results, there, sigma=sigma)
            mean = means.get((frozenset(labels), size))
            less_mean = None if mean is None else results.compare(group, mean, sigma=sigma)
            less_best = results.compare(group, there[best], sigma=sigma) if best else None
            yield {
                "members of": Cell(" + ".join(labels)),
                "k": Cell(f"{size}", size),
                "classifiers": Cell(f"{len(group.credits)}", len(group.credits)),
                "ACR [95 %]": interval_cell(
                    contrast(group.mean_credits, (), population=results.population(group.examples.size)).models
                    if group.examples.size
                    else None
                ),
                **scope_cells("less its members' mean", None if less_mean is None else less_mean.difference),
                "best method alone": Cell(f"{best} ×{size}" if best else "–"),
                **scope_cells("less that", None if less_best is None else less_best.difference),
            }


def size_table(results: Results, *, sigma: float) -> Table:
    """Return the ACR of uniform ensembles by methods and number of members, with what it gains."""
    return Table.of(_size_rows(results, sigma=sigma))


def size_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the ACR of uniform ensembles against their number of members, of one method and of several.

    Lines are means over the ensembles of a size. None without an ensemble of probabilities.
    """
    curves = curves_by_size(results, sigma=sigma)
    if not curves:
        return None
    colours = entry_colours([model.label for model in results.models], baseline=results.baseline)
    mixed = [name for name in curves if name not in colours]
    colours |= {name: (_GREYS[index % len(_GREYS)], "--") for index, name in enumerate(mixed)}
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"ACR against the number of members, σ = {sigma:g}", "members", "ACR")
        for index, (name, sizes) in enumerate(curves.items()):
            colour, line = colours[name]
            means = [float(radii.mean()) for radii in sizes.values()]
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(list(sizes), means, line, color=colour, marker=marker, markersize=5, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        draw_legend(figure)
    return figure


def _most_sizes(results: Results, *, sigma: float) -> int:
    """Return the number of sizes of the curve that has most."""
    return max((len(sizes) for sizes in curves_by_size(results, sigma=sigma).values()), default=0)


def section(results: Results) -> Section | None:
    """Return the section; None without an ensemble."""
    levels = [Level(sigma, size_table(results, sigma=sigma)) for sigma in results.sigmas]
    shown = [level for level in levels if level.table.rows]
    # Of two sizes the table says all.
    several = [sigma for sigma in results.sigmas if _most_sizes(results, sigma=sigma) > 2]
    figures = drawn({f"size-sigma-{sigma:g}": size_figure(results, sigma=sigma) for sigma in several})
    return Section("sizes", {"levels": shown, "meant": results.images_meant}, figures) if shown else None

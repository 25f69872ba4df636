"""Section: the ACR of uniform ensembles against their number of members."""

import math
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rspipe.arrays import FloatArray
from rspipe.report.differences import Group, difference_of_acr
from rspipe.report.figures import MARKERS, STYLE, draw_legend, drawn, label_colours, new_panel
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import Cell, Table, change_cell, interval_cell
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import mean_interval

_GREYS = ("#222222", "#7a7a7a", "#a8a8a8", "#4d4d4d")

Sizes = dict[int, FloatArray]
"""By number of members: [image] credited radii, averaged over all ensembles of that many."""


def _classifiers(results: Results, *, sigma: float) -> dict[tuple[str, ...], dict[int, list[CertifiedClassifier]]]:
    """Return single models and uniform ensembles of probabilities by the labels of their members and their number."""
    models = results.models_at(sigma)
    classifiers: dict[tuple[str, ...], dict[int, list[CertifiedClassifier]]] = {
        (one,): {1: models[one]} for one in models
    }
    for record, classifier in results.ensembles_at(sigma):
        if record.method == "uniform" and record.average == "probabilities":
            labels = tuple(dict.fromkeys(map(results.model_label, record.members)))
            # In the order in which they were named first.
            same = next((key for key in classifiers if {*key} == {*labels}), labels)
            classifiers.setdefault(same, {}).setdefault(len(record.members), []).append(classifier)
    return classifiers


def curves_by_size(results: Results, *, sigma: float) -> dict[str, Sizes]:
    """Return the ACR by number of members, image by image, by the methods of the members, e.g. "advmacer + macer".

    Methods without an ensemble are left out. Images are those that all classifiers of a curve share.
    """
    curves = {}
    for labels, sizes in _classifiers(results, sigma=sigma).items():
        if any(size > 1 for size in sizes):
            shared = Group.of([one for alike in sizes.values() for one in alike]).examples
            curves[" + ".join(labels)] = {size: Group.of(sizes[size]).on(shared).mean_credits for size in sorted(sizes)}
    return curves


def _size_rows(results: Results, *, sigma: float) -> Iterator[dict[str, Cell]]:
    classifiers = _classifiers(results, sigma=sigma)
    for labels, sizes in classifiers.items():
        single = [one for label in labels for one in classifiers.get((label,), {}).get(1, [])]
        for size in sorted(sizes) if max(sizes) > 1 else ():
            radii = Group.of(sizes[size]).mean_credits
            # The methods mixed, each alone with as many models.
            alone = {label: classifiers.get((label,), {}).get(size, []) for label in labels} if len(labels) > 1 else {}
            acr = {label: Group.of(alike).acr for label, alike in alone.items() if alike}
            best = max(acr, key=lambda label: -math.inf if math.isnan(acr[label]) else acr[label], default="")
            yield {
                "members of": Cell(" + ".join(labels)),
                "k": Cell(f"{size}", size),
                "classifiers": Cell(f"{len(sizes[size])}", len(sizes[size])),
                "ACR [95 %]": interval_cell(mean_interval(radii) if radii.size else None),
                "less one model [95 %]": change_cell(
                    difference_of_acr(sizes[size], single) if single and size > 1 else None
                ),
                "best method alone": Cell(f"{best} x{size}" if best else "–"),
                "less that [95 %]": change_cell(difference_of_acr(sizes[size], alone[best]) if best else None),
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
    colours = label_colours([model.label for model in results.models])
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


def section(results: Results) -> Section | None:
    """Return the section; None without an ensemble."""
    levels = [Level(sigma, size_table(results, sigma=sigma)) for sigma in results.sigmas]
    shown = [level for level in levels if level.table.rows]
    figures = drawn({f"size-sigma-{sigma:g}": size_figure(results, sigma=sigma) for sigma in results.sigmas})
    return Section("sizes", {"levels": shown}, figures) if shown else None

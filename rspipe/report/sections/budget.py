"""Section: what the number of samples does to the order of the methods, and what the ACR does not show."""

import math
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rspipe.data.spec import DataSpec, ImageNetData
from rspipe.report.figures import STYLE, draw_legend, drawn, label_colours, legend_text
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.standings import Entry, entries
from rspipe.report.tables import Cell, Table, number_cell, percent_cell, quantity
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower, radius_cap

BUDGETS = (1_000, 10_000, 100_000)
"""Samples of an image that the ACR is computed for."""

_MOST_LINES = 7
"""Entries of a figure, beside the constant classifier."""

_VALUES = {
    "digits": 64,
    "mnist": 784,
    "fashion_mnist": 784,
    "cifar10": 3072,
    "cifar100": 3072,
    "svhn": 3072,
    "tiny_imagenet": 12_288,
}
"""Pixels times channels by data set."""


def dimension(data: DataSpec) -> int | None:
    """Return the number of values of an image; None where the study does not say its size."""
    return 3 * data.size**2 if isinstance(data, ImageNetData) else _VALUES.get(data.name)


def acr_at(entry: Entry, n: int, *, sigma: float, alpha: float) -> float:
    """Return the ACR with n samples an image if their shares fell as they did, averaged over an entry's classifiers.

    Images that were abstained on, given up or wrong count 0 at any n.
    """
    means = []
    for one in entry.classifiers:
        right = one.correct & (one.n > 0)
        counts = np.floor(one.n_a[right] / one.n[right] * n + 1e-9).astype(np.int64)
        means.append(certified_radius(clopper_pearson_lower(counts, n, alpha=alpha), sigma=sigma).sum() / right.size)
    return float(np.mean(means))


def constant_acr(found: Sequence[Entry], *, sigma: float, n: int, alpha: float) -> float:
    """Return the ACR of a classifier that always answers the most frequent class of the test images."""
    labels = found[0].classifiers[0].label
    return float(
        np.unique(labels, return_counts=True)[1].max() / labels.size * radius_cap(sigma=sigma, n=n, alpha=alpha)
    )


Levels = Mapping[float, Sequence[Entry]]


def _levels(results: Results) -> Levels:
    """Return the entries that are drawn and listed: methods and ensembles; a cascade has several noise levels."""
    every = {sigma: [one for one in entries(results, sigma) if one.kind != "cascade"] for sigma in results.sigmas}
    return {sigma: found for sigma, found in every.items() if found}


def budget_table(results: Results, levels: Levels) -> Table:
    """Return one row per entry: its ACR by number of samples, and the images that nothing is certified of."""
    alpha, d = results.study.certify.alpha, dimension(results.study.data)

    def rows() -> Iterator[dict[str, Cell]]:
        for sigma, found in levels.items():
            for one in found:
                hard = 1 - one.reaching(0.0).acr
                small = {} if d is None else {"as L∞, ACR / √d": number_cell(one.acr / math.sqrt(d), digits=4)}
                yield {
                    "σ": number_cell(sigma, digits=2),
                    "classifier": Cell(one.name),
                    **{f"n = {n:,}": number_cell(acr_at(one, n, sigma=sigma, alpha=alpha)) for n in BUDGETS},
                    "p_A not above 1/2": percent_cell(hard),
                    "ACR of the others": number_cell(one.acr / (1 - hard) if hard < 1 else math.nan),
                    **small,
                }

    return Table.of(rows())


def order_sentence(results: Results, levels: Levels) -> str:
    """Return which method has the largest ACR with few samples and with many; empty with one method."""
    alpha, leads = results.study.certify.alpha, dict[str, list[str]]()
    for sigma, found in levels.items():
        methods = [one for one in found if one.kind == "model"]
        if len(methods) < 2:
            continue
        first = {n: max((acr_at(one, n, sigma=sigma, alpha=alpha), one.name) for one in methods)[1] for n in BUDGETS}
        text = ", ".join(f"{name} leads at n = {n:,}" for n, name in first.items())
        if len({*first.values()}) == 1:
            text = f"{first[BUDGETS[0]]} leads from n = {BUDGETS[0]:,} to {BUDGETS[-1]:,}"
        leads.setdefault(text, []).append(f"{sigma:g}")
    return "; ".join(f"{text} at σ = {', '.join(sigmas)}" for text, sigmas in leads.items()) + "." * bool(leads)


def budget_figure(results: Results, levels: Levels) -> Figure | None:
    """Return ACR against the number of samples for methods and the best ensemble, with that of a constant answer."""
    if not levels:
        return None
    alpha, sizes = results.study.certify.alpha, np.geomspace(BUDGETS[0], BUDGETS[-1], 9).round().astype(int).tolist()
    colours = label_colours([model.label for model in results.models])
    shown = [*levels][:3]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 3.2 * len(shown), 3.9), layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        figure.suptitle("ACR against the number of samples", x=0.01, ha="left", fontweight="bold", fontsize=10)
        named = set[str]()
        for axes, sigma in zip(panels, shown, strict=True):
            found = levels[sigma]
            methods = [one for one in found if one.kind == "model"][:_MOST_LINES]
            others = [one for one in found if one.kind != "model"][: _MOST_LINES - len(methods) and 1]
            for one in (*methods, *others):
                name = one.name if one.kind == "model" else "best ensemble"
                colour, line = colours.get(one.name, ("#444444", "--"))
                values = [acr_at(one, n, sigma=sigma, alpha=alpha) for n in sizes]
                label = "_" if name in named else legend_text(name)
                axes.plot(sizes, values, line, color=colour, linewidth=1.4, label=label)
                named.add(name)
            constant = [constant_acr(found, sigma=sigma, n=n, alpha=alpha) for n in sizes]
            label = "_" if axes is not panels[0] else "always the most frequent class"
            axes.plot(sizes, constant, ":", color="#888888", linewidth=1.6, label=label)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
            axes.set_title(f"σ = {sigma:g}", loc="left", fontweight="normal")
            axes.set_xlabel("samples n of an image")
            axes.set_ylim(bottom=0.0)
        panels[0].set_ylabel("ACR")
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified, or the rule gives no ACR."""
    levels = {} if results.decided else _levels(results)
    if not levels:
        return None
    certify = results.study.certify
    constant = {
        sigma: constant_acr(found, sigma=sigma, n=certify.n, alpha=certify.alpha) for sigma, found in levels.items()
    }
    sentence = order_sentence(results, levels)
    content = {
        "rows": budget_table(results, levels),
        "sentence": sentence,
        "constant": constant,
        "n": certify.n,
        "values": dimension(results.study.data),
    }
    return Section("budget", content, drawn({"budget": budget_figure(results, levels)}), finding=sentence)

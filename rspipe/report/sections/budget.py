"""Section: what the number of samples does to the order of the methods, and what the ACR does not show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rspipe.data.spec import DataSpec, ImageNetData
from rspipe.report.figures import (
    BLUE,
    GREY,
    RED,
    STYLE,
    WIDTH,
    draw_legend,
    drawn,
    entry_colours,
    legend_text,
    new_rows,
)
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.standings import Entry, constant_acr, entries
from rspipe.report.tables import Cell, Table, number_cell, percent_cell, quantity, sigma_cell
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower
from rspipe.smoothing.metrics import hard_half

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
        right = one.correct & (one.n > 0) & np.isin(one.example, entry.group.examples)
        counts = np.floor(one.n_a[right] / one.n[right] * n + 1e-9).astype(np.int64)
        means.append(certified_radius(clopper_pearson_lower(counts, n, alpha=alpha), sigma=sigma).sum())
    return float(np.mean(means)) / entry.group.examples.size


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
            halves = Halves.of(found) or Halves({}, {})
            for one in found:
                hard = 1 - one.reaching(0.0).acr
                small = {} if d is None else {"as L∞, ACR / √d": number_cell(one.acr / math.sqrt(d), digits=4)}
                yield {
                    "σ": sigma_cell(sigma),
                    "classifier": Cell(one.name),
                    **{f"n = {n:,}": number_cell(acr_at(one, n, sigma=sigma, alpha=alpha)) for n in BUDGETS},
                    "p_A not above 1/2": percent_cell(hard),
                    "ACR of the others": number_cell(one.acr / (1 - hard) if hard < 1 else math.nan),
                    "ACR of the easy half": number_cell(halves.easy.get(one.name, math.nan)),
                    "ACR of the hard half": number_cell(halves.hard.get(one.name, math.nan)),
                    **small,
                }

    return Table.of(rows())


@dataclass(frozen=True)
class Halves:
    """The ACR of entries on the easy and on the hard half of the images that all methods of a noise level share."""

    easy: Mapping[str, float]
    hard: Mapping[str, float]

    @classmethod
    def of(cls, found: Sequence[Entry]) -> "Halves | None":
        """Return those of methods and of ensembles that have the images, too; None with one method or one image."""
        methods = [one.group for one in found if one.kind == "model"]
        shared = reduce(np.intersect1d, [group.examples for group in methods]) if methods else np.arange(0)
        if len(methods) < 2 or shared.size < 2:
            return None
        hard = shared[hard_half(np.stack([group.on(shared).mean_credits for group in methods]))]
        easy = np.setdiff1d(shared, hard)
        there = [one for one in found if np.isin(shared, one.group.examples).all()]
        return cls(
            *({one.name: float(one.group.on(half).mean_credits.mean()) for one in there} for half in (easy, hard))
        )


def halves_figure(results: Results, found: Sequence[Entry], *, sigma: float) -> Figure | None:
    """Return what methods and the best ensemble gain over the baseline on each half; None where nothing compares."""
    halves, name = Halves.of(found), results.baseline
    if halves is None or name not in halves.easy:
        return None
    best = next((one.name for one in found if one.kind == "ensemble"), None)
    rows = [one.name for one in found if (one.kind == "model" or one.name == best) and one.name in halves.easy]
    rows = [row for row in rows if row != name]
    if not rows:
        return None
    with mpl.rc_context(STYLE):
        title = f"ACR of each half less that of {name}, σ = {sigma:g}"
        figure, axes = new_rows(title, "difference of ACR", rows)
        for half, colour, marker, text in (
            (halves.easy, BLUE, "o", "the half with larger radii"),
            (halves.hard, RED, "D", "the half with smaller radii"),
        ):
            axes.plot([half[row] - half[name] for row in rows], range(len(rows)), marker, color=colour, label=text)
        axes.axvline(0.0, color=GREY, linewidth=1.0)
        draw_legend(figure)
    return figure


def order_sentence(results: Results, levels: Levels) -> str:
    """Return which method has the largest ACR with few samples and with many; empty with one method."""
    alpha, leads = results.study.certify.alpha, dict[str, list[str]]()
    for sigma, found in levels.items():
        methods = [one for one in found if one.kind == "model"]
        if len(methods) < 2 or methods[0].acr == 0:
            continue
        first = {n: max((acr_at(one, n, sigma=sigma, alpha=alpha), one.name) for one in methods)[1] for n in BUDGETS}
        text = ", ".join(f"{name} has the largest ACR at n = {n:,}" for n, name in first.items())
        if len({*first.values()}) == 1:
            text = f"{first[BUDGETS[0]]} has the largest ACR from n = {BUDGETS[0]:,} to {BUDGETS[-1]:,}"
        leads.setdefault(text, []).append(f"{sigma:g}")
    return "; ".join(f"{text} at σ = {', '.join(sigmas)}" for text, sigmas in leads.items()) + "." * bool(leads)


def budget_figure(results: Results, found: Sequence[Entry], *, sigma: float) -> Figure:
    """Return ACR against the number of samples for methods and the best ensemble, with that of a constant answer.

    Below are the differences from the baseline, where there is one: the curves themselves nearly coincide.
    """
    certify = results.study.certify
    sizes = np.geomspace(BUDGETS[0], BUDGETS[-1], 9).round().astype(int).tolist()
    methods = [one for one in found if one.kind == "model"][:_MOST_LINES]
    best = next((one for one in found if one.kind == "ensemble"), None)
    shown = [*methods[: _MOST_LINES - (best is not None)], *([best] if best else [])]
    values = {one.name: np.array([acr_at(one, n, sigma=sigma, alpha=certify.alpha) for n in sizes]) for one in shown}
    baseline = values.get(results.baseline)
    gains = baseline is not None and len(shown) > 1
    models, others = [model.label for model in results.models], [one.name for one in shown if one.kind != "model"]
    colours = entry_colours(models, baseline=results.baseline, others=others)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.0 if gains else 3.4), layout="constrained", facecolor="white")
        panels = figure.subplots(1 + gains, 1, sharex=True, squeeze=False, height_ratios=(1, 1)[: 1 + gains])[:, 0]
        panels[0].set_title(f"ACR against the number of samples, σ = {sigma:g}", loc="left")
        for one in shown:
            ours = one.name == results.baseline
            colour, line = colours[one.name]
            role = " (baseline)" if ours and gains else " (best ensemble)" if one is best else ""
            panels[0].plot(sizes, values[one.name], line, color=colour, label=legend_text(f"{one.name}{role}"))
            if gains and not ours:
                panels[1].plot(sizes, values[one.name] - baseline, line, color=colour)
        constant = [constant_acr(found, sigma=sigma, n=n, alpha=certify.alpha) for n in sizes]
        panels[0].plot(sizes, constant, ":", color="#000000", label="always the most frequent class")
        panels[0].set_ylim(0.0, None)
        panels[0].set_ylabel("ACR")
        for axes in panels:
            axes.set_facecolor("white")
            if certify.n < BUDGETS[-1]:
                axes.axvspan(certify.n, BUDGETS[-1], color=GREY, alpha=0.12, linewidth=0)
        if gains:
            panels[1].axhline(0.0, color=GREY, linewidth=1.0)
            panels[1].set_ylabel("ACR less that\nof the baseline")
        panels[-1].set_xscale("log")
        panels[-1].set_xlim(BUDGETS[0], BUDGETS[-1])
        panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
        panels[-1].set_xlabel("samples n of an image")
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified, or samples are none for an ACR."""
    certify = results.study.certify
    # Rule radius_grid ends an image when its answer is clear, whatever its radius would be.
    levels = _levels(results) if certify.rule.name in ("fixed", "planned") else {}
    if not levels:
        return None
    constant = {
        sigma: constant_acr(found, sigma=sigma, n=certify.n, alpha=certify.alpha) for sigma, found in levels.items()
    }
    sentence = order_sentence(results, levels)
    content = {
        "rows": budget_table(results, levels),
        "sentence": sentence,
        "constant": constant,
        "n": certify.n,
        "planned": certify.rule.name == "planned",
        "values": dimension(results.study.data),
    }
    budgets = {f"budget-sigma-{sigma:g}": budget_figure(results, found, sigma=sigma) for sigma, found in levels.items()}
    halves = {f"halves-sigma-{sigma:g}": halves_figure(results, found, sigma=sigma) for sigma, found in levels.items()}
    return Section("budget", content, {**budgets, **drawn(halves)}, finding=sentence)

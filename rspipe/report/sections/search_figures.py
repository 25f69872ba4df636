"""Figures of a search: cost, importance and response of its hyper-parameters, Pareto front, early stopping."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from rspipe.records import SearchResult, Trial
from rspipe.report.figures import STYLE, draw_legend, new_panel, spread_axis
from rspipe.report.results import Results
from rspipe.report.tables import quantity
from rspipe.search.sensitivity import Response, best_so_far, finished, front, sensitivity
from rspipe.search.spec import SearchSpec

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#888888"

_NAMES = {"acr": "validation ACR", "accuracy": "clean accuracy (smoothed, validation)", "passes": "passes in training"}


def spec_of(results: Results, search: SearchResult) -> SearchSpec | None:
    """Return what a search ran, or None where the study has changed since."""
    known = ((spec.label, spec.sigma, spec) for spec in results.study.search_specs)
    return next((spec for label, sigma, spec in known if (label, sigma) == (search.label, search.sigma)), None)


def search_figures(results: Results) -> dict[str, Figure]:
    """Return the figures of every finished search by a name that serves as a file name, those without data left out."""
    figures: dict[str, Figure | None] = {}
    for index, search in enumerate(results.searches):
        spec = spec_of(results, search)
        trials = [trial for trial in results.trials if trial.search == search.id]
        if spec is None or not trials:
            continue
        title = f"{search.label}, σ = {search.sigma:g}"
        figures[f"search-{index}-cost"] = cost_figure(search, trials, title=title)
        known = sensitivity(spec, trials)
        figures[f"search-{index}-importance"] = importance_figure(known.shares, title=title)
        figures[f"search-{index}-response"] = response_figure(trials, known.responses, title=title)
        figures[f"search-{index}-front"] = front_figure(spec, trials, title=title)
        figures[f"search-{index}-stopping"] = stopping_figure(spec, trials, title=title)
    return {name: figure for name, figure in figures.items() if figure is not None}


def cost_figure(search: SearchResult, trials: Sequence[Trial], *, title: str) -> Figure:
    """Return the best objective so far against the passes spent, with every finished trial."""
    spent, best = best_so_far(trials)
    ordered = sorted(trials, key=lambda trial: trial.index)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"Search cost: {title}", "passes of all trials", "validation ACR")
        axes.step(spent, best, where="post", color=_BLUE, label="best so far")
        for kind, marker, colour in (("finished", "o", _BLUE), ("stopped", "|", _GREY), ("others", "x", _RED)):
            known = ("finished", "stopped")
            of = [k for k, t in enumerate(ordered) if t.status == kind or (kind == "others" and t.status not in known)]
            if of:
                name = "diverged, collapsed or invalid" if kind == "others" else kind
                heights = [ordered[k].objective for k in of]
                axes.plot(spent[of], heights, marker, color=colour, markersize=4, linestyle="none", label=name)
        axes.axhline(search.default_objective, color=_GREY, linewidth=0.8, linestyle="--", label="the study file's own")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
        axes.set_xlim(left=0.0)
        draw_legend(figure)
    return figure


def importance_figure(shares: Mapping[str, float], *, title: str) -> Figure | None:
    """Return the share of the variance that each hyper-parameter explains as bars; None where nothing is known."""
    if not shares:
        return None
    with mpl.rc_context(STYLE):
        height = 1.6 + 0.28 * (len(shares) + 1)
        figure, axes = new_panel(f"Importance (fANOVA): {title}", "share of the variance of the ACR", "", height=height)
        names = [*shares, "together"]
        widths = [*shares.values(), max(0.0, 1.0 - sum(shares.values()))]
        axes.barh(names, widths, color=[_BLUE] * len(shares) + [_GREY])
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.0)
    return figure


def response_figure(trials: Sequence[Trial], found: Sequence[Response], *, title: str) -> Figure | None:
    """Return the ACR against every hyper-parameter with its uncertainty; None where nothing is known."""
    if not found:
        return None
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    done = finished(trials)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.6 + 1.9 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        figure.suptitle(f"Response: {title}", x=0.01, ha="left", fontweight="bold", fontsize=10)
        for axes, response in zip(panels, found, strict=False):
            axes.fill_between(response.values, response.low, response.high, color=_BLUE, alpha=0.2, linewidth=0)
            marker = "" if len(response.values) > 8 else "."
            axes.plot(response.values, response.mean, color=_BLUE, linewidth=1.3, marker=marker)
            at = [(t.parameters[response.name], t.objective) for t in done if response.name in t.parameters]
            axes.plot(*np.array(at).reshape(-1, 2).T, ".", color=_GREY, markersize=3.5)
            if response.log:
                axes.set_xscale("log")
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_xlabel(response.name)
        for axes in panels[len(found) :]:
            axes.remove()
        figure.supylabel("validation ACR", fontsize=9)
    return figure


def front_figure(search: SearchSpec, trials: Sequence[Trial], *, title: str) -> Figure | None:
    """Return the finished trials by ACR and each other objective, with the Pareto front; None for a single one."""
    others, done = search.objectives[1:], finished(trials)
    if not others or not done:
        return None
    best = set(front(search, trials))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.4), layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(others), sharey=True, squeeze=False).ravel()
        figure.suptitle(f"Pareto front: {title}", x=0.01, ha="left", fontweight="bold", fontsize=10)
        for axes, name in zip(panels, others, strict=True):
            places = {t.index: float(t.accuracy if name == "accuracy" else t.passes) for t in done}
            for trial in done:
                on = trial.index in best
                axes.plot(places[trial.index], trial.objective, "o", color=_RED if on else _GREY, markersize=4.5)
                if on:
                    axes.annotate(str(trial.index), (places[trial.index], trial.objective), fontsize=7,
                                  xytext=(3, 3), textcoords="offset points")  # fmt: skip
            if name == "passes":
                spread_axis(axes, [*places.values()], which="x", text=quantity)
            axes.set_xlabel(_NAMES[name])
        panels[0].set_ylabel(_NAMES["acr"])
    return figure


def stopping_figure(search: SearchSpec, trials: Sequence[Trial], *, title: str) -> Figure | None:
    """Return the estimates that trials were compared by, by epoch; None without early stopping."""
    watched = [trial for trial in trials if trial.watched]
    if search.early_stopping is None or not watched:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"Early stopping: {title}", "epoch", "estimate of the validation ACR")
        named = set[str]()
        for trial in sorted(watched, key=lambda one: one.status == "stopped"):
            kind = "stopped" if trial.status == "stopped" else "not stopped"
            epochs, colour = [int(epoch) for epoch in trial.watched], _RED if kind == "stopped" else _BLUE
            label = "_" if kind in named else kind
            axes.plot(epochs, [*trial.watched.values()], color=colour, linewidth=0.9, alpha=0.7, label=label)
            if kind == "stopped":
                axes.plot(epochs[-1], trial.watched[str(epochs[-1])], "x", color=colour, markersize=4)
            named.add(kind)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        draw_legend(figure)
    return figure

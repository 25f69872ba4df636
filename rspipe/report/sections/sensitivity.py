"""Section: how much each hyper-parameter of a search matters, and how the ACR responds to it."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rspipe.records import Trial
from rspipe.report.figures import BLUE, GREY, STYLE, WIDTH, drawn, log_axis, new_panel
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import number
from rspipe.search.sensitivity import LEAST_TRIALS, Response, Sensitivity, finished, sensitivity


def importance_figure(shares: Mapping[str, float], *, title: str) -> Figure | None:
    """Return the share of the variance that each hyper-parameter explains as bars; None where nothing is known."""
    if not shares:
        return None
    with mpl.rc_context(STYLE):
        height = 1.6 + 0.28 * (len(shares) + 1)
        figure, axes = new_panel(f"Importance (fANOVA): {title}", "share of the variance of the ACR", "", height=height)
        names = [*shares, "together"]
        widths = [*shares.values(), max(0.0, 1.0 - sum(shares.values()))]
        axes.barh(names, widths, color=[BLUE] * len(shares) + [GREY])
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.0)
    return figure


def response_figure(trials: Sequence[Trial], responses: Sequence[Response], *, title: str) -> Figure | None:
    """Return the ACR against every hyper-parameter with its uncertainty; None where nothing is known."""
    if not responses:
        return None
    columns = min(3, len(responses))
    rows = -(-len(responses) // columns)
    done = finished(trials)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 1.9 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        figure.suptitle(f"Response to each hyper-parameter: {title}", x=0.01, ha="left", fontweight="bold", fontsize=10)
        for axes, response in zip(panels, responses, strict=False):
            axes.fill_between(response.values, response.low, response.high, color=BLUE, alpha=0.2, linewidth=0)
            marker = "" if len(response.values) > 8 else "."
            axes.plot(response.values, response.mean, color=BLUE, linewidth=1.3, marker=marker)
            at = [(t.parameters[response.name], t.objective) for t in done if response.name in t.parameters]
            axes.plot(*np.array(at).reshape(-1, 2).T, ".", color=GREY, markersize=3.5)
            if response.log:
                log_axis(axes)
            axes.set_xlabel(response.name)
        for axes in panels[len(responses) :]:
            axes.remove()
        figure.supylabel("ACR on validation images", fontsize=9)
    return figure


def sensitivity_sentence(known: Sensitivity, *, finished_trials: int) -> str:
    """Return the hyper-parameters of a search by their share of the variance, with their swing and best value."""
    shares = known.shares
    if not known.responses:
        if finished_trials < LEAST_TRIALS:
            least = f"({LEAST_TRIALS} are the least)"
            return f"{finished_trials} finished trials say nothing yet of single hyper-parameters {least}."
        why = "all have the same ACR, or too few lie inside the space"
        return f"{finished_trials} finished trials say nothing of single hyper-parameters: {why}."
    parts = []
    for response in sorted(known.responses, key=lambda one: (-shares.get(one.name, 0.0), one.name)):
        share = f"{100 * shares[response.name]:.0f} % of the variance, " if response.name in shares else ""
        swing = f"ACR varies by {number(response.swing)} on average, best near {response.best:.3g}"
        parts.append(f"{response.name} ({share}{swing})")
    return f"by {finished_trials} finished trials, {', '.join(parts)}."


def section(results: Results) -> Section | None:
    """Return the section; None without a finished search of the study as it is."""
    sentences: list[str] = []
    figures: dict[str, Figure | None] = {}
    for index, search in enumerate(results.searches):
        trials, spec = results.trials_of(search), results.spec_of(search)
        if spec is None or not trials:
            continue
        known, title = sensitivity(spec, trials), f"{search.label}, σ = {search.sigma:g}"
        figures[f"search-{index}-importance"] = importance_figure(known.shares, title=title)
        figures[f"search-{index}-response"] = response_figure(trials, known.responses, title=title)
        sentence = sensitivity_sentence(known, finished_trials=len(finished(trials)))
        sentences.append(f"{search.label} at σ = {search.sigma:g}: {sentence}")
    return Section("sensitivity", {"sentences": sentences}, drawn(figures)) if sentences else None

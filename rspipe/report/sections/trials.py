"""Section: the trials of each search: their objectives, early stopping, and the Pareto front."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rspipe.records import SearchResult, Trial, TrialStatus
from rspipe.report.figures import BLUE, GREY, RED, STYLE, WIDTH, draw_legend, drawn, log_axis, new_panel, spread_axis
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, Tone, duration, number_cell, quantity
from rspipe.search.domains import Range
from rspipe.search.sensitivity import finished, front, sensitivity
from rspipe.search.spec import SearchSpec
from rspipe.search.trials import trial_spec

_NAMES = {
    "acr": "ACR on validation images",
    "accuracy": "clean accuracy (smoothed, validation)",
    "passes": "passes in training",
}


_TONES: dict[TrialStatus, Tone] = {"finished": "", "stopped": "muted"}


def trial_table(results: Results, search: SearchResult) -> Table:
    """Return one row per trial of a search."""
    trials = results.trials_of(search)
    names = sorted({name for trial in trials for name in trial.parameters})

    def row(index: int) -> dict[str, Cell]:
        trial = trials[index]
        values = {name: trial.parameters.get(name, math.nan) for name in names}
        return {
            "trial": number_cell(trial.index, digits=0),
            # A dash where the condition of a hyper-parameter does not hold.
            **{name: Cell("–" if math.isnan(value) else f"{value:.4g}", value) for name, value in values.items()},
            "validation ACR": number_cell(trial.objective if trial.status == "finished" else math.nan),
            "standard error": number_cell(math.nan if trial.error is None else trial.error),
            "clean accuracy": number_cell(trial.accuracy if trial.status == "finished" else math.nan),
            "noisy accuracy": number_cell(trial.noisy_accuracy),
            "status": Cell(trial.status, tone=_TONES.get(trial.status, "bad")),
            "training": Cell(duration(trial.seconds), trial.seconds),
            "passes": Cell(quantity(trial.passes), trial.passes),
        }

    return Table.of(map(row, range(len(trials))))


def search_figure(trials: Sequence[Trial], search: SearchResult, *, logs: Collection[str] = ()) -> Figure | None:
    """Return a search's objective against each hyper-parameter; None without a finished trial.

    Trials that did not finish have no objective to compare: they are crosses on the lower edge. `logs` names what
    varies on a logarithmic scale.
    """
    done = finished(trials)
    names = sorted({name for trial in trials for name in trial.parameters})
    if not done or not names:
        return None
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = -(-len(names) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 1.9 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        figure.suptitle(
            f"Trials of {search.label}, σ = {search.sigma:g}", x=0.01, ha="left", fontweight="bold", fontsize=10
        )
        for axes, name in zip(panels, names, strict=False):
            values = {trial.index: trial.parameters[name] for trial in trials if name in trial.parameters}
            if search.default_objective is not None:
                axes.axhline(search.default_objective, color=GREY, linewidth=0.8, linestyle="--")
            for trial in done:
                if trial.index in values:
                    best = trial.index == search.best_index
                    marker, colour, size = ("*", RED, 10.0) if best else ("o", BLUE, 4.5)
                    axes.plot(values[trial.index], trial.objective, marker, color=colour, markersize=size)
            lost = [value for index, value in values.items() if index not in {trial.index for trial in done}]
            if lost:
                edge = axes.get_xaxis_transform()
                axes.plot(lost, [0.03] * len(lost), "x", color=GREY, markersize=5, transform=edge)
            if name in logs:
                log_axis(axes)
            elif all(float(value).is_integer() for value in values.values()):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(0.12)
            axes.set_xlabel(name)
        for axes in panels[len(names) :]:
            axes.remove()
        figure.supylabel("ACR on validation images", fontsize=9)
    return figure


def front_figure(search: SearchSpec, trials: Sequence[Trial], *, title: str) -> Figure | None:
    """Return the finished trials by ACR and each other objective, with the Pareto front; None for a single one."""
    others, done = search.objectives[1:], finished(trials)
    if not others or not done:
        return None
    best = set(front(search, trials))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(others), sharey=True, squeeze=False).ravel()
        figure.suptitle(f"Pareto front: {title}", x=0.01, ha="left", fontweight="bold", fontsize=10)
        for axes, name in zip(panels, others, strict=True):
            places = {t.index: float(t.accuracy if name == "accuracy" else t.passes) for t in done}
            for trial in done:
                on = trial.index in best
                axes.plot(places[trial.index], trial.objective, "o", color=RED if on else GREY, markersize=4.5)
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
        figure, axes = new_panel(f"Early stopping: {title}", "epoch", "estimated ACR on validation images")
        named = set[str]()
        for trial in sorted(watched, key=lambda one: one.status == "stopped"):
            kind = "stopped" if trial.status == "stopped" else "not stopped"
            epochs, colour = [int(epoch) for epoch in trial.watched], RED if kind == "stopped" else BLUE
            label = "_" if kind in named else kind
            axes.plot(epochs, [*trial.watched.values()], color=colour, linewidth=0.9, alpha=0.7, label=label)
            if kind == "stopped":
                axes.plot(epochs[-1], trial.watched[str(epochs[-1])], "x", color=colour, markersize=4)
            named.add(kind)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        draw_legend(figure)
    return figure


def stopping_sentence(spec: SearchSpec, trials: Sequence[Trial]) -> str:
    """Return when early stopping ended trials, and the passes that it saved."""
    stopped = [trial for trial in trials if trial.status == "stopped"]
    if not stopped:
        return "early stopping stopped no trial."
    saved = sum(_passes_left(spec, trial) for trial in stopped)
    ends = Counter(trial.epochs for trial in stopped)
    when = ", ".join(f"{count} after epoch {epoch}" for epoch, count in sorted(ends.items()))
    return f"early stopping ended {when} of {spec.training.epochs}, and saved {quantity(saved)} passes."


def _passes_left(spec: SearchSpec, trial: Trial) -> float:
    """Return the passes of the epochs that a stopped trial did not come to."""
    model = trial_spec(spec, trial.parameters)
    costs = [float(model.method.passes_in(epoch)) for epoch in range(model.epochs)]
    # A teacher, of one pass per image, learns in all epochs before the first.
    spent = sum(costs[: trial.epochs]) + (0 if model.method.teacher is None else model.epochs)
    return trial.passes / spent * sum(costs[trial.epochs :])


def front_sentence(spec: SearchSpec, trials: Sequence[Trial]) -> str:
    """Return the trials that no other one beats in all objectives at once."""
    best = ", ".join(map(str, front(spec, trials)))
    return f"no trial beats {best} in {' and '.join(spec.objectives)} at once."


def section(results: Results) -> Section | None:
    """Return the section; None without a finished search."""
    if not results.searches:
        return None
    sentences: list[str] = []
    figures: dict[str, Figure | None] = {}
    for index, search in enumerate(results.searches):
        trials, spec = results.trials_of(search), results.spec_of(search)
        # Where there is a fitted response, that shows them.
        if spec is None or not sensitivity(spec, trials).responses:
            logs = (
                [] if spec is None else [name for name, one in spec.space.items() if isinstance(one, Range) and one.log]
            )
            figures[f"search-{index}"] = search_figure(trials, search, logs=logs)
        if spec is None or not trials:
            continue
        name = f"{search.label} at σ = {search.sigma:g}"
        title = f"{search.label}, σ = {search.sigma:g}"
        figures[f"search-{index}-front"] = front_figure(spec, trials, title=title)
        figures[f"search-{index}-stopping"] = stopping_figure(spec, trials, title=title)
        if spec.early_stopping is not None:
            sentences.append(f"{name}: {stopping_sentence(spec, trials)}")
        if len(spec.objectives) > 1:
            sentences.append(f"{name}: {front_sentence(spec, trials)}")
    content = {
        "tables": [(search, trial_table(results, search)) for search in results.searches],
        "sentences": sentences,
    }
    return Section("trials", content, drawn(figures))

"""What a search found, in sentences made from its records."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rspipe.records import SearchResult, Trial, TrialStatus
from rspipe.report.differences import SEARCH, Difference
from rspipe.report.figures import STYLE
from rspipe.report.page import bullets, details, figure_grid, paragraph, table_html
from rspipe.report.results import Results
from rspipe.report.sections.search_figures import spec_of
from rspipe.report.tables import Cell, Table, Tone, bracketed, duration, number, number_cell, quantity
from rspipe.search.sensitivity import LEAST_TRIALS, finished, front, sensitivity
from rspipe.search.spec import SearchSpec

_ENDS: dict[TrialStatus, str] = {
    "stopped": "stopped early",
    "diverged": "diverged",
    "collapsed": "collapsed",
    "invalid": "had values that do not fit together",
}


def search_warnings(search: str, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield a line on the trials that diverged, and one on those that collapsed, each with the first of them."""
    for status in ("diverged", "collapsed"):
        lost = [trial for trial in trials if trial.status == status]
        if lost:
            values = ", ".join(f"{name} = {value:.4g}" for name, value in sorted(lost[0].parameters.items()))
            first = f"trial {lost[0].index} ({values}): {lost[0].message}"
            yield f"{search}: {len(lost)} of {len(trials)} trials {status}, the first of them {first}"


def search_notes(results: Results, differences: Sequence[Difference]) -> list[str]:
    """Return some sentences on every finished search: what it cost, what it said, and what came of it."""
    notes = []
    for search in results.searches:
        spec = spec_of(results, search)
        trials = [trial for trial in results.trials if trial.search == search.id]
        if spec is None or not trials:
            continue
        name = f"{search.label} at σ = {search.sigma:g}"
        notes.append(f"{name}: {cost_part(trials)} {_worth(search, differences)}")
        if spec.early_stopping is not None:
            notes.append(f"{name}: {_saved(spec, trials)}")
        notes.append(f"{name}: {_sensitivity(spec, trials)}")
        if len(spec.objectives) > 1:
            best = ", ".join(map(str, front(spec, trials)))
            notes.append(f"{name}: no trial beats {best} in {' and '.join(spec.objectives)} at once.")
    return notes


def cost_part(trials: list[Trial]) -> str:
    spent = sum(trial.passes for trial in trials)
    ends = Counter(trial.status for trial in trials)
    others = "".join(f", {ends[status]} {words}" for status, words in _ENDS.items() if ends[status])
    return f"{len(trials)} trials{others}; {quantity(spent)} passes."


def _worth(search: SearchResult, differences: Sequence[Difference]) -> str:
    """Return what the winner is worth on test images, against settings that were not searched."""
    asked = [d for d in differences if d.question == SEARCH and d.sigma == search.sigma]
    told = [
        f"{bracketed(d.difference, signed=True)} against {d.second_label}" for d in asked if d.first == search.label
    ]
    return f"ACR of the winner on test images, trained in full: {'; '.join(told)}." if told else ""


def _saved(spec: SearchSpec, trials: list[Trial]) -> str:
    stopped = [trial for trial in trials if trial.status == "stopped"]
    if not stopped:
        return "early stopping stopped no trial."
    whole = sum(trial.passes / trial.epochs * spec.training.epochs for trial in stopped)
    saved = whole - sum(trial.passes for trial in stopped)
    ends = Counter(trial.epochs for trial in stopped)
    when = ", ".join(f"{count} after epoch {epoch}" for epoch, count in sorted(ends.items()))
    return f"early stopping ended {when} of {spec.training.epochs}, and saved {quantity(saved)} passes."


def _sensitivity(spec: SearchSpec, trials: list[Trial]) -> str:
    known, done = sensitivity(spec, trials), len(finished(trials))
    found, shares = {response.name: response for response in known.responses}, known.shares
    if not found:
        return f"{done} finished trials say nothing yet of single hyper-parameters ({LEAST_TRIALS} are the least)."
    order = sorted(found, key=lambda name: (-shares.get(name, 0.0), name))
    parts = []
    for name in order:
        response = found[name]
        share = f"{100 * shares[name]:.0f} % of the variance, " if name in shares else ""
        parts.append(
            f"{name} ({share}ACR varies by {number(response.swing)} on average, best near {response.best:.3g})"
        )
    return f"by {done} finished trials, " + ", ".join(parts) + "."


def search_note(results: Results) -> str:
    """Return how to read tables and figures of searches."""
    text = (
        "Objective: ACR on the validation images; its standard error is for the choice of images, which all trials "
        "share. The winner is the best of its trials there, so the gain flatters it; the paired differences on test "
        "images do not. Star: winner; cross: not finished; dashed: the settings of the study file (trial 0). "
    )
    if any(len(finished([t for t in results.trials if t.search == s.id])) >= LEAST_TRIALS for s in results.searches):
        text += (
            "Importance: share of the variance of the ACR over the space that a hyper-parameter explains alone "
            "(functional ANOVA of a random forest); together: their interactions. Response: average over the rest of "
            "the space by a Gaussian process, with its pointwise 95 % interval. Both know finished trials alone, are "
            "uncertain with few, and most certain where a search has looked most."
        )
    return text.strip()


def settings(parameters: dict[str, Any]) -> str:
    """Return hyper-parameters as "lbd = 4, m = 2"."""
    return ", ".join(f"{name} = {value:.4g}" for name, value in parameters.items())


def search_table(searches: Sequence[SearchResult]) -> Table:
    """Return one row per search: the winner against the settings it started from, on the validation split."""
    return Table.of(
        {
            "σ": number_cell(search.sigma, digits=2),
            "search": Cell(search.label),
            "winner": Cell(settings(search.best)),
            "trial": number_cell(search.best_index, digits=0),
            "its ACR": number_cell(search.objective),
            "ACR of the default": number_cell(search.default_objective),
            "gain": Cell(
                number(search.objective - search.default_objective, signed=True),
                search.objective - search.default_objective,
            ),
            "trials": number_cell(search.trials, digits=0),
        }
        for search in searches
    )


_TONES: dict[TrialStatus, Tone] = {"finished": "", "stopped": "muted"}


def trial_table(results: Results, search: SearchResult) -> Table:
    """Return one row per trial of a search."""
    trials = [trial for trial in results.trials if trial.search == search.id]
    names = sorted({name for trial in trials for name in trial.parameters})

    def row(index: int) -> dict[str, Cell]:
        trial = trials[index]
        values = {name: trial.parameters.get(name, math.nan) for name in names}
        return {
            "trial": number_cell(trial.index, digits=0),
            **{name: Cell(f"{value:.4g}", value) for name, value in values.items()},
            "validation ACR": number_cell(trial.objective if trial.status == "finished" else math.nan),
            "standard error": number_cell(math.nan if trial.error is None else trial.error),
            "clean accuracy": number_cell(trial.accuracy if trial.status == "finished" else math.nan),
            "noisy accuracy": number_cell(trial.noisy_accuracy),
            "status": Cell(trial.status, tone=_TONES.get(trial.status, "bad")),
            "training": Cell(duration(trial.seconds), trial.seconds),
            "passes": Cell(quantity(trial.passes), trial.passes),
        }

    return Table.of(map(row, range(len(trials))))


def search_figure(trials: Sequence[Trial], search: SearchResult) -> Figure | None:
    """Return a search's objective by trial and against each hyper-parameter; None without trials."""
    trials = sorted((trial for trial in trials if trial.search == search.id), key=lambda trial: trial.index)
    if not trials:
        return None
    names = sorted({name for trial in trials for name in trial.parameters})
    columns = min(3, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.5 + 1.9 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        figure.suptitle(
            f"Search {search.label}, σ = {search.sigma:g}", x=0.01, ha="left", fontweight="bold", fontsize=10
        )
        for axes, name in zip(panels, ["trial", *names], strict=False):
            for trial in trials:
                x = float(trial.index if name == "trial" else trial.parameters.get(name, np.nan))
                _draw_trial(axes, x, trial, best=trial.index == search.best_index)
            axes.set_xlabel(name)
        panels[0].axhline(search.default_objective, color="#888888", linewidth=0.8, linestyle="--")
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels[1 + len(names) :]:
            axes.remove()
        figure.supylabel("validation ACR", fontsize=9)
    return figure


def _draw_trial(axes: Axes, x: float, trial: Trial, *, best: bool) -> None:
    marker = "x" if trial.status != "finished" else ("*" if best else "o")
    colour = "#D55E00" if best else "#0072B2"
    axes.plot(x, trial.objective, marker, color=colour, markersize=10 if best else 4.5)


def search_part(results: Results, figures: dict[str, Figure], differences: Sequence[Difference]) -> str:
    if not results.searches:
        return ""
    content = table_html(search_table(results.searches), name="search") + figure_grid(figures, "search-")
    for search in results.searches:
        content += details(f"Trials of {search.label}, σ = {search.sigma:g}", table_html(trial_table(results, search)))
    return content + bullets(search_notes(results, differences)) + paragraph(search_note(results), style="soft")

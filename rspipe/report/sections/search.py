"""Section: the winner of each search, what it cost, and what it is worth."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rspipe.records import SearchResult, Trial, TrialStatus
from rspipe.report.differences import Comparison, with_holm
from rspipe.report.figures import BLUE, GREY, RED, STYLE, draw_legend, new_panel
from rspipe.report.questions import SEARCH, answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import (
    Cell,
    Table,
    bracketed,
    not_judged,
    number,
    number_cell,
    quantity,
    relation_text,
    sigma_cell,
)
from rspipe.search.sensitivity import best_so_far
from rspipe.smoothing.judgement import Judgement

_ENDS: dict[TrialStatus, str] = {
    "stopped": "stopped early",
    "diverged": "diverged",
    "collapsed": "collapsed",
    "invalid": "had values that do not fit together",
}


def cost_sentence(trials: Sequence[Trial], *, made: int) -> str:
    """Return how many of the trials that were made have records, how those ended, and their passes."""
    spent = sum(trial.passes for trial in trials)
    ends = Counter(trial.status for trial in trials)
    others = "".join(f", {ends[status]} {words}" for status, words in _ENDS.items() if ends[status])
    lost = f" (records of {made - len(trials)} more are lost)" if made > len(trials) else ""
    return f"{len(trials)} trials{lost}{others}; {quantity(spent)} passes."


def worth_sentence(search: SearchResult, comparisons: Sequence[Comparison]) -> str:
    """Return the difference of the winner on test images to settings that were not searched; empty without."""

    def worth(one: Comparison, settings: bool, models: bool) -> str:
        judged, fixed = one.difference.procedures, one.difference.models
        of_settings = not_judged(one.difference) if judged is None else _relation(judged, sure=settings)
        return f"{one.second_label}: trained again, {of_settings}; these models alone, {_relation(fixed, sure=models)}"

    family = with_holm([one for one in comparisons if one.question == SEARCH])
    found = [worth(*row) for row in family if (row[0].first, row[0].sigma) == (search.label, search.sigma)]
    return f"ACR of the winner on test images, trained in full, against {'; against '.join(found)}." if found else ""


def _relation(judgement: Judgement[str], *, sure: bool) -> str:
    return f"{bracketed(judgement, signed=True, digits=4)}, {relation_text(judgement, sure=sure)}"


def settings(parameters: dict[str, Any]) -> str:
    """Return hyper-parameters as "lbd = 4, m = 2"."""
    return ", ".join(f"{name} = {value:.4g}" for name, value in parameters.items())


def search_table(searches: Sequence[SearchResult]) -> Table:
    """Return one row per search: the winner against the settings it started from, on the validation split."""
    return Table.of(
        {
            "σ": sigma_cell(search.sigma),
            "search": Cell(search.label),
            "winner": Cell(settings(search.best)),
            "trial": number_cell(search.best_index, digits=0),
            "its ACR": number_cell(search.objective),
            "ACR of the default": number_cell(_own(search)),
            "gain": number_cell(gain_of(search), signed=True),
            "trials": number_cell(search.trials, digits=0),
        }
        for search in searches
    )


def gain_of(search: SearchResult) -> float:
    """Return the ACR of the winner on validation images less that of the study file's settings; NaN without it."""
    return search.objective - _own(search)


def _own(search: SearchResult) -> float:
    return math.nan if search.default_objective is None else search.default_objective


def cost_figure(search: SearchResult, trials: Sequence[Trial], *, title: str) -> Figure:
    """Return the best objective so far against the passes spent, with every trial; those without one on the edge."""
    spent, best = best_so_far(trials)
    ordered = sorted(trials, key=lambda trial: trial.index)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"Cost of the search: {title}", "passes of all trials", "ACR on validation images")
        axes.step(spent, best, where="post", color=BLUE, label="best so far")
        for kind, marker, colour in (("finished", "o", BLUE), ("stopped", "|", GREY), ("others", "x", RED)):
            known = ("finished", "stopped")
            of = [k for k, t in enumerate(ordered) if t.status == kind or (kind == "others" and t.status not in known)]
            if of and kind == "others":
                place = axes.get_xaxis_transform()
                axes.plot(spent[of], [0.02] * len(of), marker, color=colour, markersize=5, ls="none", transform=place,
                          label="diverged, collapsed or invalid")  # fmt: skip
            elif of:
                heights = [ordered[k].objective for k in of]
                axes.plot(spent[of], heights, marker, color=colour, markersize=4, ls="none", label=kind)
        if (own := search.default_objective) is not None:
            axes.axhline(own, color=GREY, linewidth=0.8, linestyle="--", label="the study file's own")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
        axes.set_xlim(left=0.0)
        axes.margins(y=0.12)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None without a finished search."""
    if not results.searches:
        return None
    comparisons, sentences, figures = answer_questions(results), [], {}
    for index, search in enumerate(results.searches):
        trials = results.trials_of(search)
        if not trials or results.spec_of(search) is None:
            continue
        name = f"{search.label}, σ = {search.sigma:g}"
        figures[f"search-{index}-cost"] = cost_figure(search, trials, title=name)
        cost, worth = cost_sentence(trials, made=search.trials), worth_sentence(search, comparisons)
        sentences.append(f"{search.label} at σ = {search.sigma:g}: {cost} {worth}")
    content = {"searches": search_table(results.searches), "sentences": sentences}
    gains = [gain for search in results.searches if not math.isnan(gain := gain_of(search))]
    finding = ""
    if gains:
        span = " to ".join(dict.fromkeys(number(gain, signed=True) for gain in (min(gains), max(gains))))
        finding = (
            f"Winners gain {span} on validation images, where they were picked; test images say whether that holds."
        )
    return Section("search", content, figures, finding=finding)

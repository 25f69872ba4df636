"""Section: the answers to the questions of a study, in sentences made from its differences."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

import matplotlib as mpl
from matplotlib.figure import Figure

from rspipe.report.differences import Comparison, with_holm
from rspipe.report.figures import GREY, STYLE, draw_legend, drawn, entry_colours, new_rows
from rspipe.report.names import enumerated
from rspipe.report.questions import QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.standings import entries, scoped
from rspipe.report.tables import number
from rspipe.smoothing.inference import relation
from rspipe.smoothing.judgement import Judgement

_NAMED = 4
"""Comparisons that a sentence names for each verdict."""

_MOST_ROWS = 16
"""Of a figure."""

Answered = tuple[Comparison, bool, bool]
"""A comparison, and whether Holm's correction leaves its verdicts: on procedures, on models."""

Verdict = Literal["higher", "higher, taken alone", "lower", "lower, taken alone", "undecided", "one seed", "not judged"]
"""Taken alone: not where all comparisons of the question are counted (Holm)."""


def _verdict(one: Comparison, judgement: Judgement[str] | None, *, sure: bool) -> Verdict:
    if judgement is None:
        return "one seed" if 1 in one.difference.seeds else "not judged"
    match relation(judgement):
        case "higher":
            return "higher" if sure else "higher, taken alone"
        case "lower":
            return "lower" if sure else "lower, taken alone"
        case _:
            return "undecided"


@dataclass(frozen=True)
class _Judged:
    """A comparison in one scope."""

    comparison: Comparison
    judgement: Judgement[str] | None
    verdict: Verdict


def _predicate(verdict: Verdict, alike: Sequence[_Judged], than: str) -> str:
    """Return what is said of the first entries of comparisons with one verdict."""
    verb = "is" if len(alike) == 1 else "are"
    apart = f" from {than}" if than else ""
    match verdict:
        case "undecided":
            seen = median([one.judgement.detectable for one in alike if one.judgement is not None])
            return f"cannot be told apart{apart} (differences below {number(seen, digits=4)} would mostly go unseen)"
        case "one seed":
            return f"{verb} not judged, with one seed on a side"
        case "not judged":
            return f"{verb} not judged"
        case _:
            word, _, alone = verdict.partition(",")
            return f"{verb} {word}{' than ' * bool(than)}{than}{',' * bool(alone)}{alone}"


def _clauses(judged: Sequence[_Judged], every: Sequence[Comparison]) -> str:
    """Return which comparisons have which verdict, those of the largest differences by name."""
    firsts, seconds = Counter(one.first for one in every), {one.second_label for one in every}
    # What is common to all is said once; "its members" is in the question.
    common = next(iter(seconds)) if len(seconds) == 1 and "its " not in next(iter(seconds)) else ""

    def named(one: Comparison, *, sized: bool) -> str:
        second = f" against {one.second_label}" if firsts[one.first] > 1 and not common else ""
        size = f" ({number(one.difference.estimate, digits=4, signed=True)})" if sized else ""
        return f"{one.first_label}{second}{size}"

    parts = []
    for verdict in get_args(Verdict):
        alike = [one for one in judged if one.verdict == verdict]
        alike.sort(key=lambda one: -abs(one.comparison.difference.estimate))
        names = [named(one.comparison, sized=one.judgement is not None) for one in alike]
        if len(names) > _NAMED:
            names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
        if names:
            parts.append(f"{enumerated(names)} {_predicate(verdict, alike, common)}")
    return "; ".join(parts)


def answer(answered: Sequence[Answered]) -> str:
    """Return in two sentences what comparisons of one question at one noise level say.

    The first is about training again; the second about these models alone, of which it names what is otherwise there.
    """
    every = [one for one, *_ in answered]
    procedures = [
        _Judged(one, one.difference.procedures, _verdict(one, one.difference.procedures, sure=sure))
        for one, sure, _ in answered
    ]
    models = [
        _Judged(one, one.difference.models, _verdict(one, one.difference.models, sure=sure))
        for one, _, sure in answered
    ]
    alone = every[0].difference.population
    on = "" if alone is None else f", on these {alone:,} images alone"
    at = f"At σ = {every[0].sigma:g}{on},"
    if all(one.judgement is None for one in procedures):
        reason = ": one seed on a side" if {one.verdict for one in procedures} == {"one seed"} else ""
        return f"{at} for these models alone, {_clauses(models, every)}. Training again is not judged{reason}."
    others = [one for one, first in zip(models, procedures, strict=True) if one.verdict != first.verdict]
    beyond = (
        f"For these models alone, {_clauses(others, every)}." if others else "The same holds for these models alone."
    )
    return f"{at} trained again, {_clauses(procedures, every)}. {beyond}"


def answers(comparisons: Sequence[Comparison]) -> dict[str, list[str]]:
    """Return the answers by question, one per noise level; questions without a comparison are left out."""
    sentences: dict[str, list[str]] = {}
    for question in QUESTIONS:
        answered = with_holm([one for one in comparisons if one.question == question])
        # Where certification is not finished, one noise level can have both kinds of images.
        levels: dict[tuple[float, int], list[Answered]] = {}
        for row in answered:
            levels.setdefault((row[0].sigma, row[0].difference.population or 0), []).append(row)
        if levels:
            sentences[question] = [answer(levels[level]) for level in sorted(levels)]
    return sentences


def counts_sentence(comparisons: Sequence[Comparison]) -> str:
    """Return how many comparisons have a verdict that Holm's correction for their question leaves, by scope."""
    if not comparisons:
        return ""
    answered = [row for question in QUESTIONS for row in with_holm([c for c in comparisons if c.question == question])]
    judged = sum(one.difference.procedures is not None for one, *_ in answered)
    return (
        f"{sum(sure for _, sure, _ in answered)} of {judged} differences are certain for training again, "
        f"{sum(sure for *_, sure in answered)} of {len(answered)} for these models alone."
    )


def difference_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the ACR of everything certified less that of the baseline, with intervals; None without two entries.

    A filled mark is judged for training again, a hollow one for these models alone. Of many, methods and the others of
    largest ACR are drawn.
    """
    found = [] if results.decided else entries(results, sigma)
    base = next((one for one in found if one.name == results.baseline), None)
    if base is None:
        return None
    rows = []
    for one in found:
        compared = None if one is base else results.compare(one.group, base.group, sigma=sigma)
        if compared is not None:
            rows.append((one, compared.difference))
    # Methods, then the best of the others.
    rows.sort(key=lambda row: (row[0].kind != "model", -row[1].estimate))
    rows = sorted(rows[:_MOST_ROWS], key=lambda row: -row[1].estimate)
    if not rows:
        return None
    colours = entry_colours([model.label for model in results.models], baseline=results.baseline)
    with mpl.rc_context(STYLE):
        title = f"ACR less that of {results.baseline}, σ = {sigma:g}"
        figure, axes = new_rows(title, "difference of ACR, with 95 % intervals", [one.name for one, _ in rows])
        axes.axvline(0.0, color=GREY, linewidth=1.0)
        for at, (one, difference) in enumerate(rows):
            judged, again = scoped(difference), difference.procedures is not None
            colour = colours[one.name][0] if one.kind == "model" else "#777777"
            axes.plot([judged.low, judged.high], [at, at], color=colour, linewidth=1.4)
            axes.plot(
                judged.estimate, at, "o", color=colour, markerfacecolor=colour if again else "white", markersize=5
            )
        for filled, name in ((True, "trained again"), (False, "these models alone")):
            if any((difference.procedures is not None) == filled for _, difference in rows):
                face = "#777777" if filled else "white"
                axes.plot([], [], "o", color="#777777", markerfacecolor=face, markersize=5, ls="none", label=name)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    if not results.summaries:
        return None
    comparisons = answer_questions(results)
    content = {
        "meant": results.images_meant,
        "answers": answers(comparisons),
        "comparisons": len(comparisons),
        "baseline": results.baseline,
        "searched": [group.label for group in results.study.search],
    }
    figures = drawn(
        {f"differences-sigma-{sigma:g}": difference_figure(results, sigma=sigma) for sigma in results.sigmas}
    )
    return Section("findings", content, figures, finding=counts_sentence(comparisons))

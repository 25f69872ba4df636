"""Section: the answers to the questions of a study, in sentences made from its differences."""

from collections import Counter
from collections.abc import Sequence

from rspipe.report.differences import Comparison
from rspipe.report.questions import QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import bracketed, number
from rspipe.smoothing.inference import verdict as sign_verdict

_WORDS = {
    "higher": ("is higher than", "higher"),
    "lower": ("is lower than", "lower"),
    "not significant": ("does not differ significantly from", "not significantly different"),
}

_NAMED = 4
"""Comparisons that a sentence names for each verdict."""


def _named(one: Comparison, *, against: bool) -> str:
    second = f" against {one.second_label}" if against else ""
    return f"{one.first_label}{second} ({number(one.difference.estimate, signed=True)})"


def answer(comparisons: Sequence[Comparison]) -> str:
    """Return in a sentence what comparisons of one question at one noise level say."""
    sigma = f"At σ = {comparisons[0].sigma:g}"
    if len(comparisons) == 1:
        (only,) = comparisons
        relation, interval = (
            _WORDS[sign_verdict(only.difference.models)][0],
            bracketed(only.difference.models, signed=True),
        )
        return f"{sigma}, the ACR of {only.first_label} {relation} that of {only.second_label}: {interval}."
    firsts = Counter(one.first for one in comparisons)
    parts = []
    for verdict, (_, word) in _WORDS.items():
        alike = [one for one in comparisons if sign_verdict(one.difference.models) == verdict]
        alike.sort(key=lambda one: -abs(one.difference.estimate))
        names = [_named(one, against=firsts[one.first] > 1) for one in alike]
        if len(names) > _NAMED:
            names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
        if names:
            parts.append(f"{word} for {', '.join(names)}")
    return f"{sigma}, the ACR is {'; '.join(parts)}."


def answers(comparisons: Sequence[Comparison]) -> dict[str, list[str]]:
    """Return the answers by question, one sentence per noise level; questions without a comparison are left out."""
    sentences: dict[str, list[str]] = {}
    for question in QUESTIONS:
        of_question = [one for one in comparisons if one.question == question]
        for sigma in sorted({one.sigma for one in of_question}):
            at_sigma = [one for one in of_question if one.sigma == sigma]
            sentences.setdefault(question, []).append(answer(at_sigma))
    return sentences


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    if not results.summaries:
        return None
    comparisons = answer_questions(results)
    content = {"answers": answers(comparisons), "comparisons": len(comparisons), "baseline": results.baseline}
    return Section("findings", content)

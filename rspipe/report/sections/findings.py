"""Section: the answers to the questions of a study, in sentences made from its differences."""

from collections import Counter
from collections.abc import Callable, Sequence

from rspipe.report.differences import Comparison, with_holm
from rspipe.report.questions import QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import bracketed, not_judged, number, relation_text
from rspipe.smoothing.inference import relation
from rspipe.smoothing.judgement import Judgement

_NAMED = 4
"""Comparisons that a sentence names for each verdict."""

_ORDER = (
    "higher (with Holm)",
    "higher",
    "lower (with Holm)",
    "lower",
    "undecided",
    "not judged: one seed",
    "not judged",
)

Answered = tuple[Comparison, bool, bool]
"""A comparison, and whether Holm's correction leaves its verdicts: on procedures, on models."""


def _scope(one: Comparison, name: str) -> str:
    alone = one.difference.population
    return f"these {name}" if alone is None else f"these {name}, these {alone:,} images"


def _word(one: Comparison, judgement: Judgement[str] | None, *, sure: bool) -> str:
    if judgement is None:
        return not_judged(one.difference)
    word = relation(judgement)
    return f"{word} (with Holm)" if sure and word != "undecided" else word


def _on_many(
    answered: Sequence[Answered], name: str, scope: Callable[[Answered], tuple[Judgement[str] | None, bool]]
) -> str:
    """Return what comparisons say in one scope: which are higher, lower, undecided, not judged."""
    firsts = Counter(one.first for one, *_ in answered)

    def named(one: Comparison, judgement: Judgement[str] | None) -> str:
        second = f" against {one.second_label}" if firsts[one.first] > 1 else ""
        size = number(one.difference.estimate, digits=4, signed=True)
        open_ = judgement is not None and relation(judgement) == "undecided"
        seen = f", detectable {number(judgement.detectable, digits=4)}" if judgement is not None and open_ else ""
        return f"{one.first_label}{second} ({size}{seen})"

    parts = []
    for word in _ORDER:
        alike = [
            (one, judgement)
            for one, judgement, sure in ((row[0], *scope(row)) for row in answered)
            if _word(one, judgement, sure=sure) == word
        ]
        alike.sort(key=lambda pair: -abs(pair[0].difference.estimate))
        names = [named(*pair) for pair in alike]
        if len(names) > _NAMED:
            names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
        if names:
            parts.append(f"{word} for {', '.join(names)}")
    return f"{_scope(answered[0][0], name)}: {'; '.join(parts)}"


def answer(answered: Sequence[Answered]) -> str:
    """Return in a sentence what comparisons of one question at one noise level say, for both scopes."""
    sigma = f"At σ = {answered[0][0].sigma:g}"
    if len(answered) == 1:
        ((only, procedures, models),) = answered
        one = only.difference
        of_procedures = not_judged(one)
        if one.procedures is not None:
            interval = bracketed(one.procedures, signed=True, digits=4)
            of_procedures = f"{relation_text(one.procedures, sure=procedures)}, {interval}"
        return (
            f"{sigma}, ACR of {only.first_label} against {only.second_label}: {_scope(only, 'procedures')}: "
            f"{of_procedures}; {_scope(only, 'models')}: {relation_text(one.models, sure=models)}, "
            f"{bracketed(one.models, signed=True, digits=4)}."
        )
    of_procedures = _on_many(answered, "procedures", lambda row: (row[0].difference.procedures, row[1]))
    of_models = _on_many(answered, "models", lambda row: (row[0].difference.models, row[2]))
    return f"{sigma}, {of_procedures}. {of_models[0].upper()}{of_models[1:]}."


def answers(comparisons: Sequence[Comparison]) -> dict[str, list[str]]:
    """Return the answers by question, one sentence per noise level; questions without a comparison are left out."""
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
        f"With Holm's correction {sum(sure for _, sure, _ in answered)} of {judged} judged comparisons are decided for "
        f"procedures, {sum(sure for *_, sure in answered)} of {len(answered)} for these models."
    )


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    if not results.summaries:
        return None
    comparisons = answer_questions(results)
    content = {
        "answers": answers(comparisons),
        "comparisons": len(comparisons),
        "baseline": results.baseline,
        "searched": [group.label for group in results.study.search],
    }
    return Section("findings", content, finding=counts_sentence(comparisons))

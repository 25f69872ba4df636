"""What a study found, in sentences made from its records. Nothing here knows what the answer should be."""

from collections import Counter
from collections.abc import Sequence

from rspipe.report.differences import QUESTIONS, Difference
from rspipe.report.results import Results, display_name
from rspipe.report.summaries import Summary
from rspipe.report.tables import bracketed, number

_WORDS = {
    "higher": ("is higher than", "higher"),
    "lower": ("is lower than", "lower"),
    "not significant": ("does not differ significantly from", "not significantly different"),
}

_NAMED = 4
"""Comparisons that a sentence names for each verdict."""


def _named(difference: Difference, *, against: bool) -> str:
    second = f" against {difference.second_label}" if against else ""
    return f"{difference.first_label}{second} ({number(difference.difference.estimate, signed=True)})"


def answer(differences: Sequence[Difference]) -> str:
    """Return in a sentence what comparisons of one question at one noise level say."""
    sigma = f"At σ = {differences[0].sigma:g}"
    if len(differences) == 1:
        (only,) = differences
        says, interval = _WORDS[only.verdict][0], bracketed(only.difference, signed=True)
        return f"{sigma}, the ACR of {only.first_label} {says} that of {only.second_label}: {interval}."
    firsts = Counter(difference.first for difference in differences)
    parts = []
    for verdict, (_, word) in _WORDS.items():
        found = [difference for difference in differences if difference.verdict == verdict]
        found.sort(key=lambda difference: -abs(difference.difference.estimate))
        names = [_named(difference, against=firsts[difference.first] > 1) for difference in found]
        if len(names) > _NAMED:
            names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
        if names:
            parts.append(f"{word} for {', '.join(names)}")
    return f"{sigma}, the ACR is {'; '.join(parts)}."


def answers(differences: Sequence[Difference]) -> dict[str, list[str]]:
    """Return the answers to every question that was asked, one sentence per noise level."""
    found: dict[str, list[str]] = {}
    for question in QUESTIONS:
        asked = [difference for difference in differences if difference.question == question]
        for sigma in sorted({difference.sigma for difference in asked}):
            found.setdefault(question, []).append(answer([d for d in asked if d.sigma == sigma]))
    return found


def best(summaries: Sequence[Summary]) -> list[str]:
    """Return a sentence per noise level on the classifier of largest ACR, and what that choice is worth."""
    sentences = []
    for sigma in sorted({summary.sigma for summary in summaries}):
        at = [summary for summary in summaries if summary.sigma == sigma]
        top = max(at, key=lambda summary: summary.acr.estimate)
        sentence = f"At σ = {sigma:g}, {top.name} has the largest ACR, {bracketed(top.acr)}"
        if len(at) > 1:
            sentence += f", of {len(at)} classifiers; being picked on the test images flatters it"
        sentences.append(f"{sentence}.")
    return sentences


def warnings(results: Results, summaries: Sequence[Summary]) -> list[str]:
    """Return a sentence per thing that a reader must know before believing the numbers."""
    found = []
    for model in results.models:
        name = f"{display_name(model)} at σ = {model.train_sigma:g}"
        if model.status != "finished":
            reason = f" ({model.message})" if model.message else ""
            found.append(f"{name} {model.status}{reason}: it is not certified and no ensemble can hold it.")
        elif model.collapsed:
            found.append(f"{name} collapsed: it predicts a single class on the validation images.")
    known = {*(model.id for model in results.models), *(record.id for record in results.ensembles)}
    if unknown := [c.id for c in results.certified if c.id not in known]:
        found.append(f"{len(unknown)} certified classifiers have no record and are left out: {', '.join(unknown)}.")
    for sigma in sorted({summary.sigma for summary in summaries}):
        images = {summary.images for summary in summaries if summary.sigma == sigma}
        if len(images) > 1:
            found.append(
                f"At σ = {sigma:g} the classifiers are certified on different numbers of images "
                f"({min(images)} to {max(images)}): certification is not finished; differences use common images."
            )
        done = {summary.id for summary in summaries if summary.sigma == sigma}
        waiting = [m for m in results.models if m.train_sigma == sigma and m.status == "finished" and m.id not in done]
        waiting_ensembles = [record for record in results.ensembles if record.sigma == sigma and record.id not in done]
        if count := len(waiting) + len(waiting_ensembles):
            found.append(f"At σ = {sigma:g}, {count} trained classifiers are not certified yet.")
    if any(summary.rule == "radius_grid" for summary in summaries):
        found.append(
            "Rule radius_grid proves radii at the grid alone, rounded down: read the certified accuracies there. The "
            "ACR is a lower bound, not to be compared with that of other rules."
        )
    if capped := [summary for summary in summaries if summary.saturated >= 0.1]:
        most = max(capped, key=lambda summary: summary.saturated)
        found.append(
            f"{len(capped)} of {len(summaries)} classifiers have 10 % or more saturated images (up to "
            f"{100 * most.saturated:.0f} %, {most.name} at σ = {most.sigma:g}): n limits the radius there, "
            "and ACR understates both the radius and the differences."
        )
    return found

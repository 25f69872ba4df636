"""What a whole study found, as MLflow's run of it has it: numbers to sort studies by, verdicts, a description."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rspipe.report.differences import with_holm
from rspipe.report.headline import Headline, headline_table
from rspipe.report.questions import QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.standings import entries, scoped
from rspipe.report.tables import bracketed, markdown, relation_text
from rspipe.tracking.views import study_acr_name

_LONGEST = 240
"""MLflow takes 250 characters of a name."""


_MEAN_OF = r" \((mean of |1 seed)[^)]*\)$"
"""What the label of a group says of how many it has."""


@dataclass(frozen=True)
class Outcome:
    """Content of the run of a study whose classifiers are all certified."""

    metrics: dict[str, float] = field(default_factory=dict)
    """ACR of the best at each noise level, of each method and of the best ensemble; every difference."""
    tags: dict[str, str] = field(default_factory=dict)
    """Names of the best, and the verdict on every difference."""
    note: str = ""
    """Description in Markdown."""


def study_outcome(results: Results, message: Headline) -> Outcome:
    """Return what a study found.

    Args:
        results: Of the study.
        message: Of the same.
    """
    metrics, tags = dict[str, float](), dict[str, str]()
    for sigma in () if results.decided else results.sigmas:
        found = entries(results, sigma)
        for kinds, what in ((("model", "ensemble", "cascade"), "best"), (("ensemble",), "best_ensemble")):
            best = next((one for one in found if one.kind in kinds), None)
            if best is not None:
                metrics[study_acr_name(sigma, what)], tags[f"rspipe.{what}_{sigma:g}"] = best.acr, best.name
        metrics |= {_name(study_acr_name(sigma, one.name)): one.acr for one in found if one.kind == "model"}
    for name, estimate, verdict in _differences(results):
        metrics[f"difference_{name}"], tags[f"rspipe.verdict_{name}"] = estimate, verdict
    sentences = "\n".join(f"* {sentence}" for sentence in message.sentences)
    table = markdown(headline_table(message)) if message.rows else ""
    notes = "; ".join(message.notes)
    return Outcome(metrics, tags, f"{results.study.title}\n\n{sentences}\n\n{table}\n\n{notes}\n")


def _differences(results: Results) -> Iterator[tuple[str, float, str]]:
    """Yield a name, the estimate and the verdict of every difference that answers a question of the report."""
    comparisons = answer_questions(results)
    for question in QUESTIONS:
        for one, procedures, models in with_holm([one for one in comparisons if one.question == question]):
            alone = one.difference.procedures is None
            judged = scoped(one.difference)
            verdict = relation_text(judged, sure=models if alone else procedures)
            scope = "these models" if alone else "these procedures"
            first, second = (re.sub(_MEAN_OF, "", label) for label in (one.first_label, one.second_label))
            name = _name(f"{one.sigma:g}/{first} - {second}")
            yield name, judged.estimate, f"{verdict}, {scope}: {bracketed(judged, signed=True, digits=4)}"


def _name(text: str) -> str:
    """Return a name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "", text.replace("+", "and").replace("×", "x"))[:_LONGEST]

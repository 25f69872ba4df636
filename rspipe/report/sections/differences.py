"""Section: the paired differences of ACR behind the findings, question by question."""

from collections.abc import Sequence

from rspipe.report.differences import Comparison
from rspipe.report.questions import QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, interval_cell, number_cell, verdict_cell
from rspipe.smoothing.inference import verdict


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one row per comparison."""
    return Table.of(
        {
            "σ": number_cell(one.sigma, digits=2),
            "first": Cell(one.first_label),
            "second": Cell(one.second_label),
            "first − second [95 %]": interval_cell(one.difference.models, signed=True),
            "first is": verdict_cell(verdict(one.difference.models)),
            "images": number_cell(one.images, digits=0),
        }
        for one in comparisons
    )


def section(results: Results) -> Section | None:
    """Return the section; None where no two groups answer a question."""
    comparisons = answer_questions(results)
    if not comparisons:
        return None
    by_question = {question: [one for one in comparisons if one.question == question] for question in QUESTIONS}
    tables = {question: difference_table(alike) for question, alike in by_question.items() if alike}
    return Section("differences", {"tables": tables, "comparisons": len(comparisons)})

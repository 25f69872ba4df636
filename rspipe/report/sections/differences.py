"""Section: the differences of ACR behind the findings, question by question."""

from collections.abc import Iterator, Sequence

from rspipe.report.differences import Comparison, with_holm
from rspipe.report.questions import QUESTIONS, answer_questions
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, difference_cells, number, sigma_cell
from rspipe.smoothing.inference import borrowed, tolerated_seed_sd


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one row per comparison of a question, which are one family for Holm's correction."""
    return Table.of(
        {
            "σ": sigma_cell(one.sigma),
            "first": Cell(one.first_label),
            "second": Cell(one.second_label),
            **difference_cells(one.difference, procedures=procedures, models=models),
        }
        for one, procedures, models in with_holm(comparisons)
    )


def _named(one: Comparison) -> str:
    return f"{one.first_label} against {one.second_label} at σ = {one.sigma:g}"


def scatter_sentences(results: Results, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield what the seeds of other labels let expect where the seeds of two do not decide, or are one."""
    for one in comparisons:
        groups, judged = results.groups(one.sigma), one.difference.procedures
        if judged is None:
            sd = tolerated_seed_sd(one.difference)
            if sd is not None:
                yield (
                    f"{_named(one)}: one seed on a side. What holds for these models would no longer hold if the ACR "
                    f"of single seeds scattered with a standard deviation above {number(sd, digits=4)}."
                )
        elif judged.verdict == "undecided" and {one.first, one.second} <= {*groups}:
            labels = [group.credits for group in groups.values() if group.seeds]
            first, second = groups[one.first].credits, groups[one.second].credits
            if first.shape[1] == second.shape[1] == one.images:
                would = borrowed(first, second, labels, population=one.difference.population)
                if would is not None and would.verdict != "undecided":
                    yield f"{_named(one)}: undecided ({would.verdict})."


def section(results: Results) -> Section | None:
    """Return the section; None where no two groups answer a question."""
    comparisons = answer_questions(results)
    if not comparisons:
        return None
    by_question = {question: [one for one in comparisons if one.question == question] for question in QUESTIONS}
    content = {
        "meant": results.images_meant,
        "tables": {question: difference_table(alike) for question, alike in by_question.items() if alike},
        "scatter": [*scatter_sentences(results, comparisons)],
        "one_seed": any(1 in one.difference.seeds for one in comparisons),
        "parts": sorted({one.images for one in comparisons if one.difference.population is not None}),
        "searched": [group.label for group in results.study.search],
    }
    return Section("differences", content, finding=f"{len(comparisons)} comparisons with intervals for both scopes.")

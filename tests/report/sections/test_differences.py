"""Facts about the section on differences: both scopes, one family per question, and what other seeds let expect."""

from dataclasses import replace

import numpy as np
import pytest

from rspipe.report.page import section_html
from rspipe.report.questions import METHOD, answer_questions
from rspipe.report.results import Results
from rspipe.report.sections.differences import difference_table, scatter_sentences, section
from rspipe.report.tables import number
from rspipe.smoothing.inference import borrowed, difference, holm, tolerated_seed_sd
from tests import results_builder as built


def words(table, name):
    return [row[table.columns.index(name)].text for row in table.rows]


@pytest.fixture(scope="module")
def made():
    return built.results()


def test_holm_counts_all_noise_levels_and_pairs_of_a_question_in_each_scope(made):
    asked = [one for one in answer_questions(made) if one.question == METHOD]
    assert len({one.sigma for one in asked}) == 2
    table = difference_table(asked)
    judged = [one.difference.procedures.p for one in asked if one.difference.procedures]
    assert len(judged) < len(asked)
    assert sum("with Holm" in text for text in words(table, "procedures: first is")) == int(holm(judged).sum())
    every = holm([one.difference.models.p for one in asked])
    assert ["with Holm" in text for text in words(table, "models: first is")] == every.tolist()


def test_one_seed_is_not_judged_and_what_it_tolerates_is_said(made):
    (one,) = [one for one in answer_questions(made) if 1 in one.difference.seeds and one.first == "advmacer"]
    (text,) = words(difference_table([one]), "procedures: first is")
    assert text == "not judged: one seed"
    sentences = " ".join(scatter_sentences(made, [one]))
    assert f"standard deviation above {number(tolerated_seed_sd(one.difference), digits=4)}" in sentences
    assert "(30 recipes)" in section_html(section(made))


def with_scatter(results: Results, shifts: dict[str, tuple[float, ...]]) -> Results:
    """Return results with labels of two seeds, whose credited radii are shifted by so much at σ = 0.25."""
    base = results.models_at(0.25)["advmacer"][0]
    models, certified = [], []
    for label, seeds in shifts.items():
        for seed, shift in enumerate(seeds):
            model = built.trained_model(label, 0.25, seed)
            rng = np.random.default_rng([seed, *label.encode()])
            radius = np.where(base.radius > 0.05, base.radius + shift + 0.001 * rng.normal(size=60), 0.0)
            models.append(model)
            certified.append(replace(base, id=model.id, radius=radius))
    return replace(results, models=tuple(models), certified=tuple(certified), ensembles=())


def test_undecided_seeds_borrow_the_scatter_of_other_labels_for_a_sentence_that_is_no_verdict(made):
    shifts = {"gaussian": (0.0, 0.001), "advmacer": (0.01, 0.015), "c": (0.0, 0.001), "d": (0.0, 0.001)}
    results = with_scatter(made, shifts)
    (one,) = [one for one in answer_questions(results) if one.first == "advmacer"]
    assert one.difference.procedures.verdict == "undecided"
    labels = [group.credits for group in results.groups(0.25).values()]
    would = borrowed(labels[1], labels[0], labels)
    (sentence,) = scatter_sentences(results, [one])
    assert sentence.endswith(f"undecided ({would.verdict}).")
    assert "would hold if seeds scatter as in the other labels" in sentence
    assert words(difference_table([one]), "procedures: first is")[0].startswith("undecided (detectable ")
    three = with_scatter(made, {label: shifts[label] for label in ("gaussian", "advmacer", "c")})
    assert [*scatter_sentences(three, answer_questions(three))] == []


def test_the_table_says_what_the_difference_says(made):
    (one,) = [one for one in answer_questions(made) if (one.first, one.sigma) == ("advmacer", 0.25)][:1]
    groups = made.groups(0.25)
    expected = difference(groups["advmacer"].credits, groups["gaussian"].credits)
    (low,) = words(difference_table([one]), "these procedures [95 %]")
    assert low == (
        f"[{number(expected.procedures.low, digits=4, signed=True)}, "
        f"{number(expected.procedures.high, digits=4, signed=True)}]"
    )

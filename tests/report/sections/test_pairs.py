"""Facts about all pairs of classifiers: paired on common images, with and without correction for their number."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from rspipe.report.sections.pairs import _holm, all_pairs, pair_figure, pair_note, pair_table
from rspipe.report.summaries import summarize
from rspipe.smoothing.metrics import paired_difference
from tests import results_builder as built


@pytest.fixture(scope="module")
def made():
    return built.results()


@pytest.fixture(scope="module")
def pairs(made):
    return all_pairs(made, summarize(made), sigma=0.25)


def test_every_pair_has_the_paired_difference_of_its_two_classifiers(made, pairs):
    summaries = [summary for summary in summarize(made) if summary.sigma == 0.25]
    certified = {one.id: one for one in made.certified}
    assert len(pairs.names) == len(summaries)
    assert (pairs.images, pairs.left_out) == (60, 0)
    for a, first in enumerate(summaries):
        for b, second in enumerate(summaries):
            x, y = certified[first.id], certified[second.id]
            expected = paired_difference(x.radius, x.correct, y.radius, y.correct)
            found = pairs.interval(a, b)
            assert (found.estimate, found.low, found.high) == pytest.approx(
                (expected.estimate, expected.low, expected.high), abs=1e-12
            )


def test_the_table_has_every_pair_once_with_the_larger_acr_first(pairs):
    table, count = pair_table(pairs), len(pairs.names)
    named = [frozenset((row[0].text, row[1].text)) for row in table.rows]
    assert len(named) == len(set(named)) == count * (count - 1) // 2
    assert all(row[2].value >= 0 for row in table.rows)
    assert {row[3].text for row in table.rows} <= {"higher", "not significant"}


def test_holms_correction_is_the_one_of_the_textbook():
    # Four classifiers of a common error; p-values of z = 4, 2.6, 2.2, ... against .05 / 6, .05 / 5, ...
    acr = np.array([0.0, 2.2, 4.8, 4.0])
    difference, error = acr[:, None] - acr, np.ones((4, 4))
    rows, columns = np.triu_indices(4, 1)
    p = 2 * norm.sf(np.abs(difference[rows, columns]))
    expected = np.zeros((4, 4), dtype=bool)
    for rank, at in enumerate(np.argsort(p)):
        if p[at] > 0.05 / (len(p) - rank):
            break
        expected[rows[at], columns[at]] = expected[columns[at], rows[at]] = True
    assert 0 < expected.sum() < 12
    assert np.array_equal(_holm(difference, error), expected)


def test_equal_classifiers_are_not_significantly_different_and_constant_differences_are():
    exact = np.array([[0.0, 0.0, 0.1], [0.0, 0.0, 0.1], [-0.1, -0.1, 0.0]])
    found = _holm(exact, np.zeros((3, 3)))
    assert found.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_of_equally_good_classifiers_the_correction_calls_few_different():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        credit = rng.normal(size=(8, 100))
        acr = credit.mean(1)
        error = np.stack([(row - credit).std(1, ddof=1) for row in credit]) / 10
        wrong += bool(_holm(acr[:, None] - acr, error).any())
    # At most 5 % of 200 families; six standard deviations of that binomial on top.
    assert wrong <= 10 + 6 * (200 * 0.05 * 0.95) ** 0.5


def test_of_many_classifiers_the_best_are_compared_and_the_rest_is_told(made):
    few = all_pairs(made, summarize(made), sigma=0.25, most=4)
    everyone = all_pairs(made, summarize(made), sigma=0.25)
    assert sorted(few.acr) == pytest.approx(sorted(everyone.acr)[-4:])
    assert few.left_out == len(everyone.names) - 4
    assert f"0.25: {few.left_out}" in pair_note([few])
    assert "Left out" not in pair_note([everyone])


def test_classifiers_that_are_not_finished_are_left_out(made):
    short = replace(made.certified[0], **{
        name: getattr(made.certified[0], name)[:10]
        for name in ("example", "label", "prediction", "radius", "n_a", "p_a_lower", "n", "samples", "stopped")
    })  # fmt: skip
    part = replace(made, certified=(short, *made.certified[1:]))
    found = all_pairs(part, summarize(part), sigma=short.sigma)
    assert found.left_out == 1
    assert found.images == 60


def test_one_classifier_has_nothing_to_be_compared_with(made):
    alone = replace(made, certified=made.certified[:1])
    assert all_pairs(alone, summarize(alone), sigma=made.certified[0].sigma) is None


def test_the_figure_writes_every_difference_in_thousandths(pairs):
    (axes,) = pair_figure(pairs).axes
    count = len(pairs.names)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(written) == count * (count - 1)
    for (column, row), text in written.items():
        assert float(text.replace("−", "-")) == pytest.approx(1000 * pairs.difference[row, column], abs=0.5)

"""Facts about all pairs of classifiers: paired on common images, with and without correction for their number."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from rspipe.report.page import section_html
from rspipe.report.sections.pairs import compare_all, label_table, pair_matrix, pair_table, section
from rspipe.smoothing.inference import difference, holm
from tests import results_builder as built


@pytest.fixture(scope="module")
def made():
    return built.results()


@pytest.fixture(scope="module")
def pairs(made):
    return compare_all(made, sigma=0.25)


def test_every_pair_has_the_paired_difference_of_its_two_classifiers(made, pairs):
    summaries = made.summaries_at(0.25)
    assert [group.label for group in pairs.groups] == [summary.name for summary in summaries]
    assert (pairs.images, pairs.left_out) == (60, 0)
    assert len(pairs.comparisons) == len(summaries) * (len(summaries) - 1) // 2
    for one in pairs.comparisons:
        credits_ = [[made.certificates(id_).credited_radius] for id_ in (one.first, one.second)]
        assert one.difference.models == difference(*credits_).models


def test_the_table_has_every_pair_once_with_the_larger_acr_first(pairs):
    table, count = pair_table(pairs), len(pairs.groups)
    named = [frozenset((row[0].text, row[1].text)) for row in table.rows]
    assert len(named) == len(set(named)) == count * (count - 1) // 2
    assert all(row[2].value >= 0 for row in table.rows)
    assert {row[4].text.partition(" (")[0] for row in table.rows} <= {"higher", "undecided"}


def test_of_many_classifiers_the_best_are_compared_and_the_rest_is_counted(made, monkeypatch):
    few, everyone = compare_all(made, sigma=0.25, most=4), compare_all(made, sigma=0.25)
    acr = [sorted(group.acr for group in one.groups) for one in (few, everyone)]
    assert acr[0] == pytest.approx(acr[1][-4:])
    assert few.left_out == len(everyone.groups) - 4
    # The correction is for all pairs: those shown have the verdicts that they have among all.
    sure = {
        (one.first, one.second): bool(yes) for one, yes in zip(everyone.comparisons, everyone.significant, strict=True)
    }
    shown = {(one.first, one.second): bool(yes) for one, yes in zip(few.comparisons, few.significant, strict=True)}
    assert len(shown) == 6
    assert shown == {pair: sure[pair] for pair in shown}
    monkeypatch.setattr("rspipe.report.sections.pairs.compare_all", lambda _, *, sigma: few if sigma == 0.25 else None)
    assert f"at σ = 0.25: {few.left_out}." in " ".join(section_html(section(made)).split())
    monkeypatch.undo()
    assert "Left out" not in section_html(section(made))


def test_classifiers_that_are_not_finished_are_left_out(made):
    short = replace(made.certified[0], **{
        name: getattr(made.certified[0], name)[:10]
        for name in ("example", "label", "prediction", "radius", "n_a", "p_a_lower", "n", "samples", "stopped", "noise")
    })  # fmt: skip
    part = replace(made, certified=(short, *made.certified[1:]))
    compared = compare_all(part, sigma=short.sigma)
    assert compared.left_out == 1
    assert compared.images == 60


def test_methods_are_compared_by_their_seeds_and_as_one_family(made):
    table = label_table(made, sigma=0.25)
    assert len(table.rows) == 3
    place = table.columns.index
    assert {row[place("seeds")].text for row in table.rows} == {"2 and 2"}
    assert all(row[place("first − second")].value >= 0 for row in table.rows)
    groups = [np.array([c.credited_radius for c in seeds]) for seeds in made.models_at(0.25).values()]
    differences = [difference(a, b) for a, b in combinations(groups, 2)]
    assert sum("with Holm" in row[place("procedures: first is")].text for row in table.rows) == int(
        holm([one.procedures.p for one in differences]).sum()
    )
    assert label_table(replace(made, models=made.models[:1]), sigma=0.25).rows == ()


def test_one_classifier_has_nothing_to_be_compared_with(made):
    alone = replace(made, certified=made.certified[:1])
    assert compare_all(alone, sigma=made.certified[0].sigma) is None


def test_the_matrix_writes_every_difference_in_thousandths(pairs):
    table, acr = pair_matrix(pairs), [group.acr for group in pairs.groups]
    for row, cells in enumerate(table.rows):
        for column, cell in enumerate(cells[1:]):
            if row != column:
                assert float(cell.text.replace("−", "-")) == pytest.approx(1000 * (acr[row] - acr[column]), abs=0.5)
                assert (cell.tone == "strong") == (table.rows[column][1 + row].tone == "strong")
    assert [table.rows[at][1 + at].text for at in range(len(acr))] == ["·"] * len(acr)

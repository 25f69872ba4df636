"""Facts about the section on attacks around certified images."""

from dataclasses import replace

import pytest

from rspipe.records import BoundaryCheck
from rspipe.report.page import section_html
from rspipe.report.sections.attacks import attack_findings, attack_table, section
from tests import results_builder as build

CHECK = BoundaryCheck(
    classifier="a",
    name="advmacer, seed 0",
    sigma=0.25,
    key="k",
    images=40,
    steps=20,
    draws=64,
    n=1000,
    alpha=0.001,
    factors=(0.5, 1.0, 1.5, 2.0),
    same=(40, 36, 20, 10),
    abstained=(0, 4, 8, 10),
    changed=(0, 0, 12, 20),
    ever_changed=(0, 0, 12, 22),
    distance=(0.5, 1.0, 1.5, 1.9),
)


def test_nothing_changed_inside_and_half_of_it_beyond_is_said_with_the_chance_of_error() -> None:
    assert attack_findings([CHECK]) == [
        "advmacer, seed 0 at σ = 0.25: none of 80 predictions within the certified radius changed (each prediction is "
        "wrong with probability 0.001 at most, which makes 0.08 on average at most); half of the images or more "
        "changed within 2 radii: for them the certified radius is at least 0.50 of the true one."
    ]
    assert (CHECK.broken, CHECK.expected_broken) == (0, pytest.approx(0.08))


def test_a_change_inside_is_said_and_marked() -> None:
    broken = replace(CHECK, changed=(0, 3, 12, 15))
    assert "3 of 80 predictions within the certified radius changed" in attack_findings([broken])[0]
    column = attack_table([broken]).columns.index("changed")
    assert [row[column].tone for row in attack_table([broken]).rows] == ["", "bad", "", ""]


def test_a_classifier_that_withstands_all_distances_is_said_to() -> None:
    strong = replace(CHECK, ever_changed=(0, 0, 1, 2))
    assert "fewer than half of the images changed within 2 radii" in attack_findings([strong])[0]


def test_the_report_has_the_attacks_where_there_were_any() -> None:
    results = build.results()
    assert section(results) is None
    shown = section(replace(results, attacks=(CHECK,)))
    assert shown is not None
    assert len(shown.content["attacks"].rows) == 4
    assert "20 steps, 64 noise samples, n = 1,000" in section_html(shown)

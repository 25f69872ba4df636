"""The easy and the hard half of the images: which they are, and what methods have on each."""

import numpy as np
import pytest

from rspipe.report.differences import Group
from rspipe.report.sections.budget import Halves, halves_figure, section
from rspipe.report.standings import Entry
from rspipe.smoothing.metrics import hard_half
from tests import results_builder as built


def entry(name, radii, *, kind="model", first=0):
    """Return an entry with the given credited radii of images from `first` on, the same for two classifiers."""
    examples = np.arange(first, first + len(radii))
    return Entry(name, kind, (), Group(name, name, examples, np.array([radii, radii], dtype=float)))


def test_the_hard_half_is_that_with_the_smaller_mean_radius():
    assert hard_half(np.array([[0.1, 0.9, 0.4, 0.0, 0.3], [0.2, 0.9, 0.0, 0.5, 0.3]])).tolist() == [0, 2]
    assert hard_half(np.array([[0.5, 0.5, 0.5, 0.5]])).tolist() == [0, 1]


def test_a_foil_that_gives_up_hard_images_has_the_larger_acr_and_less_on_the_hard_half():
    foil, other = entry("foil", [2.0, 2.0, 0.0, 0.0]), entry("other", [1.2, 1.2, 0.6, 0.4])
    assert foil.acr > other.acr
    halves = Halves.of([foil, other])
    assert halves is not None
    assert halves.easy == {"foil": 2.0, "other": pytest.approx(1.2)}
    assert halves.hard == {"foil": 0.0, "other": pytest.approx(0.5)}


def test_halves_are_of_the_images_that_all_methods_share_and_ensembles_do_not_choose_them():
    methods = [entry("a", [0.9, 0.1, 0.2, 0.8, 5.0]), entry("b", [7.0, 0.9, 0.1, 0.2, 0.8], first=-1)]
    ensemble = entry("a x2", [0.0, 3.0, 3.0, 0.0], kind="ensemble")
    halves = Halves.of([ensemble, *methods, entry("few", [1.0], kind="ensemble")])
    assert halves is not None
    assert set(halves.hard) == {"a", "b", "a x2"}
    assert (halves.hard["a"], halves.hard["a x2"]) == (pytest.approx(0.15), 3.0)


@pytest.mark.parametrize("found", [[], [entry("a", [1.0, 2.0])], [entry("a", [1.0]), entry("b", [1.0])]])
def test_without_two_methods_and_two_images_there_are_no_halves(found):
    assert Halves.of(found) is None


def test_the_section_shows_both_halves_where_there_is_a_baseline():
    results = built.results()
    made = section(results)
    assert made is not None
    assert {"halves-sigma-0.25", "halves-sigma-0.5"} <= set(made.figures)
    table = made.content["rows"]
    of = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    easy, hard = ([cell.value for cell in of[f"ACR of the {half} half"]] for half in ("easy", "hard"))
    assert sum(easy) > sum(hard)


def test_there_is_no_figure_of_halves_without_the_baseline():
    results = built.results()
    found = [entry("other", [1.0, 2.0]), entry("another", [1.0, 2.0])]
    assert results.baseline not in ("other", "another")
    assert halves_figure(results, found, sigma=0.5) is None

"""Facts about the difference of two groups of classifiers: its interval, its p-value, and many of them at once."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from rspipe.records import Interval
from rspipe.smoothing.inference import difference, holm, verdict

Z = 1.959963984540054


@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_a_difference_is_that_of_the_mean_credits_and_changes_its_sign_with_the_order(first, second, images, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((rows, images)) * (rng.random((rows, images)) < 0.5) for rows in (first, second))
    there, back = difference(a, b), difference(b, a)
    assert there.estimate == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert there.estimate == pytest.approx(-back.estimate, abs=1e-15)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-15)
    assert there.p == pytest.approx(back.p)


def test_the_interval_is_paired_and_normal_over_images():
    a, b = np.array([[0.5, 0.6, 0.0], [0.7, 0.8, 0.4]]), np.array([[0.2, 0.2, 0.0]])
    found, values = difference(a, b), np.array([0.4, 0.5, 0.2])
    assert found.error == pytest.approx(values.std(ddof=1) / 3**0.5)
    assert (found.low, found.high) == pytest.approx((values.mean() - Z * found.error, values.mean() + Z * found.error))
    assert found.verdict == "higher"


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_the_p_value_is_below_5_percent_where_the_interval_leaves_0_out(images, seed):
    rng = np.random.default_rng(seed)
    found = difference(rng.random((1, images)) + 0.3 * rng.random(), rng.random((1, images)))
    assert (found.p < 0.05) == (found.verdict != "not significant")
    assert found.p == pytest.approx(2 * norm.sf(abs(found.estimate) / found.error))


def test_a_constant_advantage_has_no_uncertainty_however_different_the_images():
    radius = np.array([[0.1, 1.0, 3.0, 2.0]])
    found = difference(radius + 0.25, radius)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25), abs=1e-12)
    assert found.p < 1e-12


def test_groups_that_are_alike_do_not_differ_and_one_image_decides_nothing():
    radius = np.array([[0.1, 1.0, 3.0]])
    same = difference(radius, radius)
    assert (same.low, same.high, same.p, same.verdict) == (0.0, 0.0, 1.0, "not significant")
    alone = difference([[1.0]], [[0.0]])
    assert (alone.low, alone.high, alone.p, alone.verdict) == (-np.inf, np.inf, 1.0, "not significant")


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0]), ([[1.0]], [[1.0, 2.0]]), ([[]], [[]])])
def test_credits_of_other_images_are_refused(first, second):
    with pytest.raises(ValueError, match=r"credits must be \[classifier, image\] on the same images"):
        difference(first, second)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.1, 0.3, "higher"),
        (-0.3, -0.1, "lower"),
        (-0.1, 0.3, "not significant"),
        (0.0, 0.0, "not significant"),
        (-np.inf, np.inf, "not significant"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(low, high, says):
    assert verdict(Interval(estimate=(low + high) / 2 if np.isfinite(low) else 1.0, low=low, high=high)) == says


def test_holms_correction_is_the_one_of_the_textbook():
    # Four classifiers of a common error; p-values of z = 4, 2.6, 2.2, ... against .05 / 6, .05 / 5, ...
    acr = np.array([0.0, 2.2, 4.8, 4.0])
    rows, columns = np.triu_indices(4, 1)
    p = 2 * norm.sf(np.abs(acr[rows] - acr[columns]))
    expected = np.zeros(6, dtype=bool)
    for rank, at in enumerate(np.argsort(p)):
        if p[at] > 0.05 / (len(p) - rank):
            break
        expected[at] = True
    assert 0 < expected.sum() < 6
    assert np.array_equal(holm(p), expected)


def test_equal_classifiers_are_not_significantly_different_and_constant_differences_are():
    same, other = np.full((1, 3), 0.5), np.full((1, 3), 0.25)
    found = holm([difference(*pair).p for pair in ((same, same), (same, other), (other, same))])
    assert found.tolist() == [False, True, True]


def test_of_equally_good_classifiers_the_correction_calls_few_different():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        credit = rng.normal(size=(8, 1, 100))
        wrong += bool(holm([difference(a, b).p for a, b in combinations(credit, 2)]).any())
    # At most 5 % of 200 families; six standard deviations of that binomial on top.
    assert wrong <= 10 + 6 * (200 * 0.05 * 0.95) ** 0.5

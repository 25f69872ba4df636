"""Facts about ACR, certified accuracy and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from rspipe.records import Interval
from rspipe.smoothing.metrics import (
    accuracy_band,
    acr_interval,
    average_certified_radius,
    certified_accuracy,
    hard_half,
    mean_interval,
    standard_error,
    values_of_hard_half,
)

CERTIFICATES = st.lists(st.tuples(st.floats(0, 4), st.booleans()), min_size=1, max_size=30)
Z = 1.959963984540054


@given(CERTIFICATES)
def test_acr_is_the_sum_of_radii_of_correct_images_over_all_images(rows):
    total = 0.0
    for radius, correct in rows:
        if correct:
            total += radius
    radius, correct = zip(*rows, strict=True)
    assert average_certified_radius(radius, correct) == pytest.approx(total / len(rows), rel=1e-12, abs=1e-15)


@given(CERTIFICATES, st.lists(st.floats(0, 4), min_size=1, max_size=5))
def test_certified_accuracy_counts_correct_images_with_a_radius_of_at_least_r(rows, radii):
    radius, correct = zip(*rows, strict=True)
    naive = [sum(c and r >= at for r, c in rows) / len(rows) for at in radii]
    np.testing.assert_allclose(certified_accuracy(radius, correct, radii), naive, rtol=1e-15)


def test_an_image_counts_at_its_own_radius_and_not_just_above():
    assert certified_accuracy([0.5, 0.2], [True, True], [0.5, np.nextafter(0.5, 1)]).tolist() == [0.5, 0.0]


def test_at_radius_zero_a_correct_image_with_radius_zero_counts_and_an_abstention_does_not():
    assert certified_accuracy([0.0, 0.0], [True, False], 0.0) == 0.5


def test_acr_is_the_area_under_the_certified_accuracy_curve():
    rng = np.random.default_rng(0)
    radius, correct = rng.exponential(size=200), rng.random(200) < 0.7
    steps = np.concatenate([[0.0], np.sort(radius)])
    # The curve is constant on (steps[i], steps[i + 1]], so its value at the right end makes the sum exact.
    area = float(np.diff(steps) @ certified_accuracy(radius, correct, steps[1:]))
    assert area == pytest.approx(average_certified_radius(radius, correct), rel=1e-12)


@pytest.mark.parametrize(
    ("radius", "correct"), [([], []), ([0.1, 0.2], [True]), ([-0.1], [True]), ([float("nan")], [False])]
)
def test_impossible_radii_are_refused(radius, correct):
    with pytest.raises(ValueError, match="radius"):
        average_certified_radius(radius, correct)
    with pytest.raises(ValueError, match="radius"):
        certified_accuracy(radius, correct, [0.0])


def test_the_interval_of_a_mean_and_so_of_the_acr_is_students():
    values = [0.3, 0.5, 0.1, 0.45]
    interval, expected = mean_interval(values), ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert acr_interval([0.3, 0.5, 0.1, 0.45, 9.0], [True] * 4 + [False]) == mean_interval([*values, 0.0])
    assert mean_interval([0.3]) == Interval(estimate=0.3, low=-np.inf, high=np.inf)


def test_the_interval_of_the_acr_depends_on_the_certificates_and_not_on_their_order():
    rng = np.random.default_rng(4)
    radius, correct, order = rng.random(50), rng.random(50) < 0.7, rng.permutation(50)
    one, other = acr_interval(radius, correct), acr_interval(radius[order], correct[order])
    # Sums of 50 numbers in another order.
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=50 * np.finfo(float).eps)


def test_one_image_says_nothing_of_the_spread():
    interval = acr_interval([1.0], [True])
    assert (interval.estimate, interval.low, interval.high) == (1.0, -np.inf, np.inf)


def test_the_interval_covers_the_true_acr_as_often_as_it_says():
    rng = np.random.default_rng(1)
    repeats = 1000
    for images in (10, 400):
        radius, correct = rng.uniform(0, 1, (repeats, images)), rng.random((repeats, images)) < 0.8
        intervals = [acr_interval(r, c) for r, c in zip(radius, correct, strict=True)]
        covered = sum(interval.low <= 0.4 <= interval.high for interval in intervals)
        # Credits have little skewness (.1), so that the interval misses 5 % by less than .01; the count is binomial. A
        # normal interval of ten images would cover 91 %.
        assert binom.ppf(1e-6, repeats, 0.94) <= covered <= binom.ppf(1 - 1e-6, repeats, 0.96)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (3, 10), (10, 10), (250, 400)])
def test_the_band_ends_where_the_score_test_stops_rejecting(right, images):
    p = right / images
    for end in np.ravel(accuracy_band(p, images)):
        # Wilson's ends solve (p - q)^2 = z^2 q (1 - q) / n.
        assert (p - end) ** 2 == pytest.approx(Z**2 * end * (1 - end) / images, rel=1e-9, abs=1e-14)


def test_the_band_stays_within_zero_and_one():
    low, high = accuracy_band(np.linspace(0, 1, 11), 7)
    assert np.all(low >= -1e-15)
    assert np.all(high <= 1 + 1e-15)
    assert np.all(low < high)


def test_values_of_the_hard_half_spread_as_its_mean_does_over_other_test_images():
    """The half is chosen on the images that it is judged on: others would have another half."""
    rng = np.random.default_rng(0)
    estimates, spreads, fixed = [], [], []
    for _ in range(400):
        easy = rng.exponential(size=401)
        # The second is better on hard images, and far worse on easy ones.
        methods = np.stack([easy + 0.2 * rng.random(401), 0.3 + 0.2 * easy])
        hard = hard_half(methods)
        values = values_of_hard_half(methods, methods)
        np.testing.assert_allclose(values.mean(1), methods[:, hard].mean(1), rtol=1e-12)
        estimates.append(np.subtract(*values.mean(1)))
        spreads.append(standard_error(np.subtract(*values)))
        fixed.append(standard_error(np.subtract(*methods[:, hard])))
    # A standard deviation of 400 is known to 4 %.
    assert np.mean(spreads) == pytest.approx(np.std(estimates, ddof=1), rel=0.12)
    assert np.mean(fixed) < 0.75 * np.std(estimates, ddof=1)

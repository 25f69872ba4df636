"""Facts about what radii imply: the counts and parameters they were made from are found again."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from rspipe.audit.ladder import SURE, Ladder, fit_ladders, nearest_successes, on_ladder, proved_radius, successes
from rspipe.audit.log import Precision
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower
from tests.log_builder import counts, four_decimals, rounded_down, three_digits

WRITTEN = {
    three_digits: (Precision(3, "significant digits"), "nearest"),
    four_decimals: (Precision(4, "decimals"), "nearest"),
    rounded_down: (Precision(6, "decimals"), "down"),
}


def logged(written, *, sigma=0.25, n=100_000, alpha=0.001, images=400, seed=3):
    """Return counts that certify, the true radii, and the radii as a log has them."""
    n_a = counts(images, n, seed=seed)
    n_a = n_a[clopper_pearson_lower(n_a, n, alpha=alpha) > 0.5]
    radius = certified_radius(clopper_pearson_lower(n_a, n, alpha=alpha), sigma=sigma)
    return n_a, radius, np.array([float(written(one)) for one in radius])


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(
    ("sigma", "n", "alpha"),
    [(0.25, 100_000, 0.001), (0.25, 100_000, 0.01), (0.5, 10_000, 0.001), (1.0, 1000, 0.05), (0.12, 3000, 0.001)],
)
def test_alpha_and_n_are_found_from_radii_alone(written, sigma, n, alpha):
    _, _, radius = logged(written, sigma=sigma, n=n, alpha=alpha)
    precision, rounding = WRITTEN[written]
    best, *others = fit_ladders(radius, precision, sigmas=(sigma,))
    assert (best.n, best.alpha, best.rounding) == (n, alpha, rounding)
    assert best.evidence > SURE
    assert best.evidence - others[0].evidence > SURE
    assert on_ladder(radius, precision, best).all()


def test_sigma_is_found_too():
    _, _, radius = logged(four_decimals, sigma=0.5)
    best, second = fit_ladders(radius, Precision(4, "decimals"))[:2]
    assert (best.sigma, best.n, best.alpha) == (0.5, 100_000, 0.001)
    assert best.evidence - second.evidence > SURE


def test_radii_that_come_from_no_ladder_fit_none():
    radius = np.random.default_rng(0).uniform(0.01, 0.95, 400).round(4)
    precision = Precision(4, "decimals")
    best = fit_ladders(radius, precision, sigmas=(0.25,))[0]
    assert best.evidence < SURE


def test_small_radii_tell_nothing_of_n():
    # Below .1 rungs of n = 100,000 lie closer than three digits.
    _, _, radius = logged(three_digits)
    ladders = fit_ladders(radius[radius < 0.1], Precision(3, "significant digits"), sigmas=(0.25,))
    assert ladders[0].evidence < SURE


def test_a_rung_is_where_the_binomial_tail_is_alpha():
    ladder = Ladder(0.5, 1000, 0.01, "nearest", 0.0)
    n_a = np.array([600, 800, 999, 1000])
    # The Clopper-Pearson bound p solves P(Binomial(n, p) >= k) = alpha.
    low, high = np.full(4, 0.5), np.ones(4)
    for _ in range(60):
        middle = (low + high) / 2
        above = binom.sf(n_a - 1, ladder.n, middle) > ladder.alpha
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    radius = 0.5 * norm.ppf(low)
    precision = Precision(8, "decimals")
    assert on_ladder(radius, precision, ladder).all()
    assert not on_ladder(radius + 1e-5, precision, ladder).any()
    assert nearest_successes(radius, ladder).tolist() == n_a.tolist()
    assert ladder.cap == pytest.approx(radius[-1], abs=1e-9)


@pytest.mark.parametrize("written", WRITTEN)
def test_what_was_surely_proved_is_never_more_than_what_was(written):
    n_a, truth, radius = logged(written)
    precision, rounding = WRITTEN[written]
    ladder = Ladder(0.25, 100_000, 0.001, rounding, 0.0)
    fewest, proved = successes(radius, precision, ladder), proved_radius(radius, precision, ladder)
    assert np.all(fewest <= n_a)
    assert np.all(proved <= truth + 1e-12)
    # And no more than the digits and one rung below.
    spacing = truth - certified_radius(clopper_pearson_lower(n_a - 1, ladder.n, alpha=0.001), sigma=0.25)
    assert np.all(truth - proved <= 1.01 * precision.step(radius) + spacing)
    alone = spacing > 2 * precision.step(radius)
    assert alone.sum() > 20
    np.testing.assert_array_equal(fewest[alone], n_a[alone])
    np.testing.assert_array_equal(nearest_successes(radius, ladder)[alone], n_a[alone])


def test_a_radius_between_two_rungs_proves_the_lower_one():
    ladder, precision = Ladder(0.5, 100_000, 0.001, "nearest", 0.0), Precision(4, "decimals")
    bounds = clopper_pearson_lower(np.array([99_999, 100_000]), ladder.n, alpha=ladder.alpha)
    low, high = certified_radius(bounds, sigma=ladder.sigma)
    radius = np.array([1.88])
    assert low < 1.88 < high
    assert successes(radius, precision, ladder).tolist() == [99_999]
    np.testing.assert_allclose(proved_radius(radius, precision, ladder), low, atol=1e-9)

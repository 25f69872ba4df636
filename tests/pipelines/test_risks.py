"""Facts about what sampling rules risk and cost: no rule errs more often than alpha, looks and plans add up.

Exact probabilities are compared with sums over all outcomes. ROUNDING is what such sums may be off by: log-factorials
at n = 100,000 are near 1e6, so a probability is known to about 1e-9 of itself.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from pipelines.bench.risks import (
    error_probability,
    looks_cost,
    looks_error_probability,
    planned_cost,
    planned_error_probability,
)
from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.smoothing.certificates import clopper_pearson_lower, clopper_pearson_upper
from rspipe.smoothing.rules import (
    Look,
    expected_radius,
    floor_to_grid,
    looks,
    planned_sizes,
    proven,
    settled,
    size_grid,
)

ROUNDING = 1e-8
ALPHA, N, PILOT = 0.001, 100_000, 1000
SIZES = size_grid(N, block=1000)
EPS = (0.005, 0.01, 0.02, 0.05)
GRID = tuple(0.25 * step for step in range(1, 17))
# Even in probability, and dense near 1.
FINE = np.unique(np.concatenate([np.linspace(0.4, 1, 241), 1 - np.geomspace(0.5, 1e-7, 200)]))
TINY = (Look(5, 0.02), Look(10, 0.05), Look(20, 0.13))
TINY_GRID = (0.1, 0.3, 0.6)

exact = settings(deadline=None, derandomize=True, max_examples=25)
probabilities = st.floats(0, 1)


def every_radius(n: int, alpha: float) -> FloatArray:
    """Radii of all counts, in units of sigma."""
    return np.maximum(ndtri(clopper_pearson_lower(np.arange(n + 1), n, alpha=alpha)), 0)


def false(bound: FloatArray, p: float) -> BoolArray:
    return (bound >= 0.5) & (bound > p)


# Errors


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
@pytest.mark.parametrize("n", [1, 2, 7, 30, 200, 1000])
def test_a_bound_errs_with_alpha_at_most_and_just_below_its_own_values_with_alpha(n: int, alpha: float) -> None:
    assert error_probability(FINE, n, alpha=alpha).max() <= alpha
    bounds = clopper_pearson_lower(np.arange(n + 1), n, alpha=alpha)
    # A bound is rounded down by a share of 1e-11, and a tail of n trials falls by n times that at most.
    own = np.nextafter(bounds[bounds > 0.5], 0)
    np.testing.assert_allclose(error_probability(own, n, alpha=alpha), alpha, rtol=ROUNDING + n * 1e-11)
    # A bound that equals p claims nothing false.
    assert (error_probability(bounds[bounds > 0.5], n, alpha=alpha) < alpha * (1 - ROUNDING)).all()


@exact
@given(st.integers(1, 60), probabilities, st.sampled_from([0.5, 0.05, 0.001]))
def test_the_error_is_the_probability_of_the_counts_that_claim_too_much(n: int, p: float, alpha: float) -> None:
    counts = np.arange(n + 1)
    brute = binom.pmf(counts, n, p) @ false(clopper_pearson_lower(counts, n, alpha=alpha), p)
    assert error_probability(p, n, alpha=alpha) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("eps", EPS)
def test_a_planned_certificate_errs_with_alpha_at_most(eps: float) -> None:
    sizes = planned_sizes(n=N, alpha=ALPHA, pilot=PILOT, eps=eps, grid=SIZES)
    errors = planned_error_probability(FINE, sizes, pilot=PILOT, alpha=ALPHA, futility=0.001)
    assert 0.9 * ALPHA < errors.max() <= ALPHA


@exact
@given(st.data())
def test_whatever_the_plan_a_certificate_errs_with_alpha_at_most(data: st.DataObject) -> None:
    pilot = data.draw(st.integers(1, 30))
    sizes = np.array(data.draw(st.lists(st.integers(1, 300), min_size=pilot + 1, max_size=pilot + 1)))
    alpha = data.draw(st.sampled_from([0.3, 0.05, 0.001]))
    assert planned_error_probability(FINE, sizes, pilot=pilot, alpha=alpha, futility=0.01).max() <= alpha


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001])
@pytest.mark.parametrize("n", [150, 700, 3000])
def test_a_schedule_of_looks_errs_with_alpha_at_most(n: int, alpha: float) -> None:
    assert looks_error_probability(FINE[::4], looks(n, alpha)).max() <= alpha


def test_the_schedule_of_100000_samples_errs_with_alpha_at_most_and_is_not_idle() -> None:
    assert 0.9 * ALPHA < looks_error_probability(FINE[::12], looks(N, ALPHA)).max() <= ALPHA


def test_one_look_is_the_fixed_rule_and_looks_that_hardly_ever_claim_change_nothing() -> None:
    p = np.array([[0.5, 0.5001, 0.6], [0.99, 0.9999, 1.0]])
    fixed = error_probability(p, N, alpha=ALPHA)
    np.testing.assert_allclose(looks_error_probability(p, (Look(N, ALPHA),)), fixed, atol=1e-12)
    silent = (Look(3, 1e-6), Look(7, 1e-6), Look(40_000, 1e-30), Look(N, ALPHA))
    np.testing.assert_allclose(looks_error_probability(p, silent), fixed, atol=1e-12)


# Sums over all outcomes of small rules


def every_path(schedule: Sequence[Look]) -> IntArray:
    """Successes in the samples between looks: [path, look]."""
    drawn = np.diff([0, *(look.n for look in schedule)])
    return np.array(list(product(*(range(size + 1) for size in drawn))))


def path_chances(schedule: Sequence[Look], p: float) -> FloatArray:
    drawn = np.diff([0, *(look.n for look in schedule)])
    return np.asarray(np.prod(binom.pmf(every_path(schedule), drawn, p), axis=-1))


@exact
@given(probabilities)
def test_the_error_of_looks_is_the_probability_of_paths_with_a_claim_that_is_too_much(p: float) -> None:
    n_a = every_path(TINY).cumsum(-1)
    brute = path_chances(TINY, p) @ false(proven(n_a, TINY), p)
    assert looks_error_probability(p, TINY) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("futility", [0.3, 0.05, 0.001])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.6, 0.75, 0.9, 0.97, 1.0])
def test_the_cost_of_looks_is_the_mean_over_paths(p: float, futility: float) -> None:
    n_a, chance = every_path(TINY).cumsum(-1), path_chances(TINY, p)
    samples, claimed = np.full(len(n_a), -1), np.zeros((len(n_a), 1 + len(TINY_GRID)), bool)
    for at, look in enumerate(TINY):
        seen = n_a[:, : at + 1]
        stop = (samples < 0) & settled(seen, TINY, sigma=0.5, grid=TINY_GRID, futility=futility)
        bound = proven(seen, TINY)
        radius = floor_to_grid(0.5 * ndtri(np.maximum(bound, 0.5)), TINY_GRID)
        claimed[stop] = (bound >= 0.5)[stop, None] & (radius[stop, None] >= (0.0, *TINY_GRID))
        samples[stop] = look.n
    cost, share = looks_cost(p, TINY, sigma=0.5, grid=TINY_GRID, futility=futility)
    assert cost == pytest.approx(chance @ samples, abs=1e-11)
    np.testing.assert_allclose(share, chance @ claimed, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.4, 0.5, 0.7, 0.95, 1.0])
def test_the_cost_and_the_error_of_a_plan_are_the_means_over_pilots_and_counts(p: float) -> None:
    pilot, alpha, futility = 12, 0.05, 0.1
    sizes = np.array([5, 8, 13] * 4 + [40])
    samples, radius, error = float(pilot), 0.0, 0.0
    for k1, size in enumerate(sizes.tolist()):
        if clopper_pearson_upper(k1, pilot, alpha=futility) >= 0.5:
            chance, counts = binom.pmf(k1, pilot, p), np.arange(size + 1)
            samples += chance * size
            radius += chance * (binom.pmf(counts, size, p) @ every_radius(size, alpha))
            error += chance * (binom.pmf(counts, size, p) @ false(clopper_pearson_lower(counts, size, alpha=alpha), p))
    cost = planned_cost(p, sizes, pilot=pilot, alpha=alpha, futility=futility)
    assert cost == pytest.approx((samples, radius), abs=ROUNDING)
    exact_error = planned_error_probability(p, sizes, pilot=pilot, alpha=alpha, futility=futility)
    assert exact_error == pytest.approx(error, abs=1e-12)


def test_without_tolerance_a_plan_gives_what_certify_gives_but_for_its_futility() -> None:
    p, sizes = np.array([0.5, 0.52, 0.9, 0.9999]), np.full(PILOT + 1, 5000)
    samples, radius = planned_cost(p, sizes, pilot=PILOT, alpha=ALPHA, futility=0.001)
    certify = expected_radius(p, 5000, alpha=ALPHA)
    assert (samples <= PILOT + 5000 + ROUNDING).all()
    assert (samples >= PILOT + 5000 * (1 - 0.001)).all()
    assert (radius <= certify + ROUNDING).all()
    assert (radius >= (1 - 0.001) * certify - ROUNDING).all()


def test_a_plan_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        planned_error_probability(0.9, np.array([5, 5]), pilot=5, alpha=0.1, futility=0.1)


# Looks


def test_one_look_costs_all_samples_and_claims_like_the_fixed_rule() -> None:
    p, grid = np.array([0.4, 0.5, 0.7, 0.999]), (0.1, 0.4)
    samples, claimed = looks_cost(p, (Look(2000, ALPHA),), sigma=0.5, grid=grid, futility=0.01)
    bounds = clopper_pearson_lower(np.arange(2001), 2000, alpha=ALPHA)
    for at, needed in enumerate([0.5, *ndtr(np.array(grid) / 0.5)]):
        first = int((bounds < needed).sum())
        np.testing.assert_allclose(claimed[:, at], binom.sf(first - 1, 2000, p), atol=1e-12)
    np.testing.assert_allclose(samples, 2000, rtol=1e-12)


def test_the_radius_grid_takes_the_samples_of_its_better_bound_and_loses_next_to_no_power() -> None:
    """The published figures: one radius of sigma, n = 100,000, p in standard deviations from what the radius needs."""
    needed = float(ndtr(1))
    p = needed + np.array([-20, -5, 4]) * (needed * (1 - needed) / N) ** 0.5
    samples, claimed = looks_cost(p, looks(N, ALPHA), sigma=0.5, grid=(0.5,), futility=1e-3)
    np.testing.assert_allclose(samples[:2], [3137, 24_000], rtol=1e-3)
    assert claimed[2, 1] == pytest.approx(0.7796, abs=5e-5)


def test_stopping_costs_claims_as_often_as_the_futility_at_each_look_at_most() -> None:
    p, schedule, futility = FINE[::6], looks(3000, ALPHA), 0.01
    eager, claimed = looks_cost(p, schedule, sigma=0.5, grid=GRID, futility=futility)
    patient, all_claims = looks_cost(p, schedule, sigma=0.5, grid=GRID, futility=1e-14)
    assert (eager <= patient + 1e-9).all()
    assert (claimed <= all_claims + 1e-12).all()
    # Where p proves a radius each look before the last gives it up with the futility at most; elsewhere claims are
    # false, and those do not exceed alpha.
    assert (all_claims - claimed).max() <= (len(schedule) - 1) * (futility + 1e-14) + ALPHA

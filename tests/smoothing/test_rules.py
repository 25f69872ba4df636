"""Facts about sampling rules: plans do what their formula says, looks share alpha and settle what is clear.

Exact probabilities are compared with sums over all outcomes. ROUNDING is what such sums may be off by: log-factorials
at n = 100,000 are near 1e6, so a probability is known to about 1e-9 of itself.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import beta, binom

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing.certificates import clopper_pearson_lower, clopper_pearson_upper, radius_cap
from rspipe.smoothing.rules import (
    Look,
    expected_radius,
    floor_to_grid,
    futile,
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
TINY = (Look(5, 0.02), Look(10, 0.05), Look(20, 0.13))

exact = settings(deadline=None, derandomize=True, max_examples=25)
probabilities = st.floats(0, 1)


def every_radius(n: int, alpha: float) -> FloatArray:
    """Radii of all counts, in units of sigma."""
    return np.maximum(ndtri(clopper_pearson_lower(np.arange(n + 1), n, alpha=alpha)), 0)


# Schedules and sizes


@given(st.integers(1, 3_000_000), st.floats(1e-9, 0.999))
def test_the_shares_of_the_looks_sum_to_at_most_alpha_and_waste_nothing(n: int, alpha: float) -> None:
    schedule = looks(n, alpha)
    shares = [look.alpha for look in schedule]
    assert sum(map(Fraction, shares)) <= Fraction(alpha)
    assert sum(shares) <= alpha
    assert sum(reversed(shares)) <= alpha
    assert sum(shares) == pytest.approx(alpha, rel=1e-11)
    assert schedule[-1].n == n
    assert all(first.n < second.n for first, second in pairwise(schedule))


def test_looks_follow_the_series_1_2_5_and_the_last_has_most_of_alpha() -> None:
    schedule = looks(N, ALPHA)
    assert [look.n for look in schedule] == [200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]
    assert [look.alpha for look in schedule] == pytest.approx([0.4 * ALPHA / 8] * 8 + [0.6 * ALPHA], rel=1e-11)
    assert [look.n for look in looks(700, ALPHA)] == [200, 500, 700]


@pytest.mark.parametrize("n", [1, 50, 200])
def test_a_single_look_has_all_of_alpha(n: int) -> None:
    assert looks(n, ALPHA) == (Look(n, ALPHA),)


@given(st.integers(1, 1_000_000), st.integers(1, 5000))
def test_sizes_increase_to_n_and_are_whole_blocks(n: int, block: int) -> None:
    sizes = size_grid(n, block=block)
    assert sizes[-1] == n
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] >= min(n, 200)
    assert all(size % block == 0 for size in sizes[:-1] if size >= block)


def test_there_are_some_thirty_sizes_for_100000_samples() -> None:
    assert 30 <= len(SIZES) <= 40
    assert SIZES[0] == 200
    assert max(np.array(SIZES[1:]) / np.array(SIZES[:-1])) < 2.1


@pytest.mark.parametrize(("n", "alpha"), [(0, 0.1), (10, 0.0), (10, 1.0)])
def test_impossible_schedules_are_refused(n: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        looks(n, alpha)


# Plans


@exact
@given(st.integers(1, 300), probabilities, st.sampled_from([0.5, 0.05, 0.001]))
def test_the_expected_radius_is_the_sum_over_all_counts(n: int, p: float, alpha: float) -> None:
    brute = binom.pmf(np.arange(n + 1), n, p) @ every_radius(n, alpha)
    assert expected_radius(p, n, alpha=alpha) == pytest.approx(brute, abs=ROUNDING)


def test_the_expected_radius_of_100000_samples_is_the_sum_over_all_counts() -> None:
    p = np.array([0.0, 0.3, 0.499, 0.5, 0.503, 0.51, 0.75, 0.99, 0.9999, 0.999999, 1.0])
    brute = binom.pmf(np.arange(N + 1), N, p[:, None]) @ every_radius(N, ALPHA)
    np.testing.assert_allclose(expected_radius(p, N, alpha=ALPHA), brute, atol=ROUNDING)
    assert expected_radius(1.0, N, alpha=ALPHA) == pytest.approx(radius_cap(sigma=1.0, n=N, alpha=ALPHA), abs=1e-12)


def test_the_expected_radius_keeps_the_shape_of_p() -> None:
    p = np.array([[0.9, 0.6, 0.9], [1.0, 0.2, 0.7]])
    assert expected_radius(p, 50, alpha=0.01).shape == (2, 3)
    assert expected_radius(p, 50, alpha=0.01)[0, 2] == expected_radius(0.9, 50, alpha=0.01)
    assert expected_radius(np.empty(0), 50, alpha=0.01).shape == (0,)


def brute_losses(k1: IntArray, *, n: int, alpha: float, pilot: int, sizes: Sequence[int]) -> FloatArray:
    """E[r(n, p) - r(m, p)] over p ~ Beta(k1 + 1/2, pilot - k1 + 1/2), [k1, size].

    By Gauss and Legendre on pieces of quantiles.
    """
    node, weight = np.polynomial.legendre.leggauss(20)
    tail = np.geomspace(1e-9, 0.5, 12)
    edges = np.concatenate([[0], tail, 1 - tail[-2::-1], [1]])
    width = np.diff(edges)[:, None] / 2
    p = beta.ppf((edges[:-1, None] + width * (node + 1)).ravel(), k1[:, None] + 0.5, pilot - k1[:, None] + 0.5)
    radii = np.array([expected_radius(p, size, alpha=alpha) for size in (n, *sizes)])
    return np.asarray((radii[0] - radii[1:]) @ (width * weight).ravel()).T


@pytest.mark.parametrize(
    ("n", "alpha", "pilot", "grid"),
    [
        (60, 0.05, 20, (5, 10, 20, 30, 45, 60)),
        (2000, 0.001, 100, (200, 300, 500, 800, 1300, 2000)),
        (300, 0.01, 500, (20, 50, 80, 120, 200)),
        (N, ALPHA, PILOT, SIZES),
    ],
)
def test_a_plan_is_the_smallest_size_whose_expected_loss_is_at_most_eps(
    n: int, alpha: float, pilot: int, grid: tuple[int, ...]
) -> None:
    sizes = [size for size in grid if size < n]
    k1 = np.array([0, pilot // 2, pilot * 6 // 10, pilot * 9 // 10, pilot - 2, pilot])
    losses = brute_losses(k1, n=n, alpha=alpha, pilot=pilot, sizes=sizes)
    for eps in (0.01, 0.05, 0.1):
        # The two sums agree to 1e-9, and none of these losses lies so near to eps.
        assert np.abs(losses - eps).min() > 1e-9
        plan = planned_sizes(n=n, alpha=alpha, pilot=pilot, eps=eps, grid=grid)
        for successes, row in zip(k1.tolist(), losses, strict=True):
            assert plan[successes] == next((size for size, loss in zip(sizes, row, strict=True) if loss <= eps), n)


def test_without_tolerance_every_plan_is_n() -> None:
    assert (planned_sizes(n=N, alpha=ALPHA, pilot=PILOT, eps=0.0, grid=SIZES) == N).all()


def test_with_any_loss_allowed_every_plan_is_the_smallest_size() -> None:
    assert (planned_sizes(n=N, alpha=ALPHA, pilot=PILOT, eps=10.0, grid=SIZES) == SIZES[0]).all()


def test_a_plan_grows_with_the_successes_and_shrinks_with_the_tolerance() -> None:
    plans = [planned_sizes(n=N, alpha=ALPHA, pilot=PILOT, eps=eps, grid=SIZES) for eps in EPS]
    for plan in plans:
        assert plan.dtype == np.int64
        assert set(plan.tolist()) <= set(SIZES)
        # Below 1/2 there is nothing to lose; a radius r at p costs samples like 1 / phi(r)^2, which grows with p.
        assert (np.diff(plan) >= 0).all()
    for small, large in pairwise(plans):
        assert (small >= large).all()


def test_a_plan_loses_more_than_eps_where_p_is_a_little_above_one_half() -> None:
    """As its documentation says: the pilot cannot tell such a p from 1/2, where every sample is wasted."""
    p = np.array([0.505, 0.5185, 0.548, 0.6, 0.9])
    plan = planned_sizes(n=N, alpha=ALPHA, pilot=PILOT, eps=0.01, grid=SIZES)
    radius = {int(size): expected_radius(p, int(size), alpha=ALPHA) for size in np.unique(plan)}
    k1 = np.arange(PILOT + 1)
    kept = ~futile(k1, PILOT, futility=1e-3)[:, None] * np.stack([radius[size] for size in plan.tolist()])
    loss = expected_radius(p, N, alpha=ALPHA) - (binom.pmf(k1[:, None], PILOT, p) * kept).sum(0)
    assert loss[1] == pytest.approx(0.0166, abs=5e-5)
    assert (loss[[0, 2, 3, 4]] <= 0.01).all()


def test_a_plan_never_exceeds_n_and_does_not_change_through_its_reader() -> None:
    plan = planned_sizes(n=500, alpha=0.01, pilot=50, eps=0.05, grid=(100, 200, 500, 2000))
    assert plan.max() == 500
    assert (planned_sizes(n=500, alpha=0.01, pilot=50, eps=0.05, grid=(2000,)) == 500).all()
    before = plan.copy()
    plan[:] = 0
    np.testing.assert_array_equal(planned_sizes(n=500, alpha=0.01, pilot=50, eps=0.05, grid=(100, 200, 500)), before)


@pytest.mark.parametrize("change", [{"n": 0}, {"pilot": 0}, {"eps": -0.1}, {"eps": float("nan")}, {"alpha": 1.0}])
def test_impossible_plans_are_refused(change: dict[str, float]) -> None:
    numbers = {"n": 500, "alpha": 0.01, "pilot": 50, "eps": 0.05, "grid": (100,)} | change
    with pytest.raises(ValueError, match="must"):
        planned_sizes(**numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("futility", [0.2, 0.01, 0.001])
@pytest.mark.parametrize("pilot", [10, 100, 1000])
def test_a_pilot_gives_up_a_class_of_probability_one_half_or_more_with_the_futility_at_most(
    pilot: int, futility: float
) -> None:
    k1 = np.arange(pilot + 1)
    gives_up = futile(k1, pilot, futility=futility)
    for p in (0.5, 0.51, 0.6, 0.9):
        assert binom.pmf(k1, pilot, p) @ gives_up <= futility * (1 + ROUNDING)
    assert not futile(pilot // 2, pilot, futility=futility)


# Looks


def every_path(schedule: Sequence[Look]) -> IntArray:
    """Successes in the samples between looks: [path, look]."""
    drawn = np.diff([0, *(look.n for look in schedule)])
    return np.array(list(product(*(range(size + 1) for size in drawn))))


def test_what_is_proven_is_the_best_bound_of_the_looks_so_far() -> None:
    n_a = np.array([[[5, 5], [5, 10]], [[0, 0], [2, 9]]])
    bounds = [clopper_pearson_lower(n_a[..., at], look.n, alpha=look.alpha) for at, look in enumerate(TINY[:2])]
    np.testing.assert_array_equal(proven(n_a, TINY), np.maximum(*bounds))
    # Five of five, then five of the next five wrong: the first bound stands.
    assert proven(np.array([5, 5]), TINY) == pytest.approx(0.02 ** (1 / 5), rel=1.2e-11)


def test_more_looks_never_prove_less() -> None:
    n_a = every_path(TINY).cumsum(-1)
    assert (proven(n_a[:, :1], TINY) <= proven(n_a[:, :2], TINY)).all()
    assert (proven(n_a[:, :2], TINY) <= proven(n_a, TINY)).all()


def test_a_radius_on_the_grid_stays_and_one_just_below_falls() -> None:
    radii = [0.0, 0.1, np.nextafter(0.25, 0), 0.25, 0.3, 0.5, 7.0]
    assert floor_to_grid(radii, (0.25, 0.5)).tolist() == [0.0, 0.0, 0.0, 0.25, 0.25, 0.5, 0.5]
    assert floor_to_grid(0.26, (0.25, 0.5)) == 0.25


@pytest.mark.parametrize("grid", [(0.5, 0.25), (0.25, 0.25), (0.0, 0.5), (-1.0,)])
def test_a_grid_that_does_not_ascend_is_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        floor_to_grid(0.3, grid)


def settles(*n_a: int, grid: tuple[float, ...] = GRID, sigma: float = 0.25, futility: float = 0.001) -> bool:
    return bool(settled(np.array(n_a), looks(N, ALPHA), sigma=sigma, grid=grid, futility=futility))


def test_the_last_look_settles_everything() -> None:
    undecided = [look.n // 2 for look in looks(N, ALPHA)]
    assert settles(*undecided)
    assert not settles(*undecided[:-1])


def test_a_class_clearly_below_one_half_is_settled_and_a_clear_one_short_of_the_grid_too() -> None:
    assert settles(20)
    # .7 certifies and is at .52 sigma = .13, with both bounds below .25.
    assert settles(140)
    assert not settles(140, grid=(0.12, 0.25))


def test_an_abstention_that_may_still_become_a_certificate_of_radius_0_is_not_settled() -> None:
    n = 200
    low, high = (float(bound(105, n, alpha=0.001)) for bound in (clopper_pearson_lower, clopper_pearson_upper))
    assert low < 0.5 < high < ndtr(1.0)
    assert not settles(105)


def test_beyond_the_largest_radius_of_the_grid_everything_is_one_cell() -> None:
    assert settles(200, grid=(0.25,))
    # All of 200 samples prove .95 = 1.66 sigma at the share of one look; more could prove 2 sigma.
    assert not settles(200, grid=(0.25, 0.5))


def test_a_radius_that_no_remaining_sample_can_prove_is_settled() -> None:
    cap = radius_cap(sigma=0.25, n=N, alpha=0.6 * ALPHA)
    n_a = [200, 500, 1000, 2000, 5000]
    assert not settles(*n_a, grid=(0.5, cap - 1e-4))
    assert settles(*n_a, grid=(0.5, cap + 1e-4))
    # One failure so far, and the largest radius is out of reach however the rest falls.
    assert settles(199, 499, 999, 1999, 4999, grid=(0.5, cap - 1e-4))


def test_rows_are_settled_one_by_one() -> None:
    rows = np.array([[20, 50], [105, 255], [140, 350]])
    together = settled(rows, looks(N, ALPHA), sigma=0.25, grid=GRID, futility=0.001)
    assert together.tolist() == [settles(*row) for row in rows.tolist()] == [True, False, True]


# Published radii


def test_published_radii_are_those_of_whole_counts(shared_data: Path) -> None:
    log = shared_data / "certify-logs" / "smoothadv-repo-cohen-cifar10-r110-sigma0.25-10000.tsv"
    if not log.is_file():
        pytest.skip(f"needs {log}")
    table = pd.read_csv(log, sep="\t")
    radius = table["radius"][table["predict"] != -1].to_numpy()
    ladder = 0.25 * every_radius(N, ALPHA)
    above = np.searchsorted(ladder[:-1], radius)
    nearest = np.minimum(np.abs(radius - ladder[above]), np.abs(radius - ladder[above - 1]))
    # Radii are printed with three digits.
    assert nearest.max() <= 0.0005 + 1e-12
    assert radius.max() == round(0.25 * float(expected_radius(1.0, N, alpha=ALPHA)), 3)

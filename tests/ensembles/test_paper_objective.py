"""Facts about the paper's objective over images: what an image counts, what is left out, what is said of both."""

from typing import Any

import numpy as np
import pytest

from rspipe.arrays import FloatArray
from rspipe.ensembles.paper_objective import paper_objective, weight_spread
from rspipe.ensembles.quadratic_program import least_on_simplex, least_variance
from rspipe.ensembles.weights import solve_weights

# Of weights that two solvers find: the root of the gap, in problems of condition numbers near 1.
ROOT = 1e-3


def images(seed: int, k: int, *, count: int = 6, competitors: int = 3) -> tuple[FloatArray, FloatArray]:
    """Mean margins [image, competitor, k] of which every bound says something, and covariances."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(count, competitors, k, 2 * k + 2)) * rng.uniform(0.5, 1.5, (k, 1))
    return rng.uniform(2, 4, (count, competitors, k)), root @ np.swapaxes(root, -1, -2) / (2 * k + 2)


def solved(mean: Any, covariance: Any, **arguments: Any) -> FloatArray:
    return solve_weights(mean, covariance, method="esbrs_paper", **arguments).weights


def test_of_one_image_the_objective_is_the_papers() -> None:
    """min w' (sum_c S_c / e_c^2) w, in closed form: (s22 - s12) / (s11 + s22 - 2 s12)."""
    mean, covariance = images(0, 2, count=1)
    total = sum(s / mu.min() ** 2 for mu, s in zip(mean[0], covariance[0], strict=True))
    (s11, s12), (_, s22) = total
    expected = np.clip((s22 - s12) / (s11 + s22 - 2 * s12), 0, 1)
    assert solved(mean, covariance)[0] == pytest.approx(expected, abs=ROOT)
    assert solved(mean[0], covariance[0])[0] == pytest.approx(expected, abs=ROOT)


def test_the_objective_is_the_mean_over_images_of_their_bounds_in_units_of_a_members() -> None:
    mean, covariance = images(1, 3)
    expected = 0.0
    w = np.array([0.2, 0.3, 0.5])
    for mu, s in zip(mean, covariance, strict=True):
        inverse = mu.min(1) ** -2.0
        bound = sum(a * (w @ one @ w) for a, one in zip(inverse, s, strict=True))
        members = sum(a * np.trace(one) / 3 for a, one in zip(inverse, s, strict=True))
        expected += bound / members / len(mean)
    objective = paper_objective(mean, covariance, draws=np.inf)
    assert w @ objective.pooled @ w == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_an_image_does_not_matter(factor: float) -> None:
    """A pair whose mean margin is near 0 decided everything, by 1 / e^2."""
    mean, covariance = images(2, 3)
    scaled = covariance.copy()
    mean[0] *= factor
    scaled[0] *= factor**2
    smaller = mean.copy()
    expected = solved(*images(2, 3))
    np.testing.assert_allclose(solved(smaller, scaled), expected, atol=ROOT)


def test_a_hard_image_counts_as_much_as_an_easy_one() -> None:
    """Two images that want opposite members: any scale of the first leaves the weights at one half."""
    covariance = np.array([np.diag([0.1, 0.4]), np.diag([0.4, 0.1])])[:, None]
    mean = np.ones((2, 1, 2))
    np.testing.assert_allclose(solved(mean, covariance), 0.5, atol=ROOT)
    mean[0] *= 0.6
    np.testing.assert_allclose(solved(mean, covariance), 0.5, atol=ROOT)


def test_pairs_whose_bound_says_nothing_are_left_out() -> None:
    mean, covariance = images(3, 3)
    expected = solve_weights(mean, covariance, method="esbrs_paper")
    negative, noisy = mean[:1].copy(), mean[:1].copy()
    negative[..., 1] = -1.0
    # Of one member alone: the smallest mean margin is what the bound rests on.
    noisy[..., 2] = 0.3
    spoilt = solve_weights(
        np.concatenate([mean, negative, noisy]),
        np.concatenate([covariance, covariance[:1], covariance[:1]]),
        method="esbrs_paper",
    )
    assert np.array_equal(spoilt.weights, expected.weights)
    assert (spoilt.pairs, spoilt.effective_pairs) == (expected.pairs, expected.effective_pairs) == (18, pytest.approx(
        expected.effective_pairs))  # fmt: skip


@pytest.mark.parametrize(("variance", "kept"), [(0.99, 1), (1.01, 0)])
def test_a_bound_says_something_where_the_averages_variance_is_below_the_smallest_mean_squared(
    variance: float, kept: int
) -> None:
    """Two independent members of variance v have an average of variance v / 2; e = .5 ** .5."""
    covariance = np.array([np.eye(2) * variance, np.eye(2) * 1e-3])[:, None]
    mean = np.array([[0.5**0.5, 2.0], [1.0, 1.0]])[:, None]
    assert paper_objective(mean, covariance, draws=np.inf).pairs == 1 + kept


@pytest.mark.parametrize(("draws", "kept"), [(3, 0), (5, 1)])
def test_a_mean_margin_within_two_standard_errors_of_zero_is_none(draws: int, kept: int) -> None:
    """sd 1 and e = 1: two standard errors are 2 / sqrt(draws). Opposite noise leaves the average's variance small."""
    covariance = np.array([[[1.0, -0.9], [-0.9, 1.0]], 1e-3 * np.eye(2)])[:, None]
    assert paper_objective(np.ones((2, 1, 2)), covariance, draws=draws).pairs == 1 + kept


@pytest.mark.parametrize("mean", [[[1.0, -0.1]], [[0.0, 1.0], [-1.0, 1.0]], [[0.5, 0.5]]])
def test_without_a_pair_there_is_no_objective(mean: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"does Chebyshev's bound say anything .*; use method='esbrs_ratio'"):
        solved(mean, np.tile(np.eye(2), (len(mean), 1, 1)))


def test_pairs_of_equal_influence_are_all_effective_and_one_that_decides_is_one() -> None:
    covariance, mean = np.tile(0.1 * np.eye(2), (4, 3, 1, 1)), np.ones((4, 3, 2))
    assert paper_objective(mean, covariance, draws=np.inf).effective_pairs == pytest.approx(12)
    mean[:, 0] = 0.001
    dominated = paper_objective(mean, 1e-9 * covariance, draws=np.inf)
    assert dominated.pairs == 12
    # One pair of each image.
    assert dominated.effective_pairs == pytest.approx(4, rel=1e-4)


def test_images_without_noise_have_no_say_and_no_influence() -> None:
    mean, covariance = images(4, 2, count=3)
    covariance[0] = 0.0
    objective = paper_objective(mean, covariance, draws=200)
    rest = paper_objective(mean[1:], covariance[1:], draws=200)
    assert objective.effective_pairs == pytest.approx(rest.effective_pairs)
    np.testing.assert_allclose(objective.pooled, 2 / 3 * rest.pooled)
    assert solved(mean, np.zeros_like(covariance)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("k", [2, 3, 8, 30])
def test_both_solvers_find_the_same_minimum_on_the_simplex(k: int) -> None:
    mean, covariance = images(k, k)
    pooled = paper_objective(mean, covariance, draws=np.inf).pooled
    quick, exact = least_on_simplex(pooled), least_variance(pooled, np.ones(k)).weights
    assert quick.min() >= 0
    assert quick.sum() == pytest.approx(1, abs=1e-12)
    # Optimality of the quick one by itself: no member's gradient is below the mean gradient.
    gradient = pooled @ quick
    assert gradient.min() >= (quick @ gradient) * (1 - 1e-9)
    np.testing.assert_allclose(quick, exact, atol=ROOT)


def test_the_spread_of_two_members_weights_is_that_of_the_delta_method() -> None:
    """w_1 = mean(b) / mean(a + b) for variances a and b of images: error sd(b - w (a + b)) / mean(a + b) / sqrt n."""
    rng, n = np.random.default_rng(5), 400
    variances = rng.uniform(0.02, 0.2, (n, 2))
    covariance = (variances[:, :, None] * np.eye(2))[:, None]
    objective = paper_objective(np.ones((n, 1, 2)), covariance, draws=np.inf)
    a, b = np.diagonal(objective.quadratic, axis1=1, axis2=2).T
    w = b.mean() / (a + b).mean()
    error = np.std(b - w * (a + b)) / (a + b).mean() / np.sqrt(n)
    spread = weight_spread(objective)
    assert spread is not None
    # 200 resamples know a standard deviation to 5 %; four of these.
    np.testing.assert_allclose(spread, error, rtol=0.2)


def test_images_that_agree_leave_no_spread_and_a_single_one_has_none() -> None:
    mean, covariance = images(6, 3, count=1)
    assert solve_weights(mean, covariance, method="esbrs_paper").spread is None
    alike = solve_weights(mean.repeat(9, 0), covariance.repeat(9, 0), method="esbrs_paper")
    assert alike.spread is not None
    np.testing.assert_allclose(alike.spread, 0, atol=1e-9)


def test_other_methods_say_nothing_of_pairs() -> None:
    solution = solve_weights(*images(7, 3))
    assert (solution.pairs, solution.effective_pairs, solution.spread) == (None, None, None)

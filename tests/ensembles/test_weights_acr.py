"""Facts about the weights of largest Gaussian ACR: brute force, closed forms, stationarity, invariances."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, linprog

from rspipe.arrays import FloatArray
from rspipe.ensembles.weights import WeightSolution, solve_weights
from rspipe.ensembles.weights_acr import gaussian_radii, margin_ratios, solve_acr
from rspipe.errors import SolverError

CAP = 3.2
# Of the objective, relatively: ten times the gap at which the ascent ends.
CLOSE = 1e-4


def problem(
    seed: int, k: int, *, images: int = 40, competitors: int = 4, samples: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Margins of images that are more or less hard, some of them wrong, and of members of different skill and noise."""
    rng = np.random.default_rng(seed)
    n = samples or k + 5
    hardness = rng.normal(0.5, 0.5, (images, 1, 1)) + rng.exponential(0.4, (images, competitors, 1))
    mean = hardness * (1 + 0.1 * rng.normal(size=k)) + 0.15 * rng.normal(size=(images, competitors, k))
    common = rng.normal(size=(images, competitors, 1, n))
    own = rng.normal(size=(images, competitors, k, n))
    root = (common + own) * rng.uniform(0.5, 1.2, k)[:, None] / np.sqrt(8 * n)
    return mean, root @ np.swapaxes(root, -1, -2)


@cache
def solved(seed: int, k: int) -> WeightSolution:
    """Weights of a problem, which several tests look at."""
    return solve_acr(*problem(seed, k), cap=CAP)


def simplex(k: int, steps: int) -> FloatArray:
    """Every weight vector whose entries are multiples of 1 / steps."""
    axes = np.meshgrid(*[np.arange(steps + 1)] * (k - 1), indexing="ij")
    first = np.stack([axis.ravel() for axis in axes], axis=1)
    first = first[first.sum(1) <= steps]
    return np.concatenate([first, steps - first.sum(1, keepdims=True)], axis=1) / steps


def acr(weights: FloatArray, mean: FloatArray, covariance: FloatArray) -> float:
    return float(gaussian_radii(weights, mean, covariance, cap=CAP).mean())


def test_the_radius_is_the_smallest_ratio_over_competitors_clipped_to_what_can_be_certified() -> None:
    """Ratios 2 and 1; -1 and 3; 8 and 9 with a cap of 3.2."""
    mean = np.array([[[2.0], [1.0]], [[-1.0], [3.0]], [[8.0], [9.0]]])
    radii = gaussian_radii([1.0], mean, np.ones((3, 2, 1, 1)), cap=CAP)
    assert radii.tolist() == [1.0, 0.0, CAP]


def test_the_gradient_of_the_ratios_is_that_of_finite_differences() -> None:
    mean, covariance = problem(0, 3, images=5)
    w, h = np.array([0.5, 0.2, 0.3]), 1e-6
    _, gradient = margin_ratios(w, mean, covariance)
    for member in range(3):
        ahead, behind = w + h * np.eye(3)[member], w - h * np.eye(3)[member]
        numeric = (margin_ratios(ahead, mean, covariance)[0] - margin_ratios(behind, mean, covariance)[0]) / (2 * h)
        # Rounding of ratios below 10 by 1e-15, over h.
        np.testing.assert_allclose(gradient[..., member], numeric, atol=1e-7)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k", "steps"), [(2, 1000), (3, 40)])
def test_no_point_of_the_simplex_has_a_larger_acr(seed: int, k: int, steps: int) -> None:
    mean, covariance = problem(seed, k)
    solution = solved(seed, k)
    scanned = max(acr(w, mean, covariance) for w in simplex(k, steps))
    assert solution.objective >= scanned * (1 - CLOSE)
    assert solution.objective == pytest.approx(acr(solution.weights, mean, covariance), rel=1e-9)
    assert solution.gap <= CLOSE
    assert solution.status == "local optimum"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [4, 8])
def test_no_small_step_leads_higher(seed: int, k: int) -> None:
    """At a stationary point the objective rises by no more than gap times step, and its curvature times step^2."""
    mean, covariance = problem(seed, k)
    solution = solved(seed, k)
    rng, step = np.random.default_rng(seed), 1e-4
    for target in [*np.eye(k), *rng.dirichlet(np.ones(k), 50)]:
        moved = (1 - step) * solution.weights + step * target
        assert acr(moved, mean, covariance) <= solution.objective * (1 + step * CLOSE) + 100 * step**2


@pytest.mark.parametrize("seed", range(4))
def test_weights_lie_on_the_simplex_and_beat_uniform_weights_and_those_of_the_ratio(seed: int) -> None:
    mean, covariance = problem(seed, 5)
    solution = solved(seed, 5)
    assert solution.weights.min() >= 0
    assert solution.weights.sum() == pytest.approx(1, abs=1e-12)
    uniform = np.full(5, 0.2)
    assert solution.uniform_objective == pytest.approx(acr(uniform, mean, covariance))
    pooled = solve_weights(mean.reshape(-1, 5), covariance.reshape(-1, 5, 5))
    assert solution.objective >= max(solution.uniform_objective, acr(pooled.weights, mean, covariance)) - 1e-12


@pytest.mark.parametrize("k", [5, 10])
def test_no_member_alone_is_better_than_the_weights(k: int) -> None:
    """Members that are right on images of their own, where an average of all is right on none."""
    images, rng = 4 * k, np.random.default_rng(k)
    mean = np.full((images, 1, k), -3.0)
    mean[np.arange(images), 0, np.arange(images) % k] = 1.0
    # The first also where others are.
    mean[: 2 * k, 0, 0] = 1.0
    covariance = np.tile(0.05 * np.diag(rng.uniform(0.5, 1, k)), (images, 1, 1, 1))
    solution = solve_acr(mean, covariance, cap=CAP)
    assert solution.objective >= max(acr(one, mean, covariance) for one in np.eye(k)) * (1 - 1e-12)
    assert acr(np.full(k, 1 / k), mean, covariance) == 0


def test_of_one_image_with_one_competitor_the_weights_are_those_of_the_ratio() -> None:
    mean, covariance = np.array([1.0, 0.8, 0.9]), np.diag([1.0, 0.5, 2.0])
    solution = solve_acr(mean[None, None], covariance[None, None], cap=CAP)
    exact = solve_weights(mean, covariance)
    np.testing.assert_allclose(solution.objective, exact.objective, rtol=CLOSE)
    np.testing.assert_allclose(solution.weights, exact.weights, atol=np.sqrt(CLOSE))


def test_images_beyond_the_cap_do_not_matter() -> None:
    mean, covariance = problem(1, 3)
    easy = np.concatenate([mean, np.full((200, 4, 3), 50.0)])
    more = np.concatenate([covariance, np.tile(np.eye(3), (200, 4, 1, 1))])
    beside = solve_acr(easy, more, cap=CAP)
    assert acr(beside.weights, mean, covariance) == pytest.approx(solved(1, 3).objective, rel=10 * CLOSE)


def test_weights_follow_a_permutation_of_the_members() -> None:
    mean, covariance = problem(2, 4)
    solution = solved(2, 4)
    order = [2, 0, 3, 1]
    permuted = solve_acr(mean[..., order], covariance[..., order, :][..., order], cap=CAP)
    assert permuted.objective == pytest.approx(solution.objective, rel=CLOSE)
    np.testing.assert_allclose(permuted.weights, solution.weights[order], atol=np.sqrt(CLOSE))


@pytest.mark.parametrize("spread", [10.0, 1e4])
def test_a_member_in_other_units_gets_the_weight_that_makes_up_for_it(spread: float) -> None:
    mean, covariance = problem(3, 3)
    d = np.array([1.0, spread, 1 / spread])
    solution = solve_acr(d * mean, np.outer(d, d) * covariance, cap=CAP)
    assert solution.objective == pytest.approx(solved(3, 3).objective, rel=CLOSE)


def test_a_duplicated_member_changes_nothing() -> None:
    mean, covariance = problem(4, 3)
    twice = [0, 1, 2, 2]
    doubled = solve_acr(mean[..., twice], covariance[..., twice, :][..., twice], cap=CAP)
    assert doubled.objective == pytest.approx(solved(4, 3).objective, rel=CLOSE)


def test_exchangeable_members_have_equal_weights() -> None:
    mean, covariance = np.ones((3, 2, 4)), np.tile(0.5 * np.eye(4) + 0.5, (3, 2, 1, 1))
    np.testing.assert_allclose(solve_acr(mean, covariance, cap=CAP).weights, 0.25, atol=1e-6)


def test_a_member_that_never_wins_gets_no_weight() -> None:
    mean, covariance = problem(5, 3)
    mean[..., 1] = -0.5
    covariance[..., 1, :] = covariance[..., :, 1] = 0.0
    covariance[..., 1, 1] = 1.0
    assert solve_acr(mean, covariance, cap=CAP).weights[1] < 1e-6


def failing(monkeypatch: pytest.MonkeyPatch, *methods: str) -> list[str]:
    """Let some of SciPy's linear programs fail; return the methods called, in order."""
    calls: list[str] = []

    def program(*args: Any, method: str, **kwargs: Any) -> Any:
        calls.append(method)
        if method in methods:
            return OptimizeResult(x=None, message="failed")
        return linprog(*args, method=method, **kwargs)

    monkeypatch.setattr("scipy.optimize.linprog", program)
    return calls


def test_where_a_linear_program_fails_another_algorithm_finds_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = solved(2, 4)
    calls = failing(monkeypatch, "highs", "highs-ds")
    solution = solve_acr(*problem(2, 4), cap=CAP)
    assert calls[:3] == ["highs", "highs-ds", "highs-ipm"]
    assert solution.objective == pytest.approx(expected.objective, rel=CLOSE)
    assert solution.gap <= CLOSE


def test_where_every_linear_program_fails_there_are_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "highs", "highs-ds", "highs-ipm")
    with pytest.raises(SolverError, match="HiGHS found no step: failed; rescale the margins"):
        solve_acr(*problem(2, 4), cap=CAP)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_members_that_get_nothing_right_have_no_weights(value: float) -> None:
    with pytest.raises(ValueError, match="no calibration image is classified correctly"):
        solve_acr(np.full((3, 2, 2), value), np.tile(np.eye(2), (3, 2, 1, 1)), cap=CAP)


def test_fewer_draws_than_members_leave_singular_covariances_and_a_solution() -> None:
    mean, covariance = problem(6, 8, samples=3)
    assert np.linalg.matrix_rank(covariance[0, 0]) == 3
    solution = solve_acr(mean, covariance, cap=CAP)
    assert solution.objective >= solution.uniform_objective
    assert np.isfinite(solution.weights).all()


def test_members_without_noise_reach_the_cap() -> None:
    solution = solve_acr(np.ones((2, 3, 2)), np.zeros((2, 3, 2, 2)), cap=CAP)
    assert solution.objective == CAP
    assert solution.gap == 0


def test_a_single_member_has_weight_one() -> None:
    solution = solve_acr([[[2.0]]], [[[[1.0]]]], cap=CAP)
    assert (solution.weights.tolist(), solution.objective, solution.gap) == ([1.0], 2.0, 0.0)


@pytest.mark.parametrize(
    ("mean", "covariance", "cap", "message"),
    [
        (np.full((1, 1, 2), np.nan), np.eye(2)[None, None], CAP, "must be finite"),
        (np.ones((1, 1, 2)), np.diag([1.0, np.inf])[None, None], CAP, "must be finite"),
        (np.ones((1, 1, 2)), np.array([[1.0, 2.0], [2.0, 1.0]])[None, None], CAP, "positive semi-definite"),
        (np.ones((1, 2)), np.eye(2)[None], CAP, r"mean must be \[image, competitor, k\]"),
        (np.ones((0, 1, 2)), np.ones((0, 1, 2, 2)), CAP, r"mean must be \[image, competitor, k\]"),
        (np.ones((1, 1, 2)), np.eye(2)[None, None], 0.0, "cap must be positive, got 0.0"),
        (np.ones((1, 1, 2)), np.eye(2)[None, None], np.nan, "cap must be positive, got nan"),
    ],
)
def test_moments_that_make_no_sense_are_refused(mean: Any, covariance: Any, cap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_acr(mean, covariance, cap=cap)

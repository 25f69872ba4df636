"""Facts about the convex programs for weights: brute force, closed forms, optimality conditions, invariances."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rspipe.arrays import FloatArray
from rspipe.ensembles.quadratic_program import _solve_with
from rspipe.ensembles.weights import ratio, solve_weights
from rspipe.errors import SolverError

SOLVED = pytest.mark.parametrize("method", ["esbrs_ratio", "esbrs_paper"])
ALL = pytest.mark.parametrize("method", ["uniform", "esbrs_ratio", "esbrs_paper"])
# The largest relative gap of the values on the well-conditioned problems here.
GAP = 1e-6
# Weights are as far from the optimum as the root of the gap, in problems of condition numbers near 1.
ROOT = 1e-3

many = settings(deadline=None, derandomize=True, max_examples=50)


def problem(seed: int, k: int, *, pairs: int = 1) -> tuple[FloatArray, FloatArray]:
    """Mean margins [pair, k] of which every bound says something, and well-conditioned covariances [pair, k, k]."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(pairs, k, 2 * k + 2)) * rng.uniform(0.5, 2, (1, k, 1))
    common = rng.normal(size=(pairs, 1, 2 * k + 2))
    covariance = np.einsum("pks,pls->pkl", root + common, root + common) / (2 * k + 2)
    return rng.uniform(3, 6, (pairs, k)), covariance


def random_psd(seed: int, k: int) -> tuple[FloatArray, FloatArray]:
    """One pair of any sign of mean, at least one positive, and a covariance that may be singular."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(k, int(rng.integers(1, 2 * k + 1))))
    mean = rng.normal(0.3, 1, k)
    mean[rng.integers(k)] = rng.uniform(0.1, 1)
    return mean, root @ root.T


def simplex(k: int, steps: int) -> FloatArray:
    """Every weight vector whose entries are multiples of 1 / steps."""
    axes = np.meshgrid(*[np.arange(steps + 1)] * (k - 1), indexing="ij")
    first = np.stack([axis.ravel() for axis in axes], axis=1)
    first = first[first.sum(1) <= steps]
    return np.concatenate([first, steps - first.sum(1, keepdims=True)], axis=1) / steps


def paper_matrix(mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """sum_p S_p / e_p^2 over the pairs of an image, in units of the mean of its diagonal."""
    total = np.zeros(covariance.shape[1:])
    for mu, s in zip(mean, covariance, strict=True):
        assert s.mean() <= mu.min() ** 2
        total += s / mu.min() ** 2
    return total / np.diag(total).mean()


def distance_allowed(value: float, matrix: FloatArray, *, gap: float = GAP) -> float:
    """How far a minimizer of w'Sw may lie from the optimum: its excess gap * value is at least lambda_min |dw|^2."""
    return float(np.sqrt(gap * value / np.linalg.eigvalsh(matrix)[0]))


@ALL
@pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
def test_weights_lie_on_the_simplex(method: Any, k: int) -> None:
    solution = solve_weights(*problem(k, k, pairs=5), method=method)
    assert solution.weights.shape == (k,)
    assert solution.weights.min() >= 0
    assert solution.weights.sum() == pytest.approx(1, abs=1e-12)


def test_uniform_weights_need_no_solver() -> None:
    mean, covariance = problem(0, 4)
    solution = solve_weights(mean, covariance, method="uniform")
    assert solution.weights.tolist() == [0.25] * 4
    assert (solution.status, solution.gap) == ("closed form", 0)
    expected = mean[0].mean() / np.sqrt(covariance[0].mean())
    assert solution.objective == solution.uniform_objective == pytest.approx(expected, rel=1e-12)


def test_the_ratio_is_the_default() -> None:
    mean, covariance = problem(1, 3)
    assert np.array_equal(
        solve_weights(mean, covariance).weights, solve_weights(mean, covariance, method="esbrs_ratio").weights
    )


@SOLVED
def test_a_single_member_has_weight_one(method: Any) -> None:
    solution = solve_weights([3.0], [[4.0]], method=method)
    assert solution.weights.tolist() == [1]
    # The paper's is in units of a single member's.
    assert solution.objective == pytest.approx({"esbrs_ratio": 3 / 2, "esbrs_paper": 1}[method])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("k", "steps"), [(2, 2000), (3, 150)])
def test_no_point_of_the_simplex_has_a_larger_ratio(seed: int, k: int, steps: int) -> None:
    mean, covariance = problem(seed, k)
    solution = solve_weights(mean[0], covariance[0])
    w = simplex(k, steps)
    scanned = (w @ mean[0]) / np.sqrt(np.einsum("wk,kl,wl->w", w, covariance[0], w))
    assert solution.objective >= scanned.max() * (1 - GAP)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("k", "steps"), [(2, 2000), (3, 150)])
def test_no_point_of_the_simplex_has_a_smaller_value_of_the_papers_objective(seed: int, k: int, steps: int) -> None:
    mean, covariance = problem(seed, k, pairs=4)
    solution = solve_weights(mean, covariance, method="esbrs_paper")
    w, matrix = simplex(k, steps), paper_matrix(mean, covariance)
    scanned = np.einsum("wk,kl,wl->w", w, matrix, w)
    assert solution.objective <= scanned.min() * (1 + GAP)


@many
@given(seed=st.integers(0, 10_000))
def test_two_members_have_the_closed_form_weights_of_the_papers_objective(seed: int) -> None:
    mean, covariance = problem(seed, 2, pairs=3)
    matrix = paper_matrix(mean, covariance)
    (s11, s12), (_, s22) = matrix
    expected = np.clip((s22 - s12) / (s11 + s22 - 2 * s12), 0, 1)
    solution = solve_weights(mean, covariance, method="esbrs_paper")
    assert solution.weights[0] == pytest.approx(expected, abs=distance_allowed(solution.objective, matrix))


@many
@given(seed=st.integers(0, 10_000))
def test_two_members_have_the_closed_form_weights_of_the_ratio(seed: int) -> None:
    """The best direction is S^-1 mu; where one of its entries is negative, that member has weight 0."""
    mean, covariance = problem(seed, 2)
    solution = solve_weights(mean, covariance)
    (s11, s12), (_, s22) = covariance[0]
    m1, m2 = mean[0]
    free = np.maximum([s22 * m1 - s12 * m2, s11 * m2 - s12 * m1], 0)
    # y = w / w'mu minimizes y'Sy, with value 1 / objective^2.
    allowed = distance_allowed(solution.objective**-2, covariance[0])
    y = solution.weights / (solution.weights @ mean[0])
    np.testing.assert_allclose(y, free / (free @ mean[0]), atol=allowed)


@many
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 3, 4, 8]))
def test_the_papers_weights_satisfy_the_optimality_conditions(seed: int, k: int) -> None:
    mean, covariance = problem(seed, k, pairs=3)
    solution = solve_weights(mean, covariance, method="esbrs_paper")
    gradient = 2 * paper_matrix(mean, covariance) @ solution.weights
    gap = gradient @ solution.weights - gradient.min()
    assert 0 <= gap / solution.objective + 1e-12 <= GAP


@many
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 3, 4, 8]))
def test_the_ratios_weights_satisfy_the_optimality_conditions(seed: int, k: int) -> None:
    """With y = w / w'mu: (Sy)_l >= (y'Sy) mu_l for every member, with equality where it has weight."""
    mean, covariance = problem(seed, k, pairs=3)
    mu, s = mean.mean(0), covariance.mean(0)
    solution = solve_weights(mean, covariance)
    y = solution.weights / (solution.weights @ mu)
    reduced = s @ y / (y @ s @ y) - mu
    assert reduced.min() >= -GAP
    assert abs(reduced @ y) <= 1e-9
    assert np.max(reduced * y) <= GAP


@many
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 3, 4, 8]))
def test_any_positive_semi_definite_problem_with_a_positive_mean_is_solved(seed: int, k: int) -> None:
    """Members may cancel each other's noise, where the ratio is unbounded, and means may be negative."""
    mean, covariance = random_psd(seed, k)
    solution = solve_weights(mean, covariance)
    assert solution.gap <= 1e-4
    deviation = np.sqrt(np.diag(covariance))
    best = (mean / deviation).max()
    assert solution.objective >= best * (1 - 1e-4)
    assert solution.weights @ mean > 0


@many
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 4, 8]))
def test_the_ratio_is_never_below_that_of_the_best_member_or_of_uniform_weights(seed: int, k: int) -> None:
    mean, covariance = problem(seed, k)
    solution = solve_weights(mean, covariance)
    alone = [ratio(one, mean[0], covariance[0]) for one in np.eye(k)]
    assert solution.objective >= max(*alone, solution.uniform_objective) * (1 - GAP)


@SOLVED
@pytest.mark.parametrize("seed", range(5))
def test_the_gap_bounds_how_far_the_value_is_from_the_optimum(
    method: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, covariance = problem(seed, 3)
    best = solve_weights(mean, covariance, method=method)
    value = {"esbrs_ratio": lambda s: s.objective**-2, "esbrs_paper": lambda s: s.objective}[method]

    def poor(_solver: str, _matrix: FloatArray, constraint: FloatArray) -> tuple[FloatArray, str]:
        y = np.random.default_rng(seed).uniform(0, 1, 3)
        return y / (constraint @ y), "optimal"

    monkeypatch.setattr("rspipe.ensembles.quadratic_program._solve_with", poor)
    monkeypatch.setattr("rspipe.ensembles.quadratic_program._LARGEST_GAP", np.inf)
    solution = solve_weights(mean, covariance, method=method)
    assert value(solution) - value(best) <= solution.gap * value(solution)
    assert solution.gap > GAP


def test_the_gap_is_that_of_frank_and_wolfe() -> None:
    """All weight on the first of two members with S = [[4, 2], [2, 1]]: value 4, optimum 1, gap 2 (4 - 2) / 4."""
    from rspipe.ensembles.quadratic_program import _gap

    matrix = np.array([[4.0, 2.0], [2.0, 1.0]])
    assert _gap(np.array([1.0, 0.0]), matrix, np.ones(2)) == pytest.approx(1.0)
    assert _gap(np.array([0.0, 1.0]), matrix, np.ones(2)) == 0


def failing(*names: str) -> Any:
    """The solvers, of which some say that they failed."""

    def solve(solver: str, covariance: FloatArray, constraint: FloatArray) -> tuple[FloatArray, str]:
        if solver in names:
            raise SolverError(f"{solver}: infeasible")
        return _solve_with(solver, covariance, constraint)

    return solve


@SOLVED
@pytest.mark.parametrize("k", [3, 30])
@pytest.mark.parametrize(("failed", "solver"), [(("CLARABEL",), "OSQP"), (("CLARABEL", "OSQP"), "SCS")])
def test_where_a_solver_fails_the_next_one_finds_the_same_weights(
    method: Any, k: int, failed: tuple[str, ...], solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, covariance = problem(k, k, pairs=3)
    expected = solve_weights(mean, covariance, method=method)
    monkeypatch.setattr("rspipe.ensembles.quadratic_program._solve_with", failing(*failed))
    solution = solve_weights(mean, covariance, method=method)
    assert (expected.solver, solution.solver) == ("CLARABEL", solver)
    value = [one.objective ** (-2 if method == "esbrs_ratio" else 1) for one in (solution, expected)]
    assert value[0] == pytest.approx(value[1], rel=solution.gap + expected.gap)
    assert solution.gap <= {"OSQP": GAP, "SCS": 1e-4}[solver]


def test_weights_that_are_not_optimal_enough_are_left_to_the_next_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(solver: str, covariance: FloatArray, constraint: FloatArray) -> tuple[FloatArray, str]:
        y, status = _solve_with(solver, covariance, constraint)
        y = y + (0.01 if solver == "CLARABEL" else 0.0)
        return y / (constraint @ y), status

    monkeypatch.setattr("rspipe.ensembles.quadratic_program._solve_with", careless)
    solution = solve_weights(*problem(0, 4))
    assert solution.solver == "OSQP"
    assert solution.gap <= GAP


def test_of_several_poor_solutions_the_best_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    off = {"CLARABEL": 2e-4, "OSQP": 1e-4, "SCS": 3e-4}

    def careless(solver: str, covariance: FloatArray, constraint: FloatArray) -> tuple[FloatArray, str]:
        y = _solve_with("CLARABEL", covariance, constraint)[0] + off[solver] * np.eye(4)[0]
        return y / (constraint @ y), "optimal"

    monkeypatch.setattr("rspipe.ensembles.quadratic_program._solve_with", careless)
    monkeypatch.setattr("rspipe.ensembles.quadratic_program._LARGEST_GAP", 1.0)
    assert solve_weights(*problem(0, 4)).solver == "OSQP"


def test_weights_far_from_the_optimum_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rspipe.ensembles.quadratic_program._solve_with", lambda *_: (np.array([1.0, 0.0]), "optimal"))
    with pytest.raises(SolverError, match=r"no solver found weights \(CLARABEL: optimal, but .* from optimal; OSQP: "):
        solve_weights([1.0, 1.0], np.diag([1.0, 0.1]))


def test_where_all_solvers_fail_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rspipe.ensembles.quadratic_program._solve_with", failing("CLARABEL", "OSQP", "SCS"))
    failures = "CLARABEL: infeasible; OSQP: infeasible; SCS: infeasible"
    with pytest.raises(
        SolverError, match=rf"no solver found weights \({failures}\); drop duplicate or constant members"
    ):
        solve_weights([1.0, 1.0], np.eye(2))


def test_what_cvxpy_says_of_a_failed_solver_becomes_one_of_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import cvxpy as cp

    def broken(*_: Any, **__: Any) -> None:
        raise cp.SolverError("Solver 'CLARABEL' failed")

    monkeypatch.setattr(cp.Problem, "solve", broken)
    with pytest.raises(SolverError, match="CLARABEL: Solver 'CLARABEL' failed"):
        _solve_with("CLARABEL", np.eye(2), np.ones(2))


@SOLVED
def test_the_objectives_are_those_of_the_weights_returned(method: Any) -> None:
    mean, covariance = problem(3, 4, pairs=6)
    solution = solve_weights(mean, covariance, method=method)
    mu, s, matrix = mean.mean(0), covariance.mean(0), paper_matrix(mean, covariance)
    for w, value in ((solution.weights, solution.objective), (np.full(4, 0.25), solution.uniform_objective)):
        expected = (w @ mu) / np.sqrt(w @ s @ w) if method == "esbrs_ratio" else w @ matrix @ w
        assert value == pytest.approx(expected, rel=1e-12)


@SOLVED
@pytest.mark.parametrize("seed", range(3))
def test_weights_follow_a_permutation_of_the_members(method: Any, seed: int) -> None:
    mean, covariance = problem(seed, 3, pairs=4)
    solution = solve_weights(mean, covariance, method=method)
    for order in permutations(range(3)):
        o = list(order)
        permuted = solve_weights(mean[:, o], covariance[:, o][:, :, o], method=method)
        np.testing.assert_allclose(permuted.weights, solution.weights[o], atol=ROOT)
        assert permuted.objective == pytest.approx(solution.objective, rel=GAP)


@SOLVED
@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e3, 1e9])
def test_the_units_of_the_margins_do_not_matter(method: Any, factor: float) -> None:
    mean, covariance = problem(4, 4, pairs=4)
    solution = solve_weights(mean, covariance, method=method)
    scaled = solve_weights(factor * mean, factor**2 * covariance, method=method)
    np.testing.assert_allclose(scaled.weights, solution.weights, atol=ROOT)
    assert scaled.objective == pytest.approx(solution.objective, rel=GAP)


@pytest.mark.parametrize(
    ("method", "factor"), [("esbrs_ratio", 1e-6), ("esbrs_ratio", 1e6), ("esbrs_paper", 1e-6), ("esbrs_paper", 0.5)]
)
def test_more_noise_alike_for_all_members_leaves_the_weights_as_they_are(method: Any, factor: float) -> None:
    mean, covariance = problem(5, 4, pairs=4)
    solution = solve_weights(mean, covariance, method=method)
    np.testing.assert_allclose(
        solve_weights(mean, factor * covariance, method=method).weights, solution.weights, atol=ROOT
    )


@pytest.mark.parametrize("spread", [10.0, 1e3, 1e5])
def test_a_member_in_other_units_gets_the_weight_that_makes_up_for_it(spread: float) -> None:
    """The ratio is invariant under z_l -> d_l z_l, w_l -> w_l / d_l."""
    mean, covariance = problem(6, 4)
    d = np.array([1.0, spread, 1 / spread, 3.0])
    expected = solve_weights(mean[0], covariance[0])
    solution = solve_weights(d * mean[0], np.outer(d, d) * covariance[0])
    back = solution.weights * d
    np.testing.assert_allclose(back / back.sum(), expected.weights, atol=ROOT)
    assert solution.objective == pytest.approx(expected.objective, rel=GAP)


def test_the_papers_objective_is_not_invariant_and_prefers_a_timid_member() -> None:
    mean, covariance = np.array([1.0, 0.5]), np.diag([0.4, 0.1])
    assert solve_weights(mean, covariance, method="esbrs_paper").weights == pytest.approx([1 / 5, 4 / 5], abs=ROOT)
    # The ratio sees two equally good members in different units.
    assert solve_weights(mean, covariance).weights == pytest.approx([1 / 3, 2 / 3], abs=ROOT)


def test_a_very_timid_member_leaves_no_pair_of_which_the_papers_bound_says_anything() -> None:
    with pytest.raises(ValueError, match="at no pair of image and competitor does Chebyshev's bound say anything"):
        solve_weights([1.0, 0.1], np.diag([1.0, 0.01]), method="esbrs_paper")


@SOLVED
def test_exchangeable_members_have_equal_weights(method: Any) -> None:
    covariance = 0.5 * np.eye(8) + 0.5
    solution = solve_weights(np.ones(8), covariance, method=method)
    np.testing.assert_allclose(solution.weights, np.full(8, 1 / 8), atol=distance_allowed(0.5625, covariance))


@SOLVED
def test_a_duplicated_member_shares_the_weight_of_the_original(method: Any) -> None:
    mean, covariance = problem(7, 3, pairs=2)
    solution = solve_weights(mean, covariance, method=method)
    twice = [0, 1, 2, 2]
    doubled = solve_weights(mean[:, twice], covariance[:, twice][:, :, twice], method=method)
    joined = [*doubled.weights[:2], doubled.weights[2] + doubled.weights[3]]
    np.testing.assert_allclose(joined, solution.weights, atol=ROOT)
    if method == "esbrs_ratio":
        # The paper's is in units of what a member has on average.
        assert doubled.objective == pytest.approx(solution.objective, rel=GAP)


@SOLVED
def test_a_singular_covariance_of_one_common_noise_has_a_solution(method: Any) -> None:
    """Perfectly correlated members: the ratio favours the largest mean / sd, the paper the smallest sd."""
    deviation, mean = np.array([1.0, 2.0, 4.0]), np.array([3.0, 9.0, 12.0])
    solution = solve_weights(mean, np.outer(deviation, deviation), method=method)
    expected = {"esbrs_ratio": [0, 1, 0], "esbrs_paper": [1, 0, 0]}[method]
    np.testing.assert_allclose(solution.weights, expected, atol=ROOT)


@SOLVED
def test_members_that_cancel_each_others_noise_are_combined_to_do_so(method: Any) -> None:
    solution = solve_weights([1.0, 1.0], [[1.0, -2.0], [-2.0, 4.0]], method=method)
    assert solution.weights == pytest.approx([2 / 3, 1 / 3], abs=ROOT)
    assert solution.gap == 0


@SOLVED
def test_a_member_without_noise_takes_the_weight(method: Any) -> None:
    solution = solve_weights([1.0, 1.0, 1.0], [[0, 0, 0], [0, 1, 0.5], [0, 0.5, 2]], method=method)
    assert solution.weights == pytest.approx([1, 0, 0], abs=ROOT)


@pytest.mark.parametrize(("mean", "expected"), [([1.0, 3.0], [0.5, 0.5]), ([1.0, -3.0], [1.0, 0.0])])
def test_without_any_noise_members_with_a_positive_mean_share_the_weight(
    mean: list[float], expected: list[float]
) -> None:
    solution = solve_weights(mean, np.zeros((2, 2)))
    assert solution.weights.tolist() == expected
    assert solution.objective == np.inf


def test_the_ratio_pools_pairs_by_their_average() -> None:
    mean, covariance = problem(8, 3, pairs=7)
    pooled = solve_weights(mean.mean(0), covariance.mean(0))
    assert np.array_equal(solve_weights(mean, covariance).weights, pooled.weights)


def test_a_member_with_a_negative_mean_and_no_use_gets_no_weight() -> None:
    solution = solve_weights([1.0, -0.5, 1.0], np.eye(3))
    np.testing.assert_allclose(solution.weights, [0.5, 0, 0.5], atol=ROOT)


def test_a_member_with_a_negative_mean_may_still_cancel_noise() -> None:
    """S^-1 mu = (0.55, 0.47) / 0.19 is positive though the second mean is not."""
    solution = solve_weights([1.0, -0.1], [[1.0, -0.9], [-0.9, 1.0]])
    free = np.array([1 - 0.9 * 0.1, 0.9 - 0.1])
    np.testing.assert_allclose(solution.weights, free / free.sum(), atol=ROOT)


@pytest.mark.parametrize("mean", [[-1.0, -0.1], [0.0, 0.0], [0.0, -1.0]])
def test_the_ratio_needs_a_member_with_a_positive_mean(mean: list[float]) -> None:
    with pytest.raises(ValueError, match="no member has a positive mean margin"):
        solve_weights(mean, np.eye(2))


@ALL
@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        ([1.0, float("nan")], np.eye(2), "must be finite"),
        ([1.0, float("inf")], np.eye(2), "must be finite"),
        ([1.0, 1.0], [[1.0, float("nan")], [float("nan"), 1.0]], "must be finite"),
        ([1.0, 1.0], [[1.0, 0.5], [0.4, 1.0]], "covariance must be symmetric"),
        ([1.0, 1.0], [[1.0, 2.0], [2.0, 1.0]], "covariance must be positive semi-definite"),
        ([1.0, 1.0], [[1.0, 0.0], [0.0, -1.0]], "covariance must be positive semi-definite"),
        ([1.0, 1.0], np.eye(3), r"mean must be \[k\], \[pair, k\].*got \(2,\) and \(3, 3\)"),
        ([[1.0, 1.0]], np.eye(2), r"got \(1, 2\) and \(2, 2\)"),
        ([[1.0, 1.0]], np.ones((2, 2, 2)), r"got \(1, 2\) and \(2, 2, 2\)"),
        (1.0, 1.0, r"got \(\) and \(\)"),
        ([], np.zeros((0, 0)), r"got \(0,\) and \(0, 0\)"),
        (np.zeros((0, 2)), np.zeros((0, 2, 2)), r"got \(0, 2\) and \(0, 2, 2\)"),
    ],
)
def test_moments_that_make_no_sense_are_refused(method: Any, mean: Any, covariance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_weights(mean, covariance, method=method)


def test_rounding_below_zero_and_off_symmetry_is_accepted() -> None:
    covariance = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-14]])
    covariance[0, 1] += 1e-15
    assert solve_weights([1.0, 1.0], covariance).weights.sum() == pytest.approx(1)


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    wrong: Any = "esbrs_ration"
    with pytest.raises(ValueError, match="method must be one of uniform, esbrs_ratio, esbrs_paper, got 'esbrs_ration'"):
        solve_weights([1.0, 1.0], np.eye(2), method=wrong)


def test_the_ratio_of_a_combination_without_variance_is_infinite() -> None:
    assert ratio([0.5, 0.5], np.ones(2), np.array([[1.0, -1.0], [-1.0, 1.0]])) == np.inf


def test_arguments_are_left_as_they_are() -> None:
    mean, covariance = problem(0, 3, pairs=2)
    before = mean.copy(), covariance.copy()
    solve_weights(mean, covariance)
    assert np.array_equal(mean, before[0])
    assert np.array_equal(covariance, before[1])


@pytest.mark.parametrize("k", [30, 100])
def test_many_members_are_no_obstacle(k: int) -> None:
    solution = solve_weights(*problem(0, k))
    assert solution.gap <= 1e-5
    assert solution.objective > solution.uniform_objective

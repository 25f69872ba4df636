"""Weights of an ensemble from the moments of its members' margins, as convex programs.

With member margins z of mean mu and covariance S, the ensemble w has margin w'z of mean w'mu and variance w'Sw.
The theory, and why the published closed form is not used as printed, is in `pipelines/studies/README.md`.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import FloatArray
from rspipe.errors import SolverError, needs_extra

Method = Literal["uniform", "esbrs_ratio", "esbrs_paper"]


_SOLVERS = ("CLARABEL", "OSQP", "SCS")
"""Of different kinds: interior points, alternating directions with a polished active set, and without."""

_GAP = 1e-6
"""A solution that is further from optimal is given to the next solver."""

_LARGEST_GAP = 1e-4
"""Further from optimal than this none is believed."""

# In units of the members' own variances and deviations. Below them a solver cannot tell numbers from zero.
_ZERO_VARIANCE = 1e-7

_SMALLEST_UNIT = 1e-6


@dataclass(frozen=True)
class WeightSolution:
    """Weights on the simplex, with the evidence that they are optimal."""

    weights: FloatArray
    """[k], non-negative, sum 1."""
    objective: float
    """`esbrs_ratio` and `uniform`: w'mu / sqrt(w'Sw), larger is better. `esbrs_paper`: w'Sw, smaller is better."""
    uniform_objective: float
    """The same at uniform weights."""
    status: str
    """The solver's word; "closed form" where none was needed."""
    solver: str
    gap: float
    """Relative Frank-Wolfe gap of the quadratic program: a bound on how far its value is from the optimum. Other
    programs say in their place what theirs is."""


def _solve_with(solver: str, covariance: FloatArray, constraint: FloatArray) -> tuple[FloatArray, str]:
    """Return y >= 0 that minimizes y'Sy subject to constraint'y = 1, with the solver's status.

    Raises:
        SolverError: The solver has no solution.
        MissingPackageError: cvxpy is not installed.
    """
    with needs_extra("rspipe.solve_weights"):
        import cvxpy as cp

    y = cp.Variable(len(constraint), nonneg=True)
    # Half the time of a sum of squares; rounding may have taken the smallest eigenvalue below 0.
    problem = cp.Problem(cp.Minimize(cp.quad_form(y, cp.psd_wrap(covariance))), [constraint @ y == 1])
    try:
        with warnings.catch_warnings():
            # How inaccurate a solution is, is computed below.
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=solver)
    except cp.SolverError as error:
        raise SolverError(f"{solver}: {error}") from error
    if problem.status not in ("optimal", "optimal_inaccurate") or y.value is None:
        raise SolverError(f"{solver}: {problem.status}")
    solved = np.maximum(np.asarray(y.value, dtype=np.float64), 0.0)
    if not constraint @ solved > 0:
        raise SolverError(f"{solver}: {problem.status}, but no weights")
    return solved / (constraint @ solved), str(problem.status)


@dataclass(frozen=True)
class _QpSolution:
    y: FloatArray
    status: str
    solver: str
    gap: float


def _solve_qp(covariance: FloatArray, constraint: FloatArray) -> _QpSolution:
    """Return y >= 0 that minimizes y'Sy subject to constraint'y = 1: of the first solver that gets close enough.

    Where none does, the closest is returned.

    Raises:
        SolverError: Every solver failed, or the closest is too far from optimal to be believed.
    """
    failures: list[str] = []
    solutions: list[_QpSolution] = []
    for solver in _SOLVERS:
        try:
            y, status = _solve_with(solver, covariance, constraint)
        except SolverError as error:
            failures.append(str(error))
            continue
        solutions.append(_QpSolution(y, status, solver, _gap(y, covariance, constraint)))
        if solutions[-1].gap <= _GAP:
            break
        failures.append(f"{solver}: {status}, but {solutions[-1].gap:.1e} from optimal")
    best = min(solutions, key=lambda one: one.gap, default=None)
    if best is None or not best.gap <= _LARGEST_GAP:
        raise SolverError(f"no solver found weights ({'; '.join(failures)}); drop duplicate or constant members")
    return best


def _gap(y: FloatArray, covariance: FloatArray, constraint: FloatArray) -> float:
    """Return the relative Frank-Wolfe gap of y'Sy at y >= 0 with constraint'y = 1.

    With theta = min over l with c_l > 0 of (Sy)_l / c_l and Sy - theta c >= 0 everywhere, convexity gives
    y*'Sy* >= y'Sy + 2 (Sy)'(y* - y) >= 2 theta - y'Sy at the optimum y*: it is at most 2 (y'Sy - theta) lower.
    A member with c_l <= 0 may violate Sy - theta c >= 0 by rounding, v; that adds 2 v 1'y*, for which 2 v 1'y stands.
    The gap is 0 where the members cancel each other's noise: no variance is left to lower.
    """
    gradient = covariance @ y
    value = float(y @ gradient)
    if value <= _ZERO_VARIANCE * np.trace(covariance) * (y @ y):
        return 0.0
    positive = constraint > 0
    theta = float(np.min(gradient[positive] / constraint[positive]))
    violated = float(np.max(theta * constraint - gradient, initial=0.0))
    return max(0.0, 2 * (value - theta + violated * float(y.sum())) / value)


def check_moments(mean: ArrayLike, covariance: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return mean margins [pair, k] and covariances [pair, k, k] as float64, of one pair or of several.

    Raises:
        ValueError: Shapes do not fit, or values cannot be moments. Whether covariances are symmetric and positive
            semi-definite is checked of their average over pairs.
    """
    mu, s = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if mu.ndim == 1:
        mu, s = mu[None], s[None]
    if mu.ndim != 2 or s.shape != (*mu.shape, mu.shape[1]) or mu.size == 0:
        raise ValueError(
            f"mean must be [k] or [pair, k] and covariance [k, k] or [pair, k, k], "
            f"got {np.shape(mean)} and {np.shape(covariance)}"
        )
    # NaN and infinity survive in an average, as does what is not symmetric.
    pooled = s.mean(0)
    if not (np.all(np.isfinite(mu)) and np.all(np.isfinite(pooled))):
        raise ValueError("mean and covariance must be finite; a member returned NaN or infinity")
    scale = np.abs(pooled).max()
    if np.abs(pooled - pooled.T).max() > 1e-9 * max(scale, 1e-300):
        raise ValueError("covariance must be symmetric")
    if np.linalg.eigvalsh(pooled).min() < -1e-8 * scale:
        raise ValueError("covariance must be positive semi-definite")
    return mu, s


def member_units(covariance: FloatArray) -> FloatArray:
    """Return [k] each member's standard deviation, no less than a millionth of the largest; 1 without any."""
    deviation: FloatArray = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    largest = deviation.max()
    return np.maximum(deviation, _SMALLEST_UNIT * largest) if largest > 0 else np.ones(len(deviation))


def ratio(weights: ArrayLike, mean: FloatArray, covariance: FloatArray) -> float:
    """Return w'mu / sqrt(w'Sw) for weights [k], mean [k] and covariance [k, k]; infinite where the variance is 0."""
    w = np.asarray(weights, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounding may leave a vanishing variance below 0.
        return float((w @ mean) / np.sqrt(np.maximum(w @ covariance @ w, 0.0)))


def solve_weights(mean: ArrayLike, covariance: ArrayLike, *, method: Method = "esbrs_ratio") -> WeightSolution:
    """Return the weights of an ensemble.

    * `uniform`: 1 / k.
    * `esbrs_ratio`: maximizes the pooled ratio w'mu / sqrt(w'Sw), mu and S averaged over pairs. Quasi-convex, solved
      exactly as the QP  min y'Sy, mu'y = 1, y >= 0, w = y / sum(y).
    * `esbrs_paper`: objective (8) of Liu et al. 2023,  min w' (sum_p S_p / e_p^2) w  with e_p = min_l mu_p^l, for
      any k. Pairs with e_p <= 0, where the objective has no meaning, are left out. Its closed form for k = 2 has
      sign errors in print; the QP needs none.

    Args:
        mean: Mean margins, [k] or [pair, k].
        covariance: Their covariances, [k, k] or [pair, k, k], symmetric positive semi-definite.
        method: Which of the above.

    Raises:
        ValueError: Shapes or values are wrong, or no member (`esbrs_ratio`) or pair (`esbrs_paper`) has a positive
            mean margin.
        SolverError: No solver found a solution.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    mu, s = check_moments(mean, covariance)
    k = mu.shape[1]
    uniform = np.full(k, 1 / k)
    if method == "esbrs_paper":
        weakest = mu.min(1)
        usable = weakest > 0
        if not usable.any():
            raise ValueError("no pair in which every member has a positive mean margin; use method='esbrs_ratio'")
        constraint = np.ones(k)
        quadratic = np.einsum("p,pkl->kl", weakest[usable] ** -2.0, s[usable])

        def objective(w: FloatArray) -> float:
            return float(w @ quadratic @ w)
    else:
        constraint, quadratic = mu.mean(0), s.mean(0)
        if method == "esbrs_ratio" and not (constraint > 0).any():
            raise ValueError("no member has a positive mean margin; these models do not classify the weight images")

        def objective(w: FloatArray) -> float:
            return ratio(w, constraint, quadratic)

    if method == "uniform" or k == 1:
        return WeightSolution(uniform, objective(uniform), objective(uniform), "closed form", "none", 0.0)
    if not np.trace(quadratic) > 0:
        # Without noise every mean with constraint'w > 0 is as good as any other.
        weights = (constraint > 0) / np.count_nonzero(constraint > 0)
        return WeightSolution(weights, objective(weights), objective(uniform), "closed form", "none", 0.0)
    # Solved in units of each member's standard deviation: members of different scales leave it well-conditioned.
    unit = member_units(quadratic)
    scaled = constraint / unit
    scaled = scaled / scaled.max()
    correlation = quadratic / np.outer(unit, unit)
    optimum = _solve_qp(correlation, scaled)
    weights = optimum.y / unit
    weights = weights / weights.sum()
    return WeightSolution(weights, objective(weights), objective(uniform), optimum.status, optimum.solver, optimum.gap)

"""The quadratic program of weights: y >= 0 of least y'Sy with constraint'y = 1, and w = y / sum(y)."""

import warnings
from dataclasses import dataclass

import numpy as np

from rspipe.arrays import FloatArray
from rspipe.errors import SolverError, needs_extra

_SOLVERS = ("CLARABEL", "OSQP", "SCS")
"""Of different kinds: interior points, alternating directions with a polished active set, and without."""

_GAP = 1e-6
"""A solution that is further from optimal is given to the next solver."""

_LARGEST_GAP = 1e-4
"""Further from optimal than this none is believed."""

# In units of the members' own variances and deviations. Below them a solver cannot tell numbers from zero.
_ZERO_VARIANCE = 1e-7

_SMALLEST_UNIT = 1e-6


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


def member_units(covariance: FloatArray) -> FloatArray:
    """Return [k] each member's standard deviation, no less than a millionth of the largest; 1 without any."""
    deviation: FloatArray = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    largest = deviation.max()
    return np.maximum(deviation, _SMALLEST_UNIT * largest) if largest > 0 else np.ones(len(deviation))


@dataclass(frozen=True)
class LeastVariance:
    """Weights on the simplex of least w'Sw / (c'w)^2, with the evidence that they are optimal."""

    weights: FloatArray
    """[k]."""
    status: str
    solver: str
    gap: float


def least_variance(covariance: FloatArray, constraint: FloatArray) -> LeastVariance:
    """Return the weights of least variance w'Sw in units of c'w, of which some entry of c [k] is positive.

    Solved in units of each member's standard deviation: members of different scales leave it well-conditioned.

    Raises:
        SolverError: No solver found a solution.
    """
    k = len(constraint)
    if k == 1 or not np.trace(covariance) > 0:
        # Without noise every mean with constraint'w > 0 is as good as any other.
        weights = (constraint > 0) / np.count_nonzero(constraint > 0)
        return LeastVariance(weights, "closed form", "none", 0.0)
    unit = member_units(covariance)
    scaled = constraint / unit
    optimum = _solve_qp(covariance / np.outer(unit, unit), scaled / scaled.max())
    weights = optimum.y / unit
    return LeastVariance(weights / weights.sum(), optimum.status, optimum.solver, optimum.gap)


def least_on_simplex(quadratic: FloatArray) -> FloatArray:
    """Return [k] the minimizer of w'Qw on the simplex, quickly and without a gap: for resamples.

    Of y >= 0 with least y'Qy + (1'y - 1)^2, for any sum of y the first term alone decides its direction, so that
    w = y / sum(y) is exact. It is a least squares problem of k + 1 rows.

    Raises:
        SolverError: It has no solution.
    """
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(quadratic)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    k = len(quadratic)
    try:
        y, _ = nnls(np.vstack([root, np.ones(k)]), np.append(np.zeros(k), 1.0), maxiter=30 * k)
    except RuntimeError as error:
        raise SolverError(f"no least squares solution of the weights ({error}); drop duplicate members") from error
    return np.asarray(y / y.sum(), dtype=np.float64)

"""Weights of least log-loss under noise (SWEEN, Liu et al. 2020): convex, and solved to a gap that bounds the error."""

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import FloatArray
from rspipe.ensembles.weights import WeightSolution
from rspipe.errors import SolverError

_SMALLEST_PROBABILITY = 1e-20

_GAP = 1e-7

_NEWTON_STEPS = 60

_EM_STEPS = 3000

_HALVINGS = 12


def _log_loss(weights: FloatArray, q: FloatArray) -> float:
    return float(-np.log(q @ weights).mean())


def _responsibility(weights: FloatArray, q: FloatArray) -> FloatArray:
    """Return [k] mean of q_l / w'q, the negative gradient of the log-loss: at the optimum 1 for members with weight."""
    return np.asarray((1 / (q @ weights)) @ q / len(q), dtype=np.float64)


def _newton(weights: FloatArray, q: FloatArray) -> FloatArray:
    """Minimize the log-loss by sequential quadratic programs over y >= 0, each a non-negative least squares problem.

    With sum(w) added to it the log-loss has its minimum over w >= 0 on the simplex, as it falls by log(c) when w grows
    by c (Kim et al. 2020, "A fast algorithm for maximum likelihood estimation of mixture proportions").
    """
    from scipy.optimize import nnls

    k = q.shape[1]
    for _ in range(_NEWTON_STEPS):
        inverse = 1 / (q @ weights)
        descent = inverse @ q / len(q)
        if descent.max() - 1 <= _GAP:
            break
        scaled = q * inverse[:, None]
        hessian = scaled.T @ scaled / len(q)
        try:
            # Members that are alike leave it singular.
            factor = np.linalg.cholesky(hessian + 1e-10 * np.trace(hessian) / k * np.eye(k))
            target, _ = nnls(factor.T, np.linalg.solve(factor, hessian @ weights + descent - 1))
        except (np.linalg.LinAlgError, RuntimeError):
            # What there is, expectation maximization improves.
            break
        if not target.sum() > 0:
            break
        direction, before = target / target.sum() - weights, _log_loss(weights, q)
        for halving in range(_HALVINGS):
            moved = np.maximum(weights + 0.5**halving * direction, 0.0)
            # What leaves a sample without probability has an infinite loss, which is no descent.
            if np.all(q @ moved > 0) and _log_loss(moved / moved.sum(), q) < before:
                break
        else:
            break
        weights = moved / moved.sum()
    return weights


def _expectation_maximization(weights: FloatArray, q: FloatArray) -> FloatArray:
    """Minimize the log-loss by w_l <- w_l mean(q_l / w'q): monotone, but slow."""
    for _ in range(_EM_STEPS):
        responsibility = _responsibility(weights, q)
        if responsibility.max() - 1 <= _GAP:
            break
        weights = weights * responsibility
        weights = weights / weights.sum()
    return weights


def solve_sween(label_probability: ArrayLike, *, largest_gap: float = 1e-4) -> WeightSolution:
    """Return the weights w that minimize -mean log(w'q), q being the members' probabilities of the true class.

    Solved by Newton's method on active sets; where that ends short of the optimum, expectation maximization goes on.
    The objective is the log-loss, smaller is better, and the gap max_l mean(q_l / w'q) - 1 bounds how far it is above
    the smallest, in nats (the Frank-Wolfe gap of a convex function).

    Args:
        label_probability: Probabilities of the label under noise, [..., k]; the last axis are the members.
        largest_gap: A solution further from the optimum is refused.

    Raises:
        ValueError: There are no samples, or a probability lies outside [0, 1].
        SolverError: The gap stays too large.
    """
    q = np.asarray(label_probability, dtype=np.float64)
    if q.ndim < 2 or q.size == 0:
        raise ValueError(f"label_probability must be [..., k] with samples, got {q.shape}")
    q = q.reshape(-1, q.shape[-1])
    # Written so that a NaN fails, too.
    if not (q.min() >= 0 and q.max() <= 1 + 1e-6):
        raise ValueError("label_probability must lie in [0, 1]; a member returned NaN or no probabilities")
    q = np.maximum(q, _SMALLEST_PROBABILITY)
    k = q.shape[1]
    uniform = np.full(k, 1 / k)
    at_uniform = _log_loss(uniform, q)
    if k == 1:
        return WeightSolution(uniform, at_uniform, at_uniform, "closed form", "none", 0.0)
    weights, solver = _newton(uniform, q), "Newton"
    gap = float(_responsibility(weights, q).max() - 1)
    if gap > _GAP:
        weights, solver = _expectation_maximization(0.999 * weights + 0.001 * uniform, q), "expectation maximization"
        gap = float(_responsibility(weights, q).max() - 1)
    if not gap <= largest_gap:
        raise SolverError(f"{solver} ended {gap:.1e} from optimal; drop members that are alike")
    return WeightSolution(weights, _log_loss(weights, q), at_uniform, "optimal", solver, max(gap, 0.0))

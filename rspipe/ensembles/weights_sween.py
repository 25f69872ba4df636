"""Weights of least log-loss under noise (SWEEN, Liu et al. 2020): convex, and solved to a gap that bounds the error."""

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import FloatArray
from rspipe.ensembles.weights import WeightSolution
from rspipe.errors import SolverError

_SMALLEST_PROBABILITY = 1e-20

_SMALLEST_WEIGHT = 1e-10
"""While solving: the slope of the log-loss stays finite where a single member gives the label any probability."""

_STEPS = 500


def _log_loss(weights: FloatArray, q: FloatArray) -> float:
    return float(-np.log(q @ weights).mean())


def _gap(weights: FloatArray, q: FloatArray) -> float:
    """Return max_l mean(q_l / w'q) - 1, the Frank-Wolfe gap: the log-loss is at most so far above the smallest."""
    return float(((1 / (q @ weights)) @ q / len(q)).max() - 1)


def _minimize(q: FloatArray) -> FloatArray:
    """Return the weights of least log-loss as SLSQP finds them.

    With sum(w) added to it the log-loss has its minimum over w >= 0 on the simplex, as it falls by log(c) when w grows
    by c (Kim et al. 2020, "A fast algorithm for maximum likelihood estimation of mixture proportions").
    """
    from scipy.optimize import minimize

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        mixture = q @ w
        return float(w.sum() - np.log(mixture).mean()), 1 - (1 / mixture) @ q / len(q)

    k = q.shape[1]
    solved = minimize(
        loss,
        np.full(k, 1 / k),
        jac=True,
        method="SLSQP",
        bounds=[(_SMALLEST_WEIGHT, 1.0)] * k,
        options={"ftol": 1e-14, "maxiter": _STEPS},
    )
    weights = np.where(solved.x > _SMALLEST_WEIGHT, solved.x, 0.0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def solve_sween(label_probability: ArrayLike, *, largest_gap: float = 1e-4) -> WeightSolution:
    """Return the weights w that minimize -mean log(w'q), q being the members' probabilities of the true class.

    The objective is the log-loss, smaller is better, and the gap max_l mean(q_l / w'q) - 1 bounds how far it is above
    the smallest, in nats (the Frank-Wolfe gap of a convex function).

    Args:
        label_probability: Probabilities of the label under noise, [..., k]; the last axis are the members.
        largest_gap: A solution further from the optimum is refused.

    Raises:
        ValueError: There are no samples, or a probability lies outside [0, 1].
        SolverError: The gap is too large.
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
    weights = _minimize(q)
    gap = _gap(weights, q)
    if not gap <= largest_gap:
        raise SolverError(f"SLSQP ended {gap:.1e} from optimal; drop members that are alike")
    return WeightSolution(weights, _log_loss(weights, q), at_uniform, "optimal", "SLSQP", max(gap, 0.0))

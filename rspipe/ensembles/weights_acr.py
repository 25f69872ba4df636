"""Weights that maximize the ACR which the ensemble would have if its margins were Gaussian.

With margins of mean mu and covariance S of every image i and competitor c, t_ic(w) = w'mu / sqrt(w'Sw) and

    ACR / sigma = mean_i clip(min_c t_ic(w), 0, cap).

A mean of ratios is not concave: what is found is a local maximum, and the stationarity gap says how well it is one.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import BoolArray, FloatArray
from rspipe.ensembles.moments import runner_up_pairs
from rspipe.ensembles.quadratic_program import member_units
from rspipe.ensembles.weights import WeightSolution, check_moments, solve_weights
from rspipe.errors import SolverError

_TOLERANCE = 1e-5
"""Relative stationarity gap at which the ascent ends."""

_STEPS = 200

_SMALLEST_TRUST = 1e-9

_ALONE = 8
"""Single members that an ascent starts from, at most: each costs as much as the other starts together."""

_LP_SOLVERS = ("highs", "highs-ds", "highs-ipm")
"""HiGHS's own choice, then its simplex and its interior points, should one fail."""


def margin_ratios(weights: ArrayLike, mean: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return t = w'mu / sqrt(w'Sw) [...] and its gradient [..., k], for mean [..., k] and covariance [..., k, k].

    Where nothing varies, t is infinite (0 without a positive mean) and the gradient 0.
    """
    w = np.asarray(weights, dtype=np.float64)
    # Written as matrix-vector products: numpy's einsum is several times as slow.
    product = covariance @ w
    margin, deviation = mean @ w, np.sqrt(np.maximum(product @ w, 0.0))
    varies = deviation > 0
    inverse = 1 / np.where(varies, deviation, 1.0)
    t = np.where(varies, margin * inverse, np.where(margin > 0, np.inf, 0.0))
    gradient = (mean - product * (margin * inverse**2)[..., None]) * (varies * inverse)[..., None]
    return t, gradient


def clipped_ratio(mean: FloatArray, variance: FloatArray, *, cap: float) -> FloatArray:
    """Return [image] clip(min_c mean / sqrt(variance), 0, cap) of margins [image, competitor]."""
    deviation = np.sqrt(np.maximum(variance, 0.0))
    varies = deviation > 0
    t = np.where(varies, mean / np.where(varies, deviation, 1.0), np.where(mean > 0, np.inf, 0.0))
    return np.asarray(np.clip(t.min(1), 0.0, cap), dtype=np.float64)


def gaussian_radii(weights: ArrayLike, mean: FloatArray, covariance: FloatArray, *, cap: float) -> FloatArray:
    """Return [image] radii in units of sigma if margins were Gaussian: clip(min_c w'mu / sqrt(w'Sw), 0, cap).

    Args:
        weights: [k].
        mean: Mean margins, [image, competitor, k].
        covariance: [image, competitor, k, k].
        cap: Largest radius that the samples of a certificate can prove, in units of sigma.
    """
    w = np.asarray(weights, dtype=np.float64)
    return clipped_ratio(mean @ w, covariance @ w @ w, cap=cap)


@dataclass(frozen=True)
class _Step:
    """The maximizer of the linearized objective within a box around weights."""

    weights: FloatArray
    increase: float
    """Of the linearized objective, a sum over images."""


def _needed(t: FloatArray, reach: FloatArray, cap: float) -> BoolArray:
    """Return [image, competitor] which t +- reach can be an image's minimum below the cap."""
    lowest_possible = np.minimum((t + reach).min(1), cap)
    return np.asarray(t - reach < lowest_possible[:, None], dtype=np.bool_)


def _linear_step(weights: FloatArray, t: FloatArray, gradient: FloatArray, *, cap: float, trust: float) -> _Step:
    """Maximize sum_i min(cap, min_c t_ic + g_ic'd) over w + d on the simplex with |d_l| <= trust: a linear program.

    Images whose radius is 0 are constants, as is the objective around them. Competitors that cannot become an
    image's strongest within the box are left out, and images for which that leaves one line below the cap need no
    variable of their own.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    k = len(weights)
    live = t.min(1) > 0
    t, gradient = t[live], gradient[live]
    half = (gradient.max(2) - gradient.min(2)) / 2
    reach = half * min(2.0, k * trust)
    needed = _needed(t, reach, cap)
    linear = (needed.sum(1) == 1) & ((t + reach).min(1) <= cap)
    rows = np.nonzero(needed & ~linear[:, None])
    images, place = np.unique(rows[0], return_inverse=True)
    slope = gradient[needed & linear[:, None]].sum(0) if linear.any() else np.zeros(k)
    matrix = None
    if len(place):
        # Of u_i - g_ic'd <= t_ic, with d before u.
        entries = np.column_stack([-gradient[rows], np.ones(len(place))])
        columns = np.column_stack([np.broadcast_to(np.arange(k), (len(place), k)), k + place])
        ends = (k + 1) * np.arange(len(place) + 1)
        matrix = csr_array((entries.ravel(), columns.ravel(), ends), shape=(len(place), k + len(images)))
        matrix.eliminate_zeros()
    lower = np.concatenate([np.maximum(-weights, -trust), np.full(len(images), -np.inf)])
    upper = np.concatenate([np.minimum(1 - weights, trust), np.full(len(images), cap)])
    program = {
        "c": np.concatenate([-slope, -np.ones(len(images))]),
        "A_ub": matrix,
        "b_ub": t[rows] if len(place) else None,
        "A_eq": np.concatenate([np.ones(k), np.zeros(len(images))])[None],
        "b_eq": [0.0],
        "bounds": np.stack([lower, upper], axis=1),
    }
    for solver in _LP_SOLVERS:
        solved = linprog(**program, method=solver)  # type: ignore[call-overload]
        if solved.x is not None:
            break
    else:
        raise SolverError(f"HiGHS found no step: {solved.message.strip()}; rescale the margins")
    before = float(np.minimum(t[images].min(1), cap).sum())
    moved = np.maximum(weights + solved.x[:k], 0.0)
    return _Step(moved / moved.sum(), float(-solved.fun - before))


def _ascend(start: FloatArray, mean: FloatArray, covariance: FloatArray, *, cap: float) -> tuple[FloatArray, float]:
    """Return weights and objective (a sum) from which no step within the smallest box is known to rise.

    Every accepted step raises the objective: the ascent is monotone.
    """
    w, trust = start, 0.1
    t, gradient = margin_ratios(w, mean, covariance)
    value = float(np.clip(t.min(1), 0.0, cap).sum())
    for _ in range(_STEPS):
        step = _linear_step(w, t, gradient, cap=cap, trust=trust)
        # The linearized objective is concave: its increase within the whole simplex is at most this much.
        if step.increase <= _TOLERANCE * value * min(trust, 1.0) or trust < _SMALLEST_TRUST:
            break
        after_t, after_gradient = margin_ratios(step.weights, mean, covariance)
        after = float(np.clip(after_t.min(1), 0.0, cap).sum())
        success = (after - value) / step.increase
        if success > 0.1:
            w, t, gradient, value = step.weights, after_t, after_gradient, after
        trust = min(1.0, 2 * trust) if success > 0.7 else trust if success > 0.3 else trust / 3
    return w, value


def _starts(mean: FloatArray, covariance: FloatArray, unit: FloatArray, *, cap: float) -> list[FloatArray]:
    """Return weights uniform in the members' units, uniform weights, members alone, and the pooled ratio's, if any.

    Alone, a member may be better than what an ascent from amidst the members ends with.
    """
    k, pairs = mean.shape[-1], runner_up_pairs(mean, covariance)
    alone = sorted(np.eye(k), key=lambda one: -gaussian_radii(one, mean, covariance, cap=cap).mean())
    starts = [1 / unit / (1 / unit).sum(), np.full(k, 1 / k), *alone[:_ALONE]]
    if len(pairs.mean):
        with suppress(ValueError, SolverError):
            starts.append(solve_weights(pairs.mean, pairs.covariance, method="esbrs_ratio").weights)
    return starts


def solve_acr(mean: ArrayLike, covariance: ArrayLike, *, cap: float) -> WeightSolution:
    """Return weights that locally maximize the ACR, in units of sigma, of Gaussian margins.

    Sequential linear programs: each maximizes the objective with every ratio linearized (the minimum over competitors
    and the cap stay as they are) within a box, and is accepted only where the objective itself rises. Starts are
    uniform weights, as they are and in units of each member's deviation, each member alone (of many the eight best),
    and the weights of `esbrs_ratio`; the best end is returned. Scaling a member's margins does not change what the
    best ensemble is.

    The gap is how much the linearized objective could still rise anywhere on the simplex, relatively: 0 at a
    stationary point. It bounds nothing beyond: the optimum is a local one.

    Args:
        mean: Mean margins of the label over each competitor, [image, competitor, k].
        covariance: [image, competitor, k, k], symmetric positive semi-definite.
        cap: Largest radius that the samples of a certificate can prove, in units of sigma.

    Raises:
        ValueError: Shapes or values are wrong, or no start gets an image right.
        SolverError: A linear program has no solution.
    """
    mu, s = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if mu.ndim != 3 or s.shape != (*mu.shape, mu.shape[2]) or mu.size == 0:
        raise ValueError(
            f"mean must be [image, competitor, k] and covariance [image, competitor, k, k], got {mu.shape}, {s.shape}"
        )
    if not (cap > 0 and np.isfinite(cap)):
        raise ValueError(f"cap must be positive, got {cap}")
    images, _, k = mu.shape
    check_moments(mu, s)
    uniform = np.full(k, 1 / k)
    at_uniform = float(gaussian_radii(uniform, mu, s, cap=cap).mean())
    if k == 1:
        return WeightSolution(uniform, at_uniform, at_uniform, "closed form", "none", 0.0)
    # In units of each member's deviation, on whose scale the box and the linearization make sense.
    unit = member_units(s.reshape(-1, k, k).mean(0))
    scaled, correlation = mu / unit, s / np.outer(unit, unit)
    ends = []
    for start in _starts(mu, s, unit, cap=cap):
        scaled_start = start * unit / (start @ unit)
        if gaussian_radii(scaled_start, scaled, correlation, cap=cap).any():
            ends.append(_ascend(scaled_start, scaled, correlation, cap=cap))
    if not ends:
        raise ValueError("no calibration image is classified correctly; these models do not classify them")
    y, value = max(ends, key=lambda end: end[1])
    t, gradient = margin_ratios(y, scaled, correlation)
    gap = max(0.0, _linear_step(y, t, gradient, cap=cap, trust=1.0).increase) / value
    weights = y / unit
    weights = weights / weights.sum()
    if value < images * at_uniform:
        weights, value = uniform, images * at_uniform
    return WeightSolution(weights, value / images, at_uniform, "local optimum", "sequential HiGHS", gap)

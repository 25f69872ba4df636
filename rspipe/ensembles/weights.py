"""Weights of an ensemble from the moments of its members' margins, as convex programs.

With member margins z of mean mu and covariance S, the ensemble w has margin w'z of mean w'mu and variance w'Sw.
The theory, and why the published closed form is not used as printed, is in `pipelines/studies/README.md`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import FloatArray
from rspipe.ensembles.paper_objective import PaperObjective, paper_objective, weight_spread
from rspipe.ensembles.quadratic_program import least_variance

Method = Literal["uniform", "esbrs_ratio", "esbrs_paper"]


@dataclass(frozen=True)
class WeightSolution:
    """Weights on the simplex, with the evidence that they are optimal."""

    weights: FloatArray
    """[k], non-negative, sum 1."""
    objective: float
    """`esbrs_ratio` and `uniform`: w'mu / sqrt(w'Sw), larger is better. `esbrs_paper`: the bound in units of a single
    member's, smaller is better."""
    uniform_objective: float
    """The same at uniform weights."""
    status: str
    """The solver's word; "closed form" where none was needed."""
    solver: str
    gap: float
    """Relative Frank-Wolfe gap of the quadratic program: a bound on how far its value is from the optimum. Other
    programs say in their place what theirs is."""
    pairs: int | None = None
    """Pairs of image and competitor that `esbrs_paper` rests on; None of other programs, as below."""
    effective_pairs: float | None = None
    """How many pairs of equal influence they amount to (`rspipe.ensembles.paper_objective`)."""
    spread: FloatArray | None = None
    """[k] standard deviations of the weights for the choice of images, by bootstrap; None of a single image."""


def check_moments(mean: ArrayLike, covariance: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return mean margins [..., k] and covariances [..., k, k] of pairs as float64; of one pair, with an axis before.

    Raises:
        ValueError: Shapes do not fit, or values cannot be moments. Whether covariances are symmetric and positive
            semi-definite is checked of their average over pairs.
    """
    mu, s = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if mu.ndim == 1:
        mu, s = mu[None], s[None]
    if mu.ndim not in (2, 3) or s.shape != (*mu.shape, mu.shape[-1]) or mu.size == 0:
        raise ValueError(
            "mean must be [k], [pair, k] or [image, competitor, k] and covariance have another axis [k], "
            f"got {np.shape(mean)} and {np.shape(covariance)}"
        )
    # NaN and infinity survive in an average, as does what is not symmetric.
    pooled = s.mean(tuple(range(s.ndim - 2)))
    if not (np.all(np.isfinite(mu)) and np.all(np.isfinite(pooled))):
        raise ValueError("mean and covariance must be finite; a member returned NaN or infinity")
    scale = np.abs(pooled).max()
    if np.abs(pooled - pooled.T).max() > 1e-9 * max(scale, 1e-300):
        raise ValueError("covariance must be symmetric")
    if np.linalg.eigvalsh(pooled).min() < -1e-8 * scale:
        raise ValueError("covariance must be positive semi-definite")
    return mu, s


def ratio(weights: ArrayLike, mean: FloatArray, covariance: FloatArray) -> float:
    """Return w'mu / sqrt(w'Sw) for weights [k], mean [k] and covariance [k, k]; infinite where the variance is 0."""
    w = np.asarray(weights, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounding may leave a vanishing variance below 0.
        return float((w @ mean) / np.sqrt(np.maximum(w @ covariance @ w, 0.0)))


def solve_weights(
    mean: ArrayLike, covariance: ArrayLike, *, method: Method = "esbrs_ratio", draws: float = np.inf
) -> WeightSolution:
    """Return the weights of an ensemble.

    * `uniform`: 1 / k.
    * `esbrs_ratio`: maximizes the pooled ratio w'mu / sqrt(w'Sw), mu and S averaged over pairs. Quasi-convex, solved
      exactly as the QP  min y'Sy, mu'y = 1, y >= 0, w = y / sum(y).
    * `esbrs_paper`: objective (8) of Liu et al. 2023,  min w' (sum_p S_p / e_p^2) w  with e_p = min_l mu_p^l, for
      any k: the sum is over the pairs of an image, and each image counts the same. Pairs of which its bound says
      nothing are left out (`rspipe.ensembles.paper_objective`). Its closed form for k = 2 has sign errors in print;
      the QP needs none.

    Args:
        mean: Mean margins, [k] or [pair, k]; [image, competitor, k] where the images count, without which pairs are
            those of one image.
        covariance: Their covariances, [k, k], [pair, k, k] or [image, competitor, k, k], symmetric positive
            semi-definite.
        method: Which of the above.
        draws: Noise draws that each mean was estimated from, for `esbrs_paper`; moments are exact by default.

    Raises:
        ValueError: Shapes or values are wrong, or no member has a positive mean margin (`esbrs_ratio`) or no pair is
            left (`esbrs_paper`).
        SolverError: No solver found a solution.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    mu, s = check_moments(mean, covariance)
    if method == "esbrs_paper":
        # Pairs without images are those of one.
        of_image = (mu, s) if mu.ndim == 3 else (mu[None], s[None])
        return _solve_paper(paper_objective(*of_image, draws=draws))
    over = tuple(range(mu.ndim - 1))
    pooled, variance = mu.mean(over), s.mean(over)
    if method == "esbrs_ratio" and not (pooled > 0).any():
        raise ValueError("no member has a positive mean margin; these models do not classify the weight images")
    uniform = np.full(len(pooled), 1 / len(pooled))
    objective = partial(ratio, mean=pooled, covariance=variance)
    if method == "uniform":
        return WeightSolution(uniform, objective(uniform), objective(uniform), "closed form", "none", 0.0)
    best = least_variance(variance, pooled)
    return WeightSolution(best.weights, objective(best.weights), objective(uniform), best.status, best.solver, best.gap)


def _solve_paper(objective: PaperObjective) -> WeightSolution:
    pooled = objective.pooled
    k = len(pooled)
    best, uniform = least_variance(pooled, np.ones(k)), np.full(k, 1 / k)
    return WeightSolution(
        weights=best.weights,
        objective=float(best.weights @ pooled @ best.weights),
        uniform_objective=float(uniform @ pooled @ uniform),
        status=best.status,
        solver=best.solver,
        gap=best.gap,
        pairs=objective.pairs,
        effective_pairs=objective.effective_pairs,
        spread=weight_spread(objective),
    )

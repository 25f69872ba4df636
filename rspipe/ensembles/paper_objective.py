"""The paper's objective for weights, objective (8) of Liu et al. 2023, over many images.

At an image with margins over competitors c of mean mu_c and covariance S_c the paper minimizes w' Q w with
Q = sum_c S_c / e_c^2 and e_c = min_l mu_c^l: by Chebyshev's inequality and a union bound, w' S_c w / e_c^2 bounds the
probability that c wins, and the sum that of a wrong class. Here the same is asked of many images at once. Their Q have
the scale 1 / e^2 of their hardest pair, which for a mean margin near 0 is any; so each image counts the same,

    mean_i  w' Q_i w / (tr Q_i / k),

and pairs of which the bound says nothing are left out.
"""

from dataclasses import dataclass

import numpy as np

from rspipe.arrays import BoolArray, FloatArray
from rspipe.ensembles.quadratic_program import least_on_simplex
from rspipe.smoothing.metrics import resample_counts

_RESAMPLES = 200
"""Of the bootstrap: they know a standard deviation to 5 %."""


@dataclass(frozen=True)
class PaperObjective:
    """The quadratic forms of the images, and what they rest on."""

    quadratic: FloatArray
    """[image, k, k], of the images with a pair left; the mean of its diagonal is 1, or 0 where nothing varies."""
    pairs: int
    """Pairs of image and competitor that are left."""
    effective_pairs: float
    """(sum_p q_p)^2 / sum_p q_p^2 with q_p the share that pair p has in tr Q: all of them where each has the same, as
    many as there are images where one pair of each decides."""

    @property
    def pooled(self) -> FloatArray:
        """[k, k], the mean over images: w' pooled w is the objective."""
        return np.asarray(self.quadratic.mean(0), dtype=np.float64)


def _telling(mean: FloatArray, covariance: FloatArray, *, draws: float) -> BoolArray:
    """Return [image, competitor] of which pairs the bound says anything.

    The smallest mean margin e is more than two standard errors above 0, and of the average of all members Chebyshev's
    inequality bounds the probability that the competitor wins by less than 1: variance <= e^2.
    """
    weakest = mean.argmin(-1)[..., None]
    e = np.take_along_axis(mean, weakest, -1)[..., 0]
    variance = np.take_along_axis(np.diagonal(covariance, axis1=-2, axis2=-1), weakest, -1)[..., 0]
    error = np.sqrt(np.maximum(variance, 0.0) / draws)
    return np.asarray((e > 2 * error) & (e > 0) & (covariance.mean((-2, -1)) <= e**2), dtype=np.bool_)


def paper_objective(mean: FloatArray, covariance: FloatArray, *, draws: float) -> PaperObjective:
    """Return the paper's objective over images.

    Args:
        mean: Mean margins of the label, [image, competitor, k].
        covariance: [image, competitor, k, k].
        draws: Noise draws that each mean was estimated from; infinite where the moments are exact.

    Raises:
        ValueError: No pair is left.
    """
    telling = _telling(mean, covariance, draws=draws)
    images = telling.any(1)
    if not images.any():
        raise ValueError(
            "at no pair of image and competitor does Chebyshev's bound say anything (some member's mean margin is not "
            "above its error, or the variance exceeds its square); use method='esbrs_ratio'"
        )
    kept, inverse = telling[images], np.where(telling, mean.min(-1), np.inf)[images] ** -2.0
    terms = inverse[..., None, None] * covariance[images]
    size = np.trace(terms, axis1=-2, axis2=-1)
    total = size.sum(1, keepdims=True)
    share = np.divide(size, total, out=np.zeros_like(size), where=total > 0)
    k = mean.shape[-1]
    scale = np.divide(k, total[:, 0], out=np.zeros(len(total)), where=total[:, 0] > 0)
    squares = float((share**2).sum())
    return PaperObjective(
        quadratic=scale[:, None, None] * terms.sum(1),
        pairs=int(kept.sum()),
        effective_pairs=float(share.sum()) ** 2 / squares if squares else 0.0,
    )


def weight_spread(objective: PaperObjective) -> FloatArray | None:
    """Return [k] standard deviations of the best weights for the choice of images, by bootstrap; None for a single.

    Raises:
        SolverError: A resample has no weights.
    """
    images = len(objective.quadratic)
    if images < 2:
        return None
    counts = resample_counts(images)[:_RESAMPLES].astype(np.float64) / images
    pooled = np.tensordot(counts, objective.quadratic, axes=1)
    return np.asarray(np.std([least_on_simplex(one) for one in pooled], axis=0, ddof=1), dtype=np.float64)

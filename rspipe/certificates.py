"""Statistics of randomized smoothing: from class counts to predictions, probability bounds and certified radii.

CERTIFY and PREDICT are those of Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binomtest, norm

from rspipe.smoothing import Stream, class_counts

ABSTAIN = -1

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")


def _check_counts(successes: ArrayLike, n: ArrayLike) -> tuple[IntArray, IntArray]:
    k, trials = np.broadcast_arrays(np.asarray(successes), np.asarray(n))
    if not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(trials.dtype, np.integer)):
        raise ValueError(f"successes and n must be whole numbers, got {k.dtype} and {trials.dtype}")
    if np.any(trials < 1):
        raise ValueError(f"n must be at least 1, got {trials.min()}")
    if np.any((k < 0) | (k > trials)):
        raise ValueError(f"successes must lie in [0, n], got {k[(k < 0) | (k > trials)].flat[0]}")
    # Narrow integers would overflow in sums.
    return k.astype(np.int64), trials.astype(np.int64)


def clopper_pearson_lower(successes: ArrayLike, n: ArrayLike, *, alpha: float) -> FloatArray:
    """Return the exact one-sided (1 - alpha) lower confidence bound on a binomial probability.

    Args:
        successes: Whole numbers in [0, n], any shape.
        n: Number of trials, broadcast against `successes`.
        alpha: Probability that the bound exceeds the truth, at most.

    Raises:
        ValueError: An argument is out of range.
    """
    _check_alpha(alpha)
    k, trials = _check_counts(successes, n)
    # With no success the exact bound is 0, where beta.ppf is nan.
    bound = beta.ppf(alpha, np.maximum(k, 1), trials - k + 1)
    return np.where(k > 0, bound, 0.0)


def clopper_pearson_upper(successes: ArrayLike, n: ArrayLike, *, alpha: float) -> FloatArray:
    """Return the exact one-sided (1 - alpha) upper confidence bound on a binomial probability.

    Arguments and errors are those of `clopper_pearson_lower`.
    """
    k, trials = _check_counts(successes, n)
    return 1.0 - clopper_pearson_lower(trials - k, trials, alpha=alpha)


def certified_radius(p_a_lower: ArrayLike, *, sigma: float) -> FloatArray:
    """Return the certified L2 radius sigma ndtri(p_a_lower), in pixel units; 0 where p_a_lower <= 1/2.

    Args:
        p_a_lower: Lower bounds on the probability of the top class, any shape.
        sigma: Standard deviation of the noise, in pixel units.

    Raises:
        ValueError: `sigma` is not positive or a bound lies outside [0, 1].
    """
    if not (sigma > 0 and np.isfinite(sigma)):
        raise ValueError(f"sigma must be positive, got {sigma}")
    bound = np.asarray(p_a_lower, dtype=np.float64)
    if not np.all((bound >= 0) & (bound <= 1)):
        raise ValueError("p_a_lower must lie in [0, 1]")
    return sigma * np.asarray(norm.ppf(np.maximum(bound, 0.5)), dtype=np.float64)


def radius_cap(*, sigma: float, n: int, alpha: float) -> float:
    """Return the largest radius that n samples can certify, in pixel units: all of them on one class."""
    return float(certified_radius(clopper_pearson_lower(n, n, alpha=alpha), sigma=sigma))


@dataclass(frozen=True)
class Certificates:
    """What CERTIFY says of many examples: arrays [...] of the same shape."""

    prediction: IntArray
    """The class, or ABSTAIN."""
    radius: FloatArray
    """Certified L2 radius in pixel units; 0 where abstained."""
    n_a: IntArray
    """Estimation samples that fell on the selected class."""
    p_a_lower: FloatArray


def certify_counts(selection: IntArray, estimation: IntArray, *, sigma: float, alpha: float) -> Certificates:
    """Return the certificates that class counts imply: CERTIFY without its sampling.

    The class is the largest of the selection counts (the lowest index on ties); its count among the estimation
    samples, which must be drawn independently of the selection samples, bounds its probability.

    Args:
        selection: [..., class] counts of n0 samples.
        estimation: [..., class] counts of n other samples; where n is 0 nothing is certified.
        sigma: Standard deviation of the noise, in pixel units.
        alpha: Failure probability of each certificate.
    """
    selected = selection.argmax(-1)
    n_a = np.take_along_axis(estimation, selected[..., None], -1)[..., 0]
    p_a_lower = clopper_pearson_lower(n_a, np.maximum(estimation.sum(-1), 1), alpha=alpha)
    return claims(selected, n_a, p_a_lower, sigma=sigma)


def claims(selected: IntArray, n_a: IntArray, p_a_lower: FloatArray, *, sigma: float) -> Certificates:
    """Return the certificates of selected classes [...] with valid lower bounds [...] on their probabilities."""
    abstained = p_a_lower < 0.5
    return Certificates(
        prediction=np.where(abstained, ABSTAIN, selected).astype(np.int64),
        radius=np.where(abstained, 0.0, certified_radius(p_a_lower, sigma=sigma)),
        n_a=n_a,
        p_a_lower=p_a_lower,
    )


_SHARE_OF_A = 0.9


def two_sided_counts(selection: IntArray, estimation: IntArray, *, sigma: float, alpha: float) -> Certificates:
    """Return certificates that bound the runner-up's probability as well: larger where p_a is small.

    R = sigma / 2 (ndtri(p_a_lower) - ndtri(p_b_upper)) with p_a_lower at level 0.9 alpha and p_b_upper, the
    smaller of 1 - p_a_lower and the upper bound of the largest other count at level 0.1 alpha. The largest other
    count needs no union over classes: its bound is at least that of the true runner-up. Cohen et al. 2019, theorem 1.
    Another certificate than CERTIFY's: not to be compared with published radii.

    Arguments are those of `certify_counts`.
    """
    selected = selection.argmax(-1)
    n = np.maximum(estimation.sum(-1), 1)
    n_a = np.take_along_axis(estimation, selected[..., None], -1)[..., 0]
    others = estimation.copy()
    np.put_along_axis(others, selected[..., None], -1, -1)
    n_b = np.maximum(others.max(-1), 0)
    p_a_lower = clopper_pearson_lower(n_a, n, alpha=_SHARE_OF_A * alpha)
    p_b_upper = np.minimum(clopper_pearson_upper(n_b, n, alpha=(1 - _SHARE_OF_A) * alpha), 1 - p_a_lower)
    certified = p_a_lower > p_b_upper
    gap = norm.ppf(np.where(certified, p_a_lower, 0.5)) - norm.ppf(np.where(certified, p_b_upper, 0.5))
    return Certificates(
        prediction=np.where(certified, selected, ABSTAIN).astype(np.int64),
        radius=np.asarray(sigma / 2 * gap, dtype=np.float64),
        n_a=n_a,
        p_a_lower=p_a_lower,
    )


def predict_counts(counts: IntArray, *, alpha: float) -> int:
    """Return the class that PREDICT derives from counts [class], or ABSTAIN.

    The two largest counts are compared by an exact two-sided binomial test at level alpha.
    """
    _check_alpha(alpha)
    second, first = np.sort(counts)[-2:]
    top = int(counts.argmax())
    if first == 0:
        return ABSTAIN
    return top if binomtest(int(first), int(first + second), 0.5).pvalue <= alpha else ABSTAIN


@dataclass(frozen=True)
class Certificate:
    """A certified prediction of the smoothed classifier at one input."""

    prediction: int
    """The class, or ABSTAIN = -1."""
    radius: float
    """The prediction is constant within this L2 distance, in pixel units; 0 when abstaining."""
    p_a_lower: float
    """Lower confidence bound on the probability of the selected class."""
    n_a: int
    n: int
    n0: int
    sigma: float
    alpha: float
    selection: IntArray
    """[class] counts of the n0 samples."""
    estimation: IntArray
    """[class] counts of the n samples."""


BaseClassifier = Callable[[torch.Tensor], torch.Tensor]


def _check_sampling(x: torch.Tensor, *, sigma: float, alpha: float, **sizes: int) -> None:
    _check_alpha(alpha)
    if not (sigma > 0 and np.isfinite(sigma)):
        raise ValueError(f"sigma must be positive, got {sigma}")
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if not (x.is_floating_point() and bool(x.isfinite().all())):
        raise ValueError(f"x must hold finite floating-point numbers, got dtype {x.dtype}")


def certify(
    base_classifier: BaseClassifier,
    x: torch.Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    example: int = 0,
    block_size: int = 1000,
    batch_size: int | None = None,
) -> Certificate:
    """Certify the smoothed classifier at x: CERTIFY of Cohen et al. 2019.

    With probability at least 1 - alpha over the noise, the smoothed classifier returns `prediction` everywhere
    within `radius` of x, or the certificate abstains. Certifying the same input again with another seed spends
    another alpha.

    Args:
        base_classifier: Maps a batch [batch, *x.shape] to logits [batch, class]; a module is run in eval mode.
        x: One input without batch dimension, any shape, in the units in which noise and radius are measured.
        sigma: Standard deviation of the noise.
        n0: Samples that select the class.
        n: Samples that estimate its probability.
        alpha: Failure probability.
        seed: Seed of the noise.
        example: Number of the input in its data set; different numbers give independent noise.
        block_size: Noise samples per block; part of the noise stream's definition.
        batch_size: Samples per forward pass, a divisor of `block_size`; chosen by the size of x by default.

    Raises:
        ValueError: An argument is out of range.
        ModelError: The base classifier returned NaN, infinity or a wrong shape.
    """
    _check_sampling(x, sigma=sigma, alpha=alpha, n0=n0, n=n, block_size=block_size)
    count = partial(
        class_counts,
        base_classifier,
        x,
        sigma=sigma,
        seed=seed,
        example=example,
        block_size=block_size,
        batch_size=batch_size,
    )
    selection = count(n=n0, stream=Stream.SELECTION)
    estimation = count(n=n, stream=Stream.ESTIMATION)
    result = certify_counts(selection, estimation, sigma=sigma, alpha=alpha)
    return Certificate(
        prediction=int(result.prediction),
        radius=float(result.radius),
        p_a_lower=float(result.p_a_lower),
        n_a=int(result.n_a),
        n=n,
        n0=n0,
        sigma=sigma,
        alpha=alpha,
        selection=selection,
        estimation=estimation,
    )


def predict(
    base_classifier: BaseClassifier,
    x: torch.Tensor,
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    example: int = 0,
    block_size: int = 1000,
    batch_size: int | None = None,
) -> int:
    """Return the smoothed classifier's class at x, or ABSTAIN = -1: PREDICT of Cohen et al. 2019.

    With probability at least 1 - alpha over the noise, the class returned is the smoothed classifier's. Arguments
    and errors are those of `certify`.
    """
    _check_sampling(x, sigma=sigma, alpha=alpha, n=n, block_size=block_size)
    counts = class_counts(
        base_classifier,
        x,
        sigma=sigma,
        n=n,
        seed=seed,
        example=example,
        stream=Stream.PREDICTION,
        block_size=block_size,
        batch_size=batch_size,
    )
    return predict_counts(counts, alpha=alpha)

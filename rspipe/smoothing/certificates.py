"""Statistics of randomized smoothing: from class counts to predictions, probability bounds and certified radii.

CERTIFY and PREDICT are those of Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing".

SciPy's quantiles are rounded to nearest, so half of all exact bounds would come out too high, by 1e-12 of themselves at
most. Bounds and radii are therefore rounded to the safe side by ten times that, which moves a radius by 4e-7 sigma at
most up to n = 1,000,000. Tests evaluate the binomial tails of thousands of them with ball arithmetic.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri

from rspipe.arrays import FloatArray, IntArray

ABSTAIN = -1

_BOUND_MARGIN = 1e-11
"""The part of a probability that a bound gives up: a lower one as a share of itself, an upper one absolutely."""

_RADIUS_MARGIN = 1e-12
"""The share that a radius gives up."""


def check_whole(name: str, number: object) -> None:
    """Raise ValueError unless what is called so is a whole number."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {number!r}")


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha is a probability that means something."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")


def least_to_certify(alpha: float) -> int:
    """Return the smallest n with which CERTIFY can do other than abstain at level alpha: alpha^(1/n) > 1/2."""
    check_alpha(alpha)
    least = max(1, math.ceil(-math.log2(alpha)))
    return least if clopper_pearson_lower(least, least, alpha=alpha) > 0.5 else least + 1


def least_to_predict(alpha: float) -> int:
    """Return the smallest n with which PREDICT can do other than abstain at level alpha: 2^(1 - n) <= alpha."""
    check_alpha(alpha)
    return max(1, math.ceil(1 - math.log2(alpha)))


def cannot_certify(n: int, alpha: float) -> str:
    """Return why n samples that all fall on one class do not certify it at level alpha; empty where they do."""
    least = least_to_certify(alpha)
    return "" if n >= least else f"n = {n} can never certify at alpha = {alpha:g}; use n >= {least}"


def check_can_certify(n: int, alpha: float) -> None:
    """Raise ValueError unless n samples that all fall on one class certify it at level alpha."""
    if reason := cannot_certify(n, alpha):
        raise ValueError(reason)


def check_can_predict(n: int, alpha: float) -> None:
    """Raise ValueError unless n samples that all fall on one class predict it at level alpha."""
    if n < (least := least_to_predict(alpha)):
        raise ValueError(f"n = {n} can never predict at alpha = {alpha:g}; use n >= {least}")


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
    """Return the exact one-sided (1 - alpha) lower confidence bound on a binomial probability, rounded down.

    Args:
        successes: Whole numbers in [0, n], any shape.
        n: Number of trials, broadcast against `successes`.
        alpha: Probability that the bound exceeds the truth, at most.

    Raises:
        ValueError: An argument is out of range.
    """
    return rounded_down(_beta_quantile(*_check_counts(successes, n), alpha))


def clopper_pearson_upper(successes: ArrayLike, n: ArrayLike, *, alpha: float) -> FloatArray:
    """Return the exact one-sided (1 - alpha) upper confidence bound on a binomial probability, rounded up.

    Arguments and errors are those of `clopper_pearson_lower`.
    """
    k, trials = _check_counts(successes, n)
    return np.minimum(1.0, 1.0 - _beta_quantile(trials - k, trials, alpha) + _BOUND_MARGIN)


def _beta_quantile(k: IntArray, trials: IntArray, alpha: float) -> FloatArray:
    """Return the lower bound as SciPy computes it, to nearest."""
    check_alpha(alpha)
    # With no success the exact bound is 0, where the quantile of a beta distribution is nan.
    return np.where(k > 0, betaincinv(np.maximum(k, 1), trials - k + 1, alpha), 0.0)


def rounded_down(bound: FloatArray) -> FloatArray:
    """Return lower bounds on probabilities without what their computation may have added."""
    return bound * (1 - _BOUND_MARGIN)


def certified_radius(p_a_lower: ArrayLike, *, sigma: float) -> FloatArray:
    """Return the certified L2 radius sigma ndtri(p_a_lower), in pixel units, rounded down; 0 where p_a_lower <= 1/2.

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
    return (1 - _RADIUS_MARGIN) * sigma * np.asarray(ndtri(np.maximum(bound, 0.5)), dtype=np.float64)


def radius_cap(*, sigma: float, n: int, alpha: float) -> float:
    """Return the largest radius that n samples can certify, in pixel units: all of them on one class."""
    return float(certified_radius(clopper_pearson_lower(n, n, alpha=alpha), sigma=sigma))


@dataclass(frozen=True)
class Certificates:
    """Certified predictions of many examples: arrays [...] of the same shape."""

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
    return certificates_from_bounds(selected, n_a, p_a_lower, sigma=sigma)


def certificates_from_bounds(selected: IntArray, n_a: IntArray, p_a_lower: FloatArray, *, sigma: float) -> Certificates:
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
    gap = ndtri(np.where(certified, p_a_lower, 0.5)) - ndtri(np.where(certified, p_b_upper, 0.5))
    return Certificates(
        prediction=np.where(certified, selected, ABSTAIN).astype(np.int64),
        radius=np.asarray((1 - _RADIUS_MARGIN) * sigma / 2 * gap, dtype=np.float64),
        n_a=n_a,
        p_a_lower=p_a_lower,
    )


def predict_counts(counts: IntArray, *, alpha: float) -> int:
    """Return the class that PREDICT derives from counts [class], or ABSTAIN.

    The two largest counts are compared by an exact two-sided binomial test at level alpha.
    """
    # Half a second, for workers that never need it.
    from scipy.stats import binomtest

    check_alpha(alpha)
    second, first = np.sort(counts)[-2:]
    top = int(counts.argmax())
    if first == 0:
        return ABSTAIN
    return top if binomtest(int(first), int(first + second), 0.5).pvalue <= alpha else ABSTAIN

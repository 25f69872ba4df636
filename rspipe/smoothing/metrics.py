"""Metrics over examples: ACR, certified accuracy, and their intervals for the choice of examples."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.records import Interval
from rspipe.smoothing.judgement import t_quantile


def credited_radius(radius: ArrayLike, correct: ArrayLike) -> FloatArray:
    """Return [example] the radius where the prediction is correct, else 0: what the ACR is the mean of.

    Args:
        radius: [example] certified radii, in pixel units.
        correct: [example] whether the prediction is the label (never for an abstention).

    Raises:
        ValueError: The arrays are empty or not equally long, a radius is negative or NaN, or `correct` is neither
            bool nor 0 and 1.
    """
    r, c = np.asarray(radius, dtype=np.float64), np.asarray(correct)
    if r.shape != c.shape or r.ndim != 1 or r.size == 0:
        raise ValueError(f"radius and correct must be equally long and not empty, got {r.shape} and {c.shape}")
    if not np.all(r >= 0):
        raise ValueError("radius must not be negative or NaN")
    if c.dtype != np.bool_ and not (np.issubdtype(c.dtype, np.number) and np.all((c == 0) | (c == 1))):
        raise ValueError(f"correct must be bool, or 0 and 1, got {c.dtype} {c[:3].tolist()}")
    return np.where(c.astype(bool), r, 0.0)


def saturated(n_a: IntArray, n: ArrayLike) -> BoolArray:
    """Return [example] whether all n samples, of which there are some, fell on the class: n limits such a radius."""
    return np.asarray((n_a == n) & (np.asarray(n) > 0), dtype=np.bool_)


def average_certified_radius(radius: ArrayLike, correct: ArrayLike) -> float:
    """Return the ACR: the mean over examples of the certified radius, wrong and abstained examples counting 0.

    Arguments and errors are those of `credited_radius`.
    """
    return float(credited_radius(radius, correct).mean())


def certified_accuracy(radius: ArrayLike, correct: ArrayLike, radii: ArrayLike) -> FloatArray:
    """Return the share of examples that are correct with a certified radius >= r, for each r of `radii`.

    Arguments and errors are those of `credited_radius`, and `radii` of any shape.
    """
    reached = credited_radius(radius, correct) >= np.asarray(radii, dtype=np.float64)[..., None]
    return np.asarray((reached & np.asarray(correct, dtype=bool)).mean(-1), dtype=np.float64)


_NEAR = 0.05
"""Share of the images, on either side, that are near the border of the hard half."""


def hard_half(credits_: FloatArray) -> IntArray:
    """Return the positions, ascending, of the half of the images that have the smaller mean radius over methods.

    Args:
        credits_: [method, image] certified radii, 0 where the prediction is wrong.
    """
    order = np.argsort(credits_.mean(0), kind="stable")
    return np.sort(order[: order.size // 2])


def values_of_hard_half(credits_: FloatArray, methods: FloatArray) -> FloatArray:
    """Return values [model, image] whose mean over images is that over the hard half, and whose spread is its spread.

    Which images are the hard half depends on the images drawn: an image that comes or goes moves the border of the half
    across others. The values are those of the estimate linearized in the distribution of images (its influence
    function): what a model has at the border counts for an image of the easy half, too.

    Args:
        credits_: [model, image], 0 where the prediction is wrong.
        methods: [method, image], by whose mean over methods the half is chosen.
    """
    order = np.argsort(methods.mean(0), kind="stable")
    count, size = order.size, order.size // 2
    near = order[max(0, size - round(_NEAR * count) - 1) : size + round(_NEAR * count) + 1]
    at_border = credits_[:, near].mean(1, keepdims=True)
    is_hard = np.isin(np.arange(count), order[:size])
    return np.asarray(at_border + count / size * np.where(is_hard, credits_ - at_border, 0.0))


def standard_error(values: ArrayLike) -> float:
    """Return the standard error of the mean of [example] values, for the choice of examples; infinite for a single."""
    given = np.asarray(values, dtype=np.float64)
    return float(given.std(ddof=1) / np.sqrt(given.size)) if given.size > 1 else float("inf")


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the mean of [example] values with a t interval for the choice of examples; infinite for a single."""
    given = np.asarray(values, dtype=np.float64)
    mean, half = float(given.mean()), t_quantile(given.size - 1, 1 - confidence) * standard_error(given)
    return Interval(estimate=mean, low=mean - half, high=mean + half)


RESAMPLES = 2000
"""Of the bootstrap: the ends of an interval are known to some 3 % of its half length."""


@lru_cache(maxsize=2)
def resample_counts(size: int) -> NDArray[np.uint8]:
    """Return [resample, example] how often each of `size` examples is drawn by the bootstrap; always the same."""
    rng, counts = np.random.default_rng(0), np.empty((RESAMPLES, size), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
    return counts


def percentile_interval(estimate: float, resampled: FloatArray, *, confidence: float = 0.95) -> Interval:
    """Return an estimate with the interval between percentiles of the same quantity [resample] of resampled data."""
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high))


def acr_interval(radius: ArrayLike, correct: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the ACR with a t interval for the choice of test images."""
    return mean_interval(credited_radius(radius, correct), confidence=confidence)


def acr_by_rule(radius: ArrayLike, correct: ArrayLike, *, rule: str) -> Interval:
    """Return `acr_interval` of certificates by a rule; NaN by `decide`, which asks for given radii alone."""
    unknown = float("nan")
    return Interval(estimate=unknown, low=unknown, high=unknown) if rule == "decide" else acr_interval(radius, correct)


def accuracy_band(share: ArrayLike, examples: int, *, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Return pointwise Wilson intervals (low, high) of shares over `examples` images."""
    p, z = np.asarray(share, dtype=np.float64), float(ndtri(0.5 + confidence / 2))
    middle = (p + z**2 / (2 * examples)) / (1 + z**2 / examples)
    half = z / (1 + z**2 / examples) * np.sqrt(p * (1 - p) / examples + z**2 / (4 * examples**2))
    return middle - half, middle + half

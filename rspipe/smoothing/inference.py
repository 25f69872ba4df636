"""The difference of two groups of classifiers: its interval and its p-value are computed here alone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from rspipe.arrays import BoolArray
from rspipe.records import Interval
from rspipe.smoothing.metrics import mean_interval, standard_error

Verdict = Literal["higher", "lower", "not significant"]


def verdict(interval: Interval) -> Verdict:
    """Return what an interval of a difference says of its sign."""
    if interval.low > 0:
        return "higher"
    return "lower" if interval.high < 0 else "not significant"


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """The difference of two groups' mean credits, first minus second, with a 95 % interval for the choice of images."""

    error: float
    """Standard error for the choice of images; infinite for a single image."""
    p: float
    """Probability of a difference as large as this one where there is none."""

    @property
    def verdict(self) -> Verdict:
        """Of the first group, by whether the interval leaves 0 out; not adjusted for the number of differences."""
        return verdict(self)


def difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """Return the paired difference of two groups of classifiers on the same images.

    Credits are averaged over the classifiers of a group image by image; interval and p-value are normal, over images.
    How another training would have come out is in neither.

    Args:
        first: [classifier, image] credits, e.g. certified radii, 0 where the prediction is wrong.
        second: [classifier, image], of the same images in the same order.

    Raises:
        ValueError: The arrays are not of two axes, have no classifier or image, or differ in their images.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise ValueError(f"credits must be [classifier, image] on the same images, got {a.shape} and {b.shape}")
    values = a.mean(0) - b.mean(0)
    interval, error = mean_interval(values), standard_error(values)
    size = abs(interval.estimate)
    ratio = size / error if error > 0 else np.inf if size > 0 else 0.0
    return Difference(
        estimate=interval.estimate, low=interval.low, high=interval.high, error=error, p=float(2 * ndtr(-ratio))
    )


def holm(p: ArrayLike, *, level: float = 0.05) -> BoolArray:
    """Return which hypotheses Holm's correction rejects: with probability 1 - level no rejection is false.

    Args:
        p: [hypothesis] p-values.
        level: Of the whole family.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    passed = np.cumprod(values[order] <= level / np.arange(len(values), 0, -1)).astype(bool)
    rejected = np.zeros(values.shape, dtype=np.bool_)
    rejected[order[passed]] = True
    return rejected

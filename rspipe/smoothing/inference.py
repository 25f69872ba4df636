"""Differences, as verdicts on the models at hand and on the procedures that trained them: the one home of comparisons.

A credit is a mean of its label, plus what the image, the training seed, and both together add. Two scopes are judged,
and each verdict names its own. *These models*: the networks as they are, on other images. *These procedures*: trained
again with other seeds, on other images. With `population` N the images are n of a finite test set, alone meant: their
part of the variance is 1 - n / N of that for new images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import BoolArray, FloatArray
from rspipe.records import Interval
from rspipe.smoothing.judgement import LEVEL, Judgement, Part, judge, t_quantile, welch

ProcedureVerdict = Literal["holds here", "opposite here", "undecided"]
"""Of training procedures: the interval of first minus second lies above 0, below, or around it."""

ModelVerdict = Literal["holds for these models", "opposite for these models", "undecided"]
"""The same of the trained models at hand."""

BorrowedVerdict = Literal[
    "would hold if seeds scatter as in the other labels",
    "would be opposite if seeds scatter as in the other labels",
    "undecided",
]
"""The procedures' verdict as it would be with the scatter of all labels; never a verdict by itself."""

_PROCEDURES: tuple[ProcedureVerdict, ProcedureVerdict, ProcedureVerdict] = ("holds here", "opposite here", "undecided")
_MODELS: tuple[ModelVerdict, ModelVerdict, ModelVerdict] = (
    "holds for these models",
    "opposite for these models",
    "undecided",
)
_BORROWED: tuple[BorrowedVerdict, BorrowedVerdict, BorrowedVerdict] = (
    "would hold if seeds scatter as in the other labels",
    "would be opposite if seeds scatter as in the other labels",
    "undecided",
)


Relation = Literal["higher", "lower", "undecided"]
"""The verdict that an interval of first minus second gives on the first."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference, or another contrast, judged for both scopes."""

    procedures: Judgement[ProcedureVerdict] | None
    """None where they are not judged: a group has fewer than two seeds."""
    models: Judgement[ModelVerdict]
    seeds: tuple[int, ...]
    """Of each group."""
    images: int
    population: int | None
    """Images of the finite test set that is meant; None for new images."""

    @property
    def estimate(self) -> float:
        """The same for both scopes."""
        return self.models.estimate


def contrast(
    theta: ArrayLike, groups: Sequence[ArrayLike], *, population: int | None = None, shares: bool = False
) -> Difference:
    """Judge the mean over images of a contrast that is made of independent groups of training seeds.

    Args:
        theta: [image] the contrast, e.g. credits of an ensemble less the mean of its members'.
        groups: For each group [seed, image] the jackknife's pseudo-values S theta - (S - 1) theta without the seed, as
            `rspipe.smoothing.jackknife` makes them; for the difference of two labels their credits do. With a group of
            one seed, or without groups, procedures are not judged.
        population: Images of the finite test set that these are a part of; None for new images. The first images of a
            data set are no sample of it: give their own number.
        shares: Whether theta is a difference of shares, e.g. of images whose radius reaches a value. Its interval for
            these models is the one of Agresti and Min (2005), which has a width even where all images agree.

    Raises:
        ValueError: The arrays do not fit together or hold what is not finite, or `population` is smaller than them.
    """
    values, rows = np.asarray(theta, dtype=np.float64), [np.asarray(group, dtype=np.float64) for group in groups]
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"theta must be [image] with at least one image, got {values.shape}")
    for row in rows:
        if row.ndim != 2 or row.shape[0] == 0 or row.shape[1] != values.size:
            raise ValueError(f"groups must be [seed, image] on the {values.size} images of theta, got {row.shape}")
    if not all(np.isfinite(array).all() for array in (values, *rows)):
        raise ValueError("credits must be finite")
    if shares:
        return _with_procedures(_shares(values, population), values, rows, population)
    images = image_part(values, (), population=population)
    models = judge(float(values.mean()), words=_MODELS, images=images)
    return _with_procedures(models, values, rows, population)


def difference(first: ArrayLike, second: ArrayLike, *, population: int | None = None) -> Difference:
    """Judge the difference of two labels, first minus second: for these models, and for their training procedures.

    Booleans are shares, as in `contrast`.

    Args:
        first: [seed, image] credits, e.g. certified radii, 0 where the prediction is wrong; a row per trained model.
        second: [seed, image], of the same images in the same order. Seeds are independent, whatever their numbers.
        population: As in `contrast`.

    Raises:
        ValueError: As in `contrast`.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise ValueError(f"credits must be [seed, image] on the same images, got {a.shape} and {b.shape}")
    rows = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    theta = rows[0].mean(0) - rows[1].mean(0)
    return contrast(theta, rows, population=population, shares=a.dtype == b.dtype == np.bool_)


def holm(p: ArrayLike, *, level: float = LEVEL) -> BoolArray:
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


def holm_by_scope(family: Sequence[Difference]) -> tuple[BoolArray, BoolArray]:
    """Return [difference] which verdicts Holm's correction for all of them leaves: on procedures, and on models.

    Procedures that are not judged are no part of their family, and False.
    """
    procedures = np.zeros(len(family), dtype=np.bool_)
    judged = [(at, one.procedures.p) for at, one in enumerate(family) if one.procedures is not None]
    procedures[[at for at, _ in judged]] = holm([p for _, p in judged])
    return procedures, holm([one.models.p for one in family])


def relation(interval: Interval) -> Relation:
    """Return what an interval of first minus second says of the first."""
    if interval.low > 0:
        return "higher"
    return "lower" if interval.high < 0 else "undecided"


def tolerated_seed_sd(one: Difference) -> float | None:
    """Return the standard deviation over seeds at which a difference that holds for these models would no longer hold.

    What can be said of procedures where a side has one seed. None where nothing holds for these models.
    """
    if one.models.verdict == "undecided" or not one.seeds:
        return None
    left = (one.estimate / t_quantile(math.inf, LEVEL)) ** 2 - one.models.image_variance
    return math.sqrt(left / sum(1 / count for count in one.seeds))


def borrowed(
    first: ArrayLike, second: ArrayLike, labels: Sequence[ArrayLike], *, population: int | None = None
) -> Judgement[BorrowedVerdict] | None:
    """Judge the procedures of a difference by the scatter of all labels' seeds; None where fewer than four have two.

    No verdict: where one label's seeds scatter far more than the others', up to a third of such would be false.

    Args:
        first: [seed, image], as in `difference`, of two seeds or more.
        second: [seed, image].
        labels: The credits [seed, image] of all labels at the noise level, those two among them.
        population: As in `contrast`.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    scattered = [row for label in labels if len(row := np.asarray(label, dtype=np.float64)) > 1]
    if min(len(a), len(b)) < 2 or len(scattered) < 4:
        return None
    of_all, of_both = (float(np.mean([seed_variance(row) for row in rows])) for rows in (scattered, (a, b)))
    seeds = Part(max(of_all, of_both) * (1 / len(a) + 1 / len(b)), sum(len(row) - 1 for row in scattered))
    theta = a.mean(0) - b.mean(0)
    images, fixed = image_part(theta, (a, b), population=population), difference(a, b, population=population).models
    return judge(fixed.estimate, words=_BORROWED, seeds=seeds, images=images, counts=(len(a), len(b)), fixed=fixed)


def seed_variance(credits_: FloatArray) -> float:
    """Return the variance over seeds of the means over images of [seed, image]; part of it comes from the images."""
    return float(credits_.mean(1).var(ddof=1))


def image_part(theta: FloatArray, groups: Sequence[FloatArray], *, population: int | None) -> Part:
    """Return the variance of the mean of [image] values from the choice of images, less what the groups' seeds hold.

    Args:
        theta: [image].
        groups: [seed, image] with two seeds or more; their variance over seeds holds seed x image already.
        population: As in `contrast`.
    """
    images = theta.size
    if population is not None and population < images:
        raise ValueError(f"population must be at least the number of images, {images}, got {population}")
    left = 1.0 if population is None else 1 - images / population
    if left == 0:
        return Part(0.0, images - 1)
    if images == 1:
        return Part(math.inf, 0)
    held = sum(_interaction_variance(group) / len(group) for group in groups)
    return Part(left * max(0.0, float(theta.var(ddof=1)) - held) / images, images - 1)


def _interaction_variance(credits_: FloatArray) -> float:
    """Return the variance of [seed, image] that is neither the seed's nor the image's."""
    seeds, images = credits_.shape
    rest = credits_ - credits_.mean(0) - credits_.mean(1, keepdims=True) + credits_.mean()
    return float(np.square(rest).sum() / ((seeds - 1) * (images - 1)))


def _with_procedures(
    models: Judgement[ModelVerdict], theta: FloatArray, groups: Sequence[FloatArray], population: int | None
) -> Difference:
    counts, procedures = tuple(len(group) for group in groups), None
    if counts and min(counts) > 1:
        seeds = welch([Part(seed_variance(group) / len(group), len(group) - 1) for group in groups])
        images = image_part(theta, groups, population=population)
        procedures = judge(models.estimate, words=_PROCEDURES, seeds=seeds, images=images, counts=counts, fixed=models)
    return Difference(procedures=procedures, models=models, seeds=counts, images=theta.size, population=population)


def _shares(theta: FloatArray, population: int | None) -> Judgement[ModelVerdict]:
    """Return the judgement of a difference of shares [image] by Agresti and Min: half an image more on either side.

    Of two models, b - c is the sum of the values and b + c the sum of their squares; so they are for means over models.
    """
    plain, images = image_part(theta, (), population=population), theta.size
    if plain.variance == 0 and population == images:
        return judge(float(theta.mean()), words=_MODELS, images=plain)
    left = 1.0 if population is None else 1 - images / population
    centre = float(theta.sum()) / (images + 2)
    variance = left * ((float(np.square(theta).sum()) + 1) / (images + 2) - centre**2) / (images + 2)
    return replace(judge(centre, words=_MODELS, images=Part(variance, math.inf)), estimate=float(theta.mean()))

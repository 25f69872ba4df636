"""Published figures: an ACR of which there is a number, not the credits, beside the credits measured here."""

from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from rspipe.smoothing.inference import difference, image_part, seed_variance
from rspipe.smoothing.judgement import Judgement, Part, judge, welch

FigureVerdict = Literal["higher than", "lower than", "consistent with"]
"""Of the ACR measured here against the published figure."""

SizeVerdict = Literal["larger", "smaller", "as large"]
"""Of a difference measured here against the published one; to be said beside a verdict on its sign alone."""

_FIGURE: tuple[FigureVerdict, FigureVerdict, FigureVerdict] = ("higher than", "lower than", "consistent with")
_SIZE: tuple[SizeVerdict, SizeVerdict, SizeVerdict] = ("larger", "smaller", "as large")

_RANGE = {2: 1.13, 3: 1.69, 4: 2.06, 5: 2.33}
"""Expected range of normal values in units of their standard deviation, by their number."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A published ACR."""

    acr: float
    """Mean over their seeds, where there are several."""
    images: int
    """That it is a mean over."""
    decimals: int | None = None
    """That it is rounded to; None where it is not rounded."""
    seeds: int = 1
    seed_sd: float | None = None
    """Between the ACRs of their seeds, where it is known: of two seeds or more."""


@dataclass(frozen=True, kw_only=True)
class FigureDifference:
    """An ACR measured here less a published one."""

    procedures: Judgement[FigureVerdict] | None
    """Is the figure one more draw of the recipe trained here? None where it is not judged: one seed here."""
    models: Judgement[FigureVerdict]
    """Of the models trained here and those behind the figure, as they are."""


def seed_sd_of_range(low: float, high: float, *, seeds: int) -> float:
    """Return the standard deviation between seeds that lowest and highest of two to five seeds let expect.

    Raises:
        ValueError: There is no factor for so many seeds, or the order is wrong.
    """
    if seeds not in _RANGE or high < low:
        raise ValueError(f"need low <= high of 2 to 5 seeds, got {low}, {high} of {seeds}")
    return (high - low) / _RANGE[seeds]


def rounding_variance(decimals: int | None) -> float:
    """Return the variance that rounding to so many decimals adds; 0 where nothing is rounded."""
    return 0.0 if decimals is None else 10.0 ** (-2 * decimals) / 12


def difference_from_figure(
    credits_: ArrayLike, figure: Figure, *, images: Literal["among theirs", "others"] = "among theirs"
) -> FigureDifference:
    """Judge the ACR measured here less a published figure.

    Args:
        credits_: [seed, image] credits measured here, under the same n and alpha of CERTIFY.
        figure: The published one.
        images: Whether the images here are a sample of those that the figure is over, or all of them, or others
            altogether. Where they are neither, as the first of them are not, no figure can be compared.

    Raises:
        ValueError: Credits are not [seed, image] or not finite, or more images than the figure's are said to be among
            them; or a scatter of one seed is given.
    """
    own = np.asarray(credits_, dtype=np.float64)
    if own.ndim != 2 or 0 in own.shape:
        raise ValueError(f"credits must be [seed, image], got {own.shape}")
    if not np.isfinite(own).all() or not np.isfinite(figure.acr):
        raise ValueError("credits and the published figure must be finite")
    if figure.seed_sd is not None and figure.seeds < 2:
        raise ValueError(f"one published seed has no scatter, got seed_sd = {figure.seed_sd}")
    seeds, mean, rounding = len(own), own.mean(0), rounding_variance(figure.decimals)
    estimate = float(own.mean()) - figure.acr

    def of_images(groups: tuple[np.ndarray, ...]) -> Part:
        if images == "among theirs":
            return image_part(mean, groups, population=figure.images)
        here = image_part(mean, groups, population=None)
        return Part(here.variance * (1 + mean.size / figure.images), here.df)

    models = judge(estimate, words=_FIGURE, images=of_images(()), rounding=rounding)
    if seeds < 2:
        return FigureDifference(procedures=None, models=models)
    variance = seed_variance(own)
    if figure.seed_sd is None:
        part = Part(variance * (1 / seeds + 1 / figure.seeds), seeds - 1)
    else:
        theirs = Part(float(figure.seed_sd) ** 2 / figure.seeds, figure.seeds - 1)
        part = welch([Part(variance / seeds, seeds - 1), theirs])
    procedures = judge(
        estimate, words=_FIGURE, seeds=part, images=of_images((own,)), rounding=rounding, counts=(seeds,), fixed=models
    )
    return FigureDifference(procedures=procedures, models=models)


def difference_from_credits(own: ArrayLike, theirs: ArrayLike, *, population: int | None = None) -> FigureDifference:
    """Judge the ACR measured here less a published one whose credits are known, image by image.

    With two published seeds or more the recipes are compared, as any two procedures. One published seed is judged as
    one more draw of the recipe here, on these images.

    Args:
        own: [seed, image] credits measured here.
        theirs: [seed, image] published, of the same images in the same order.
        population: As in `contrast`.

    Raises:
        ValueError: As in `difference`.
    """
    paired, theirs = difference(own, theirs, population=population), np.asarray(theirs, dtype=np.float64)
    if len(theirs) > 1:
        procedures = None if paired.procedures is None else _in_words_of_figures(paired.procedures)
    else:
        figure = Figure(acr=float(theirs.mean()), images=theirs.shape[1])
        procedures = difference_from_figure(own, figure).procedures
    return FigureDifference(procedures=procedures, models=_in_words_of_figures(paired.models))


def _in_words_of_figures(judgement: Judgement[str]) -> Judgement[FigureVerdict]:
    higher, lower, neither = _FIGURE
    word = higher if judgement.low > 0 else lower if judgement.high < 0 else neither
    return cast("Judgement[FigureVerdict]", replace(judgement, verdict=word))


def difference_from_published(
    first: ArrayLike,
    second: ArrayLike,
    by: float,
    *,
    decimals: int | None = None,
    seeds: tuple[int, int] = (1, 1),
    population: int | None = None,
) -> Judgement[SizeVerdict] | None:
    """Judge a difference measured here less the published one; None where a side has one seed.

    Args:
        first: [seed, image], as in `difference`.
        second: [seed, image].
        by: Published difference, first minus second.
        decimals: To which both published figures are rounded; None where they are not.
        seeds: Published, of each side.
        population: As in `contrast`.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    here = difference(a, b, population=population)
    if here.procedures is None:
        return None
    estimate, rounding = here.estimate - by, 2 * rounding_variance(decimals)
    parts = [
        Part(seed_variance(own) * (1 / len(own) + 1 / theirs), len(own) - 1)
        for own, theirs in zip((a, b), seeds, strict=True)
    ]
    fixed = judge(estimate, words=_SIZE, images=Part(here.models.image_variance, here.models.df), rounding=rounding)
    images = Part(here.procedures.image_variance, here.models.df)
    return judge(
        estimate, words=_SIZE, seeds=welch(parts), images=images, rounding=rounding, counts=here.seeds, fixed=fixed
    )

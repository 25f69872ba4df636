"""Whether predicted changes of ACR are the measured ones: a slope and a share that could come out wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rspipe.arrays import BoolArray, FloatArray
from rspipe.records import Interval
from rspipe.smoothing.jackknife import Member
from rspipe.smoothing.judgement import Part, half_width, welch

DRAWS = 2000
"""Of the joint errors of all ensembles: a probability of 5 % is known to 0.5 %."""

_BEYOND = 1.959964
"""Standard errors that one right prediction in twenty is off by."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Changes of ACR that calibration images predict of several ensembles, against those measured on test images."""

    ensembles: int
    models: Interval | None
    """Slope of measured over predicted, for these models on other images; 1 where predictions are right. None where the
    predictions differ by no more than noise alone would in one of a hundred cases, or of fewer than three ensembles."""
    procedures: Interval | None
    """The same slope for models trained again, too; None where seeds are too few to leave one out."""
    correlation: float
    """Of predicted and measured, noise included; NaN where one of them does not vary."""
    beyond: int
    """Ensembles whose prediction is off by more than 1.96 standard errors of both images; one in twenty if right."""
    p: float
    """Probability of as many where all predictions are right: ensembles share members and images, and err together."""


def agreement(predicted: FloatArray, measured: FloatArray, members: Sequence[frozenset[Member]]) -> Agreement:
    """Return how predicted and measured changes agree.

    Args:
        predicted: [ensemble, calibration image], whose mean over images is the prediction.
        measured: [ensemble, test image] of the same ensembles in the same order.
        members: [ensemble] label and seed of the models each is made of.
    """
    x, y = predicted.mean(1), measured.mean(1)
    noise = np.atleast_2d(np.cov(predicted)) / predicted.shape[1]
    errors = noise + np.atleast_2d(np.cov(measured)) / measured.shape[1]
    beyond, p = _beyond(y - x, errors)
    varied = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    slope = _slope(x, y, noise, np.ones(len(x), dtype=np.bool_)) if _differ(x, noise) else None
    models = procedures = None
    if slope is not None:
        parts = _image_parts(slope, predicted, measured, noise)
        half = half_width(parts)
        models = Interval(estimate=slope, low=slope - half, high=slope + half)
        seeds = _seed_part(slope, x, y, noise, members)
        if seeds is not None:
            # What the seeds hold of the images is counted twice: the interval is no narrower than it should be.
            half = half_width([seeds, *parts])
            procedures = Interval(estimate=slope, low=slope - half, high=slope + half)
    return Agreement(
        ensembles=len(x),
        models=models,
        procedures=procedures,
        correlation=float(np.corrcoef(x, y)[0, 1]) if varied else float("nan"),
        beyond=beyond,
        p=p,
    )


@lru_cache(maxsize=8)
def _normal_draws(number: int) -> FloatArray:
    """Return [DRAWS, number] standard normal numbers, always the same."""
    return np.random.default_rng(0).normal(size=(DRAWS, number))


def _spread(x: FloatArray, noise: FloatArray) -> tuple[FloatArray, float]:
    """Return the predictions less their mean, and the sum of squares that would be left of these without noise."""
    centred = x - x.mean()
    return centred, float(centred @ centred - (np.trace(noise) - noise.mean() * len(x)))


def _differ(x: FloatArray, noise: FloatArray) -> bool:
    """Return whether predictions differ by more than their noise, of this covariance, would let them: at 1 %."""
    centring = np.eye(len(x)) - 1 / len(x)
    values = np.maximum(np.linalg.eigvalsh(centring @ noise @ centring), 0.0)
    squares = np.square(_normal_draws(len(x))) @ values
    centred = x - x.mean()
    return float(centred @ centred) > float(np.quantile(squares, 0.99))


def _slope(x: FloatArray, y: FloatArray, noise: FloatArray, chosen: BoolArray) -> float | None:
    """Return the slope of y over x without the noise of x, which would make it flatter; None where that is all."""
    if chosen.sum() < 3:
        return None
    centred, left = _spread(x[chosen], noise[np.ix_(chosen, chosen)])
    return float(centred @ y[chosen]) / left if left > 0 else None


def _image_parts(slope: float, predicted: FloatArray, measured: FloatArray, noise: FloatArray) -> list[Part]:
    """Return the variance of the slope from test images and from calibration images, to first order."""
    x, y = predicted.mean(1), measured.mean(1)
    centred, left = _spread(x, noise)
    by_test, by_calibration = centred / left, (y - y.mean() - 2 * slope * centred) / left
    return [
        Part(float((gradient @ values).var(ddof=1)) / values.shape[1], values.shape[1] - 1)
        for gradient, values in ((by_test, measured), (by_calibration, predicted))
    ]


def _seed_part(
    slope: float, x: FloatArray, y: FloatArray, noise: FloatArray, members: Sequence[frozenset[Member]]
) -> Part | None:
    """Return the variance of the slope from seeds, by leaving out each in turn; None where no slope is left then."""
    labels: dict[str, list[Member]] = {}
    for member in sorted(frozenset().union(*members)):
        labels.setdefault(member[0], []).append(member)
    parts = []
    for seeds in labels.values():
        without = [_slope(x, y, noise, np.array([seed not in one for one in members])) for seed in seeds]
        known = [value for value in without if value is not None]
        if len(known) < len(without) or len(seeds) < 2:
            return None
        pseudo = len(seeds) * slope - (len(seeds) - 1) * np.array(known)
        parts.append(Part(float(pseudo.var(ddof=1)) / len(seeds), len(seeds) - 1))
    return welch(parts)


def _beyond(off: FloatArray, errors: FloatArray) -> tuple[int, float]:
    """Return how many predictions are off by more than 1.96 standard errors, and how likely as many are if all hold."""
    sd = np.sqrt(np.diag(errors))
    known = sd > 0
    if not known.any():
        return 0, 1.0
    count = int((np.abs(off[known]) > _BEYOND * sd[known]).sum())
    values, vectors = np.linalg.eigh(errors[np.ix_(known, known)] / np.outer(sd[known], sd[known]))
    draws = _normal_draws(len(values)) * np.sqrt(np.maximum(values, 0.0))
    counts = (np.abs(draws @ vectors.T) > _BEYOND).sum(1)
    return count, float((1 + (counts >= count).sum()) / (DRAWS + 1))

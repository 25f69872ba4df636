"""Why ensembles help or hurt, from the moments of members' margins on the calibration images.

A margin is that of the label over the strongest competitor of all members together, on images that they get right
(`rspipe.ensembles.moments.runner_up_pairs`), divided by the member's mean margin over these images: members differ in
scale, and only what is left matters.
Over noise it has the variance v within a member and covariances within a method and across methods. Of k members of
one method the average has variance c + (v - c) / k with c the covariance within the method.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from rspipe.arrays import BoolArray, FloatArray
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.moments import runner_up_pairs
from rspipe.ensembles.weights_acr import clipped_ratio
from rspipe.records import Interval
from rspipe.smoothing.metrics import mean_interval, percentile_interval, resample_counts

_RESAMPLES = 1000
"""For covariances, a matrix of which is kept for each."""

_FITS = 200
"""Resamples for which a hyperbola is fitted."""


@dataclass(frozen=True)
class MemberMargins:
    """Margins of the members at a noise level, from a pass over the calibration images."""

    sigma: float
    average: str
    """The scores that the margins are of, "probabilities" or "logits"."""
    members: tuple[str, ...]
    """Ids of the models."""
    calibration: Calibration

    def of(self, members: Sequence[str]) -> Calibration:
        """Return the margins of some members."""
        return self.calibration.of_members([self.members.index(member) for member in members])


@dataclass(frozen=True)
class Across:
    """Covariance of models of two methods, and what mixing them does to the variance of an average of two."""

    first: str
    second: str
    common_seed: bool
    """Whether the models of every pair drew the same in their trainings. Pairs of the two kinds are never averaged."""
    covariance: Interval
    less_first: Interval | None
    """Variance of the average of a model of each less that of two of the first; None with one model of it. Below 0,
    mixing lowers the variance."""
    less_second: Interval | None


@dataclass(frozen=True)
class NoiseStructure:
    """Variances and covariances over noise of margins in units of their mean, with bootstrap intervals over images."""

    images: int
    """Those that the members together get right."""
    models: dict[str, int]
    """Number of models by method."""
    variance: dict[str, Interval]
    """By method, of a single model, the mean over its models."""
    covariance: dict[str, Interval]
    """By method of two models or more, of two of them."""
    floor: dict[str, Interval]
    """By method of two models or more: share of a model's variance that no number of its models averages away."""
    across: tuple[Across, ...]
    """Of every two methods; twice where some of their models have seeds in common and others have not."""


def _standardised(weights: FloatArray, mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return [resample, k, k] covariances in units of mean margins, both averaged over images with `weights`."""
    total = weights.sum(1, keepdims=True)
    scale = weights @ mean / total
    pooled = np.tensordot(weights, covariance, axes=1) / total[..., None]
    return np.asarray(pooled / (scale[:, :, None] * scale[:, None, :]), dtype=np.float64)


def noise_structure(
    calibration: Calibration, methods: Sequence[str], *, common_seeds: Sequence[int | None] | None = None
) -> NoiseStructure | None:
    """Return the noise structure of members; None without two images to judge by.

    Members whose mean margin is not positive on these images have no margin to standardise by and are left out.

    Args:
        calibration: The margins of k members.
        methods: [k] that of each member.
        common_seeds: [k] the seed of each member, where models of other methods with this seed drew the same in their
            trainings; None of a member whose training is independent of all others, as are all by default.
    """
    pairs = runner_up_pairs(calibration.mean, calibration.covariance)
    if len(pairs.mean) < 2:
        return None
    usable = pairs.mean.mean(0) > 0
    labels = np.asarray(methods)[usable]
    # NaN is equal to nothing.
    seeds = np.asarray([None] * len(methods) if common_seeds is None else common_seeds, dtype=np.float64)[usable]
    mean, covariance = pairs.mean[:, usable], pairs.covariance[:, usable][:, :, usable]
    counts = resample_counts(len(mean))[:_RESAMPLES].astype(np.float64)
    # The first row are the images as they are.
    weights = np.concatenate([np.ones((1, len(mean))), counts])
    spread = _standardised(weights, mean, covariance)
    names = list(dict.fromkeys(labels.tolist()))

    def averaged(wanted: BoolArray) -> FloatArray:
        """Return [resample] the mean covariance of pairs of models [k, k]."""
        return np.asarray(spread[:, wanted].mean(1), dtype=np.float64)

    def interval(values: FloatArray) -> Interval:
        return percentile_interval(float(values[0]), values[1:])

    models = {name: int((labels == name).sum()) for name in names}
    several = [name for name in names if models[name] > 1]
    single = {name: np.diagonal(spread, axis1=1, axis2=2)[:, labels == name].mean(1) for name in names}
    other = ~np.eye(len(labels), dtype=bool)
    within = {name: averaged(np.outer(labels == name, labels == name) & other) for name in several}

    def mixing(first: str, second: str, covariance: FloatArray) -> Interval | None:
        if first not in within:
            return None
        return interval((single[second] + 2 * covariance - single[first] - 2 * within[first]) / 4)

    def across() -> Iterator[Across]:
        same = seeds[:, None] == seeds
        for (a, b), common in product(combinations(names, 2), (False, True)):
            wanted = np.outer(labels == a, labels == b) & (same == common)
            if wanted.any():
                values = averaged(wanted)
                yield Across(a, b, common, interval(values), mixing(a, b, values), mixing(b, a, values))

    return NoiseStructure(
        images=len(mean),
        models=models,
        variance={name: interval(values) for name, values in single.items()},
        covariance={name: interval(values) for name, values in within.items()},
        floor={name: interval(within[name] / single[name]) for name in several},
        across=tuple(across()),
    )


def predicted_change(calibration: Calibration, weights: Sequence[float], *, sigma: float) -> Interval:
    """Return the change of ACR, against the mean of its members, that the calibration images predict of an ensemble.

    In pixel units, with a normal 95 % interval over the calibration images.
    """
    members = calibration.radii(np.eye(len(weights))).mean(0)
    return mean_interval(sigma * (calibration.radii(np.asarray(weights)) - members))


def gaussian_change(calibration: Calibration, weights: Sequence[float], *, sigma: float) -> Interval:
    """Return what `predicted_change` does, as if margins were Gaussian."""
    alone = np.mean([calibration.gaussian_radii(one) for one in np.eye(len(weights))], axis=0)
    return mean_interval(sigma * (calibration.gaussian_radii(np.asarray(weights)) - alone))


def variance_share(calibration: Calibration, weights: Sequence[float]) -> float:
    """Return the ensemble's variance in units of its mean margin, over the mean of its members'; NaN without images."""
    pairs = runner_up_pairs(calibration.mean, calibration.covariance)
    if len(pairs.mean) == 0 or not np.all(pairs.mean.mean(0) > 0):
        return float("nan")
    mean, pooled, w = pairs.mean.mean(0), pairs.covariance.mean(0), np.asarray(weights)
    return float((w @ pooled @ w) / (w @ mean) ** 2 / np.mean(np.diag(pooled) / mean**2))


@dataclass(frozen=True)
class Limit:
    """The gain from more and more models of one method."""

    gains: dict[float, Interval]
    """By number of models k, infinity among them: ACR less that of one model, of Gaussian margins, in pixel units."""


def gaussian_limit(calibration: Calibration, *, sigma: float, numbers: Sequence[float]) -> Limit:
    """Return what k models like the given ones, two at least, would give: margins of variance c + (v - c) / k.

    Per image and competitor: mean and variance v are those of the members, on average, and c their mean covariance.
    """
    k = calibration.mean.shape[-1]
    if k < 2:
        raise ValueError("a limit needs two models to tell what they have in common")
    mean = calibration.mean.mean(-1)
    single = np.diagonal(calibration.covariance, axis1=-2, axis2=-1).mean(-1)
    common = (calibration.covariance.sum((-2, -1)) - k * single) / (k * (k - 1))

    def radii(number: float) -> FloatArray:
        return clipped_ratio(mean, common + (single - common) / number, cap=calibration.cap)

    one = radii(1.0)
    return Limit({number: mean_interval(sigma * (radii(number) - one)) for number in numbers})


@dataclass(frozen=True)
class HyperbolaFit:
    """ACR(k) = limit - b / (k + kappa), fitted to measured means."""

    limit: Interval
    """With a bootstrap interval over images."""
    b: float
    kappa: float
    straight: float
    """The limit of ACR = a - b / k, which has kappa = 0: a lower estimate."""


def _least_squares(design: FloatArray, values: FloatArray) -> tuple[FloatArray, float]:
    solution, *_ = np.linalg.lstsq(design, values, rcond=None)
    return np.asarray(solution, dtype=np.float64), float(((design @ solution - values) ** 2).sum())


def _fit_hyperbola(k: FloatArray, acr: FloatArray) -> tuple[float, float, float]:
    """Return limit, b and kappa of the least squares fit with kappa in [0, 30]."""
    from scipy.optimize import minimize_scalar

    def fitted(kappa: float) -> tuple[FloatArray, float]:
        return _least_squares(np.stack([np.ones_like(k), -1 / (k + kappa)], axis=1), acr)

    best = minimize_scalar(lambda kappa: fitted(kappa)[1], bounds=(0.0, 30.0), method="bounded")
    kappa = min((0.0, float(best.x), 30.0), key=lambda one: fitted(one)[1])
    (limit, b), _ = fitted(kappa)
    return float(limit), float(b), kappa


def fit_hyperbola(radii: dict[int, FloatArray]) -> HyperbolaFit | None:
    """Return the fit to mean radii by number of models: [image] credited radii, averaged over ensembles of that size.

    None with fewer than three sizes, or where the means do not rise with k.
    """
    if len(radii) < 3:
        return None
    sizes = np.array(sorted(radii), dtype=np.float64)
    images = np.stack([radii[int(size)] for size in sizes])
    means = images.mean(1)
    if not means[-1] > means[0]:
        return None
    limit, b, kappa = _fit_hyperbola(sizes, means)
    counts = resample_counts(images.shape[1])[:_FITS]
    resampled = [_fit_hyperbola(sizes, images @ count / images.shape[1])[0] for count in counts]
    straight, _ = _least_squares(np.stack([np.ones_like(sizes), -1 / sizes], axis=1), means)
    return HyperbolaFit(percentile_interval(limit, np.array(resampled)), b, kappa, float(straight[0]))

"""The gain of ensembles, from their members' margins on the calibration images: changes of ACR, and limits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rspipe.arrays import FloatArray
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.moments import runner_up_pairs
from rspipe.ensembles.weights_acr import clipped_ratio
from rspipe.records import Interval
from rspipe.smoothing.inference import contrast
from rspipe.smoothing.metrics import percentile_interval, resample_counts

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


def predicted_changes(
    calibration: Calibration, ensembles: Sequence[tuple[Sequence[int], Sequence[float]]], *, sigma: float
) -> FloatArray:
    """Return [ensemble, image] how far the radii of ensembles are above the mean of their members', in pixel units.

    The mean over images is the change of ACR that the calibration images predict.

    Args:
        calibration: Of all members.
        ensembles: Positions of its members and their weights, for each.
        sigma: Noise level.
    """
    number, k = len(ensembles), calibration.mean.shape[-1]
    weights, shares = np.zeros((2, number, k))
    for row, (members, of_members) in enumerate(ensembles):
        weights[row, members], shares[row, members] = of_members, 1 / len(members)
    # In one look at the margins, which are many.
    radii = calibration.radii(np.vstack([weights, np.eye(k)]))
    return np.asarray(sigma * (radii[:number] - shares @ radii[number:]), dtype=np.float64)


def gaussian_change(calibration: Calibration, weights: Sequence[float], *, sigma: float) -> FloatArray:
    """Return [image] what `predicted_changes` does, of one ensemble of all members, as if margins were Gaussian."""
    alone = np.mean([calibration.gaussian_radii(one) for one in np.eye(len(weights))], axis=0)
    return np.asarray(sigma * (calibration.gaussian_radii(np.asarray(weights)) - alone), dtype=np.float64)


def variance_share(calibration: Calibration, weights: Sequence[float]) -> float:
    """Return the ensemble's variance in units of its mean margin, over the mean of its members'; NaN without any."""
    pairs = runner_up_pairs(calibration.mean, calibration.covariance)
    if len(pairs.mean) == 0 or not np.all(pairs.mean.mean(0) > 0):
        return float("nan")
    mean, pooled, w = pairs.mean.mean(0), pairs.covariance.mean(0), np.asarray(weights)
    of_members = np.mean(np.diag(pooled) / mean**2)
    return float((w @ pooled @ w) / (w @ mean) ** 2 / of_members) if of_members > 0 else float("nan")


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
    return Limit({number: contrast(sigma * (radii(number) - one), ()).models for number in numbers})


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

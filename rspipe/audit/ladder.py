"""Which alpha and n do radii imply?

CERTIFY's radii are rungs of a ladder, sigma ndtri(p_k) with p_k the Clopper-Pearson bound of k successes of n. Where
rungs lie further apart than the digits of the radii, they tell alpha and n.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.audit.log import Precision, Rounding
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower, radius_cap

SIGMAS = (0.25, 0.5, 1.0, 0.12, 0.125, 0.75, 0.1, 0.2, 0.3, 1.5, 2.0)
"""Noise levels that are tried where none is known, the usual ones first."""

ALPHAS = (0.001, 0.01, 0.005, 0.0005, 0.0001, 0.00001, 0.05)

SIZES = (100_000, 10_000, 1_000, 1_000_000, 500_000, 200_000, 125_000, 50_000, 20_000, 5_000, 2_000, 500, 200, 100)

_REACH: dict[Rounding, tuple[float, float]] = {"nearest": (0.5, 0.5), "down": (0.0, 1.0), "up": (1.0, 0.0)}
"""How far the truth may lie below and above what is logged, in steps of the radii's digits."""

_SLIP = 0.02
"""Share of radii that may miss the ladder they come from."""

_FEW, _VALUES, _LEFT = 12, 100, 12
"""Largest distinct radii that a ladder is judged by, where its rungs are furthest apart: a few for a first look, and
more for the ladders that it left."""

LARGEST = 6.0
"""Radius in units of sigma that no sampling reaches: at alpha = 0.05 it takes three billion samples."""

SURE = 3.0
"""Difference of evidence (odds of 20) from which on one ladder is called better than another."""


@dataclass(frozen=True)
class Ladder:
    """The parameters of CERTIFY that radii fit, and how well."""

    sigma: float
    n: int
    alpha: float
    rounding: Rounding
    evidence: float
    """Log-likelihood ratio against radii that know of no ladder, less a penalty for unusual parameters."""

    @property
    def cap(self) -> float:
        """The largest radius that n samples can certify, in pixel units."""
        return radius_cap(sigma=self.sigma, n=self.n, alpha=self.alpha)


@dataclass(frozen=True)
class _Sizes:
    """Ladders that differ in n alone, against which radii are broadcast."""

    sigma: float
    n: IntArray
    alpha: float


def _fewest_failures(radius: FloatArray, ladder: Ladder | _Sizes) -> IntArray:
    """Return the failures of the highest rung that is not above a radius; n + 1 where every rung is above."""
    from scipy.stats import binom

    # P(at most f failures) >= alpha at the radius' probability says that the bound of n - f successes is below it.
    failure = ndtr(-np.clip(radius / ladder.sigma, 0.0, 20.0))
    return np.asarray(binom.ppf(ladder.alpha, ladder.n, failure), dtype=np.int64)


def _rung(failures: IntArray, ladder: Ladder | _Sizes) -> FloatArray:
    bound = clopper_pearson_lower(ladder.n - np.clip(failures, 0, ladder.n), ladder.n, alpha=ladder.alpha)
    return certified_radius(bound, sigma=ladder.sigma)


def _ends(radius: FloatArray, step: FloatArray, rounding: Rounding) -> tuple[FloatArray, FloatArray]:
    """Return the interval that a true radius lies in, a trifle wider: decimal digits are not exact in binary."""
    below, above = _REACH[rounding]
    slack = 1e-3 * step + 1e-7 * radius
    return np.maximum(radius - below * step - slack, 0.0), radius + above * step + slack


def on_ladder(radius: FloatArray, precision: Precision, ladder: Ladder) -> BoolArray:
    """Return [row] whether a rung lies where the true radius can be."""
    low, high = _ends(radius, precision.step(radius), ladder.rounding)
    below, above = _fewest_failures(np.stack([low, high]), ladder)
    # Radius 0 is what a bound of 1/2 gives, and what every smaller one is cut to.
    return np.asarray((above < below) | (low <= 0), dtype=np.bool_)


def successes(radius: FloatArray, precision: Precision, ladder: Ladder) -> IntArray:
    """Return [row] the fewest successes that a logged radius can stand for.

    Where several rungs fit it is the lowest of them, where none does the highest below.
    """
    low, high = _ends(radius, precision.step(radius), ladder.rounding)
    failures = np.clip(_fewest_failures(low, ladder), 0, ladder.n)
    # The highest rung not above the lower end; the next one, where that is within.
    above = np.maximum(failures - 1, 0)
    inside = (_rung(failures, ladder) < low) & (_rung(above, ladder) <= high)
    return ladder.n - np.where(inside, above, failures)


def proved_radius(radius: FloatArray, precision: Precision, ladder: Ladder) -> FloatArray:
    """Return [row] the radius that was surely proved: that of the fewest `successes`."""
    return np.where(radius > 0, _rung(ladder.n - successes(radius, precision, ladder), ladder), 0.0)


def nearest_successes(radius: FloatArray, ladder: Ladder) -> IntArray:
    """Return [row] the successes of the rung that is nearest to a radius."""
    below = np.clip(_fewest_failures(radius, ladder), 0, ladder.n)
    above = np.maximum(below - 1, 0)
    nearer = np.abs(_rung(above, ladder) - radius) < np.abs(_rung(below, ladder) - radius)
    return ladder.n - np.where(nearer, above, below)


def _in_best_rounding(radius: FloatArray, precision: Precision, ladders: Sequence[Ladder]) -> list[Ladder]:
    """Return ladders of one sigma, each in the rounding that suits distinct radii best, with its evidence.

    A rung every s among numbers every u makes a number that can be written likely with u / s by chance.
    """
    step = precision.step(radius)
    ends = [end for rounding in _REACH for end in _ends(radius, step, rounding)]
    best = list(ladders)
    # All n of an alpha at once: of so few radii SciPy's calls take longer than what they compute.
    for alpha in dict.fromkeys(one.alpha for one in ladders):
        places = [place for place, one in enumerate(ladders) if one.alpha == alpha]
        sizes = _Sizes(ladders[0].sigma, np.array([ladders[place].n for place in places])[:, None], alpha)
        own, *at_ends = _fewest_failures(np.stack([radius, *ends])[:, None], sizes)
        failures = np.clip(own, 1, sizes.n)
        below, above = _rung(np.stack([failures, failures - 1]), sizes)
        chance = np.minimum(step / np.maximum(above - below, 1e-300), 1 - _SLIP)
        cap = _rung(np.zeros_like(sizes.n), sizes)
        miss = np.where(radius - step > cap, np.log(_SLIP), np.log(_SLIP / (1 - chance)))
        hit = np.log((1 - _SLIP) / chance)
        # [n, rounding]
        evidence = np.stack(
            [np.where(high < low, hit, miss).sum(1) for low, high in zip(at_ends[::2], at_ends[1::2], strict=True)], 1
        )
        for place, of_roundings in zip(places, evidence, strict=True):
            first = int(of_roundings.argmax())
            best[place] = replace(ladders[place], rounding=list(_REACH)[first], evidence=float(of_roundings[first]))
    return best


def _oddness(ladder: Ladder, alpha: float, n: int) -> float:
    """Return minus the log-probability, roughly, that somebody chooses the parameters of a ladder and not the usual.

    Each further digit of n costs a factor of ten.
    """
    digits = len(str(ladder.n).rstrip("0"))
    return float(ladder.alpha != alpha) + (ladder.n != n) * (0.5 + 2.3 * (digits - 1))


def _roundest(low: float, high: float) -> int | None:
    """Return the number in [low, high] with the fewest significant digits; None where there is none."""
    if not (1 <= high < 1e9):
        return None
    step = 10 ** int(np.log10(high))
    while step >= 1:
        multiple = int(np.ceil(low / step) * step)
        if 0 < multiple <= high:
            return multiple
        step //= 10
    return None


def _size_of_cap(largest: float, step: float, *, sigma: float, alpha: float) -> int | None:
    """Return the roundest n at which a radius would be the largest possible one."""
    ends = np.array([max(largest - step, 1e-9), largest + step]) / sigma
    low, high = np.log(alpha) / np.log1p(-ndtr(-np.minimum(ends, 8.0)))
    return _roundest(float(low), float(high))


def fit_ladders(
    radius: FloatArray,
    precision: Precision,
    *,
    sigmas: Sequence[float] = SIGMAS,
    alphas: Sequence[float] = ALPHAS,
    sizes: Sequence[int] = SIZES,
) -> list[Ladder]:
    """Return ladders that radii may come from, the best first: one per (sigma, n, alpha), in its best rounding.

    Args:
        radius: [row] radii in pixel units, without abstentions.
        precision: How they are written.
        sigmas: Noise levels to try.
        alphas: Failure probabilities to try, the likeliest first.
        sizes: Numbers of samples to try, the likeliest first; beside them the one that makes the largest radius the
            largest possible one.
    """
    distinct = np.unique(radius)
    distinct = distinct[distinct > precision.step(distinct)]
    ladders = []
    for sigma in sigmas:
        possible = distinct[distinct < LARGEST * sigma]
        if possible.size:
            step = float(precision.step(possible[-1:])[0])
            capped = {alpha: _size_of_cap(float(possible[-1]), step, sigma=sigma, alpha=alpha) for alpha in alphas}
            tried = [
                Ladder(sigma, n, alpha, "nearest", 0.0)
                for alpha in alphas
                for n in dict.fromkeys((*sizes, *(filter(None, (capped[alpha],)))))
                if alpha ** (1 / n) > 0.5
            ]
            unusual = {(one.n, one.alpha): _oddness(one, alphas[0], sizes[0]) for one in tried}
            # What radii beyond reach say against a noise level; they are left out of everything else.
            beyond = float(np.log(_SLIP)) * (distinct.size - possible.size)
            for few in (_FEW, _VALUES):
                judged = _in_best_rounding(possible[-few:], precision, tried)
                tried = sorted(judged, key=lambda one: unusual[one.n, one.alpha] - one.evidence)[:_LEFT]
            ladders += [replace(one, evidence=one.evidence + beyond - unusual[one.n, one.alpha]) for one in tried]
    return sorted(ladders, key=lambda one: -one.evidence)

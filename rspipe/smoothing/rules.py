"""Sampling rules of certification: how many samples an image gets, and what its counts prove.

All rules here claim by the Clopper-Pearson lower bound on p, the probability of the selected class. Fixed: n fresh
samples (CERTIFY of Cohen et al. 2019). Planned: a pilot, drawn apart from the estimation samples, chooses their number
(after Chen et al. 2021, arXiv 2112.12084). Radius grid: looks at the growing estimation counts, each with its share of
alpha, until the answer at every radius of a grid is clear (a Bonferroni group-sequential test). Decisions at given
radii are those of `rspipe.smoothing.decisions`. Futility stops cost power, no alpha: only a claim can be false.

A claim is false when its bound is at least 1/2, which certifies a radius, and exceeds p. At p < 1/2 any claim counts
as false, although the class may still be the most probable one. Radii are in units of sigma where no sigma is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlog1py, xlogy

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower, clopper_pearson_upper

_SMALLEST = 200

_EARLY_SHARE = 0.4


@dataclass(frozen=True)
class Look:
    """One confidence bound of a schedule."""

    n: int
    """Estimation samples drawn so far, those of earlier looks included."""
    alpha: float
    """Its share of the certificate's failure probability."""


def looks(n: int, alpha: float) -> tuple[Look, ...]:
    """Return the schedule of the radius-grid rule: looks after 200, 500, 1000, 2000, 5000, ... and after all n samples.

    The last look has 60 % of alpha, the others share the rest equally; a single look has all of it. The shares sum to
    at most alpha, in floating point as well.

    Raises:
        ValueError: An argument is out of range.
    """
    if n < 1 or not 0 < alpha < 1:
        raise ValueError(f"n must be positive and alpha in (0, 1), got {n} and {alpha}")
    series = [digit * 10**power for power in range(2, len(str(n))) for digit in (1, 2, 5)]
    early = [size for size in series if _SMALLEST <= size < n]
    if not early:
        return (Look(n, alpha),)
    # The margin is far above what rounding can add and far below what a bound can show.
    last = (1 - _EARLY_SHARE) * (1 - 1e-12) * alpha
    return (*(Look(size, _EARLY_SHARE * alpha / len(early)) for size in early), Look(n, last))


def size_grid(n: int, *, block: int) -> tuple[int, ...]:
    """Return the sizes that a plan chooses from: some 30 from 200 to n, increasing geometrically; n alone up to 200.

    Sizes of at least a block are whole blocks, but for n itself.

    Raises:
        ValueError: An argument is not positive.
    """
    if n < 1 or block < 1:
        raise ValueError(f"n and block must be positive, got {n} and {block}")
    sizes = np.rint(np.geomspace(min(_SMALLEST, n), n, 40)).astype(int)
    whole = np.where(sizes < block, sizes, -(-sizes // block) * block)
    return (*np.unique(whole[whole < n]).tolist(), n)


# The widest tables are those of n = 100,000: 0.8 MB each, for some 40 sizes and 9 looks.
@lru_cache(maxsize=128)
def lower_bounds(n: int, alpha: float) -> FloatArray:
    """Return the lower bounds [n + 1] of all counts."""
    return clopper_pearson_lower(np.arange(n + 1), n, alpha=alpha)


def binomial_window(n: int, p: FloatArray) -> tuple[IntArray, IntArray]:
    """Return counts (low, high), shaped like p, that Bin(n, p) leaves on either side with a probability below 3e-18.

    Bernstein: P(X - np >= t) <= exp(-t^2 / (2 v + 2 t / 3)), v = n p (1 - p), which t = 9 sqrt(v) + 27 puts below
    exp(-40.5).
    """
    reach = 9 * np.sqrt(n * p * (1 - p)) + 27
    low = np.maximum(np.floor(n * p - reach), 0).astype(np.int64)
    return low, np.minimum(np.ceil(n * p + reach), n).astype(np.int64)


def first_claim(n: int, alpha: float) -> int:
    """Return the smallest count of n that certifies a radius; n + 1 if none does."""
    return int(np.searchsorted(lower_bounds(n, alpha), 0.5))


def expected_radius(p: ArrayLike, n: int, *, alpha: float) -> FloatArray:
    """Return r(n, p), the expected certified radius of n samples at p, in units of sigma.

    r(n, p) = E max(0, ndtri(L(X))), X ~ Bin(n, p), with the lower bound L at level alpha. At n = 100,000 rounding
    leaves an error of about 1e-9.

    Args:
        p: Probabilities of the selected class [...].
        n: Number of estimation samples.
        alpha: Failure probability of the certificate.
    """
    given = np.asarray(p, dtype=np.float64)
    points, inverse = np.unique(given, return_inverse=True)
    radius, first = certified_radius(lower_bounds(n, alpha), sigma=1.0), first_claim(n, alpha)
    counts = np.arange(n + 1)
    log_choose = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    result = np.zeros(points.shape)
    # Windows of neighbours are about equally wide, so little of a batch is wasted.
    for batch in np.array_split(np.arange(points.size), points.size // 64 + 1):
        low, high = binomial_window(n, points[batch])
        low = np.maximum(low, first)
        x = low[:, None] + np.arange(max(0, int((high - low).max(initial=-1)) + 1))
        inside, x = x <= high[:, None], np.minimum(x, n)
        log_chance = log_choose[x] + xlogy(x, points[batch, None]) + xlog1py(n - x, -points[batch, None])
        result[batch] = (np.exp(log_chance) * radius[x]).sum(-1, where=inside)
    return result[inverse].reshape(given.shape)


@lru_cache(maxsize=16)
def _expected_losses(n: int, alpha: float, pilot: int, sizes: tuple[int, ...]) -> FloatArray:
    """Return E[r(n, p) - r(m, p)] for each number of pilot successes and each size m: [pilot + 1, size].

    The posterior under Jeffreys' prior is p ~ Beta(k1 + 1/2, pilot - k1 + 1/2). In t with p = sin(t)^2 its density is
    proportional to sin(t)^(2 k1) cos(t)^(2 (pilot - k1)). Its product with r(m, .) is a trigonometric polynomial whose
    coefficients fall with the frequency f like exp(-f^2 / (8 m + 8 pilot)), so the midpoint rule with steps of
    1 / (3 sqrt(max(n, pilot))), which errs by those at f = 2 pi / step, is right to about 1e-9.
    """
    nodes = int(np.ceil(np.pi / 2 * 3 * np.sqrt(max(n, pilot))))
    t = (np.arange(nodes) + 0.5) * (np.pi / 2 / nodes)
    k1 = np.arange(pilot + 1)[:, None]
    log_density = 2 * k1 * np.log(np.sin(t)) + 2 * (pilot - k1) * np.log(np.cos(t))
    density = np.exp(log_density - log_density.max(-1, keepdims=True))
    radius = np.stack([expected_radius(np.sin(t) ** 2, size, alpha=alpha) for size in (*sizes, n)], axis=-1)
    loss = radius[:, -1:] - radius[:, :-1]
    return np.asarray(density @ loss / density.sum(-1, keepdims=True), dtype=np.float64)


def planned_sizes(*, n: int, alpha: float, pilot: int, eps: float, grid: tuple[int, ...]) -> IntArray:
    """Return the number of estimation samples that each number k1 of pilot successes asks for: [pilot + 1].

    n* = min{m in grid: E[r(n, p) - r(m, p)] <= eps} over the posterior p ~ Beta(k1 + 1/2, pilot - k1 + 1/2), with
    r = `expected_radius`; n where no size will do. With eps = 0 it is n everywhere: CERTIFY. Any plan is sound as long
    as the pilot shares no sample with the estimate. The first call for new numbers takes a second or two.

    The mean over the posterior is at most eps; at a given p it is not. A plan loses most where p is a little above 1/2
    and the pilot cannot tell it from 1/2, for which any size will do: with n = 100,000, alpha = .001 and a pilot of
    1,000 more than eps = .01 between p = .51 and .544, at most .0166 at p = .5185 (of a radius of .034); at eps = .05
    at most .059 at .538 (of .083).

    Args:
        n: Samples of CERTIFY, which no plan exceeds.
        alpha: Failure probability of the certificate.
        pilot: Number of pilot samples.
        eps: Radius that a plan may lose on average, in units of sigma.
        grid: Sizes to choose from; those above n do not count.

    Raises:
        ValueError: An argument is out of range.
    """
    if n < 1 or pilot < 1 or not eps >= 0:
        raise ValueError(f"n and pilot must be positive and eps not negative, got {n}, {pilot} and {eps}")
    sizes = (*sorted(size for size in set(grid) if size < n), n)
    # Where no radius is in reach a small sample loses nothing, but with eps = 0 the rule shall be CERTIFY.
    if eps == 0:
        return np.full(pilot + 1, n, dtype=np.int64)
    good_enough = _expected_losses(n, alpha, pilot, sizes) <= eps
    return np.asarray(np.array(sizes)[good_enough.argmax(-1)], dtype=np.int64)


def futile(k1: ArrayLike, pilot: int, *, futility: float) -> BoolArray:
    """Return whether a pilot gives up: its upper bound on p at level `futility` is below 1/2.

    At p >= 1/2 that happens with a probability of at most `futility`.

    Args:
        k1: Pilot samples on the selected class [...].
        pilot: Number of pilot samples.
        futility: Level of the bound.
    """
    return clopper_pearson_upper(k1, pilot, alpha=futility) < 0.5


def proven(n_a: IntArray, schedule: Sequence[Look]) -> FloatArray:
    """Return the best lower bound on p that the looks so far prove: [...], the largest of theirs.

    All bounds of the schedule hold at once with probability at least 1 - alpha, the sum of their shares, so the best
    of them is valid whenever and for whatever reason the looks end.

    Args:
        n_a: [..., look] samples on the selected class among the first `look.n`, for the first looks of the schedule.
        schedule: All looks.
    """
    done = schedule[: n_a.shape[-1]]
    bounds = [clopper_pearson_lower(n_a[..., at], look.n, alpha=look.alpha) for at, look in enumerate(done)]
    return np.asarray(np.max(bounds, axis=0), dtype=np.float64)


def floor_to_grid(radius: ArrayLike, grid: Sequence[float]) -> FloatArray:
    """Return the largest radius of the ascending grid that is at most `radius` [...]; 0 where there is none."""
    steps = np.array([0.0, *grid])
    if not np.all(np.diff(steps) > 0):
        raise ValueError(f"grid must hold ascending positive radii, got {list(grid)}")
    return steps[np.searchsorted(grid, np.asarray(radius, dtype=np.float64), side="right")]


def grid_cell(bound: FloatArray, *, sigma: float, grid: Sequence[float]) -> IntArray:
    """Return how many answers a bound on p settles with yes: 0 if it abstains, 1 + the grid radii that it certifies."""
    radius = certified_radius(bound, sigma=sigma)
    return np.where(bound < 0.5, 0, 1 + np.searchsorted(grid, radius, side="right")).astype(np.int64)


def optimistic_bound(n_a: IntArray, look: Look, last: Look, *, futility: float) -> FloatArray:
    """Return the bound that the last look can hardly exceed, as `settled` describes it."""
    likely = np.ceil(last.n * clopper_pearson_upper(n_a, look.n, alpha=futility)).astype(np.int64)
    return clopper_pearson_lower(np.minimum(likely, n_a + (last.n - look.n)), last.n, alpha=last.alpha)


def settled(
    n_a: IntArray, schedule: Sequence[Look], *, sigma: float, grid: Sequence[float], futility: float
) -> BoolArray:
    """Return whether further looks would hardly change the certified accuracies at 0 and the radii of the grid: [...].

    So it is after the last look, and where the proven bound and the optimistic one answer alike at every radius. The
    optimistic bound is the lower bound that the last look would give if the class had as many of all samples as the
    upper bound on p from the current look at level `futility` allows, and no more than if all to come fell on it.

    Args:
        n_a: [..., look] samples on the selected class among the first `look.n`, for the first looks of the schedule.
        schedule: All looks.
        sigma: Standard deviation of the noise, in pixel units.
        grid: Ascending positive radii, in pixel units.
        futility: Chance, at most, of giving up a radius within reach, per look.
    """
    done = n_a.shape[-1]
    if done == len(schedule):
        return np.ones(n_a.shape[:-1], dtype=bool)
    best = optimistic_bound(n_a[..., -1], schedule[done - 1], schedule[-1], futility=futility)
    return grid_cell(proven(n_a, schedule), sigma=sigma, grid=grid) >= grid_cell(best, sigma=sigma, grid=grid)

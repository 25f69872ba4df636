"""Sampling rules of certification: how many samples an image gets, what its counts prove, and at what risk and cost.

All rules claim by the Clopper-Pearson lower bound on p, the probability of the selected class. Fixed: n fresh samples
(CERTIFY of Cohen et al. 2019). Planned: a pilot, drawn apart from the estimation samples, chooses their number (after
Chen et al. 2021, arXiv 2112.12084). Radius grid: looks at the growing estimation counts, each with its share of alpha,
until the answer at every radius of a grid is clear (a Bonferroni group-sequential test). Futility stops cost power, no
alpha: only a claim can be false.

A claim is false when its bound is at least 1/2, which certifies a radius, and exceeds p. At p < 1/2 any claim counts
as false, although the class may still be the most probable one. Radii are in units of sigma where no sigma is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlog1py, xlogy
from scipy.stats import binom

from rspipe.certificates import FloatArray, IntArray, certified_radius, clopper_pearson_lower, clopper_pearson_upper

BoolArray = NDArray[np.bool_]

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
def _lower_bounds(n: int, alpha: float) -> FloatArray:
    """Return the lower bounds [n + 1] of all counts."""
    return clopper_pearson_lower(np.arange(n + 1), n, alpha=alpha)


def _window(n: int, p: FloatArray) -> tuple[IntArray, IntArray]:
    """Return counts (low, high), shaped like p, that Bin(n, p) leaves on either side with a probability below 3e-18.

    Bernstein: P(X - np >= t) <= exp(-t^2 / (2 v + 2 t / 3)), v = n p (1 - p), which t = 9 sqrt(v) + 27 puts below
    exp(-40.5).
    """
    reach = 9 * np.sqrt(n * p * (1 - p)) + 27
    low = np.maximum(np.floor(n * p - reach), 0).astype(np.int64)
    return low, np.minimum(np.ceil(n * p + reach), n).astype(np.int64)


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
    radius, first = certified_radius(_lower_bounds(n, alpha), sigma=1.0), _first_claim(n, alpha)
    counts = np.arange(n + 1)
    log_choose = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)
    result = np.zeros(points.shape)
    # Windows of neighbours are about equally wide, so little of a batch is wasted.
    for batch in np.array_split(np.arange(points.size), points.size // 64 + 1):
        low, high = _window(n, points[batch])
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


def _cell(bound: FloatArray, *, sigma: float, grid: Sequence[float]) -> IntArray:
    """Return how many answers a bound on p settles with yes: 0 if it abstains, 1 + the grid radii that it certifies."""
    radius = certified_radius(bound, sigma=sigma)
    return np.where(bound < 0.5, 0, 1 + np.searchsorted(grid, radius, side="right")).astype(np.int64)


def _optimistic(n_a: IntArray, look: Look, last: Look, *, futility: float) -> FloatArray:
    """Return the bound that the last look can hardly exceed: the least of those that `settled` describes."""
    likely = clopper_pearson_upper(n_a, look.n, alpha=futility)
    return np.minimum(likely, clopper_pearson_lower(n_a + (last.n - look.n), last.n, alpha=last.alpha))


def settled(
    n_a: IntArray, schedule: Sequence[Look], *, sigma: float, grid: Sequence[float], futility: float
) -> BoolArray:
    """Return whether further looks would hardly change the certified accuracies at 0 and the radii of the grid: [...].

    So it is after the last look, and where the proven bound and the optimistic one answer alike at every radius. The
    optimistic bound is the upper bound on p from the current look at level `futility`, or the lower bound that the
    last look would give if all samples to come fell on the class, whichever is less.

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
    best = _optimistic(n_a[..., -1], schedule[done - 1], schedule[-1], futility=futility)
    return _cell(proven(n_a, schedule), sigma=sigma, grid=grid) >= _cell(best, sigma=sigma, grid=grid)


def _first_claim(n: int, alpha: float) -> int:
    """Return the smallest count of n that certifies a radius; n + 1 if none does."""
    return int(np.searchsorted(_lower_bounds(n, alpha), 0.5))


def _first_false(p: ArrayLike, n: int, alpha: float) -> IntArray:
    """Return the smallest count of n whose claim is false at p [...]; n + 1 if none is."""
    above = np.searchsorted(_lower_bounds(n, alpha), np.asarray(p, dtype=np.float64), side="right")
    return np.maximum(above, _first_claim(n, alpha)).astype(np.int64)


def error_probability(p: ArrayLike, n: int, *, alpha: float) -> FloatArray:
    """Return the exact probability of a false claim from n samples where the selected class has probability p [...].

    A claim is false when its lower bound at level alpha is at least 1/2 and exceeds p.
    """
    return np.asarray(binom.sf(_first_false(p, n, alpha) - 1, n, np.asarray(p)), dtype=np.float64)


def _pilot_chances(p: FloatArray, sizes: IntArray, *, pilot: int, futility: float) -> tuple[list[int], FloatArray]:
    """Return the distinct sizes of a plan and the probability of each [..., size]; the rest of the pilots give up."""
    if sizes.shape != (pilot + 1,):
        raise ValueError(f"sizes must have the shape ({pilot + 1},), got {sizes.shape}")
    k1 = np.arange(pilot + 1)
    chance = binom.pmf(k1, pilot, p[..., None]) * ~futile(k1, pilot, futility=futility)
    distinct, which = np.unique(sizes, return_inverse=True)
    return distinct.tolist(), chance @ (which[:, None] == np.arange(distinct.size)).astype(np.float64)


def planned_error_probability(
    p: ArrayLike, sizes: IntArray, *, pilot: int, alpha: float, futility: float
) -> FloatArray:
    """Return the exact probability of a false claim from a pilot and as many samples as it asks for, at p [...].

    The sum over k1 ~ Bin(pilot, p) that do not give up of `error_probability` at sizes[k1]: a mean of numbers that are
    at most alpha, whatever the sizes. If the pilot includes the samples that selected the class, k1 is distributed a
    little otherwise; the bound by alpha does not depend on it.

    Args:
        p: Probabilities of the selected class [...].
        sizes: [pilot + 1] number of estimation samples for each number of pilot successes.
        pilot: Number of pilot samples.
        alpha: Failure probability of the certificate.
        futility: Level at which the pilot gives up.
    """
    points = np.asarray(p, dtype=np.float64)
    distinct, chance = _pilot_chances(points, sizes, pilot=pilot, futility=futility)
    errors = np.stack([error_probability(points, size, alpha=alpha) for size in distinct], axis=-1)
    return np.asarray((chance * errors).sum(-1), dtype=np.float64)


def planned_cost(
    p: ArrayLike, sizes: IntArray, *, pilot: int, alpha: float, futility: float
) -> tuple[FloatArray, FloatArray]:
    """Return what a plan costs and gives where the selected class has probability p: two arrays [...].

    The expected number of samples, those of the pilot included, of which the selection is part; and the expected
    certified radius in units of sigma. Exact sums over pilots and counts; arguments are those of
    `planned_error_probability`.
    """
    points = np.asarray(p, dtype=np.float64)
    distinct, chance = _pilot_chances(points, sizes, pilot=pilot, futility=futility)
    samples, radius = np.full(points.shape, float(pilot)), np.zeros(points.shape)
    for at, size in enumerate(distinct):
        share = chance[..., at]
        samples += share * size
        # Most sizes are out of the question for most p.
        likely = share > 1e-15
        radius[likely] += share[likely] * expected_radius(points[likely], size, alpha=alpha)
    return samples, radius


@dataclass(frozen=True)
class _Counts:
    """Probabilities [..., count] of start, start + 1, ... successes so far."""

    start: int
    mass: FloatArray

    def support(self) -> IntArray:
        return self.start + np.arange(self.mass.shape[-1])

    def advance(self, p: float, *, drawn: int, until: int) -> "_Counts":
        """Return the distribution after `until` instead of `drawn` samples; it leaves out less than 2e-17 in all."""
        low, high = (int(end) for end in _window(until - drawn, np.asarray(p)))
        step = binom.pmf(np.arange(low, high + 1), until - drawn, p)
        rows = self.mass.reshape(-1, self.mass.shape[-1])
        grown = np.zeros((len(rows), rows.shape[1] + step.size - 1))
        for row, target in zip(rows, grown, strict=True):
            if row.any():
                target[:] = np.convolve(row, step)
        first, last = (int(end) for end in _window(until, np.asarray(p)))
        cut = max(0, first - self.start - low)
        grown = grown[:, cut : last + 1 - self.start - low]
        return _Counts(self.start + low + cut, grown.reshape(*self.mass.shape[:-1], -1))


def looks_error_probability(p: ArrayLike, schedule: Sequence[Look]) -> FloatArray:
    """Return the probability that any look of the schedule would make a false claim, at p [...].

    It is not less than that of the radius-grid rule, which stops earlier and rounds radii down, and at most the sum of
    the looks' alphas. The distribution of the count is carried from look to look, false claims absorbed; truncation
    and rounding stay below 1e-12.
    """

    def at(p: float) -> float:
        counts, drawn, error = _Counts(0, np.ones(1)), 0, 0.0
        for look in schedule:
            counts = counts.advance(p, drawn=drawn, until=look.n)
            false = counts.support() >= _first_false(p, look.n, look.alpha)
            error += float(counts.mass[false].sum())
            counts, drawn = _Counts(counts.start, np.where(false, 0.0, counts.mass)), look.n
        return error

    points = np.asarray(p, dtype=np.float64)
    return np.array([at(float(one)) for one in points.ravel()]).reshape(points.shape)


def looks_cost(
    p: ArrayLike, schedule: Sequence[Look], *, sigma: float, grid: Sequence[float], futility: float
) -> tuple[FloatArray, FloatArray]:
    """Return what the radius-grid rule costs and gives where the selected class has probability p [...].

    The expected number of estimation samples [...], and the probabilities [..., 1 + radius] that a radius of at least
    0 and of at least each radius of the grid is certified; truncation and rounding stay below 1e-12. Arguments are
    those of `settled`.
    """
    points, last = np.asarray(p, dtype=np.float64), schedule[-1]
    tables = []
    for look in schedule:
        lower, counts = _lower_bounds(look.n, look.alpha), np.arange(look.n + 1)
        best = lower if look is last else _optimistic(counts, look, last, futility=futility)
        tables.append((look.n, _cell(lower, sigma=sigma, grid=grid), _cell(best, sigma=sigma, grid=grid)))
    results = [_walk(float(one), tables, cells=len(grid) + 2) for one in points.ravel()]
    samples = np.array([samples for samples, _ in results]).reshape(points.shape)
    claimed = np.array([claimed for _, claimed in results]).reshape(*points.shape, len(grid) + 1)
    return samples, claimed


def _walk(p: float, tables: Sequence[tuple[int, IntArray, IntArray]], *, cells: int) -> tuple[float, FloatArray]:
    """Return expected samples and claim probabilities [cell - 1] of `looks_cost` at one p.

    The state is the best cell proven so far and the count, [cell, count]: all that decides about stopping.

    Args:
        p: Probability of the selected class.
        tables: Of each look its samples, and for each count the cells of the lower and of the optimistic bound.
        cells: Their number.
    """
    counts, drawn, samples = _Counts(0, np.eye(cells, 1)), 0, 0.0
    cell, stopped_in = np.arange(cells)[:, None], np.zeros(cells)
    for n, proven_cell, best_cell in tables:
        samples += (n - drawn) * float(counts.mass.sum())
        counts, drawn = counts.advance(p, drawn=drawn, until=n), n
        support, mass = counts.support(), np.zeros_like(counts.mass)
        np.add.at(mass, (np.maximum(cell, proven_cell[support]), support - counts.start), counts.mass)
        stop = cell >= best_cell[support]
        stopped_in += np.where(stop, mass, 0.0).sum(-1)
        counts = _Counts(counts.start, np.where(stop, 0.0, mass))
        if counts.mass.sum() < 1e-15:
            break
    return samples, stopped_in[::-1].cumsum()[::-1][1:]

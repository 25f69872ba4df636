"""Risks and costs of the sampling rules, exactly: sums over binomial counts, nothing simulated.

A claim is false when its bound is at least 1/2, which certifies a radius, and exceeds p, the probability of the
selected class. At p < 1/2 any claim counts as false, although the class may still be the most probable one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing.rules import (
    Look,
    binomial_window,
    expected_radius,
    first_claim,
    futile,
    grid_cell,
    lower_bounds,
    optimistic_bound,
)


def _first_false(p: ArrayLike, n: int, alpha: float) -> IntArray:
    """Return the smallest count of n whose claim is false at p [...]; n + 1 if none is."""
    above = np.searchsorted(lower_bounds(n, alpha), np.asarray(p, dtype=np.float64), side="right")
    return np.maximum(above, first_claim(n, alpha)).astype(np.int64)


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
        low, high = (int(end) for end in binomial_window(until - drawn, np.asarray(p)))
        step = binom.pmf(np.arange(low, high + 1), until - drawn, p)
        rows = self.mass.reshape(-1, self.mass.shape[-1])
        grown = np.zeros((len(rows), rows.shape[1] + step.size - 1))
        for row, target in zip(rows, grown, strict=True):
            if row.any():
                target[:] = np.convolve(row, step)
        first, last = (int(end) for end in binomial_window(until, np.asarray(p)))
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
        lower, counts = lower_bounds(look.n, look.alpha), np.arange(look.n + 1)
        best = lower if look is last else optimistic_bound(counts, look, last, futility=futility)
        tables.append((look.n, grid_cell(lower, sigma=sigma, grid=grid), grid_cell(best, sigma=sigma, grid=grid)))
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

"""How far the noise of members is their own: variances and covariances of margins within and across methods.

A margin is that of the label over the strongest competitor of all members together, on calibration images that they get
right (`rspipe.ensembles.moments.runner_up_pairs`), divided by the member's mean margin over these images: members
differ in scale, and only what is left matters.
Over noise it has the variance v within a member and covariances within a method and across methods. Of k members of
one method the average has variance c + (v - c) / k with c the covariance within the method.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from rspipe.arrays import FloatArray
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.moments import runner_up_pairs
from rspipe.records import Interval
from rspipe.smoothing.inference import Difference, contrast
from rspipe.smoothing.jackknife import Member, Subsets, contrast_of_subsets, pseudo_values

_Pairs = Sequence[tuple[int, int]]
"""Of members, by position."""


@dataclass(frozen=True)
class Across:
    """Covariance of models of two methods, and what mixing them does to the variance of an average of two."""

    first: str
    second: str
    common_seed: bool
    """Whether the models of every pair drew the same in their trainings. Pairs of the two kinds are never averaged."""
    covariance: Interval
    less_first: Difference | None
    """Variance of the average of a model of each less that of two of the first, the mean over all pairs of models; None
    with one model of it. Below 0, mixing lowers the variance."""
    less_second: Difference | None


@dataclass(frozen=True)
class NoiseStructure:
    """Variances and covariances over noise of margins in units of their mean; intervals are for these models."""

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


@dataclass(frozen=True)
class _Members:
    """Members whose margins can be standardised."""

    names: tuple[Member, ...]
    """[k]."""
    common_seeds: tuple[int | None, ...]
    """[k], as in `noise_structure`."""
    spread: FloatArray
    """[image, k, k] standardised covariances."""

    def by_method(self) -> dict[str, list[int]]:
        """Return the positions of each method's models."""
        positions: dict[str, list[int]] = {}
        for at, (method, _) in enumerate(self.names):
            positions.setdefault(method, []).append(at)
        return positions

    def covariances(self, pairs: Iterable[tuple[int, int]]) -> Subsets:
        """Return the covariances of two members, by the two; a member with itself has its variance."""
        return {frozenset({self.names[a], self.names[b]}): self.spread[:, a, b] for a, b in pairs}

    def averages(self, pairs: Iterable[tuple[int, int]]) -> Subsets:
        """Return the variances of the average of two members, by the two."""
        s = self.spread
        return {
            frozenset({self.names[a], self.names[b]}): (s[:, a, a] + s[:, b, b] + 2 * s[:, a, b]) / 4 for a, b in pairs
        }


def _standardised(mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return [image, k, k] whose means over images are the pooled covariances in units of pooled mean margins.

    S_kl / (m_k m_l) is a function of means over images. Each image has its value and the image's own first-order change
    of it, so that the scatter over images gives the error of the whole (the delta method).
    """
    scale = mean.mean(0)
    units = np.outer(scale, scale)
    change = (mean - scale) / scale
    value = covariance.mean(0) / units
    return np.asarray(covariance / units - value * (change[:, :, None] + change[:, None, :]), dtype=np.float64)


def noise_structure(
    calibration: Calibration, members: Sequence[Member], *, common_seeds: Sequence[int | None] | None = None
) -> NoiseStructure | None:
    """Return the noise structure of members; None without two images to judge by.

    Members whose mean margin is not positive on these images have no margin to standardise by and are left out.
    What mixing does is judged over all pairs of models, for these models and for their procedures.

    Args:
        calibration: The margins of k members.
        members: [k] method and training seed of each.
        common_seeds: [k] the seed of each member, where models of other methods with this seed drew the same in their
            trainings; None of a member whose training is independent of all others, as are all by default.
    """
    pairs = runner_up_pairs(calibration.mean, calibration.covariance)
    if len(pairs.mean) < 2:
        return None
    usable = [int(at) for at in np.flatnonzero(pairs.mean.mean(0) > 0)]
    seeds = [None] * len(members) if common_seeds is None else common_seeds
    kept = _Members(
        names=tuple(members[at] for at in usable),
        common_seeds=tuple(seeds[at] for at in usable),
        spread=_standardised(pairs.mean[:, usable], pairs.covariance[:, usable][:, :, usable]),
    )
    methods = kept.by_method()
    variance = {name: kept.covariances(zip(models, models, strict=True)) for name, models in methods.items()}
    within = {name: kept.covariances(combinations(models, 2)) for name, models in methods.items() if len(models) > 1}
    return NoiseStructure(
        images=len(pairs.mean),
        models={name: len(models) for name, models in methods.items()},
        variance={name: contrast_of_subsets(values).models for name, values in variance.items()},
        covariance={name: contrast_of_subsets(values).models for name, values in within.items()},
        # Where no noise varies a margin there is nothing to share.
        floor={
            name: _ratio(pseudo_values(within[name]).theta, of_one)
            for name in within
            if (of_one := pseudo_values(variance[name]).theta).mean() > 0
        },
        across=tuple(one for a, b in combinations(methods, 2) for one in _across(kept, methods, a, b)),
    )


def _across(members: _Members, methods: Mapping[str, Sequence[int]], a: str, b: str) -> Iterator[Across]:
    """Yield what two methods have in common: of independent models, and of those with a seed in common."""
    mixed, seeds = list(product(methods[a], methods[b])), members.common_seeds
    related = [(p, q) for p, q in mixed if seeds[p] is not None and seeds[p] == seeds[q]]
    # Seeds that two methods have in common are no independent groups.
    independent = all(seeds[p] is None or seeds[q] is None for p, q in mixed)

    def less(method: str, chosen: _Pairs) -> Difference | None:
        if len(methods[method]) < 2:
            return None
        values = pseudo_values(members.averages(chosen), members.averages(combinations(methods[method], 2)))
        return contrast(values.theta, values.groups if independent else ())

    for common, chosen in ((False, [pair for pair in mixed if pair not in related]), (True, related)):
        if chosen:
            covariance = contrast_of_subsets(members.covariances(chosen)).models
            yield Across(a, b, common, covariance, less(a, chosen), less(b, chosen))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> Interval:
    """Return the ratio of two means over [image] values, by the delta method."""
    value = numerator.mean() / denominator.mean()
    return contrast(value + (numerator - value * denominator) / denominator.mean(), ()).models

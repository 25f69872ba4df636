"""Contrasts of ensembles over all subsets of seeds, taken apart by leaving out one training seed after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import FloatArray
from rspipe.smoothing.inference import Difference, contrast

Member = tuple[str, int]
"""Label and training seed of a trained model: the unit that is independent."""

Subsets = Mapping[frozenset[Member], ArrayLike]
"""Credits [image] of ensembles, or of single models, by the members that they are made of; all on the same images."""


@dataclass(frozen=True)
class PseudoValues:
    """A contrast over all subsets, and what each training seed contributes to it."""

    theta: FloatArray
    """[image] mean of the first kind, less the mean of the second."""
    groups: tuple[FloatArray, ...]
    """Per label, sorted by name: [seed, image] S theta - (S - 1) theta without the seed.

    Empty where procedures cannot be judged: every seed must be left out by at least one ensemble of each kind, and no
    two may always come together, for then there are fewer independent parts than seeds.
    """


def pseudo_values(first: Subsets, second: Subsets | None = None) -> PseudoValues:
    """Return the jackknife's pseudo-values of a contrast: mean over one kind of subsets, less that over another.

    All questions about ensembles are of this form; K is a set of k members. More than what is certified is not needed:
    the mean is over the ensembles that there are.

    * average of k against single: first {K: credits of the ensemble}, second {{s}: credits of model s};
    * against the best member: first {K: credits of the ensemble less those of the best of K}, no second;
    * other weights, MME or consensus against uniform: first {K: credits of that less those of uniform}, no second;
    * mixed against intra: first {{A s, B t}: ...}, second {{A s, A t}: ...};
    * a model made from another: first {{A s}: credits of what was made less those of the original}, no second.

    Args:
        first: By members. Where both kinds are paired set by set, the difference of each pair.
        second: By members; 0 without.

    Raises:
        ValueError: There are no subsets, an empty one, or their images are not equally many.
    """
    kinds = [kind for kind in (first, second) if kind is not None]
    if not all(kinds) or any(not members for kind in kinds for members in kind):
        raise ValueError("each kind of subsets needs at least one, and each of these at least one member")
    if len({np.shape(values) for kind in kinds for values in kind.values()}) > 1:
        raise ValueError("the credits of all subsets must be [image] on the same images")
    tables = [np.stack([np.asarray(values, dtype=np.float64) for values in kind.values()]) for kind in kinds]
    if tables[0].ndim != 2:
        raise ValueError(f"the credits of a subset must be [image], got {tables[0].shape[1:]}")
    everything = [np.ones(len(table), dtype=np.bool_) for table in tables]
    theta = _contrast(tables, everything)
    members = sorted(frozenset().union(*(subset for kind in kinds for subset in kind)))
    if not all(_separable(kind, members) for kind in kinds):
        return PseudoValues(theta, ())
    groups = []
    for label in dict.fromkeys(label for label, _ in members):
        seeds = [member for member in members if member[0] == label]
        without = [[np.array([seed not in subset for subset in kind]) for kind in kinds] for seed in seeds]
        if not all(left.any() for of_seed in without for left in of_seed):
            return PseudoValues(theta, ())
        count = len(seeds)
        groups.append(np.stack([count * theta - (count - 1) * _contrast(tables, left) for left in without]))
    return PseudoValues(theta, tuple(groups))


def _separable(kind: Subsets, members: Sequence[Member]) -> bool:
    """Return whether no two members are in the same subsets of a kind."""
    places = [tuple(member in subset for subset in kind) for member in members]
    there = [place for place in places if any(place)]
    return len({*there}) == len(there)


def contrast_of_subsets(
    first: Subsets, second: Subsets | None = None, *, population: int | None = None, shares: bool = False
) -> Difference:
    """Judge a contrast of ensembles over all subsets of seeds; arguments as in `pseudo_values` and `contrast`."""
    values = pseudo_values(first, second)
    return contrast(values.theta, values.groups, population=population, shares=shares)


def _contrast(tables: Sequence[FloatArray], chosen: Sequence[np.ndarray]) -> FloatArray:
    means = [table[rows].mean(0) for table, rows in zip(tables, chosen, strict=True)]
    return np.asarray(means[0] - means[1] if len(means) > 1 else means[0], dtype=np.float64)

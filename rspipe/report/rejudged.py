"""Published methods judged again, from their certification logs: which of the orders that papers print are certain.

All radii are those of the nearest possible count at one alpha, so that no log gains by its rounding or its alpha. Where
a method has several recipes, the one with the largest ACR on every other image that all logs of the setting share is
judged, and only on images that it was not chosen on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations

import numpy as np

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.audit.collection import CollectedLog, Setting
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower
from rspipe.smoothing.inference import Difference, difference, holm_by_scope
from rspipe.smoothing.metrics import hard_half, values_of_hard_half
from rspipe.smoothing.rules import expected_radius

ALPHA = 0.001

FEWER = 1_000
"""Samples of the second budget."""

_RADII = (0.0, 1.0, 2.0, 3.0)
"""In units of sigma, at which certified accuracies are compared; at 0 it is any radius above 0."""

ACR, AT_FEWER, HARD_HALF = "ACR", f"ACR at n = {FEWER:,}", "ACR of the hard half"


@dataclass(frozen=True)
class Contestant:
    """A method as it is judged: the trainings of one recipe."""

    method: str
    settings: str
    logs: tuple[CollectedLog, ...]
    """One per trained network."""
    recipes: int
    """That it was chosen among."""

    @cached_property
    def examples(self) -> IntArray:
        """[image] that all of its logs have, ascending."""
        return reduce(np.intersect1d, [log.example for log in self.logs])

    @cached_property
    def _credits(self) -> dict[int | None, FloatArray]:
        """[training, image of `examples`] by number of samples; every pair and quantity asks for the same ones."""
        return {
            n: np.stack([_log_credits(log, n)[np.searchsorted(log.example, self.examples)] for log in self.logs])
            for n in (None, FEWER)
        }

    def credits(self, examples: IntArray, *, n: int | None = None) -> FloatArray:
        """Return [training, image] radii, 0 where the prediction is wrong; of n = FEWER samples those expected."""
        return self._credits[n][:, np.searchsorted(self.examples, examples)]


@dataclass(frozen=True)
class Pair:
    """Two methods on the images that they share; first is the one that is first in the setting's order."""

    first: Contestant
    second: Contestant
    quantity: str
    """ACR, or another of which the difference is."""
    difference: Difference
    procedures: bool
    models: bool
    """Whether Holm's correction leaves the verdict, for all pairs of the setting and, of accuracies, all radii."""

    @property
    def sign(self) -> int:
        """Of the difference where it is certain for these models, else 0."""
        return int(np.sign(self.difference.estimate)) if self.models else 0


@dataclass(frozen=True)
class Rejudged:
    """A setting: its methods, by ACR on the images that all share and none was chosen on, and all their pairs."""

    setting: Setting
    contestants: tuple[Contestant, ...]
    shared: IntArray
    hard: IntArray
    """The half of the shared images on which the methods' mean radius is smallest."""
    pairs: tuple[Pair, ...]

    def of(self, quantity: str) -> tuple[Pair, ...]:
        """Return the pairs of a quantity, in the same order for each."""
        return tuple(pair for pair in self.pairs if pair.quantity == quantity)

    def reversed_by(self, quantity: str) -> tuple[tuple[Pair, Pair], ...]:
        """Return pairs with a certain order by ACR, and a certain one the other way by another quantity."""
        both = zip(self.of(ACR), self.of(quantity), strict=True)
        return tuple((one, other) for one, other in both if one.sign * other.sign < 0)


def rejudge(logs: Sequence[CollectedLog]) -> list[Rejudged]:
    """Return every setting in which two methods have logs on the same images."""
    by_setting: dict[Setting, list[CollectedLog]] = {}
    for log in sorted(logs, key=lambda one: (str(one.setting), one.number)):
        by_setting.setdefault(log.setting, []).append(log)
    judged = (_rejudge_setting(setting, same) for setting, same in by_setting.items())
    return [one for one in judged if one is not None]


def _rejudge_setting(setting: Setting, logs: Sequence[CollectedLog]) -> Rejudged | None:
    chosen_on, left = _halves(reduce(np.intersect1d, [log.example for log in logs]))
    methods = {log.method: [one for one in logs if one.method == log.method] for log in logs}
    if len(methods) < 2 or not left.size:
        return None
    contestants = [_contestant(method, own, chosen_on) for method, own in methods.items()]
    contestants.sort(key=lambda one: -one.credits(left).mean())
    of_methods = np.stack([one.credits(left).mean(0) for one in contestants])
    hard = left[hard_half(of_methods)]
    both = list(combinations(contestants, 2))
    pairs = [
        *_family(both, {ACR: [_of_acr(*two, chosen_on) for two in both]}),
        *_family(both, {AT_FEWER: [_of_acr(*two, chosen_on, n=FEWER) for two in both]}),
        *_family(both, {HARD_HALF: [_of_hard_half(*two, left, of_methods) for two in both]}),
        *_family(both, {_at(radius): [_of_accuracy(*two, chosen_on, radius) for two in both] for radius in _RADII}),
    ]
    return Rejudged(setting, tuple(contestants), left, hard, tuple(pairs))


def _halves(examples: IntArray) -> tuple[IntArray, IntArray]:
    return examples[1::2], examples[::2]


def _contestant(method: str, logs: Sequence[CollectedLog], chosen_on: IntArray) -> Contestant:
    recipes: dict[str, dict[str, CollectedLog]] = {}
    for log in logs:
        # Of several certifications of a network, the one of most images.
        own = recipes.setdefault(log.recipe, {})
        if log.model not in own or own[log.model].example.size < log.example.size:
            own[log.model] = log
    of_recipes = [
        Contestant(method, min(own.values(), key=lambda log: log.number).settings, tuple(own.values()), len(recipes))
        for own in recipes.values()
    ]
    return max(of_recipes, key=lambda one: float(one.credits(chosen_on).mean()))


def _images(first: Contestant, second: Contestant, chosen_on: IntArray) -> IntArray:
    """Return the images that two methods share, less those that a recipe of either was chosen on."""
    shared = np.intersect1d(first.examples, second.examples)
    return shared if first.recipes == second.recipes == 1 else np.setdiff1d(shared, chosen_on)


def _of_acr(first: Contestant, second: Contestant, chosen_on: IntArray, *, n: int | None = None) -> Difference:
    images = _images(first, second, chosen_on)
    return difference(first.credits(images, n=n), second.credits(images, n=n))


def _of_hard_half(first: Contestant, second: Contestant, images: IntArray, methods: FloatArray) -> Difference:
    return difference(*(values_of_hard_half(one.credits(images), methods) for one in (first, second)))


def _of_accuracy(first: Contestant, second: Contestant, chosen_on: IntArray, radius: float) -> Difference:
    images = _images(first, second, chosen_on)
    return difference(*(_reached(one.credits(images), radius * one.logs[0].setting.sigma) for one in (first, second)))


def _reached(credits_: FloatArray, radius: float) -> BoolArray:
    return np.asarray(credits_ >= radius if radius else credits_ > 0, dtype=np.bool_)


def _at(radius: float) -> str:
    return f"CA({radius:g} sigma)" if radius else "CA(0)"


def _family(
    both: Sequence[tuple[Contestant, Contestant]], differences: Mapping[str, Sequence[Difference]]
) -> list[Pair]:
    """Return pairs of one family of verdicts: differences by quantity, each in the order of the pairs."""
    listed = [(name, two, one) for name, own in differences.items() for two, one in zip(both, own, strict=True)]
    sure = zip(*holm_by_scope([one for _, _, one in listed]), strict=True)
    return [
        Pair(*two, name, one, bool(procedures), bool(models))
        for (name, two, one), (procedures, models) in zip(listed, sure, strict=True)
    ]


def _log_credits(log: CollectedLog, n: int | None) -> FloatArray:
    counts, inverse = np.unique(log.successes, return_inverse=True)
    if n is None:
        radius = certified_radius(clopper_pearson_lower(counts, log.n, alpha=ALPHA), sigma=log.setting.sigma)
    else:
        radius = expected_radius(counts / log.n, n, alpha=ALPHA) * log.setting.sigma
    return np.asarray(radius[inverse] * log.correct, dtype=np.float64)

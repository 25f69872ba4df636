"""Groups of classifiers, and what the difference of two of them says of these models and of their procedures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.inference import Difference, contrast, difference, holm_by_scope
from rspipe.smoothing.jackknife import Member, contrast_of_subsets, pseudo_values


@dataclass(frozen=True)
class Group:
    """Classifiers that are averaged image by image: the seeds of a label, the members of an ensemble, or one alone."""

    id: str
    label: str
    """As tables name it."""
    examples: IntArray
    """[image] numbers of the images that all of the classifiers were certified on, ascending."""
    credits: FloatArray
    """[classifier, image] certified radii, 0 where the prediction is wrong."""
    seeds: tuple[str, ...] = ()
    """Ids of the models, one per row, where they are the training seeds of one label; empty otherwise."""
    members: tuple[frozenset[Member], ...] = ()
    """[classifier] label and seed of the models that each is made of; empty where they are not known, or related."""

    @classmethod
    def of(cls, classifiers: Sequence[CertifiedClassifier], *, id_: str = "", label: str = "") -> "Group":
        """Return the group of one or more certified classifiers."""
        return cls.of_credits([(c.example, c.credited_radius) for c in classifiers], id_=id_, label=label)

    @classmethod
    def of_credits(cls, credits_: Sequence[tuple[IntArray, FloatArray]], *, id_: str, label: str) -> "Group":
        """Return the group of classifiers that are given by their images, ascending, and their credits on these."""
        examples = reduce(np.intersect1d, [example for example, _ in credits_])
        rows = [credit[np.searchsorted(example, examples)] for example, credit in credits_]
        return cls(id_, label, examples, np.stack(rows))

    @classmethod
    def union(cls, groups: Sequence["Group"]) -> "Group":
        """Return the classifiers of several groups together, on the images that all share; named as the first."""
        if len(groups) == 1:
            return groups[0]
        examples = reduce(np.intersect1d, [group.examples for group in groups])
        known = all(group.members for group in groups)
        return cls(
            groups[0].id,
            groups[0].label,
            examples,
            np.concatenate([group.on(examples).credits for group in groups]),
            members=tuple(chain.from_iterable(group.members for group in groups)) if known else (),
        )

    def on(self, examples: IntArray) -> "Group":
        """Return the same classifiers on some of their images, in the order given."""
        return replace(self, examples=examples, credits=self.credits[:, np.searchsorted(self.examples, examples)])

    @property
    def mean_credits(self) -> FloatArray:
        """[image], averaged over the classifiers."""
        return np.asarray(self.credits.mean(0), dtype=np.float64)

    @property
    def acr(self) -> float:
        """Mean over images and classifiers; NaN without an image."""
        return float(self.mean_credits.mean()) if self.examples.size else float("nan")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference of ACR of two groups on the images that all their classifiers share."""

    sigma: float
    first: str
    second: str
    """Ids of the groups; the difference is first minus second."""
    first_label: str
    second_label: str
    first_acr: float
    second_acr: float
    """On the shared images."""
    difference: Difference
    """For both scopes; procedures are judged where the models of both groups are known, and each can be left out."""
    question: str = ""
    """That the comparison answers."""

    @property
    def images(self) -> int:
        """That all of the classifiers share."""
        return self.difference.images


def compare(
    first: Group, second: Group, *, sigma: float, question: str = "", population: int | None = None
) -> Comparison | None:
    """Return the comparison of two groups at a noise level; None where they share no image.

    Args:
        first: The one that the difference is of.
        second: The one that is taken away.
        sigma: Of the noise.
        question: That the comparison answers.
        population: Images of the finite test set that is meant, as in `rspipe.smoothing.inference.contrast`.
    """
    a, b = first, second
    if not np.array_equal(a.examples, b.examples):
        examples = np.intersect1d(a.examples, b.examples)
        a, b = a.on(examples), b.on(examples)
    if a.examples.size == 0:
        return None
    return Comparison(
        sigma=sigma,
        first=a.id,
        second=b.id,
        first_label=a.label,
        second_label=b.label,
        first_acr=a.acr,
        second_acr=b.acr,
        difference=_difference(a, b, population),
        question=question,
    )


def _difference(a: Group, b: Group, population: int | None) -> Difference:
    """Return the difference of groups on the same images, for procedures where they can be judged; booleans: shares."""
    shares = a.credits.dtype == b.credits.dtype == np.bool_
    if a.seeds and b.seeds and not {*a.seeds} & {*b.seeds}:
        return difference(a.credits, b.credits, population=population)
    if a.seeds and {*a.seeds} == {*b.seeds}:
        # The same models, certified in two ways: one group of pairs.
        pairs = a.credits - b.credits[[b.seeds.index(seed) for seed in a.seeds]].astype(np.float64)
        return contrast(pairs.mean(0), [pairs], population=population, shares=shares)
    sides = [dict(zip(group.members, group.credits, strict=False)) for group in (a, b)]
    if all(len(side) == len(group.credits) for side, group in zip(sides, (a, b), strict=True)):
        return contrast_of_subsets(*sides, population=population, shares=shares)
    return contrast(a.mean_credits - b.mean_credits, (), population=population, shares=shares)


def judge_group(group: Group, *, population: int | None = None) -> Difference:
    """Return the mean credit of a group, judged for these models and, where each can be left out, for procedures."""
    if group.seeds:
        return contrast(group.mean_credits, [group.credits], population=population)
    subsets = dict(zip(group.members, group.credits, strict=False))
    known = len(subsets) == len(group.credits)
    return contrast(group.mean_credits, pseudo_values(subsets).groups if known else (), population=population)


def with_holm(family: Sequence[Comparison]) -> list[tuple[Comparison, bool, bool]]:
    """Return comparisons with whether Holm's correction for all of them leaves the verdicts: procedures, models."""
    procedures, models = holm_by_scope([one.difference for one in family])
    return list(zip(family, procedures.tolist(), models.tolist(), strict=True))

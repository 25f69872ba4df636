"""Groups of classifiers, and what the difference of two of them is on the images that all share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.inference import Difference, ModelVerdict, contrast, difference
from rspipe.smoothing.jackknife import Member, contrast_of_subsets
from rspipe.smoothing.judgement import Judgement


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
    images: int
    question: str = ""
    """That the comparison answers."""


def compare(first: Group, second: Group, *, sigma: float, question: str = "") -> Comparison | None:
    """Return the comparison of two groups at a noise level; None where they share no image."""
    examples = np.intersect1d(first.examples, second.examples)
    if examples.size == 0:
        return None
    a, b = first.on(examples), second.on(examples)
    return Comparison(
        sigma=sigma,
        first=a.id,
        second=b.id,
        first_label=a.label,
        second_label=b.label,
        first_acr=a.acr,
        second_acr=b.acr,
        difference=_difference(a, b),
        images=int(examples.size),
        question=question,
    )


def _difference(a: Group, b: Group) -> Difference:
    """Return the difference of groups on the same images, judged for procedures where that can be."""
    if a.seeds and b.seeds and not {*a.seeds} & {*b.seeds}:
        return difference(a.credits, b.credits)
    sides = [dict(zip(group.members, group.credits, strict=False)) for group in (a, b)]
    if all(len(side) == len(group.credits) for side, group in zip(sides, (a, b), strict=True)):
        return contrast_of_subsets(*sides)
    return contrast(a.mean_credits - b.mean_credits, ())


def difference_of_acr(
    first: Sequence[CertifiedClassifier], second: Sequence[CertifiedClassifier]
) -> Judgement[ModelVerdict] | None:
    """Return the difference of ACR of two groups, for these classifiers alone; None where they share no image."""
    comparison = compare(Group.of(first), Group.of(second), sigma=first[0].sigma)
    return None if comparison is None else comparison.difference.models

"""Everything certified at a noise level by what it is made of, and what can be told apart from the best of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np

from rspipe.report.compositions import Composition
from rspipe.report.differences import Group
from rspipe.report.names import short_name
from rspipe.report.results import Results
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.inference import Difference
from rspipe.smoothing.judgement import LEVEL, Judgement


@dataclass(frozen=True)
class Entry:
    """A method (its models of all seeds), a kind of ensemble (of all choices of seeds), or a kind of cascade."""

    name: str
    """Short."""
    kind: Literal["model", "ensemble", "cascade"]
    classifiers: tuple[CertifiedClassifier, ...]
    group: Group
    composition: Composition | None = None

    @property
    def acr(self) -> float:
        """Mean over images and classifiers; NaN where the rule gives none."""
        return self.group.acr

    def reaching(self, radius: float) -> Group:
        """Return the group with [classifier, image] whether it is right at a radius of at least `radius`."""
        rows = [
            (one.correct & (one.radius >= radius))[np.searchsorted(one.example, self.group.examples)]
            for one in self.classifiers
        ]
        return replace(self.group, credits=np.stack(rows))


def entries(results: Results, sigma: float) -> list[Entry]:
    """Return everything certified at a noise level by what it is made of, of largest ACR first.

    They are on the images that all have in common, if there are any: others may be harder.
    """
    found = [
        Entry(label, "model", tuple(certified), results.label_group(label, certified))
        for label, certified in results.models_at(sigma).items()
    ]
    found += [Entry(one.label, "ensemble", one.classifiers, one.group, one) for one in results.compositions(sigma)]
    for cascades in results.cascades_at(sigma).values():
        group = results.cascade_group(cascades)
        found.append(
            Entry(short_name(cascades[0].record.name), "cascade", tuple(one.classifier for one in cascades), group)
        )
    found = [one for one in found if one.group.examples.size]
    if found and (shared := reduce(np.intersect1d, [one.group.examples for one in found])).size:
        found = [
            replace(one, classifiers=tuple(each.on(shared) for each in one.classifiers), group=one.group.on(shared))
            for one in found
        ]
    return sorted(found, key=(lambda one: -_reached(results, one)) if results.decided else (lambda one: -one.acr))


def constant_acr(found: Sequence[Entry], *, sigma: float, n: int, alpha: float, grid: Sequence[float] = ()) -> float:
    """Return the ACR of a classifier that always answers the most frequent class of the test images.

    Args:
        found: Whose images they are.
        sigma: Of the noise.
        n: Samples of an image.
        alpha: Failure probability.
        grid: The radii that a rule asks for alone; all by default.
    """
    first = found[0].classifiers[0]
    labels = first.label[np.searchsorted(first.example, found[0].group.examples)]
    reached = radius_cap(sigma=sigma, n=n, alpha=alpha)
    if grid:
        reached = max((radius for radius in grid if radius <= reached), default=0.0)
    return float(np.unique(labels, return_counts=True)[1].max() / labels.size * reached)


def _reached(results: Results, entry: Entry) -> float:
    """Return the mean certified accuracy over the radii, by which entries without ACR are sorted."""
    return float(np.mean([entry.reaching(radius).mean_credits.mean() for radius in results.radii]))


def scoped(difference: Difference) -> Judgement[str]:
    """Return the judgement of procedures where there is one, else that of the models."""
    return difference.models if difference.procedures is None else difference.procedures


def told_apart(results: Results, groups: Sequence[Group], *, sigma: float) -> list[bool]:
    """Return of each group of a noise level whether it is below the one of largest mean.

    That one is picked on the same images. With Bonferroni's correction for all others, the group that is truly best is
    called lower with a probability of at most 5 %, whichever was picked: it would have to be below one of the others
    at level 5 % / (k - 1).
    """
    top = max(range(len(groups)), key=lambda at: groups[at].acr)
    lower = []
    for at, group in enumerate(groups):
        compared = None if at == top else results.compare(group, groups[top], sigma=sigma)
        judged = None if compared is None else scoped(compared.difference)
        lower.append(judged is not None and judged.estimate < 0 and judged.p <= LEVEL / (len(groups) - 1))
    return lower

"""Groups of cascades: `[[cascades]]` of a study file, classifiers of several noise levels one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.spec import Spec
from rspipe.study.groups import Sigmas, as_tuple

MOST_CANDIDATES = 10_000
"""Cascades that one entry may choose from."""

Levels: TypeAlias = tuple[tuple[float, str], ...]
"""Sigma and entry of each level."""

Criterion = Literal["radius", "accuracy"]


class CascadeGroup(Spec):
    """`[[cascades]]`: an answer at the largest sigma that is sure, else what the next smaller one says."""

    classifiers: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """The entry of every level, or one for each: a label, which makes a cascade of each of its seeds, or an ensemble as
    in tables, "advmacer x3 (uniform)". With `choose` those that every level may have."""
    sigma: Sigmas | None = None
    """The noise levels, descending; all of the study by default."""
    choose: Criterion | None = None
    """Choose the entry of each level on the calibration images, by the mean radius or by the share of certified images
    that they lead to expect; without `sigma` the noise levels and their order, too."""
    two_sided: bool = False
    """Whether the last level answers with its most frequent class, below 1/2 too, by a two-sided certificate."""

    @model_validator(mode="after")
    def _levels_descend(self) -> "CascadeGroup":
        if self.sigma is not None and (len(self.sigma) < 2 or list(self.sigma) != sorted(set(self.sigma))[::-1]):
            raise PydanticCustomError(
                "cascade_order",
                "sigma = {sigma} must be two noise levels or more that descend",
                {"sigma": str(list(self.sigma))},
            )
        return self

    def sigmas(self, of_study: tuple[float, ...]) -> tuple[float, ...]:
        """Return the noise levels in their order, from those of the study, ascending."""
        return self.sigma or of_study[::-1]

    def levels(self, of_study: tuple[float, ...]) -> Levels:
        """Return sigma and entry of each level; where they are to be chosen, of the first candidate.

        Raises:
            PydanticCustomError: There are not as many entries as levels, or too many candidates.
        """
        sigmas = self.sigmas(of_study)
        if len(sigmas) < 2 or (self.choose is None and len(self.classifiers) not in (1, len(sigmas))):
            raise PydanticCustomError(
                "cascade_levels",
                "classifiers names {count} entries for {levels} noise levels; give two levels or more, and one entry "
                "for all or one for each",
                {"count": len(self.classifiers), "levels": len(sigmas)},
            )
        if self.choose is not None and (count := self._count(len(sigmas))) > MOST_CANDIDATES:
            raise PydanticCustomError(
                "cascade_candidates",
                "{count} cascades to choose from are more than {most}; name fewer classifiers or the noise levels",
                {"count": count, "most": MOST_CANDIDATES},
            )
        same = len(self.classifiers) == 1 or self.choose is not None
        return tuple(zip(sigmas, self.classifiers[:1] * len(sigmas) if same else self.classifiers, strict=True))

    def _orders(self, sigmas: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
        """Yield the noise levels that may be chosen, in their order: those given, or any two or more."""
        sizes = (len(sigmas),) if self.sigma is not None else range(2, len(sigmas) + 1)
        for size in sizes:
            yield from [sigmas] if self.sigma is not None else permutations(sigmas, size)

    def _count(self, sigmas: int) -> int:
        return sum(len(self.classifiers) ** len(order) for order in self._orders(tuple(map(float, range(sigmas)))))

    def candidates(self, of_study: tuple[float, ...]) -> Iterator[Levels]:
        """Yield what is chosen from: every order of the noise levels that may be, with every entry at each."""
        if self.choose is None:
            yield self.levels(of_study)
            return
        for order in self._orders(self.sigmas(of_study)):
            for entries in product(self.classifiers, repeat=len(order)):
                yield tuple(zip(order, entries, strict=True))

    def entries(self, of_study: tuple[float, ...]) -> set[tuple[float, str]]:
        """Return every sigma with every entry that its level has, or may have."""
        return {level for levels in self.candidates(of_study) for level in levels}

    def name(self, of_study: tuple[float, ...]) -> str:
        """Return what its cascades are called in tables and claims, but for their seeds."""
        levels = self.levels(of_study)
        over = f"over {', '.join(f'{sigma:g}' for sigma, _ in levels)}"
        last = ", two-sided" if self.two_sided else ""
        if self.choose is not None:
            over = over if self.sigma is not None else "over any"
            return f"{' or '.join(self.classifiers)} {over}, by {self.choose}{last}"
        if len({entry for _, entry in levels}) == 1:
            return f"{levels[0][1]} {over}{last}"
        return ", ".join(f"{entry} at {sigma:g}" for sigma, entry in levels) + last


def seeded_levels(at_levels: Sequence[Mapping[int | None, str]]) -> Iterator[tuple[int | None, tuple[str, ...]]]:
    """Yield the seed and the ids of the levels of each cascade.

    Args:
        at_levels: Of each level the ids by seed of a label's models, or by None that of an ensemble. There is a cascade
            of every seed that all labels have.
    """
    seeds: list[int | None] = [*sorted({seed for at in at_levels for seed in at if seed is not None})]
    for seed in seeds or [None]:
        ids = [at.get(seed, at.get(None)) for at in at_levels]
        if ids and None not in ids:
            yield seed, tuple(map(str, ids))

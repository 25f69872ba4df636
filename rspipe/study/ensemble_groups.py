"""Groups of ensembles: `[[ensembles]]` of a study file, the same members at every noise level."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rspipe.ensembles.members import Member, choices, ensemble_label, parse_ids, parse_members, subsets
from rspipe.ensembles.spec import Weighting
from rspipe.errors import StudyError
from rspipe.smoothing.classifiers import Average
from rspipe.spec import Spec, one_or_list
from rspipe.study.groups import Sigmas, as_tuple

Subsets = Literal["first", "of_seeds", "all"]


class EnsembleGroup(Spec):
    """`[[ensembles]]`: the same members at every noise level (or at `sigma`), with each of the weightings."""

    members: Annotated[Annotated[str, Tag("One")] | Annotated[tuple[str, ...], Tag("List")], Discriminator(one_or_list)]
    """In the paper's words, or a list of models: ids, the digest of which may be left out."""
    subsets: Subsets = "first"
    """Which models of the labels: the first ones alone, every choice of as many seeds of each label, or every subset of
    two or more of the first ones."""
    weights: Annotated[tuple[Weighting, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (
        "uniform",
        "esbrs_ratio",
    )
    average: Average = "probabilities"
    consensus: Annotated[int, Field(ge=2)] = 2
    """Members that `consensus` asks first."""
    sigma: Sigmas | None = None

    @model_validator(mode="after")
    def _weights_fit_average(self) -> "EnsembleGroup":
        if "sween" in self.weights and self.average == "logits":
            raise PydanticCustomError(
                "sween_of_logits", "weights 'sween' are those of an average of probabilities; drop average = 'logits'"
            )
        return self

    @model_validator(mode="after")
    def _seeds_are_open(self) -> "EnsembleGroup":
        if self.subsets == "of_seeds" and not isinstance(self.members, str):
            raise PydanticCustomError(
                "seeds_of_listed", "subsets = 'of_seeds' chooses the seeds, but members lists models; write labels"
            )
        return self

    @property
    def text(self) -> str:
        """Return the members as they are written."""
        return self.members if isinstance(self.members, str) else ", ".join(self.members)

    def wanted(self, *, place: str = "members") -> tuple[tuple[str, int], ...]:
        """Return (label, count) pairs."""
        if isinstance(self.members, str):
            return parse_members(self.members, place=place)
        labels = [model.label for model in parse_ids(self.members, place=place)]
        return tuple((label, labels.count(label)) for label in dict.fromkeys(labels))

    def sigmas(self, of_study: tuple[float, ...]) -> tuple[float, ...]:
        """Return the noise levels at which the ensembles are wanted."""
        if self.sigma is not None or isinstance(self.members, str):
            return self.sigma or of_study
        return (parse_ids(self.members)[0].sigma_among(of_study),)

    def formed(self, models: Sequence[Member]) -> tuple[tuple[Member, ...], ...]:
        """Return the members of every ensemble of this entry, in order; none where a model is not there.

        Args:
            models: Of a noise level.

        Raises:
            StudyError: A model has another digest than the one named.
        """
        if not isinstance(self.members, str):
            return self._listed(self.members, models)
        counts = [count for _, count in self.wanted()]
        have = [[model for model in models if model.label == label] for label, _ in self.wanted()]
        if any(len(group) < count for group, count in zip(have, counts, strict=True)):
            return ()
        if self.subsets == "of_seeds":
            return tuple(choices(have, counts))
        first = tuple(model for group, count in zip(have, counts, strict=True) for model in group[:count])
        return tuple(subsets(first)) if self.subsets == "all" else (first,)

    def _listed(self, ids: Sequence[str], models: Sequence[Member]) -> tuple[tuple[Member, ...], ...]:
        by_seed = {(model.label, model.seed): model for model in models}
        named = parse_ids(ids)
        if any((one.label, one.seed) not in by_seed for one in named):
            return ()
        for one in named:
            actual = by_seed[one.label, one.seed].id
            if one.digest is not None and not actual.endswith((f"-{one.digest}", f"-seed{one.seed}")):
                raise StudyError(f"ensembles: member {one.text!r} is {actual!r} here; correct its last eight digits")
        pool = tuple(by_seed[one.label, one.seed] for one in named)
        return tuple(subsets(pool)) if self.subsets == "all" else (pool,)

    def count(self, trained: Mapping[str, int]) -> int:
        """Return how many ensembles are formed of so many models of each label."""
        if self.subsets == "of_seeds":
            return math.prod(math.comb(trained[label], count) for label, count in self.wanted())
        size = sum(count for _, count in self.wanted())
        return int(2**size - size - 1) if self.subsets == "all" else 1

    def label(self, members: Sequence[Member]) -> str:
        """Return what an ensemble of this entry is called: as it is written, where that is the paper's words."""
        written = isinstance(self.members, str) and self.subsets == "first"
        return self.text if written else ensemble_label(members)

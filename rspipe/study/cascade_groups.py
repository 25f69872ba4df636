"""Groups of cascades: `[[cascades]]` of a study file, classifiers of several noise levels one after the other."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.spec import Spec
from rspipe.study.groups import Sigmas, as_tuple


class CascadeGroup(Spec):
    """`[[cascades]]`: an answer at the largest sigma that is sure, else what the next smaller one says."""

    classifiers: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """The entry of every level, or one for each: a label, which makes a cascade of each of its seeds, or an ensemble as
    in tables, "advmacer x3 (uniform)"."""
    sigma: Sigmas | None = None
    """The noise levels, descending; all of the study by default."""

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

    def levels(self, of_study: tuple[float, ...]) -> tuple[tuple[float, str], ...]:
        """Return sigma and entry of each level.

        Raises:
            PydanticCustomError: There are not as many entries as levels.
        """
        sigmas = self.sigmas(of_study)
        if len(sigmas) < 2 or len(self.classifiers) not in (1, len(sigmas)):
            raise PydanticCustomError(
                "cascade_levels",
                "classifiers names {count} entries for {levels} noise levels; give two levels or more, and one entry "
                "for all or one for each",
                {"count": len(self.classifiers), "levels": len(sigmas)},
            )
        entries = self.classifiers * len(sigmas) if len(self.classifiers) == 1 else self.classifiers
        return tuple(zip(sigmas, entries, strict=True))

    def name(self, of_study: tuple[float, ...]) -> str:
        """Return what its cascades are called in tables and claims, but for their seeds."""
        levels = self.levels(of_study)
        if len({entry for _, entry in levels}) == 1:
            return f"{levels[0][1]} over {', '.join(f'{sigma:g}' for sigma, _ in levels)}"
        return ", ".join(f"{entry} at {sigma:g}" for sigma, entry in levels)

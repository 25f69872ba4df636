"""How a search proceeds: the algorithm that proposes trials, what they are judged by, and when one is given up."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rspipe.spec import PositiveInt, Spec, by_name

Objective = Literal["acr", "accuracy", "passes"]
"""`acr`: certified, on the validation split; `accuracy`: clean accuracy of the smoothed classifier, i.e. certified
accuracy at radius 0; `passes`: forward-and-backward passes of the trial's training, to be few."""

MAXIMIZED: dict[Objective, bool] = {"acr": True, "accuracy": True, "passes": False}


class Sobol(Spec):
    """A scrambled Sobol sequence: points that fill the space evenly, the same whatever trials find."""

    name: Literal["sobol"] = "sobol"


class Random(Spec):
    """Points drawn independently and uniformly, on a log scale where the space says so."""

    name: Literal["random"]


class Grid(Spec):
    """Every combination: all choices, and `levels` evenly spaced values of each range."""

    name: Literal["grid"]
    levels: Annotated[int, Field(ge=2)] = 3


class TPE(Spec):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), multivariate: it learns from earlier trials."""

    name: Literal["tpe"]
    startup: PositiveInt = 10
    """Trials drawn at random before it learns."""


class NSGA2(Spec):
    """Optuna's NSGA-II (Deb et al. 2002): generations of trials that cross those which no other beats everywhere."""

    name: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)] = 10


LEARNING = ("tpe", "nsga2")
"""Names of the algorithms whose proposals depend on the trials before."""
AlgorithmSpec = Annotated[Sobol | Random | Grid | TPE | NSGA2, Field(discriminator="name")]
Algorithm = Annotated[AlgorithmSpec, BeforeValidator(by_name)]


class EarlyStopping(Spec):
    """ASHA (Li et al. 2020): a trial that is behind `1 - 1 / reduction` of the others at the same epoch is stopped.

    They are compared by an estimate of the ACR on some validation images (`rspipe.watching.watch`), after
    `grace`, `grace * reduction`, `grace * reduction^2`, ... epochs.
    """

    grace: PositiveInt | None = None
    """Epochs that every trial gets; a ninth of all by default, one at least."""
    reduction: Annotated[int, Field(ge=2)] = 3

    def first_rung(self, epochs: int) -> int:
        """Return the epoch after which trials are compared first."""
        return self.grace or max(1, epochs // 9)


def _switched(value: Any) -> Any:
    return ({} if value else None) if isinstance(value, bool) else value


Stopping = Annotated[EarlyStopping | None, BeforeValidator(_switched)]
Objectives = Annotated[tuple[Objective, ...], Field(min_length=1)]

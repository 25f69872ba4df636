"""Searches: the space, and how trials are proposed, judged and stopped."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rspipe.data.spec import DataSpec
from rspipe.networks.spec import Architecture
from rspipe.search.domains import Space
from rspipe.spec import PositiveFloat, PositiveInt, Seed, Spec, by_name, content_id
from rspipe.training.methods import MethodSpec
from rspipe.training.spec import Label, TrainingSpec

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
    levels: Annotated[int, Field(ge=2, le=10_000)] = 3


class TPE(Spec):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), multivariate: it learns from earlier trials."""

    name: Literal["tpe"]
    startup: PositiveInt = 10
    """Trials drawn at random before it learns."""


class NSGA2(Spec):
    """Optuna's NSGA-II (Deb et al. 2002): generations of trials that cross those which no other beats everywhere."""

    name: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)] = 10


def without_trials(search: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped search without the number of its trials, to which more can be added; that of `sobol` is fixed."""
    fixed = search["algorithm"]["name"] == "sobol"
    return {name: value for name, value in search.items() if fixed or name != "trials"}


LEARNING = ("tpe", "nsga2")
"""Names of the algorithms whose proposals depend on the trials before."""

AlgorithmSpec = Annotated[Sobol | Random | Grid | TPE | NSGA2, Field(discriminator="name")]

Algorithm = Annotated[AlgorithmSpec, BeforeValidator(by_name)]


class EarlyStopping(Spec):
    """ASHA (Li et al. 2020): a trial that is not among the best 1 / `reduction` at an epoch is stopped.

    They are compared by an estimate of the ACR on some validation images (`validation_metrics` of
    rspipe.training.validation), after `grace`, `grace * reduction`, `grace * reduction^2`, ... epochs.
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


class SearchSpec(Spec):
    """A search for the hyper-parameters of one method at one noise level, judged on the validation split."""

    label: Label
    """Name of the winner among the study's models."""
    data: DataSpec
    architecture: Architecture
    method: MethodSpec
    training: TrainingSpec
    sigma: PositiveFloat
    space: Space
    trials: PositiveInt
    seed: Seed
    n: PositiveInt
    alpha: Annotated[float, Field(gt=0, lt=1)]
    algorithm: Algorithm = Sobol()
    objectives: Objectives = ("acr",)
    early_stopping: Stopping = None

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.sigma:g}-{content_id(without_trials(self.model_dump(mode='json')))}"

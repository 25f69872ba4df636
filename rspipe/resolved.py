"""What a study file resolves to: base classifiers to train, searches, ensembles."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rspipe.algorithms import Algorithm, Objectives, Sobol, Stopping
from rspipe.architectures import find_architecture
from rspipe.errors import StudyError
from rspipe.methods import MethodSpec, ModelSource
from rspipe.space import Space, check_copies_fit
from rspipe.spec import (
    DataSpec,
    PositiveFloat,
    PositiveInt,
    Seed,
    Spec,
    TrainingSpec,
    WeighSpec,
    content_id,
)

NO_CODE = {"allow_code": False}


def _known_architecture(name: str, info: ValidationInfo) -> str:
    if info.context == NO_CODE and ":" in name:
        # Before anything is imported. Who makes a spec in Python has chosen the module already.
        raise PydanticCustomError(
            "code_not_allowed",
            "this runs code of module '{module}'; pass --allow-code if you trust that module and this study file",
            {"module": name.partition(":")[0]},
        )
    try:
        find_architecture(name)
    except StudyError as error:
        raise PydanticCustomError("unknown_architecture", "{reason}", {"reason": str(error)}) from error
    return name


Architecture = Annotated[str, AfterValidator(_known_architecture)]
Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ModelSpec(Spec):
    """One base classifier to train."""

    label: Label
    data: DataSpec
    architecture: Architecture
    method: ModelSource
    training: TrainingSpec
    train_sigma: PositiveFloat
    seed: Seed

    @model_validator(mode="after")
    def _batch_holds_copies(self) -> "ModelSpec":
        check_copies_fit(self.method, self.training, place=f"'{self.label}'")
        return self

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.train_sigma:g}-seed{self.seed}-{self.digest}"


_LATER = {"algorithm": {"name": "sobol"}, "objectives": ("acr",), "early_stopping": None}


def without_later_defaults(search: dict[str, Any]) -> dict[str, Any]:
    # Searches from before there were other algorithms keep their identity.
    plain = {**search, "objectives": tuple(search["objectives"])}
    return {name: value for name, value in search.items() if name not in _LATER or plain[name] != _LATER[name]}


def without_trials(search: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped search without the number of its trials, to which more can be added; not so of `sobol`."""
    return {name: value for name, value in search.items() if name != "trials" or "algorithm" not in search}


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

    @model_serializer(mode="wrap")
    def _short(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_later_defaults(serialize(self))

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.sigma:g}-{content_id(without_trials(self.model_dump(mode='json')))}"


Weighting = Literal["uniform", "esbrs_ratio", "esbrs_paper", "esbrs_acr", "sween", "auto", "mme", "consensus"]
"""How members are combined: an average with uniform or solved weights, or another rule (`rspipe.ensembles`)."""
Average = Literal["probabilities", "logits"]


class EnsembleSpec(Spec):
    """An ensemble of trained models at one noise level."""

    label: str
    """In the paper's words, e.g. "advmacer x1 + smoothadv x2"."""
    sigma: PositiveFloat
    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Ids of the models."""
    weights: "Weighting"
    average: "Average"
    weigh: WeighSpec
    first: int = 0
    """Members that are asked first, for `consensus` alone."""

    @property
    def id(self) -> str:
        """Readable and unique."""
        # File names end at 255 characters; the digest tells apart what is cut off.
        name = self.label.replace(" + ", "+").replace(" ", "-")[:190]
        return f"{name}-{self.weights}-s{self.sigma:g}-{self.digest}"


def ensemble_name(members: str, weights: str, average: str) -> str:
    """Return an ensemble's name in tables: members and weighting, and what is averaged where it is logits."""
    return f"{members} ({weights})" if average == "probabilities" else f"{members} ({weights}, {average})"

"""Groups of models: `[[models]]` and `[[search]]` of a study file, at several noise levels and seeds."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rspipe.data.spec import DataSpec
from rspipe.networks.spec import Architecture, Checkpoint
from rspipe.search.domains import ADVMACER_SPACE, Space
from rspipe.search.feasibility import check_space
from rspipe.search.space import grid_size
from rspipe.search.spec import Algorithm, Objectives, Sobol, Stopping
from rspipe.smoothing.certificates import check_can_certify
from rspipe.spec import PositiveFloat, PositiveInt, Seed, Spec, refusals, refuse
from rspipe.training.methods import MethodSpec
from rspipe.training.spec import Label, LoadedModelSpec, ModelSpec, TrainingSpec, check_begins, check_copies_fit


def as_tuple(value: Any) -> Any:
    """Return a list of one for what may be given alone."""
    return (value,) if isinstance(value, (int, float, str)) else value


Sigmas = Annotated[tuple[PositiveFloat, ...], BeforeValidator(as_tuple), Field(min_length=1)]

Seeds = Annotated[tuple[Seed, ...], BeforeValidator(as_tuple), Field(min_length=1)]


class ModelGroup(Spec):
    """`[[models]]`: one method at several noise levels and seeds."""

    also_written: ClassVar[tuple[str, ...]] = ("checkpoint",)
    method: MethodSpec
    label: Label
    architecture: Architecture
    training: TrainingSpec
    sigma: Sigmas
    seeds: Seeds

    @model_validator(mode="after")
    def _batch_holds_copies(self, info: ValidationInfo) -> "ModelGroup":
        check_copies_fit(self.method, self.training, place="method")
        if info.context is not None:
            check_begins(self.method, self.training.epochs, place="method")
        return self

    @property
    def source(self) -> str:
        """Name of the method."""
        return self.method.name

    def model_specs(self, data: DataSpec) -> Iterator[ModelSpec]:
        """Yield the models of the entry."""
        for sigma, seed in itertools.product(self.sigma, self.seeds):
            yield ModelSpec(
                label=self.label,
                data=data,
                architecture=self.architecture,
                method=self.method,
                training=self.training,
                train_sigma=sigma,
                seed=seed,
            )


class CheckpointGroup(Spec):
    """`[[models]]` with a checkpoint, which takes the place of a method with its training: one model."""

    checkpoint: Checkpoint
    label: Label
    architecture: Architecture
    sigma: Sigmas
    seeds: Seeds
    """A single one, its number among the models of its label."""

    @model_validator(mode="before")
    @classmethod
    def _is_not_trained(cls, values: Any) -> Any:
        for key in ("method", "training"):
            if isinstance(values, dict) and key in values:
                raise PydanticCustomError(
                    "trained_checkpoint",
                    "{key} beside checkpoint: a checkpoint is not trained; remove one of the two",
                    {"key": key},
                )
        return values

    @model_validator(mode="after")
    def _is_one_model(self) -> "CheckpointGroup":
        if len(self.seeds) > 1:
            raise PydanticCustomError(
                "several_checkpoints",
                "seeds = {seeds}: a checkpoint is one model; give each an entry and a seed of its own",
                {"seeds": str(list(self.seeds))},
            )
        return self

    @property
    def source(self) -> str:
        """It is loaded, and no method's."""
        return "checkpoint"

    def model_specs(self, data: DataSpec) -> Iterator[LoadedModelSpec]:
        """Yield the model, once for each noise level that it is certified at."""
        for sigma, seed in itertools.product(self.sigma, self.seeds):
            yield LoadedModelSpec(
                label=self.label,
                data=data,
                architecture=self.architecture,
                checkpoint=self.checkpoint,
                train_sigma=sigma,
                seed=seed,
            )


def _kind_of_models(value: Any) -> str:
    from_checkpoint = "checkpoint" in value if isinstance(value, dict) else isinstance(value, CheckpointGroup)
    return "CheckpointGroup" if from_checkpoint else "ModelGroup"


AnyModelGroup = Annotated[
    Annotated[ModelGroup, Tag("ModelGroup")] | Annotated[CheckpointGroup, Tag("CheckpointGroup")],
    Discriminator(_kind_of_models),
]
"""`[[models]]`: a method with its training, or a checkpoint."""


class SearchGroup(Spec):
    """`[[search]]`: the same search at several noise levels; the winners are trained with `seeds`."""

    # "_default" is appended to it, and names files.
    label: Annotated[Label, Field(max_length=72)]
    """Of the winner's models; those of trials are called `<label>_trial`."""
    architecture: Architecture
    method: MethodSpec
    """Where the search starts: trial 0 and the values of what is not searched."""
    training: TrainingSpec
    """Of the winner."""
    trial_epochs: PositiveInt | None = None
    """Epochs of a trial; the winner's by default."""
    sigma: Sigmas
    seeds: Seeds
    space: Space
    """Hyper-parameters to vary, by name; of AdvMacer all that the paper leaves open by default."""
    trials: Annotated[int, Field(ge=2, le=1_000_000)] = 8
    """The first has the study file's settings. More can be added later, except with `sobol`."""
    seed: Seed = 0
    n: PositiveInt = 1000
    """Noise samples per validation image."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    algorithm: Algorithm = Sobol()
    """Its name, or a table of its name and parameters."""
    objectives: Objectives = ("acr",)
    """The first, `acr`, decides which trial wins."""
    early_stopping: Stopping = None
    """`true`, or a table of `grace` and `reduction`; off by default."""

    @model_validator(mode="before")
    @classmethod
    def _default_space(cls, values: Any) -> Any:
        method = values.get("method") if isinstance(values, dict) else None
        if isinstance(method, dict) and method.get("name") == "advmacer" and "space" not in values:
            return {**values, "space": ADVMACER_SPACE}
        return values

    @model_validator(mode="after")
    def _can_proceed(self, info: ValidationInfo) -> "SearchGroup":
        # Winners train longer than trials, or shorter.
        epochs = min(self.trial_epochs or self.training.epochs, self.training.epochs)
        copies = [
            *refusals(
                lambda: check_copies_fit(self.method, self.training, place="method"),
                lambda: None if info.context is None else check_begins(self.method, epochs, place="method"),
            )
        ]
        # Of a space, what it starts from must be trainable.
        within = None if info.context is None else epochs
        space = copies or [*refusals(lambda: check_space(self.space, self.method, self.training, epochs=within))]
        others = refusals(lambda: check_can_certify(self.n, self.alpha), self._check_objectives, self._check_stopping)
        refuse([*space, *others] or [*refusals(self._check_grid)])
        return self

    @property
    def possible_trials(self) -> int:
        """The number of trials, or of a grid's points and the study file's own settings."""
        if self.algorithm.name != "grid":
            return self.trials
        return 1 + grid_size(self.space, self.algorithm.levels, self.method, self.training)

    def _check_objectives(self) -> None:
        if self.objectives[0] != "acr" or len(set(self.objectives)) < len(self.objectives):
            raise PydanticCustomError(
                "objectives",
                "objectives = {given} must begin with 'acr', which decides who wins, and name none twice",
                {"given": str(list(self.objectives))},
            )

    def _check_stopping(self) -> None:
        if self.early_stopping is None:
            return
        epochs = self.trial_epochs or self.training.epochs
        if len(self.objectives) > 1:
            raise PydanticCustomError(
                "stopping_by_several",
                "early_stopping compares trials by ACR alone; leave it out, or all objectives but 'acr'",
            )
        if (first := self.early_stopping.first_rung(epochs)) >= epochs:
            raise PydanticCustomError(
                "grace_too_long",
                "early_stopping.grace = {grace} must be below the {epochs} epochs of a trial",
                {"grace": first, "epochs": epochs},
            )

    def _check_grid(self) -> None:
        if self.algorithm.name != "grid":
            return
        size = grid_size(self.space, self.algorithm.levels, self.method, self.training)
        if self.trials <= size:
            raise PydanticCustomError(
                "grid_too_large",
                "trials = {trials} are too few for the {size} points of the grid and the study file's own settings; "
                "raise trials to {least}, or lower algorithm.levels",
                {"trials": self.trials, "size": size, "least": size + 1},
            )

"""What training may be asked: the optimization, and one base classifier to train."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.data.spec import DataSpec
from rspipe.networks.deployment import Precision
from rspipe.networks.spec import Architecture
from rspipe.spec import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, Spec
from rspipe.training.methods import ModelSource


class TrainingSpec(Spec):
    """Optimization: SGD, the learning rate divided by 1 / `lr_decay` every `lr_step` epochs."""

    epochs: PositiveInt = 150
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.1
    lr_step: PositiveInt = 50
    lr_decay: PositiveFloat = 0.1
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    grad_clip: PositiveFloat | None = None
    """Largest L2 norm of the gradient; none by default, as in the references."""
    precision: Precision = "float32"
    """Of the forward and backward passes; parameters, optimizer and loss stay float32. The certified classifier has a
    precision of its own, `certify.precision`."""
    compiled: bool = False
    """Whether torch.compile makes the passes faster: minutes of compilation, and the last bits of the results, are
    its price. For GPUs and long trainings; needs a C++ compiler on every node."""


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


def check_copies_fit(method: ModelSource, training: TrainingSpec, *, place: str) -> None:
    """Raise unless an optimizer step holds at least one image with all its noisy copies."""
    if method.images_per_step(training.batch_size) < 1:
        raise PydanticCustomError(
            "batch_too_small",
            "{place}: m = {m} does not fit into batch_size = {batch}; raise training.batch_size or lower m",
            {"place": place, "m": method.copies, "batch": training.batch_size},
        )

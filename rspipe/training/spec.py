"""Specs of training: the optimization, and the base classifiers that are trained or loaded."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.data.spec import DataSpec
from rspipe.networks.precision import Precision
from rspipe.networks.spec import Architecture, Checkpoint
from rspipe.smoothing.noise import derived_seed
from rspipe.spec import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, Spec
from rspipe.training.methods import MethodSpec


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
    common_seeds: bool = False
    """Whether models of several labels that all ask for it have what they draw in common where they have the same seed:
    initial weights (of one architecture), order of batches, noise. By default labels are independent of each other."""


LABEL = r"^[a-z][a-z0-9_]*$"
"""Pattern of a label."""

Label = Annotated[str, Field(pattern=LABEL, max_length=80)]


class _BaseClassifier(Spec):
    """A base classifier of a study, wherever it comes from."""

    label: Label
    data: DataSpec
    architecture: Architecture
    train_sigma: PositiveFloat
    seed: Seed

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.train_sigma:g}-seed{self.seed}-{self.digest}"


class ModelSpec(_BaseClassifier):
    """One base classifier to train."""

    method: MethodSpec
    training: TrainingSpec

    @model_validator(mode="after")
    def _batch_holds_copies(self) -> "ModelSpec":
        check_copies_fit(self.method, self.training, place=f"'{self.label}'")
        return self

    @property
    def training_seed(self) -> int:
        """Seed of everything that its training draws: of this label and seed alone, unless seeds are common."""
        return self.seed if self.training.common_seeds else derived_seed(self.label, self.seed)

    @property
    def source(self) -> str:
        """Name of the method."""
        return self.method.name

    @property
    def precision(self) -> str | None:
        """Of its training."""
        return self.training.precision

    @property
    def epochs(self) -> int:
        """Of its training."""
        return self.training.epochs

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image, over all epochs, a teacher's included."""
        of_teacher = 0 if self.method.teacher is None else self.epochs
        return of_teacher + sum(self.method.passes_in(epoch) for epoch in range(self.epochs))


class LoadedModelSpec(_BaseClassifier):
    """One base classifier that was trained elsewhere; `train_sigma` is the noise level at which it is certified."""

    checkpoint: Checkpoint

    @property
    def source(self) -> str:
        """It is loaded, and no method's."""
        return "checkpoint"

    @property
    def precision(self) -> None:
        """Of its training: not known."""
        return None

    @property
    def epochs(self) -> int:
        """None: it is not trained here."""
        return 0

    @property
    def passes_per_image(self) -> int:
        """None: it is not trained here."""
        return 0


AnyModelSpec = ModelSpec | LoadedModelSpec
"""A base classifier of a study: a method trains it, or a checkpoint is loaded."""


def check_copies_fit(method: MethodSpec, training: TrainingSpec, *, place: str) -> None:
    """Raise unless an optimizer step holds at least one image with all its noisy copies."""
    if method.images_per_step(training.batch_size) < 1:
        raise PydanticCustomError(
            "batch_too_small",
            "{place}: m = {m} does not fit into batch_size = {batch}; raise training.batch_size or lower m",
            {"place": place, "m": method.copies, "batch": training.batch_size},
        )


def check_begins(method: MethodSpec, epochs: int, *, place: str) -> None:
    """Raise where what a method is about waits for an epoch that a training does not have.

    Only a study file is asked: a run that was made before anybody asked is still to be read.
    """
    for name in ("defer", "discard_epoch"):
        if (first := getattr(method, name, 0)) >= epochs:
            raise PydanticCustomError(
                "never_begins",
                "{place}: {name} = {first} leaves none of {epochs} epochs for what {method} is about; lower it",
                {"place": place, "name": name, "first": first, "epochs": epochs, "method": method.name},
            )

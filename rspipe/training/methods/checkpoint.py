"""A network that was trained elsewhere takes the place of a method in `[[models]]`."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from torch import nn

from rspipe.networks.normalization import Normalization, Normalize
from rspipe.training.methods.method import Batch, Method, Terms

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _usable(normalization: Normalization) -> Normalization:
    if not isinstance(normalization, str):
        try:
            Normalize(*normalization)
        except ValueError as error:
            raise PydanticCustomError("normalization", "{reason}", {"reason": str(error)}) from error
    return normalization


class Checkpoint(Method):
    """A published checkpoint, loaded by `rspipe.load_checkpoint` instead of trained. Its content is its identity."""

    name: Literal["checkpoint"]
    file: str = Field(default="", exclude=True)
    """Absolute, or relative to the study file. Not part of the identity."""
    sha256: Sha256
    """Of the file; `load_study` finds it, and refuses another one than a study file names."""
    normalization: Annotated[Normalization, AfterValidator(_usable)]
    """What the network was trained with: "architecture", "none", "centre" or [means, standard deviations]."""
    clean_accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, exclude=True)
    """Published accuracy on the test images, as a fraction, to be checked before anything is certified."""
    tolerance: Annotated[float, Field(gt=0, le=1)] = Field(default=0.05, exclude=True)
    """Largest difference from it, on up to 1,000 test images."""

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Raise ValueError."""
        raise ValueError("a checkpoint is not trained; use rspipe.training.published.loaded")

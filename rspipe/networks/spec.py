"""Specs of networks: the name of an architecture, and a checkpoint that others trained."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo
from pydantic_core import PydanticCustomError

from rspipe.errors import StudyError
from rspipe.networks.architectures import code_in, find_architecture
from rspipe.networks.checkpoints import CheckpointNormalization
from rspipe.networks.normalization import MeanStd, NormalizationName, Normalize
from rspipe.spec import Spec, one_or_list


def of_study_file(*, allow_code: bool) -> dict[str, bool]:
    """Return the context in which the specs of a study file are validated.

    Only there architectures are looked up, which may import modules. A spec that is read back from a run directory, or
    made in Python, just names one, and whoever builds the network finds it.

    Args:
        allow_code: Whether an architecture may be code of the user's own.
    """
    return {"allow_code": allow_code}


def _known_architecture(name: str, info: ValidationInfo) -> str:
    if info.context is None:
        return name
    if not info.context["allow_code"] and (source := code_in(name)):
        # Before anything is imported.
        raise PydanticCustomError(
            "code_not_allowed",
            "this runs code of {source}; pass --allow-code if you trust it and this study file",
            {"source": source},
        )
    try:
        find_architecture(name)
    except StudyError as error:
        raise PydanticCustomError("unknown_architecture", "{reason}", {"reason": str(error)}) from error
    return name


Architecture = Annotated[str, AfterValidator(_known_architecture)]


def _usable(normalization: CheckpointNormalization) -> CheckpointNormalization:
    if not isinstance(normalization, str):
        try:
            Normalize(*normalization)
        except ValueError as error:
            raise PydanticCustomError("normalization", "{reason}", {"reason": str(error)}) from error
    return normalization


NO_FILE = "0" * 64
"""Stands for the SHA-256 of a file that is missing, so that it is not missing, too."""


class Checkpoint(Spec):
    """A network that was trained elsewhere, for `rspipe.load_checkpoint`. Its content is its identity."""

    file: str = Field(default="", exclude=True)
    """Absolute, or relative to the study file. Not part of the identity."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the file; `load_study` computes it, and refuses another one than a study file names."""
    normalization: Annotated[
        Annotated[Literal[NormalizationName, "file"], Tag("One")] | Annotated[MeanStd, Tag("List")],
        Discriminator(one_or_list),
        AfterValidator(_usable),
    ]
    """The one that the network was trained with: "architecture", "none", "centre", "file" (it lies in the file beside
    the network) or [means, standard deviations], which go before any network."""
    parameters: str | None = None
    """Which parameters, where the file holds several sets: their place or a part of it, e.g. "ema"."""
    denoiser: str = Field(default="", exclude=True)
    """File of the denoiser, of an architecture "denoiser + classifier"; none where `file` holds both."""
    denoiser_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of that file, as of the other."""
    clean_accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, exclude=True)
    """Published accuracy on the test images, as a fraction, to be checked before anything is certified."""
    tolerance: Annotated[float, Field(gt=0, le=1)] = Field(default=0.05, exclude=True)
    """Largest difference from it, on up to 1,000 test images."""

"""Specs: frozen, validated descriptions of what to run. A spec's content is its identity."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name nearest to a wrong one, else the list of valid names."""
    names = sorted(valid)
    if not names:
        return "; there are none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid names: {', '.join(names)}"


def content_id(content: Any) -> str:
    """Return eight hex digits that identify JSON-like content (SHA-256 of its canonical form)."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown keys, identified by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key", "unknown key '{key}'{hint}", {"key": key, "hint": nearest(key, cls.model_fields)}
                    )
        return values

    @property
    def digest(self) -> str:
        """Eight hex digits of the content."""
        return content_id(self.model_dump(mode="json"))


class DigitsData(Spec):
    """Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels, ten classes."""

    name: Literal["digits"] = "digits"
    validation: PositiveInt = 200
    """Images held out of training for the search."""
    calibration: PositiveInt = 200
    """Images held out of training for ensemble weights."""
    test: PositiveInt = 400
    seed: Seed = 0
    """Seed of the split."""


class ParquetData(Spec):
    """Encoded images and labels in Parquet files with columns `image` (bytes) and `label`."""

    name: Literal["parquet"]
    title: str
    """Name of the data set in reports, e.g. "MNIST"."""
    folder: str = Field(exclude=True)
    """Where the files are: absolute, or relative to the study file. Not part of the identity."""
    train: str
    test: str
    classes: PositiveInt
    mode: Literal["L", "RGB"] = "RGB"
    augment: Literal["none", "crop_flip"] = "none"
    validation: PositiveInt = 1000
    calibration: PositiveInt = 1000
    seed: Seed = 0


DataSpec = Annotated[DigitsData | ParquetData, Field(discriminator="name")]


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


def check_can_certify(n: int, alpha: float) -> None:
    """Raise unless n samples that all fall on one class certify it at alpha."""
    if alpha ** (1 / n) <= 0.5:
        least = 1
        while alpha ** (1 / least) <= 0.5:
            least += 1
        raise PydanticCustomError(
            "n_too_small",
            "n = {n} can never certify at alpha = {alpha}; use n >= {least}",
            {"n": n, "alpha": alpha, "least": least},
        )


class CertifySpec(Spec):
    """How classifiers are certified on the test split."""

    rule: Literal["fixed"] = "fixed"
    """`fixed`: CERTIFY of Cohen et al. 2019 with n fresh samples."""
    n0: PositiveInt = 100
    """Noise samples that select the class."""
    n: PositiveInt = 100_000
    """Noise samples that estimate its probability."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """Failure probability of each certificate."""
    images: PositiveInt | None = None
    """Number of test images, evenly spaced over the split; all by default."""
    seed: Seed = 0
    block_size: PositiveInt = 1000
    """Noise samples per block, the unit of the noise stream and of execution."""

    @model_validator(mode="after")
    def _can_certify(self) -> "CertifySpec":
        check_can_certify(self.n, self.alpha)
        return self


class WeighSpec(Spec):
    """How the moments of the margins are estimated on the calibration split."""

    images: PositiveInt | None = None
    """Number of calibration images, evenly spaced over the split; all by default."""
    draws: Annotated[int, Field(ge=2)] = 200
    """Noise draws per image, shared by all members."""
    seed: Seed = 0

"""Specs: frozen, validated descriptions of what to run. A spec's content is its identity."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rspipe.rules import looks

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Precision = Literal["float32", "bfloat16"]


# The papers' own words; "lambda" is a keyword of Python, and nearer to gamma.
_WRITTEN_OUT = {"lambda": "lbd", "lamda": "lbd", "lam": "lbd", "epsilon": "eps", "learning_rate": "lr"}


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name nearest to a wrong one, else the list of valid names."""
    names = sorted(valid)
    if not names:
        return "; there are none"
    close = [_WRITTEN_OUT.get(name, "")]
    if close[0] not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid names: {', '.join(names)}"


def content_id(content: Any) -> str:
    """Return eight hex digits that identify JSON-like content (SHA-256 of its canonical form)."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown keys, identified by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    also_written: ClassVar[tuple[str, ...]] = ()
    """Keys that a study file has at this place beside the fields."""

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'{hint}",
                        {"key": key, "hint": nearest(key, (*cls.model_fields, *cls.also_written))},
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


class HeldOutData(Spec):
    """What data sets that come as a training and a test part have in common."""

    validation: PositiveInt = 1000
    """Images held out of training for the search."""
    calibration: PositiveInt = 1000
    """Images held out of training for ensemble weights."""
    seed: Seed = 0
    """Seed of the split."""


class ParquetData(HeldOutData):
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


class TorchvisionData(HeldOutData):
    """What the small data sets that torchvision reads have in common. They have ten classes."""

    folder: str = Field(exclude=True)
    """torchvision's `root`: absolute, or relative to the study file. Not part of the identity."""
    download: bool = Field(default=False, exclude=True)
    """Fetch what is missing. Not part of the identity."""


class MNISTData(TorchvisionData):
    """MNIST: 60,000 and 10,000 grey images of 28x28 pixels."""

    title: ClassVar[str] = "MNIST"
    name: Literal["mnist"]
    augment: Literal["none", "crop_flip"] = "none"


class FashionMNISTData(TorchvisionData):
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels."""

    title: ClassVar[str] = "Fashion-MNIST"
    name: Literal["fashion_mnist"]
    augment: Literal["none", "crop_flip"] = "none"


class CIFAR10Data(TorchvisionData):
    """CIFAR-10: 50,000 and 10,000 colour images of 32x32 pixels."""

    title: ClassVar[str] = "CIFAR-10"
    name: Literal["cifar10"]
    augment: Literal["none", "crop_flip"] = "crop_flip"


class SVHNData(TorchvisionData):
    """SVHN: 73,257 and 26,032 colour images of 32x32 pixels; class c is the digit c."""

    title: ClassVar[str] = "SVHN"
    name: Literal["svhn"]
    augment: Literal["none", "crop_flip"] = "crop_flip"
    """Cropping and flipping, as MACER trains on SVHN, though a digit is not its mirror image."""
    extra: bool = False
    """Train on the 531,131 images of the extra part, too (7 GB as float32)."""


FileAugmentation = Literal["none", "crop_flip", "resized_crop_flip"]
"""Of images that are decoded when asked for: `resized_crop_flip` cuts a random part out of the whole picture."""


def _check_size(size: int | None, resize: int | None) -> None:
    if resize is not None and (size is None or resize < size):
        raise PydanticCustomError(
            "resize_too_small",
            "resize = {resize} is the shorter side before the crop to size = {size}; it needs a size no larger than it",
            {"resize": resize, "size": str(size)},
        )


class ImageNetData(HeldOutData):
    """ImageNet (ILSVRC 2012): 1,281,167 and 50,000 colour images; its validation split is the test split."""

    title: ClassVar[str] = "ImageNet"
    name: Literal["imagenet"]
    folder: str = Field(exclude=True)
    """Where `train` and `val` are: absolute, or relative to the study file. Not part of the identity."""
    size: PositiveInt = 224
    """Side of the square that is cut out of the middle, in pixels."""
    resize: PositiveInt = 256
    """Shorter side of the picture that it is cut out of."""
    augment: FileAugmentation = "resized_crop_flip"

    @model_validator(mode="after")
    def _crop_fits(self) -> "ImageNetData":
        _check_size(self.size, self.resize)
        return self


class ImageFolderData(HeldOutData):
    """Image files in `train/<class>/` and `test/<class>/`; classes are numbered in the order of their names."""

    name: Literal["image_folder"]
    title: str
    """Name of the data set in reports."""
    folder: str = Field(exclude=True)
    """Where the parts are: absolute, or relative to the study file. Not part of the identity."""
    train: str = "train"
    test: str | None = None
    """Folder of the test part: `test`, or `val` where there is no `test`, by default."""
    classes: PositiveInt | None = None
    """Number of class folders that there have to be; any by default."""
    size: PositiveInt | None = None
    """Side of the square that is cut out of the middle, in pixels; by default images are taken as they are."""
    resize: PositiveInt | None = None
    """Shorter side of the picture that it is cut out of; `size` by default."""
    mode: Literal["L", "RGB"] = "RGB"
    augment: FileAugmentation = "none"

    @model_validator(mode="after")
    def _crop_fits(self) -> "ImageFolderData":
        _check_size(self.size, self.resize)
        if self.augment == "resized_crop_flip" and self.size is None:
            raise PydanticCustomError("crop_without_size", "augment = 'resized_crop_flip' needs a size; set data.size")
        return self


DataSpec = Annotated[
    DigitsData | ParquetData | MNISTData | FashionMNISTData | CIFAR10Data | SVHNData | ImageNetData | ImageFolderData,
    Field(discriminator="name"),
]


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

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Models that were trained before there was a choice keep their identity.
        values: dict[str, Any] = serialize(self)
        later = {"precision": "float32", "compiled": False}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}


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


Probability = Annotated[float, Field(gt=0, lt=1)]


class FixedRule(Spec):
    """CERTIFY of Cohen et al. 2019: n fresh samples for every image, for comparison with papers."""

    name: Literal["fixed"] = "fixed"
    label_stop: bool = False
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""


class PlannedRule(Spec):
    """A pilot decides how many fresh samples the estimate gets; exactly as sound as CERTIFY."""

    name: Literal["planned"]
    pilot: PositiveInt = 1000
    """Samples that the plan is made from; the n0 of the selection are among them."""
    eps: NonNegativeFloat = 0.01
    """Radius that the plan may lose against n samples, on average, in units of sigma; 0 is CERTIFY."""
    futility: Probability = 1e-3
    """Chance, at most, that an image that could be certified is given up after the pilot."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""


class RadiusGridRule(Spec):
    """Certified accuracies at given radii alone: looks with shares of alpha, until the answer at each is clear."""

    name: Literal["radius_grid"]
    grid: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = tuple(0.25 * step for step in range(1, 17))
    """The radii, in pixel units; multiples of 0.25 up to 4 by default."""
    futility: Probability = 1e-3
    """Chance, at most, at each look that a radius that could still be proven is given up."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""

    @model_validator(mode="after")
    def _ascending(self) -> "RadiusGridRule":
        if list(self.grid) != sorted(set(self.grid)):
            raise PydanticCustomError(
                "grid_order", "grid = {grid} must ascend, without repetition", {"grid": str(list(self.grid))}
            )
        return self


def by_name(value: Any) -> Any:
    """Return a table for what may be given by its name alone."""
    return {"name": value} if isinstance(value, str) else value


RuleSpec = Annotated[FixedRule | PlannedRule | RadiusGridRule, Field(discriminator="name")]


class CertifySpec(Spec):
    """How classifiers are certified on the test split."""

    rule: Annotated[RuleSpec, BeforeValidator(by_name)] = FixedRule()
    """How many samples each estimate gets: a rule's name, or a table of its name and parameters."""
    n0: PositiveInt = 100
    """Noise samples that select the class."""
    n: PositiveInt = 100_000
    """Noise samples that estimate its probability, at most."""
    alpha: Probability = 0.001
    """Failure probability of each certificate."""
    images: PositiveInt | None = None
    """Number of test images, evenly spaced over the split; all by default."""
    seed: Seed = 0
    precision: Precision = "float32"
    """Of the forward pass: the classifier that is certified is `rspipe.deploy(network, precision=...)`."""
    block_size: PositiveInt = 1000
    """Noise samples per block, the unit of the noise stream."""
    batch_size: PositiveInt | None = None
    """Samples per forward pass, a divisor of `block_size`; chosen by the size of an input by default."""

    @model_validator(mode="after")
    def _can_certify(self) -> "CertifySpec":
        whole = self.rule.name != "radius_grid"
        check_can_certify(self.n, self.alpha if whole else looks(self.n, self.alpha)[-1].alpha)
        if self.rule.name == "planned" and self.rule.pilot <= self.n0:
            raise PydanticCustomError(
                "pilot_too_small",
                "rule.pilot = {pilot} includes the selection and must exceed n0 = {n0}",
                {"pilot": self.rule.pilot, "n0": self.n0},
            )
        if self.batch_size is not None and self.block_size % self.batch_size:
            raise PydanticCustomError(
                "batch_no_divisor",
                "batch_size = {batch} must divide block_size = {block}",
                {"batch": self.batch_size, "block": self.block_size},
            )
        return self


class WeighSpec(Spec):
    """How the moments of the margins are estimated on the calibration split."""

    images: PositiveInt | None = None
    """Number of calibration images, evenly spaced over the split; all by default."""
    draws: Annotated[int, Field(ge=2)] = 200
    """Noise draws per image, shared by all members."""
    seed: Seed = 0

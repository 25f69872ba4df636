"""Data sets that a study file can name."""

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from rspipe.spec import PositiveInt, Seed, Spec, one_or_list


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
    """A data set that comes as a training and a test part: images for other uses are held out of training."""

    validation: PositiveInt = 1000
    """Images held out of training for the search."""
    calibration: PositiveInt = 1000
    """Images held out of training, or of the test part, for ensemble weights."""
    calibration_from: Literal["train", "test"] = "train"
    """Part that they are held out of; "test" where there is no training part, or published networks have seen it."""
    seed: Seed = 0
    """Seed of the split."""
    folder: str = Field(exclude=True)
    """Of the files; torchvision's `root`. Absolute, or relative to the study file; not part of the identity."""


FileNames = Annotated[
    Annotated[str, Tag("One")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("List")],
    Discriminator(one_or_list),
]


def _check_size(size: int | None, resize: int | None) -> None:
    if resize is not None and (size is None or resize < size):
        raise PydanticCustomError(
            "resize_too_small",
            "resize = {resize} is the shorter side before the crop to size = {size}; it needs a size no larger than it",
            {"resize": resize, "size": str(size)},
        )


class ParquetData(HeldOutData):
    """Encoded pictures and labels in the columns of Parquet files, as the Hugging Face hub has them among others."""

    name: Literal["parquet"]
    title: str
    """Name of the data set in reports, e.g. "MNIST"."""
    train: FileNames | None = None
    """Files of the training part: a name, a pattern such as "train-*.parquet", or a list of these; none by default."""
    test: FileNames
    classes: PositiveInt
    image_column: str = "image"
    """Bytes of encoded pictures, or structs with such `bytes`."""
    label_column: str = "label"
    size: PositiveInt | None = None
    """Side of the square that is cut out of the middle, in pixels; by default images are taken as they are."""
    resize: PositiveInt | None = None
    """Shorter side of the picture that it is cut out of; `size` by default."""
    mode: Literal["L", "RGB"] = "RGB"
    augment: Literal["none", "crop_flip"] = "none"

    @model_validator(mode="after")
    def _crop_fits(self) -> "ParquetData":
        _check_size(self.size, self.resize)
        return self


class TorchvisionData(HeldOutData):
    """A small data set that torchvision reads, of ten classes where nothing else is said."""

    classes: ClassVar[int] = 10
    download: bool = Field(default=False, exclude=True)
    """Fetch what is missing. Not part of the identity."""


class MNISTData(TorchvisionData):
    """MNIST or Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels."""

    name: Literal["mnist", "fashion_mnist"]
    augment: Literal["none", "crop_flip"] = "none"

    @property
    def title(self) -> str:
        """Name of the data set in reports."""
        return "MNIST" if self.name == "mnist" else "Fashion-MNIST"


class CIFAR10Data(TorchvisionData):
    """CIFAR-10: 50,000 and 10,000 colour images of 32x32 pixels."""

    title: ClassVar[str] = "CIFAR-10"
    name: Literal["cifar10"]
    augment: Literal["none", "crop_flip"] = "crop_flip"


class CIFAR100Data(TorchvisionData):
    """CIFAR-100: 50,000 and 10,000 colour images of 32x32 pixels, in a hundred classes."""

    title: ClassVar[str] = "CIFAR-100"
    classes: ClassVar[int] = 100
    name: Literal["cifar100"]
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


class ImageNetData(HeldOutData):
    """ImageNet (ILSVRC 2012): 1,281,167 and 50,000 colour images; its validation split is the test split."""

    title: ClassVar[str] = "ImageNet"
    class_folders: ClassVar[int | None] = 1000
    name: Literal["imagenet"]
    size: PositiveInt = 224
    """Side of the square that is cut out of the middle, in pixels."""
    resize: PositiveInt = 256
    """Shorter side of the picture that it is cut out of."""
    augment: FileAugmentation = "resized_crop_flip"

    @model_validator(mode="after")
    def _crop_fits(self) -> "ImageNetData":
        _check_size(self.size, self.resize)
        return self


class TinyImageNetData(HeldOutData):
    """Tiny-ImageNet: 100,000 and 10,000 colour images of 64x64 pixels, 200 classes; its validation split is tested.

    As it is published, with the labels of `val/` in a file, or with class folders there.
    """

    title: ClassVar[str] = "Tiny-ImageNet"
    class_folders: ClassVar[int | None] = 200
    size: ClassVar[int] = 64
    name: Literal["tiny_imagenet"]
    augment: FileAugmentation = "crop_flip"


class ImageFolderData(HeldOutData):
    """Image files in `train/<class>/` and `test/<class>/`, or in the latter alone.

    Classes are numbered in the order of their names, or of their numbers where all names are numbers.
    """

    name: Literal["image_folder"]
    title: str
    """Name of the data set in reports."""
    train: str = "train"
    test: str | None = None
    """Folder of the test part: `test`, or `val` where there is no `test`, by default; "." is `folder` itself."""
    classes: PositiveInt | None = None
    """Number of class folders that there have to be; any by default."""
    size: PositiveInt | None = None
    """Side of the square that is cut out of the middle, in pixels; by default images are taken as they are."""
    resize: PositiveInt | None = None
    """Shorter side of the picture that it is cut out of; `size` by default."""
    mode: Literal["L", "RGB"] = "RGB"
    augment: FileAugmentation = "none"

    @property
    def class_folders(self) -> int | None:
        """Number of class folders that there have to be; any where it is None."""
        return self.classes

    @model_validator(mode="after")
    def _crop_fits(self) -> "ImageFolderData":
        _check_size(self.size, self.resize)
        if self.augment == "resized_crop_flip" and self.size is None:
            raise PydanticCustomError("crop_without_size", "augment = 'resized_crop_flip' needs a size; set data.size")
        return self


class TensorData(HeldOutData):
    """Images and labels as arrays in a file of NumPy (.npz) or torch (.pt): bytes, or numbers in [0, 1].

    A file holds `images` and `labels` (or the like), or the two alone; images are [image, channel, height, width],
    [image, height, width, channel] or [image, height, width].
    """

    name: Literal["tensors"]
    title: str
    """Name of the data set in reports."""
    train: str | None = None
    """File of the training part; none by default."""
    test: str
    classes: PositiveInt | None = None
    """How many there are; one more than the largest label by default."""
    augment: Literal["none", "crop_flip"] = "none"


DataSpec = Annotated[
    DigitsData
    | ParquetData
    | MNISTData
    | CIFAR10Data
    | CIFAR100Data
    | SVHNData
    | ImageNetData
    | TinyImageNetData
    | ImageFolderData
    | TensorData,
    Field(discriminator="name"),
]

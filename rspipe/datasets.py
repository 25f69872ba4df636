"""Images in [0, 1] with labels, and the splits train / validation / calibration / test."""

import io
import json
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspipe.errors import DataError
from rspipe.spec import (
    CIFAR10Data,
    DataSpec,
    DigitsData,
    FashionMNISTData,
    FileAugmentation,
    HeldOutData,
    ImageFolderData,
    ImageNetData,
    MNISTData,
    ParquetData,
    SVHNData,
)

SplitName = Literal["train", "validation", "calibration", "test"]
_LARGEST = 8 * 2**30
"""Bytes that the images of a split may take as one tensor when they are decoded from files."""


@dataclass(frozen=True)
class Split:
    """Images with labels."""

    images: Tensor
    """[image, channel, height, width], float32 in [0, 1]."""
    labels: Tensor
    """[image], int64."""
    index: Tensor
    """[image], position of each image in its source (the training or the test part), int64."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at `positions`, on the device of the labels."""
        return self.images[positions]

    def at(self, positions: Tensor) -> "Split":
        """Return the images at `positions` as a split."""
        return Split(self.images[positions].contiguous(), self.labels[positions], self.index[positions])

    def to(self, device: torch.device) -> "Split":
        """Return the split with images and labels on a device; the index stays where it is."""
        return Split(self.images.to(device), self.labels.to(device), self.index)

    def evenly_spaced(self, images: int | None) -> "Split":
        """Return `images` images evenly spaced over the split; all when None.

        Raises:
            DataError: The split has fewer.
        """
        if images is None:
            return self
        if images > len(self):
            raise DataError(f"{images} images are asked for but the split has {len(self)}; lower the number")
        return self.at(torch.arange(images) * len(self) // images)


@dataclass(frozen=True)
class ImageFiles:
    """Image files that are decoded when they are asked for, all to one shape."""

    paths: tuple[str, ...]
    shape: tuple[int, int, int]
    """Channels, height and width of the decoded images."""
    resize: int | None
    """Shorter side of a picture before its middle is cut out; None where images are taken as they are."""

    def decode(self, positions: Sequence[int]) -> Tensor:
        """Return images [position, channel, height, width], float32 in [0, 1], without augmentation.

        Raises:
            DataError: A file is unreadable or, where images are taken as they are, of another size than the first.
        """
        return as_images(self.pixels(positions))

    def pixels(self, positions: Sequence[int]) -> Tensor:
        """Return what `decode` does as bytes: uint8 [position, channel, height, width]."""
        return self._stacked((self._middle(self.paths[position]) for position in positions), count=len(positions))

    def random_pixels(self, positions: Sequence[int], *, seed: int) -> Tensor:
        """Return random parts of the pictures, half of them flipped: uint8 [position, channel, height, width].

        A part has .08 to 1 of the picture's area and an aspect ratio of 3/4 to 4/3, as is usual for ImageNet.

        Raises:
            DataError: A file is unreadable.
        """
        from PIL import Image

        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand((len(positions), 10, 4), generator=generator).tolist()
        flips = (torch.rand(len(positions), generator=generator) < 0.5).tolist()
        _, height, width = self.shape

        def part(position: int, tries: Sequence[Sequence[float]], flip: bool) -> Any:
            picture = _opened(self.paths[position], mode=self._mode)
            box = _random_box(picture.width, picture.height, tries)
            cut = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
            return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else cut

        return self._stacked(map(part, positions, draws, flips), count=len(positions))

    @property
    def _mode(self) -> str:
        return "L" if self.shape[0] == 1 else "RGB"

    def _middle(self, path: str) -> Any:
        from torchvision.transforms import functional

        image = _opened(path, mode=self._mode)
        _, height, width = self.shape
        if self.resize is not None:
            return functional.center_crop(functional.resize(image, self.resize), [height, width])
        if image.size != (width, height):
            raise DataError(
                f"{path}: is {image.width}x{image.height} pixels, but the first image is {width}x{height}; "
                "set data.size to bring all to one size"
            )
        return image

    def _stacked(self, images: Iterable[Any], *, count: int) -> Tensor:
        pixels = np.empty((count, *self.shape), np.uint8)
        for place, image in zip(pixels, images, strict=True):
            place[:] = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        return torch.from_numpy(pixels)


def as_images(pixels: Tensor) -> Tensor:
    """Return bytes as float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


class FileSplit(Split):
    """A split whose images are files: `batch` decodes some, `images` all, once, where they fit into memory."""

    files: ImageFiles
    """Of the whole source: image i of the split is file `index[i]`."""
    at_random: bool
    """Whether images are random parts of the pictures, so that they have no pixels of their own."""

    def __init__(self, files: ImageFiles, labels: Tensor, index: Tensor, *, at_random: bool = False) -> None:
        # A split is frozen: what it holds is set here, once, but for the images.
        self.__dict__.update(files=files, labels=labels, index=index, at_random=at_random)

    @cached_property
    def images(self) -> Tensor:
        """[image, channel, height, width], float32 in [0, 1], on the device of the labels.

        Raises:
            DataError: A file is unreadable, there are too many, or images are random parts of the pictures.
        """
        if self.at_random:
            raise DataError(
                "data.augment = 'resized_crop_flip' cuts training images out anew each time, so they are no tensor; "
                "train from `training_pixels` or choose another data.augment"
            )
        size = 4 * len(self) * int(np.prod(self.files.shape))
        if size > _LARGEST:
            raise DataError(
                f"{len(self)} images of {'x'.join(map(str, self.files.shape))} would take {size / 2**30:.0f} GiB "
                "as one tensor; ask for fewer images, a smaller data.size, or take them in batches"
            )
        return self.batch(torch.arange(len(self)))

    def __repr__(self) -> str:
        """Return a text for which nothing is decoded."""
        return f"FileSplit({len(self)} of {len(self.files.paths)} files)"

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at `positions`, decoded, on the device of the labels."""
        return self.files.decode(self.index[positions.to(self.index.device)].tolist()).to(self.labels.device)

    def some(self, positions: Tensor) -> ImageFiles:
        """Return the files of the images at `positions`, in this order."""
        chosen = self.index[positions.to(self.index.device)].tolist()
        return replace(self.files, paths=tuple(self.files.paths[which] for which in chosen))

    def at(self, positions: Tensor) -> "FileSplit":
        """Return the images at `positions` as a split, still to be decoded."""
        return FileSplit(self.files, self.labels[positions], self.index[positions], at_random=self.at_random)

    def to(self, device: torch.device) -> "FileSplit":
        """Return the split with labels, and the images once they are decoded, on a device."""
        return FileSplit(self.files, self.labels.to(device), self.index, at_random=self.at_random)


@dataclass(frozen=True)
class Dataset:
    """The four splits of a data set; train, validation and calibration are disjoint parts of its training part."""

    name: str
    classes: int
    augment: FileAugmentation
    train: Split
    validation: Split
    calibration: Split
    test: Split

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(self.validation.batch(torch.zeros(1, dtype=torch.int64)).shape[1:])


def _whole(images: Tensor, labels: Tensor) -> Split:
    return Split(images, labels, torch.arange(len(labels)))


def _chosen(whole: Split, positions: NDArray[np.int64]) -> Split:
    return whole.at(torch.from_numpy(np.sort(positions)))


def _held_out(whole: Split, order: NDArray[np.int64], *, validation: int, calibration: int) -> dict[SplitName, Split]:
    """Split the training part: the first images in `order` are held out."""
    if validation + calibration >= len(order):
        raise DataError(
            f"validation = {validation} and calibration = {calibration} leave no training image of {len(order)}; "
            "lower them"
        )
    cuts = np.split(order, [validation, validation + calibration])
    return {
        "validation": _chosen(whole, cuts[0]),
        "calibration": _chosen(whole, cuts[1]),
        "train": _chosen(whole, cuts[2]),
    }


def _parts(whole: Split, spec: HeldOutData) -> dict[SplitName, Split]:
    """Split a training part as a spec says."""
    order = np.random.default_rng(spec.seed).permutation(len(whole))
    return _held_out(whole, order, validation=spec.validation, calibration=spec.calibration)


def _digits(spec: DigitsData) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images / 16.0).astype(np.float32)).unsqueeze(1)
    whole = _whole(images, torch.from_numpy(bunch.target.astype(np.int64)))
    order = np.random.default_rng(spec.seed).permutation(len(whole))
    if spec.test >= len(order):
        raise DataError(f"data.test = {spec.test} leaves no training image of {len(order)}; lower it")
    test = _chosen(whole, order[: spec.test])
    held = _held_out(whole, order[spec.test :], validation=spec.validation, calibration=spec.calibration)
    return Dataset(name="digits", classes=10, augment="none", test=test, **held)


def _read_parquet(path: Path, *, mode: Literal["L", "RGB"], classes: int) -> tuple[Tensor, Tensor]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise DataError(f"{path}: no such file; set data.folder to the folder that holds it")
    try:
        table = pq.read_table(path, columns=["image", "label"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not a Parquet file with columns image and label: {error}") from error
    arrays = []
    for row, encoded in enumerate(table["image"].to_pylist()):
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                arrays.append(np.atleast_3d(np.asarray(image.convert(mode))))
        except (UnidentifiedImageError, OSError, TypeError) as error:
            raise DataError(f"{path}: row {row} is not a readable image: {error}") from error
    if len({a.shape for a in arrays}) != 1:
        raise DataError(f"{path}: images differ in size: {sorted({a.shape for a in arrays})}")
    labels = table["label"].to_numpy()
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels must be whole numbers without gaps, got {labels.dtype}; rewrite the column")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path}: labels span {labels.min()} to {labels.max()}, outside data.classes = {classes}")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return pixels.to(torch.float32) / 255, torch.from_numpy(labels.astype(np.int64))


def _parquet(spec: ParquetData) -> Dataset:
    folder = Path(spec.folder)
    if not folder.is_dir():
        raise DataError(f"data.folder = {spec.folder!r} is no folder; create it or point data.folder elsewhere")
    whole = _whole(*_read_parquet(folder / spec.train, mode=spec.mode, classes=spec.classes))
    test = _whole(*_read_parquet(folder / spec.test, mode=spec.mode, classes=spec.classes))
    held = _parts(whole, spec)
    return Dataset(name=spec.title, classes=spec.classes, augment=spec.augment, test=test, **held)


_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "svhn": "SVHN"}
TorchvisionSpec = MNISTData | FashionMNISTData | CIFAR10Data | SVHNData


def _in_torchvision(name: str, call: str) -> str:
    """Return a shell command that makes a call with a class of torchvision."""
    return f"python -c {shlex.quote(f'from torchvision.datasets import {name}; {call}')}"


def _fetch_command(name: str, folder: str, parts: Sequence[str]) -> str:
    where = json.dumps(folder, ensure_ascii=False)
    if name == "SVHN":
        return _in_torchvision(name, f"[SVHN({where}, split=s, download=True) for s in {json.dumps(parts)}]")
    return _in_torchvision(name, f"{name}({where}, download=True)")


def _torchvision_files(kind: Any, folder: Path, parts: Sequence[str]) -> list[tuple[Path, str | None]]:
    """Return the files that torchvision reads, each with the md5 that it insists on, where it does."""
    if hasattr(kind, "split_list"):
        return [(folder / kind.split_list[part][1], kind.split_list[part][2]) for part in parts]
    if hasattr(kind, "base_folder"):
        batches = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        return [(folder / kind.base_folder / name, md5) for name, md5 in batches]
    return [(folder / kind.__name__ / "raw" / Path(name).stem, None) for name, _ in kind.resources]


def _read_torchvision(kind: Any, spec: TorchvisionSpec, part: str) -> tuple[Tensor, Tensor]:
    """Return images [image, channel, height, width], uint8, and labels of one part.

    Raises:
        ValueError: They are not what the data set has. torchvision raises several others for damaged files.
    """
    which = {"split": part} if spec.name == "svhn" else {"train": part == "train"}
    with warnings.catch_warnings():
        # CIFAR-10's batches are older than NumPy's rule that a dtype's `align` be a bool.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        source = kind(spec.folder, download=spec.download, **which)
    pixels = torch.as_tensor(source.data)
    if spec.name in ("mnist", "fashion_mnist"):
        pixels, shape = pixels.unsqueeze(1), (1, 28, 28)
    else:
        pixels, shape = pixels.permute(0, 3, 1, 2) if spec.name == "cifar10" else pixels, (3, 32, 32)
    labels = torch.as_tensor(source.labels if spec.name == "svhn" else source.targets, dtype=torch.int64).flatten()
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != shape:
        raise ValueError(f"images are {pixels.dtype} of {tuple(pixels.shape[1:])}, not bytes of {shape}")
    if len(labels) != len(pixels) or not ((labels >= 0) & (labels < 10)).all():
        raise ValueError(f"{len(labels)} labels from {labels.min()} to {labels.max()} for {len(pixels)} images")
    return pixels, labels


def _torchvision(spec: TorchvisionSpec) -> Dataset:
    import torchvision.datasets
    from torchvision.datasets.utils import check_integrity

    name = _TORCHVISION[spec.name]
    kind = getattr(torchvision.datasets, name)
    training = ("train", "extra") if isinstance(spec, SVHNData) and spec.extra else ("train",)
    parts = (*training, "test")
    files = _torchvision_files(kind, Path(spec.folder), parts)
    command = _fetch_command(name, spec.folder, parts)

    def absent() -> Path | None:
        return next((path for path, _ in files if not path.is_file()), None)

    def read(part: str) -> Split:
        try:
            pixels, labels = _read_torchvision(kind, spec, part)
        except (RuntimeError, OSError, ValueError, TypeError, LookupError, AssertionError, EOFError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if (path := absent()) is not None:
                raise DataError(f"{path}: cannot be fetched: {reason}; where it can, run: {command}") from error
            damaged = next((path for path, md5 in files if md5 and not check_integrity(path, md5)), files[0][0].parent)
            raise DataError(
                f"{damaged}: is damaged (the {part} part of {spec.title}: {reason}); "
                f"delete it and fetch it again with: {command}"
            ) from error
        return _whole(pixels.contiguous().to(torch.float32).div_(255), labels)

    if not spec.download and (path := absent()) is not None:
        raise DataError(f"{path}: no such file; set data.download = true or fetch it with: {command}")
    wholes = [read(part) for part in training]
    whole = wholes[0]
    if len(wholes) > 1:
        whole = _whole(torch.cat([part.images for part in wholes]), torch.cat([part.labels for part in wholes]))
    held = _parts(whole, spec)
    return Dataset(name=spec.title, classes=10, augment=spec.augment, test=read("test"), **held)


def _opened(path: str, *, mode: str) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image: {error}; replace the file") from error


def _random_box(width: int, height: int, tries: Sequence[Sequence[float]]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the first part that fits a picture, else of its middle.

    Each try is four numbers in [0, 1): they choose area, aspect ratio, and the place across and down.
    """
    for area, ratio, across, down in tries:
        wanted, aspect = width * height * (0.08 + 0.92 * area), (3 / 4) * (16 / 9) ** ratio
        part = round((wanted * aspect) ** 0.5), round((wanted / aspect) ** 0.5)
        if 0 < part[0] <= width and 0 < part[1] <= height:
            left, top = int(across * (width - part[0] + 1)), int(down * (height - part[1] + 1))
            return left, top, left + part[0], top + part[1]
    part = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - part[0]) // 2, (height - part[1]) // 2
    return left, top, left + part[0], top + part[1]


def _image_net_advice(folder: str) -> str:
    where = json.dumps(folder, ensure_ascii=False)
    return (
        f"put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {folder} "
        "(image-net.org gives them to those who register) and unpack them with: "
        + _in_torchvision("ImageNet", f'[ImageNet({where}, split=s) for s in ["train", "val"]]')
    )


def _class_folders(folder: Path, *, advice: str) -> Any:
    """Return torchvision's list of the images below a folder: `classes`, and `samples` of path and label.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {advice}")
    try:
        return ImageFolder(folder)
    except OSError as error:
        reason = str(error).rstrip(". ")
        raise DataError(f"{folder}: {reason}; it must hold one folder of images per class") from error


def _image_folder(spec: ImageNetData | ImageFolderData) -> Dataset:
    folder = Path(spec.folder)
    if isinstance(spec, ImageNetData):
        advice = _image_net_advice(spec.folder)
        classes: int | None = 1000
        resize: int | None = spec.resize
        mode, train_part, test_part = "RGB", "train", "val"
    else:
        advice, classes, resize = "create it or point data.folder elsewhere", spec.classes, spec.resize or spec.size
        only_val = (folder / "val").is_dir() and not (folder / "test").is_dir()
        mode, train_part, test_part = spec.mode, spec.train, spec.test or ("val" if only_val else "test")
    found = _class_folders(folder / train_part, advice=advice)
    found_test = _class_folders(folder / test_part, advice=advice)
    if classes is not None and len(found.classes) != classes:
        raise DataError(
            f"{folder / train_part}: has {len(found.classes)} class folders instead of {classes}; "
            + ("other sets are data.name = 'image_folder'" if spec.name == "imagenet" else "mend data.classes")
        )
    if found.classes != found_test.classes:
        odd = sorted(set(found.classes) ^ set(found_test.classes))
        raise DataError(
            f"{folder / test_part}: classes differ from those of {train_part}: {odd[0]!r} is in one of them alone; "
            "both must have the same class folders"
        )
    size = (spec.size, spec.size) if spec.size is not None else _opened(found.samples[0][0], mode=mode).size[::-1]
    shape = (1 if mode == "L" else 3, *size)

    def split(source: Any) -> FileSplit:
        files = ImageFiles(tuple(path for path, _ in source.samples), shape, resize)
        return FileSplit(files, torch.tensor(source.targets, dtype=torch.int64), torch.arange(len(files.paths)))

    whole = split(found)
    held = _parts(whole, spec)
    train = held.pop("train")
    at_random = spec.augment == "resized_crop_flip"
    return Dataset(
        name=spec.title,
        classes=len(found.classes),
        augment=spec.augment,
        train=FileSplit(whole.files, train.labels, train.index, at_random=at_random),
        test=split(found_test),
        **held,
    )


def check_images(split: Split, *, classes: int) -> None:
    """Raise DataError for an image outside [0, 1] or a label outside the classes: radii would mean nothing."""
    pixels = split.images.flatten(1)
    # Written so that a NaN fails, too.
    outside = ~((pixels >= 0) & (pixels <= 1)).all(1)
    if bool(outside.any()):
        which = int(outside.nonzero()[0])
        low, high = float(pixels[which].min()), float(pixels[which].max())
        raise DataError(
            f"image {int(split.index[which])} has values from {low:g} to {high:g}, outside [0, 1]; "
            "scale the images, and leave normalization to the network's first layer"
        )
    strange = (split.labels < 0) | (split.labels >= classes)
    if bool(strange.any()):
        which = int(strange.nonzero()[0])
        raise DataError(
            f"image {int(split.index[which])} has label {int(split.labels[which])}, outside the {classes} classes; "
            "mend the labels or data.classes"
        )


@cache
def load_dataset(spec: DataSpec) -> Dataset:
    """Return a data set with its splits, fixed by the spec's seed. Nothing is fetched unless the spec asks for it.

    Raises:
        DataError: A folder or file is missing or unreadable, or the splits do not fit.
    """
    match spec:
        case DigitsData():
            return _digits(spec)
        case ParquetData():
            return _parquet(spec)
        case ImageNetData() | ImageFolderData():
            return _image_folder(spec)
    return _torchvision(spec)


def training_pixels(files: ImageFiles, *, at_random: bool, seed: int) -> Tensor:
    """Return what a training step sees of its files: random parts, which the seed decides, or whole images.

    Returns:
        uint8 [file, channel, height, width].

    Raises:
        DataError: A file is unreadable.
    """
    positions = range(len(files.paths))
    return files.random_pixels(positions, seed=seed) if at_random else files.pixels(positions)


Step = tuple[Tensor, int]
"""Positions of the images of a training step, and the seed of what is random in decoding them."""
PixelSource = Callable[[FileSplit, Sequence[Step]], Iterator[Tensor]]
"""Yields `training_pixels` of every step of an epoch, in order."""


def decoded_here(split: FileSplit, steps: Sequence[Step]) -> Iterator[Tensor]:
    """Yield the pixels of every step, decoded one by one by who asks for them."""
    for positions, seed in steps:
        yield training_pixels(split.some(positions), at_random=split.at_random, seed=seed)


def augmented(data: Dataset, images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return training images with the augmentation that works on tensors, where the data set asks for it."""
    return crop_flip(images, generator=generator) if data.augment == "crop_flip" else images


def crop_flip(images: Tensor, *, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Return images [image, channel, height, width], each cropped at random from its zero-padded self, half flipped."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    device = images.device
    offset = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=device)
    flip = torch.rand((count, 1), generator=generator, device=device) < 0.5
    rows = offset[0] + torch.arange(height, device=device)
    columns = offset[1] + torch.arange(width, device=device)
    columns = torch.where(flip, columns.flip(1), columns)
    picked = torch.arange(count, device=device)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]
    # Advanced indices around the slice put the channel last.
    return padded[picked].permute(0, 3, 1, 2).contiguous()

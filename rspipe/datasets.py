"""Images in [0, 1] with labels, and the splits train / validation / calibration / test."""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspipe.errors import DataError
from rspipe.spec import DataSpec, DigitsData, ParquetData

SplitName = Literal["train", "validation", "calibration", "test"]


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

    def evenly_spaced(self, images: int | None) -> "Split":
        """Return `images` images evenly spaced over the split; all when None.

        Raises:
            DataError: The split has fewer.
        """
        if images is None:
            return self
        if images > len(self):
            raise DataError(f"{images} images are asked for but the split has {len(self)}; lower the number")
        keep = torch.arange(images) * len(self) // images
        return Split(self.images[keep], self.labels[keep], self.index[keep])


@dataclass(frozen=True)
class Dataset:
    """The four splits of a data set; train, validation and calibration are disjoint parts of its training part."""

    name: str
    classes: int
    augment: Literal["none", "crop_flip"]
    train: Split
    validation: Split
    calibration: Split
    test: Split


def _split(images: Tensor, labels: Tensor, index: NDArray[np.int64]) -> Split:
    positions = torch.from_numpy(np.sort(index))
    return Split(images[positions].contiguous(), labels[positions], positions)


def _held_out(
    images: Tensor, labels: Tensor, order: NDArray[np.int64], *, validation: int, calibration: int
) -> dict[SplitName, Split]:
    """Split the training part: the first images in `order` are held out."""
    if validation + calibration >= len(order):
        raise DataError(
            f"validation = {validation} and calibration = {calibration} leave no training image of {len(order)}; "
            "lower them"
        )
    cuts = np.split(order, [validation, validation + calibration])
    return {
        "validation": _split(images, labels, cuts[0]),
        "calibration": _split(images, labels, cuts[1]),
        "train": _split(images, labels, cuts[2]),
    }


def _digits(spec: DigitsData) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images / 16.0).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = np.random.default_rng(spec.seed).permutation(len(labels))
    if spec.test >= len(order):
        raise DataError(f"data.test = {spec.test} leaves no training image of {len(order)}; lower it")
    test = _split(images, labels, order[: spec.test])
    held = _held_out(images, labels, order[spec.test :], validation=spec.validation, calibration=spec.calibration)
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
    images, labels = _read_parquet(folder / spec.train, mode=spec.mode, classes=spec.classes)
    test_images, test_labels = _read_parquet(folder / spec.test, mode=spec.mode, classes=spec.classes)
    order = np.random.default_rng(spec.seed).permutation(len(labels))
    held = _held_out(images, labels, order, validation=spec.validation, calibration=spec.calibration)
    return Dataset(
        name=spec.title,
        classes=spec.classes,
        augment=spec.augment,
        test=_split(test_images, test_labels, np.arange(len(test_labels))),
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
    """Return a data set with its splits, fixed by the spec's seed.

    Raises:
        DataError: A folder or file is missing or unreadable, or the splits do not fit.
    """
    return _digits(spec) if isinstance(spec, DigitsData) else _parquet(spec)


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

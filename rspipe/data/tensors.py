"""Images and labels that lie in one file as arrays: NumPy's .npz, torch's .pt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rspipe.data.spec import TensorData
from rspipe.data.splits import Dataset, Split, parts_of, whole_split
from rspipe.errors import DataError, first_line

_IMAGES = ("images", "image", "x", "x_test", "data", "X")

_LABELS = ("labels", "label", "y", "y_test", "targets", "Y")


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; set data.folder to the folder that holds it") from error
    except Exception as error:  # numpy's and torch's own readers raise anything
        raise DataError(f"{path}: no file of numpy.savez or torch.save ({first_line(error)[:120]})") from error


def _pair(content: Any, path: Path) -> tuple[Any, Any]:
    """Return images and labels in the content of a file: two arrays, or by their usual names."""
    if isinstance(content, tuple | list) and len(content) == 2:
        return content[0], content[1]
    if isinstance(content, Mapping):
        found = [[content[name] for name in names if name in content] for names in (_IMAGES, _LABELS)]
        if all(len(values) == 1 for values in found):
            return found[0][0], found[1][0]
        names = ", ".join(map(str, content))
        raise DataError(f"{path}: holds {names}; call the arrays 'images' and 'labels'")
    raise DataError(f"{path}: holds a {type(content).__name__}; save images and labels, as 'images' and 'labels'")


def _tensor(values: Any, path: Path, *, what: str) -> Tensor:
    """Return an array, or nested lists of numbers, as a tensor; raise DataError where there is none."""
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: {what} are no array of numbers ({first_line(error)}); save one") from error


def _images(values: Any, path: Path) -> Tensor:
    """Return images [image, channel, height, width], float32 in [0, 1]."""
    pixels = _tensor(values, path, what="images")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4:
        raise DataError(f"{path}: images have shape {list(pixels.shape)}; they must be [image, channel, height, width]")
    if pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.dtype == torch.uint8:
        return pixels.to(torch.float32) / 255
    if not pixels.is_floating_point():
        raise DataError(f"{path}: images are {pixels.dtype}; save bytes (uint8), or floating-point numbers in [0, 1]")
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        low, high = float(pixels.min()), float(pixels.max())
        raise DataError(f"{path}: pixels span {low:g} to {high:g}, outside [0, 1]; scale them, and do not normalize")
    return pixels.to(torch.float32).contiguous()


def _read(path: Path, *, classes: int | None) -> Split:
    values, given = _pair(_content(path), path)
    images, labels = _images(values, path), _tensor(given, path, what="labels")
    if labels.is_floating_point() or labels.is_complex() or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: labels are {labels.dtype} {list(labels.shape)} for {len(images)} images; one whole number each"
        )
    labels = labels.to(torch.int64)
    if len(labels) == 0 or int(labels.min()) < 0 or (classes is not None and int(labels.max()) >= classes):
        span = f"{int(labels.min())} to {int(labels.max())}" if len(labels) else "nothing"
        raise DataError(f"{path}: labels span {span}, outside data.classes = {classes}")
    return whole_split(images, labels)


def _train(path: Path, test_path: Path, test: Split, spec: TensorData) -> Split:
    """Return the training part; raise DataError where it is the test part, or images are of another shape."""
    train = _read(path, classes=spec.classes)
    if path.samefile(test_path):
        raise DataError(
            f"{path}: is both data.train and data.test, and test images would be trained on; name another file"
        )
    sizes = ["x".join(map(str, part.images.shape[1:])) for part in (train, test)]
    if sizes[0] != sizes[1]:
        raise DataError(f"{path}: images of train are {sizes[0]}, those of test {sizes[1]}; save them in one size")
    return train


def tensor_dataset(spec: TensorData) -> Dataset:
    """Return a data set of array files.

    Raises:
        DataError: A file is missing, holds something else, or pixels or labels are out of range, or the parts
            are one file or of two sizes.
    """
    folder = Path(spec.folder)
    test = _read(folder / spec.test, classes=spec.classes)
    train = None if spec.train is None else _train(folder / spec.train, folder / spec.test, test, spec)
    classes = spec.classes or 1 + max(int(part.labels.max()) for part in (train, test) if part is not None)
    return Dataset(name=spec.title, classes=classes, augment=spec.augment, notes=(), **parts_of(train, test, spec))

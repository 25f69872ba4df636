"""Data sets by their specs: digits, Parquet files, folders of pictures, and what torchvision reads."""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rspipe.data.folders import picture_dataset
from rspipe.data.pictures import channels_first, opened_picture
from rspipe.data.spec import DataSpec, DigitsData, ImageFolderData, ImageNetData, ParquetData, TinyImageNetData
from rspipe.data.splits import Dataset, chosen, held_out, parts_of, whole_split
from rspipe.data.torchvision_sets import torchvision_dataset
from rspipe.errors import DataError


def _digits(spec: DigitsData) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images / 16.0).astype(np.float32)).unsqueeze(1)
    whole = whole_split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    order = np.random.default_rng(spec.seed).permutation(len(whole))
    if spec.test >= len(order):
        raise DataError(f"data.test = {spec.test} leaves no training image of {len(order)}; lower it")
    test = chosen(whole, order[: spec.test])
    held = held_out(whole, order[spec.test :], validation=spec.validation, calibration=spec.calibration)
    return Dataset(name="digits", classes=10, augment="none", test=test, notes=(), **held)


def _read_parquet(path: Path, *, mode: Literal["L", "RGB"], classes: int) -> tuple[Tensor, Tensor]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: no such file; set data.folder to the folder that holds it")
    try:
        table = pq.read_table(path, columns=["image", "label"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not a Parquet file with columns image and label: {error}") from error
    arrays = []
    for row, encoded in enumerate(table["image"].to_pylist()):
        name = f"{path}: row {row}"
        if not isinstance(encoded, bytes):
            raise DataError(f"{name}: holds {type(encoded).__name__} instead of an encoded picture")
        arrays.append(channels_first(opened_picture(encoded, mode=mode, name=name)))
    if len({a.shape for a in arrays}) != 1:
        raise DataError(f"{path}: images differ in size: {sorted({a.shape for a in arrays})}")
    labels = table["label"].to_numpy()
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels must be whole numbers without gaps, got {labels.dtype}; rewrite the column")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path}: labels span {labels.min()} to {labels.max()}, outside data.classes = {classes}")
    pixels = torch.from_numpy(np.stack(arrays))
    return pixels.to(torch.float32) / 255, torch.from_numpy(labels.astype(np.int64))


def _parquet(spec: ParquetData) -> Dataset:
    folder = Path(spec.folder)
    if not folder.is_dir():
        raise DataError(f"data.folder = {spec.folder!r} is no folder; create it or point data.folder elsewhere")
    whole = whole_split(*_read_parquet(folder / spec.train, mode=spec.mode, classes=spec.classes))
    test = whole_split(*_read_parquet(folder / spec.test, mode=spec.mode, classes=spec.classes))
    splits = parts_of(whole, test, spec)
    return Dataset(name=spec.title, classes=spec.classes, augment=spec.augment, notes=(), **splits)


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
        case ImageNetData() | ImageFolderData() | TinyImageNetData():
            return picture_dataset(spec)
    return torchvision_dataset(spec)

"""Data sets by their specs: digits, Parquet files, folders of pictures, arrays, and what torchvision reads."""

from functools import cache

import numpy as np
import torch

from rspipe.data.folders import picture_dataset
from rspipe.data.parquet import parquet_dataset
from rspipe.data.spec import (
    DataSpec,
    DigitsData,
    ImageFolderData,
    ImageNetData,
    ParquetData,
    TensorData,
    TinyImageNetData,
)
from rspipe.data.splits import Dataset, chosen, held_out, whole_split
from rspipe.data.tensors import tensor_dataset
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
            return parquet_dataset(spec)
        case ImageNetData() | ImageFolderData() | TinyImageNetData():
            return picture_dataset(spec)
        case TensorData():
            return tensor_dataset(spec)
    return torchvision_dataset(spec)

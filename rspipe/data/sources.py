"""Data sets by their specs: digits, Parquet files, folders of pictures, arrays, and what torchvision reads."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from rspipe.arrays import FloatArray
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


def _digits_table() -> FloatArray:
    """Return scikit-learn's digits as they lie in its package, [1797, 65]: 64 grey values of 0 to 16, and the label.

    To import scikit-learn for them takes each process a hundred times as long as to read them.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits are part of scikit-learn, which is not installed; `pip install 'rspipe[pipeline]'`")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",")


def _digits(spec: DigitsData) -> Dataset:
    table = _digits_table()
    images = torch.from_numpy((table[:, :-1] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8))
    whole = whole_split(images, torch.from_numpy(table[:, -1].astype(np.int64)))
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

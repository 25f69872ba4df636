"""Data sets of encoded pictures in Parquet files, as the Hugging Face hub writes them among others."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rspipe.arrays import IntArray
from rspipe.data.files import LARGEST, as_images
from rspipe.data.pictures import channels_first, fitted, opened_picture
from rspipe.data.spec import ParquetData
from rspipe.data.splits import Dataset, Split, parts_of, whole_split
from rspipe.errors import DataError, nearest


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return what to sort names by, so that numbers in them count as numbers: part-2 before part-10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


def listed_files(folder: Path, names: str | Sequence[str]) -> list[Path]:
    """Return the files of a folder by their names or patterns such as "train-*.parquet", those of each in order.

    Raises:
        DataError: There is no such file, or one is named twice.
    """
    files = list[Path]()
    for name in (names,) if isinstance(names, str) else names:
        path = folder / name
        # A name that exists is no pattern, whatever it looks like.
        pattern = glob.has_magic(name) and not path.is_file()
        matching = glob.glob(name, root_dir=folder, recursive=True) if pattern else [name]  # noqa: PTH207
        found = sorted(matching, key=_natural)
        if not found:
            raise DataError(f"{path}: matches no file; set data.folder to the folder that holds them")
        files += [folder / one for one in found]
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: no such file; set data.folder to the folder that holds it")
    if twice := [path for path in files if files.count(path) > 1]:
        raise DataError(f"{twice[0]}: is named twice; its images would count twice")
    return files


def _columns(path: Path, spec: ParquetData) -> tuple[list[Any], IntArray]:
    """Return the cells of a file's images, and its labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        for key, name in (("image_column", spec.image_column), ("label_column", spec.label_column)):
            if name not in columns:
                raise DataError(f"{path}: has no column {name!r}{nearest(name, columns)}; set data.{key}")
            if columns.count(name) > 1:
                raise DataError(f"{path}: has {columns.count(name)} columns {name!r}; rename or drop the others")
        table = file.read(columns=[spec.image_column, spec.label_column])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    labels = table[spec.label_column].to_numpy()
    if not len(labels):
        raise DataError(f"{path}: has no rows; leave it out")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels in column {spec.label_column!r} must be whole numbers without gaps, got {labels.dtype}; "
            "rewrite the column or set data.label_column"
        )
    if labels.min() < 0 or labels.max() >= spec.classes:
        raise DataError(f"{path}: labels span {labels.min()} to {labels.max()}, outside data.classes = {spec.classes}")
    return table[spec.image_column].to_pylist(), labels.astype(np.int64)


def _encoded(cell: Any, *, name: str) -> bytes:
    """Return the encoded picture of a cell: bytes, or as the hub writes them a struct of `bytes` and `path`."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        path = cell.get("path") if isinstance(cell, dict) else None
        what = f"only the path {path!r}" if path else f"{type(content).__name__} instead of an encoded picture"
        raise DataError(f"{name}: holds {what}; write the bytes of a PNG or JPEG file into it")
    return content


def _read(paths: Sequence[Path], spec: ParquetData) -> Split:
    """Return the images of several files, one after the other."""
    content = [(path, *_columns(path, spec)) for path in paths]
    cells = [(f"{path}: row {row}", cell) for path, column, _ in content for row, cell in enumerate(column)]
    pixels = np.empty(0, np.uint8)
    resize = spec.resize or spec.size
    for place, (name, cell) in enumerate(cells):
        picture = opened_picture(_encoded(cell, name=name), mode=spec.mode, name=name, upright=True)
        if place == 0:
            height, width = (spec.size, spec.size) if spec.size else (picture.height, picture.width)
            shape = (len(cells), 1 if spec.mode == "L" else 3, height, width)
            if (size := 4 * int(np.prod(shape))) > LARGEST:
                raise DataError(
                    f"{len(cells)} images of {'x'.join(map(str, shape[1:]))} would take {size / 2**30:.0f} GiB as one "
                    "tensor; set a smaller data.size, name fewer files, or unpack them for data.name = 'image_folder'"
                )
            pixels = np.empty(shape, np.uint8)
        pixels[place] = channels_first(fitted(picture, width=width, height=height, resize=resize, name=name))
    labels = np.concatenate([labels for _, _, labels in content])
    return whole_split(as_images(torch.from_numpy(pixels)), torch.from_numpy(labels))


def parquet_dataset(spec: ParquetData) -> Dataset:
    """Return a data set of Parquet files, decoded."""
    folder = Path(spec.folder)
    if not folder.is_dir():
        raise DataError(f"data.folder = {spec.folder!r} is no folder; create it or point data.folder elsewhere")
    test = listed_files(folder, spec.test)
    train = [] if spec.train is None else listed_files(folder, spec.train)
    for path in train:
        if any(path.samefile(other) for other in test):
            raise DataError(
                f"{path}: is a file of both data.train and data.test, and test images would be trained on; "
                "name other files"
            )
    # The test part first: what is wrong with it would otherwise be seen last.
    tested = _read(test, spec)
    parts = parts_of(_read(train, spec) if train else None, tested, spec)
    sizes = ["x".join(map(str, part.images.shape[1:])) for part in (parts["train"], tested)]
    if sizes[0] != sizes[1]:
        raise DataError(f"{folder}: images of train are {sizes[0]}, those of test {sizes[1]}; set data.size")
    return Dataset(name=spec.title, classes=spec.classes, augment=spec.augment, notes=(), **parts)

"""Data sets by their specs: digits, Parquet files, folders of images, and what torchvision reads."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rspipe.data.files import FileSplit, ImageFiles
from rspipe.data.pictures import Mode, channels_first, opened_picture
from rspipe.data.spec import DataSpec, DigitsData, ImageFolderData, ImageNetData, ParquetData
from rspipe.data.splits import Dataset, chosen, held_out, training_parts, whole_split
from rspipe.data.torchvision_sets import in_torchvision, torchvision_dataset
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
    return Dataset(name="digits", classes=10, augment="none", test=test, **held)


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
    held = training_parts(whole, spec)
    return Dataset(name=spec.title, classes=spec.classes, augment=spec.augment, test=test, **held)


def _image_net_advice(folder: str) -> str:
    where = json.dumps(folder, ensure_ascii=False)
    return (
        f"put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {folder} "
        "(image-net.org gives them to those who register) and unpack them with: "
        + in_torchvision("ImageNet", f'[ImageNet({where}, split=s) for s in ["train", "val"]]')
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
        mode: Mode = "RGB"
        train_part, test_part = "train", "val"
    else:
        advice, classes, resize = "create it or point data.folder elsewhere", spec.classes, spec.resize or spec.size
        only_val = (folder / "val").is_dir() and not (folder / "test").is_dir()
        mode, train_part, test_part = spec.mode, spec.train, spec.test or ("val" if only_val else "test")
    train_files = _class_folders(folder / train_part, advice=advice)
    test_files = _class_folders(folder / test_part, advice=advice)
    if classes is not None and len(train_files.classes) != classes:
        raise DataError(
            f"{folder / train_part}: has {len(train_files.classes)} class folders instead of {classes}; "
            + ("other sets are data.name = 'image_folder'" if spec.name == "imagenet" else "mend data.classes")
        )
    if train_files.classes != test_files.classes:
        odd = sorted(set(train_files.classes) ^ set(test_files.classes))
        raise DataError(
            f"{folder / test_part}: classes differ from those of {train_part}: {odd[0]!r} is in one of them alone; "
            "both must have the same class folders"
        )
    first, _ = train_files.samples[0]
    size = (spec.size, spec.size) if spec.size is not None else opened_picture(first, mode=mode, name=first).size[::-1]
    shape = (1 if mode == "L" else 3, *size)

    def split(source: Any) -> FileSplit:
        files = ImageFiles(tuple(path for path, _ in source.samples), shape, resize)
        return FileSplit(files, torch.tensor(source.targets, dtype=torch.int64), torch.arange(len(files.paths)))

    whole = split(train_files)
    held = training_parts(whole, spec)
    train = held.pop("train")
    at_random = spec.augment == "resized_crop_flip"
    return Dataset(
        name=spec.title,
        classes=len(train_files.classes),
        augment=spec.augment,
        train=FileSplit(whole.files, train.labels, train.index, at_random=at_random),
        test=split(test_files),
        **held,
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
    return torchvision_dataset(spec)

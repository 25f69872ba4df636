"""Data sets of picture files: folders of classes, ImageNet, Tiny-ImageNet."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from rspipe.data.files import FileSplit, ImageFiles
from rspipe.data.pictures import Mode, opened_picture
from rspipe.data.spec import ImageFolderData, ImageNetData, TinyImageNetData
from rspipe.data.splits import Dataset, parts_of
from rspipe.data.torchvision_sets import in_torchvision
from rspipe.errors import DataError

_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_HIDDEN = (".", "__")
"""How names begin of what a system or a program left: `._x.jpg`, `.DS_Store`, `.ipynb_checkpoints`, `__MACOSX`."""

_SHOWN = 3

_ANNOTATIONS = "val_annotations.txt"

PictureSpec = ImageFolderData | ImageNetData | TinyImageNetData


@dataclass(frozen=True)
class LabelledPictures:
    """The pictures of one part of a data set."""

    folder: Path
    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = ()
    """The files that were left out, and how classes are numbered where that can surprise."""


def _some(folder: Path, paths: Sequence[str]) -> str:
    shown = ", ".join(str(Path(path).relative_to(folder)) for path in paths[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown}, ..."


def _in_order(classes: Sequence[str], *, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return class folders sorted by name, or as numbers where all are, and a note where label and number differ.

    Raises:
        DataError: Two are the same number.
    """
    if not classes or not all(name.isascii() and name.isdigit() for name in classes):
        return tuple(sorted(classes)), ()
    ordered = tuple(sorted(sorted(classes), key=int))
    for first, second in pairwise(ordered):
        if int(first) == int(second):
            raise DataError(f"{folder}: class folders {first!r} and {second!r} are the same number; rename one")
    if [int(name) for name in ordered] == list(range(len(ordered))):
        return ordered, ()
    odd = next(label for label, name in enumerate(ordered) if int(name) != label)
    return ordered, (f"{folder}: labels count the class folders, so that folder {ordered[odd]!r} is class {odd}",)


def _walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the folders below one, and their files; links are followed, but in no circle."""
    for place, inner, names in os.walk(folder, followlinks=True):
        if links := [name for name in inner if (Path(place) / name).is_symlink()]:
            above = {parent.resolve() for parent in (Path(place), *Path(place).parents)}
            inner[:] = [name for name in inner if name not in links or (Path(place) / name).resolve() not in above]
        yield place, names


def _files_below(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the files below a folder in the order of torchvision's ImageFolder, and whether each is hidden."""
    for place, names in sorted(_walked(folder)):
        inside = any(part.startswith(_HIDDEN) for part in Path(place).relative_to(folder).parts)
        for name in sorted(names):
            yield os.path.join(place, name), inside or name.startswith(_HIDDEN)  # noqa: PTH118


def read_class_folders(folder: Path, *, advice: str) -> LabelledPictures:
    """Return the pictures in a folder of class folders, at any depth.

    Classes are numbered in the order of their names, or of their numbers where all names are numbers. Hidden folders
    and files, and what is no picture by its name, are left out and noted.

    Raises:
        DataError: There is no such folder, no class folder, or a class without a picture; the message has the remedy.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {advice}")
    if (folder / _ANNOTATIONS).is_file():
        raise DataError(
            f"{folder}: has its labels in {_ANNOTATIONS}, as Tiny-ImageNet is published; data.name = 'tiny_imagenet' "
            "reads it"
        )
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    hidden = [entry.path for entry in entries if entry.name.startswith(_HIDDEN)]
    seen = [entry for entry in entries if not entry.name.startswith(_HIDDEN)]
    other = [entry.path for entry in seen if entry.is_file()]
    classes, numbering = _in_order([entry.name for entry in seen if entry.is_dir()], folder=folder)
    if not classes:
        flat = sum(path.lower().endswith(_PICTURES) for path in other)
        raise DataError(
            f"{folder}: has {flat:,} pictures and no class folders; sort them into a folder per class, or write them "
            "with their labels into a Parquet file (data.name = 'parquet')"
        )
    paths, labels = list[str](), list[int]()
    for label, name in enumerate(classes):
        before = len(paths)
        for path, is_hidden in _files_below(folder / name):
            if is_hidden:
                hidden.append(path)
            elif path.lower().endswith(_PICTURES):
                paths.append(path)
                labels.append(label)
            else:
                other.append(path)
        if len(paths) == before:
            raise DataError(f"{folder / name}: has no picture; each class needs one ({', '.join(_PICTURES)})")
    skipped = {"hidden": hidden, "no pictures of a class": other}
    notes = (f"{folder}: left out {len(n):,} that are {what} ({_some(folder, n)})" for what, n in skipped.items() if n)
    return LabelledPictures(folder, classes, tuple(paths), tuple(labels), (*numbering, *notes))


def _annotated(folder: Path, classes: Sequence[str] | None) -> LabelledPictures:
    """Return the validation pictures of Tiny-ImageNet, in the order of their annotations.

    Args:
        folder: It holds `images/` and the annotations, lines of a file's name, its class and a box.
        classes: Names, in the order of their labels; those of the annotations, sorted, when None.

    Raises:
        DataError: A line names no class.
    """
    rows = [line.split("\t") for line in (folder / _ANNOTATIONS).read_text(encoding="utf-8").splitlines()]
    names = tuple(sorted({row[1] for row in rows if len(row) > 1}) if classes is None else classes)
    label_of = {name: label for label, name in enumerate(names)}
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or row[1] not in label_of:
            raise DataError(f"{folder / _ANNOTATIONS}: line {number} names no class of the training part; replace it")
    paths = tuple(str(folder / "images" / row[0]) for row in rows)
    return LabelledPictures(folder, names, paths, tuple(label_of[row[1]] for row in rows))


def _image_net_advice(folder: str) -> str:
    where = json.dumps(folder, ensure_ascii=False)
    return (
        f"put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {folder} "
        "(image-net.org gives them to those who register) and unpack them with: "
        + in_torchvision("ImageNet", f'[ImageNet({where}, split=s) for s in ["train", "val"]]')
    )


def _tiny_image_net(spec: TinyImageNetData) -> tuple[LabelledPictures | None, LabelledPictures]:
    folder = Path(spec.folder)
    advice = f"unpack tiny-imagenet-200.zip (cs231n.stanford.edu has it) and point data.folder to it, not {folder}"
    train = read_class_folders(folder / "train", advice=advice) if (folder / "train").is_dir() else None
    if not (folder / "val" / _ANNOTATIONS).is_file():
        # As many sort it.
        return train, read_class_folders(folder / "val", advice=advice)
    return train, _annotated(folder / "val", None if train is None else train.classes)


def _has_folders(folder: Path) -> bool:
    return any(path.is_dir() and not path.name.startswith(_HIDDEN) for path in folder.iterdir())


def _parts(spec: ImageFolderData | ImageNetData) -> tuple[LabelledPictures | None, LabelledPictures]:
    """Return the training part, where there is one, and the test part."""
    folder = Path(spec.folder)
    if isinstance(spec, ImageNetData):
        advice, train_folder, test_folder = _image_net_advice(spec.folder), folder / "train", folder / "val"
    else:
        advice = "create it or point data.folder elsewhere"
        default = "val" if (folder / "val").is_dir() and not (folder / "test").is_dir() else "test"
        train_folder, test_folder = folder / spec.train, folder / (spec.test or default)
    named = isinstance(spec, ImageFolderData) and spec.train != "train"
    train = None
    one, other = train_folder.resolve(), test_folder.resolve()
    # A class of the test part may be called train, too.
    given = one.is_dir() and (_has_folders(one) or not one.is_relative_to(other))
    # A test part is enough for networks that are trained already, unless the file says where the other one is.
    if named or given or not test_folder.is_dir():
        train = read_class_folders(train_folder, advice=advice)
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise DataError(
                f"{test_folder}: lies in the training part or holds it, and test pictures would be trained on; "
                "correct data.train or data.test"
            )
    return train, read_class_folders(test_folder, advice=advice)


def picture_dataset(spec: PictureSpec) -> Dataset:
    """Return a data set whose pictures are decoded when they are asked for."""
    train, test = _tiny_image_net(spec) if isinstance(spec, TinyImageNetData) else _parts(spec)
    first = test if train is None else train
    classes = spec.class_folders
    if classes is not None and len(first.classes) != classes:
        remedy = "mend data.classes" if spec.name == "image_folder" else "other sets are data.name = 'image_folder'"
        raise DataError(f"{first.folder}: has {len(first.classes)} class folders instead of {classes}; {remedy}")
    if train is not None and train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{test.folder}: classes differ from those of {train.folder.name}: {odd[0]!r} is in one of them alone; "
            "both must have the same class folders"
        )
    mode: Mode = spec.mode if isinstance(spec, ImageFolderData) else "RGB"
    resize = (spec.resize or spec.size) if spec.name != "tiny_imagenet" else None
    if spec.size is not None:
        size = (spec.size, spec.size)
    else:
        size = opened_picture(first.paths[0], mode=mode, name=first.paths[0]).size[::-1]

    def split(source: LabelledPictures) -> FileSplit:
        files = ImageFiles(source.paths, (1 if mode == "L" else 3, *size), resize)
        return FileSplit(files, torch.tensor(source.labels, dtype=torch.int64), torch.arange(len(source.paths)))

    parts = parts_of(None if train is None else split(train), split(test), spec)
    if isinstance(whole := parts["train"], FileSplit) and spec.augment == "resized_crop_flip":
        parts["train"] = FileSplit(whole.files, whole.labels, whole.index, at_random=True)
    # What Tiny-ImageNet has beside its pictures belongs to it.
    every = () if isinstance(spec, TinyImageNetData) else (train, test)
    notes = tuple(note for part in every if part is not None for note in part.notes)
    return Dataset(name=spec.title, classes=len(first.classes), augment=spec.augment, notes=notes, **parts)

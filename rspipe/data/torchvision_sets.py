"""The small data sets that torchvision reads, and the commands that fetch what is missing."""

import json
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rspipe.data.spec import CIFAR10Data, CIFAR100Data, MNISTData, SVHNData
from rspipe.data.splits import Dataset, Split, parts_of, whole_split
from rspipe.errors import DataError

_TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}

TorchvisionSpec = MNISTData | CIFAR10Data | CIFAR100Data | SVHNData


def in_torchvision(name: str, call: str) -> str:
    """Return a shell command that makes a call with a class of torchvision."""
    return f"python -c {shlex.quote(f'from torchvision.datasets import {name}; {call}')}"


def _fetch_command(name: str, folder: str, parts: Sequence[str]) -> str:
    where = json.dumps(folder, ensure_ascii=False)
    if name == "SVHN":
        return in_torchvision(name, f"[SVHN({where}, split=s, download=True) for s in {json.dumps(parts)}]")
    return in_torchvision(name, f"{name}({where}, download=True)")


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
        # CIFAR's batches are older than NumPy's rule that a dtype's `align` be a bool.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        source = kind(spec.folder, download=spec.download, **which)
    pixels = torch.as_tensor(source.data)
    if isinstance(spec, MNISTData):
        pixels, shape = pixels.unsqueeze(1), (1, 28, 28)
    else:
        channels_last = isinstance(spec, CIFAR10Data | CIFAR100Data)
        pixels, shape = pixels.permute(0, 3, 1, 2) if channels_last else pixels, (3, 32, 32)
    labels = torch.as_tensor(source.labels if spec.name == "svhn" else source.targets, dtype=torch.int64).flatten()
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != shape:
        raise ValueError(f"images are {pixels.dtype} of {tuple(pixels.shape[1:])}, not bytes of {shape}")
    if len(labels) != len(pixels) or not ((labels >= 0) & (labels < spec.classes)).all():
        raise ValueError(f"{len(labels)} labels from {labels.min()} to {labels.max()} for {len(pixels)} images")
    return pixels, labels


def torchvision_dataset(spec: TorchvisionSpec) -> Dataset:
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
        return whole_split(pixels.contiguous().to(torch.float32).div_(255), labels)

    if not spec.download and (path := absent()) is not None:
        raise DataError(f"{path}: no such file; set data.download = true or fetch it with: {command}")
    wholes = [read(part) for part in training]
    whole = wholes[0]
    if len(wholes) > 1:
        whole = whole_split(torch.cat([part.images for part in wholes]), torch.cat([part.labels for part in wholes]))
    splits = parts_of(whole, read("test"), spec)
    return Dataset(name=spec.title, classes=spec.classes, augment=spec.augment, notes=(), **splits)

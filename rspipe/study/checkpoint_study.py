"""A study of checkpoints alone, as the text of a study file: what one command makes of files, images and a sigma."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DataSpec
from rspipe.errors import RspipeError, StudyError, nearest
from rspipe.networks.architectures import PROGRAMS, build_network, code_in, code_is_allowed
from rspipe.networks.checkpoint_files import read_checkpoint
from rspipe.networks.parameter_names import tensors_in
from rspipe.study.mistakes import listed, mistakes_in

_NAMED = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "imagenet", "tiny_imagenet")

_ONNX = ".onnx"

_ARRAYS = (".npz", ".pt", ".pth")

_MOST_HELD_OUT = 200

_SHARE_HELD_OUT = 5


@dataclass(frozen=True, kw_only=True)
class CheckpointStudy:
    """All that is known of the networks and the images; the rest follows from the files."""

    checkpoint: tuple[str, ...]
    images: str
    """A folder of class folders, a Parquet file or pattern, arrays (.npz, .pt), or a data set by name."""
    sigma: tuple[float, ...]
    model: tuple[str, ...]
    """Architectures: one for all checkpoints, or one for each; none where all are ONNX files."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalization: str | None
    parameters: str | None
    denoiser: str | None
    ensemble: tuple[str, ...]
    """Weightings of the ensemble of all; none where there is no ensemble."""
    average: str | None
    held_out: int | None
    rule: str
    n0: int
    n: int
    alpha: float
    precision: str
    size: int | None
    resize: int | None
    classes: int | None
    data_folder: str
    """Of data sets that are given by name."""
    name: str


def checkpoint_study(wanted: CheckpointStudy, *, folder: Path) -> str:
    """Return the study file that certifies checkpoints on images, alone and as an ensemble.

    The number of classes and channels are read from the first checkpoint; where code is allowed, a `module:function` is
    called for it. Images for the weights are held out of those that are given, since a published network has often seen
    the training part.

    Args:
        wanted: What to certify.
        folder: That relative paths start from.

    Raises:
        StudyError: The options do not fit together, or the images are nowhere.
        ModelError: A checkpoint cannot be read.
        DataError: The images cannot be read.
    """
    architectures = _architectures(wanted)
    data = _data_table(wanted, folder, architectures[0])
    if wanted.ensemble:
        data |= _calibration(wanted, data, folder)
    else:
        _refuse(wanted, "average", "held_out", why="there is no --ensemble")
    labels = _labels(wanted.checkpoint)
    checkpoint = {
        "normalization": _normalization(wanted),
        **({"parameters": wanted.parameters} if wanted.parameters else {}),
        **({"denoiser": wanted.denoiser} if wanted.denoiser else {}),
    }
    lines = [
        f"# Made by `rspipe certify --checkpoint {' '.join(wanted.checkpoint)} ...`.",
        *_table({"name": wanted.name, "title": f"{wanted.name} on {data.get('title', data['name'])}"}),
        *_table(data, "[data]"),
    ]
    for label, file, architecture in zip(labels, wanted.checkpoint, architectures, strict=True):
        entry = {"label": label, "architecture": architecture, "checkpoint": {"file": file, **checkpoint}}
        lines += _table({**entry, "sigma": list(wanted.sigma), "seeds": [0]}, "[[models]]")
    for sigma in wanted.sigma if wanted.ensemble else ():
        members = [f"{label}-s{_digits(sigma)}-seed0" for label in labels]
        entry = {"members": members, "weights": list(wanted.ensemble), "average": wanted.average or "probabilities"}
        lines += _table(entry, "[[ensembles]]")
    certify = {name: getattr(wanted, name) for name in ("rule", "n0", "n", "alpha", "precision")}
    return "\n".join([*lines, *_table(certify, "[certify]")]) + "\n"


def _digits(sigma: float) -> str:
    """Return a noise level with all its digits: six would name no member of a study."""
    return str(sigma).removesuffix(".0")


def _architectures(wanted: CheckpointStudy) -> tuple[str, ...]:
    files = wanted.checkpoint
    if not wanted.model and all(Path(file).suffix == _ONNX for file in files):
        return ("onnx",) * len(files)
    if len(wanted.model) not in (1, len(files)):
        raise StudyError(
            f"--model names {len(wanted.model)} architectures for {len(files)} checkpoints; give one for all, or one "
            "for each, e.g. resnet50, timm/resnet18 or mynet:build"
        )
    return wanted.model * (len(files) // len(wanted.model))


def _normalization(wanted: CheckpointStudy) -> str | list[list[float]]:
    if bool(wanted.mean) != bool(wanted.std):
        raise StudyError("--mean and --std belong together; give both, a number per channel each")
    if not wanted.mean:
        return wanted.normalization or "architecture"
    _refuse(wanted, "normalization", why="--mean and --std are the normalization")
    return [list(wanted.mean), list(wanted.std)]


def _labels(files: Sequence[str]) -> list[str]:
    """Return a label of its own for each checkpoint: its name, or what of its path tells it from others, or a number.

    Checkpoints of one label would be taken for seeds of one method.
    """
    stems, paths = [Path(file).name.partition(".")[0] for file in files], [Path(file) for file in files]
    alike = len(set(stems)) == 1
    spellings = []
    for stem, path in zip(stems, paths, strict=True):
        folder = path.resolve().parent.name
        texts = (stem, path.stem, *([folder] if alike else []), f"{folder}_{stem}", f"{folder}_{path.stem}")
        spellings.append([_label(text) for text in texts])
    files_of = Counter(label for labels in spellings for label in {*labels})
    chosen: list[str] = []
    for labels in spellings:
        label, number = next((label for label in labels if files_of[label] == 1), labels[0]), 1
        while label in chosen:
            number += 1
            label = f"{labels[0]}_{number}"
        chosen.append(label)
    return chosen


def _label(text: str) -> str:
    """Return a text as a label: small letters, digits and underscores, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"model_{plain}".rstrip("_")


def _data_table(wanted: CheckpointStudy, folder: Path, architecture: str) -> dict[str, Any]:
    """Return the `[data]` of what the images are: by name, Parquet files, or a folder of class folders.

    Args:
        wanted: What to certify.
        folder: That relative paths start from.
        architecture: Of the first checkpoint.
    """
    path = folder / wanted.images
    if wanted.images in _NAMED and not path.exists():
        return _named(wanted)
    shaped = {name: size for name in ("size", "resize") if (size := getattr(wanted, name)) is not None}
    first = {} if architecture in PROGRAMS else _first_parameters(wanted.checkpoint[0], folder)
    channels = _channels(first)
    shaped |= {"mode": "L"} if channels == 1 or (channels != 3 and len(wanted.mean) == 1) else {}
    patterns = path.name if any(sign in path.name for sign in "*?[") else ""
    if path.suffix == ".parquet" or patterns or (path.is_dir() and any(path.glob("*.parquet"))):
        classes = wanted.classes or _classes(first, architecture)
        if classes is None:
            raise StudyError(f"{wanted.checkpoint[0]} does not say how many classes it knows; add --classes")
        where, files = (path, _test_files(path)) if path.is_dir() else (path.parent, path.name)
        title = path.stem if not patterns else where.name
        return {"name": "parquet", "title": title, "folder": str(where), "test": files, "classes": classes, **shaped}
    named = {"classes": wanted.classes} if wanted.classes else {}
    if path.suffix in _ARRAYS:
        _refuse(wanted, "size", "resize", why=f"images of {path.name} are taken as they are")
        known = {"classes": count} if (count := wanted.classes or _classes(first, architecture)) else {}
        return {"name": "tensors", "title": path.stem, "folder": str(path.parent), "test": path.name, **known}
    if not path.is_dir():
        raise StudyError(
            f"--images {wanted.images}: no such folder or file, nor a data set by name{nearest(wanted.images, _NAMED)}"
        )
    part = next((name for name in ("test", "val") if (path / name).is_dir()), None)
    where = path / part if part else path
    return {"name": "image_folder", "title": path.resolve().name, "folder": str(where), "test": ".", **named, **shaped}


def _test_files(folder: Path) -> str:
    """Return the pattern of the Parquet files of a folder that hold no training images.

    Raises:
        StudyError: Some begin with "train", and none with "test" or "val".
    """
    names = [path.name for path in folder.glob("*.parquet")]
    if not any(name.startswith("train") for name in names):
        return "*.parquet"
    for part in ("test", "val"):
        if any(name.startswith(part) for name in names):
            return f"{part}*.parquet"
    raise StudyError(
        f"--images {folder}: has Parquet files of a training part and none that begins with test or val; name those to "
        f"certify on, e.g. --images '{folder / min(names)}'"
    )


def _named(wanted: CheckpointStudy) -> dict[str, Any]:
    """Return the `[data]` of a data set that is given by name."""
    name = wanted.images
    _refuse(wanted, "classes", why=f"how many {name} has is known")
    if name != "imagenet":
        _refuse(wanted, "size", "resize", why=f"images of {name} are taken as they are")
    shaped = {key: size for key in ("size", "resize") if (size := getattr(wanted, key)) is not None}
    return {"name": name, **({} if name == "digits" else {"folder": wanted.data_folder}), **shaped}


def _calibration(wanted: CheckpointStudy, data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what `[data]` says of the images that are held out for weights."""
    if len(wanted.checkpoint) < 2:
        raise StudyError("--ensemble needs two checkpoints or more")
    number = _images_held_out(data, folder) if wanted.held_out is None else wanted.held_out
    if number < 1:
        raise StudyError(f"--held-out must be at least 1, got {number}")
    # Of the digits they are others than the test images in any case.
    source = {} if data["name"] == "digits" else {"calibration_from": "test"}
    return {**source, "calibration": number}


def _refuse(wanted: CheckpointStudy, *names: str, why: str) -> None:
    """Raise StudyError where an option was given that would have no effect."""
    for name in names:
        if getattr(wanted, name) is not None:
            raise StudyError(f"--{name.replace('_', '-')} would have no effect: {why}; leave it out")


def _images_held_out(data: Mapping[str, Any], folder: Path) -> int:
    """Return how many images to hold out for weights, where nobody says it."""
    try:
        spec: Any = TypeAdapter(DataSpec).validate_python({"folder": str(folder), **data} if "folder" in data else data)
    except ValidationError as error:
        raise StudyError(listed(mistakes_in(error, within=("data",)))) from error
    if "folder" in data:
        spec = spec.model_copy(update={"folder": str((folder / data["folder"]).resolve())})
    return max(1, min(_MOST_HELD_OUT, len(load_dataset(spec).test) // _SHARE_HELD_OUT))


def _first_parameters(file: str, folder: Path) -> dict[str, Tensor]:
    """Return the largest set of tensors in a checkpoint; none where it is a file of another kind."""
    path = folder / file
    if path.suffix == _ONNX:
        return {}
    return max((tensors for _, tensors in tensors_in(read_checkpoint(path))), key=len, default={})


def _classes(parameters: Mapping[str, Tensor], architecture: str) -> int | None:
    """Return the number of rows of the layer that gives the logits: of the last one, where its name is not known.

    None where a file has its tensors in the order of their names, which does not say what is last.
    """
    heads = _heads(architecture)
    rows = {
        int(value.shape[0])
        for name, value in parameters.items()
        if any(f".{name}".endswith(f".{head}") for head in heads)
    }
    if len(rows) == 1:
        return rows.pop()
    if ":" in architecture and list(parameters) == sorted(parameters):
        return None
    last = [value for value in parameters.values() if value.ndim in (2, 4) and value.shape[0] > 1]
    return int(last[-1].shape[0]) if last else None


def _heads(architecture: str) -> list[str]:
    """Return how the names of the parameters end whose shape depends on the number of classes."""
    if code_in(architecture) and not code_is_allowed():
        return []
    for device in ("meta", "cpu"):
        # Some networks need values to be built, which others read from files and warn of.
        with suppress(RspipeError), torch.device(device), warnings.catch_warnings(action="ignore"):
            one, other = (build_network(architecture, classes=classes, seed=0).state_dict() for classes in (7, 11))
            differ = [name for name in one if name in other and one[name].shape != other[name].shape]
            # Behind the number that a layer before the network, which normalizes, gives all names.
            return [re.sub(r"^\d+\.(?=.*\.)", "", name) for name in differ]
    return []


def _channels(parameters: Mapping[str, Tensor]) -> int | None:
    """Return the number of channels of images: 3 or 1 where a convolution takes as many; others are of inner layers."""
    taken = [int(value.shape[1]) for value in parameters.values() if value.ndim == 4 and value.shape[0] > 1]
    return next((few for few in (3, 1) if few in taken), next(iter(taken), None))


def _table(values: Mapping[str, Any], head: str = "") -> list[str]:
    """Return a table of a TOML file, after an empty line."""
    return ["", *filter(None, [head]), *(f"{name} = {_toml(value)}" for name, value in values.items())]


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)

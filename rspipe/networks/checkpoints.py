"""Published checkpoints become our networks: names are matched strictly, the normalization is given, not guessed."""

import copy
import hashlib
import importlib
import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.architectures import build_network
from rspipe.networks.modes import evaluating
from rspipe.networks.normalization import CIFAR10, IMAGENET, Normalization, normalization, set_normalization

_PARTS = ("state_dict", "net", "network", "model")
"""Where checkpoints keep the parameters: Cohen's and its descendants, MACER's, our own, others."""

_WRAPPERS = ("module.", "1.", "_orig_mod.")
"""Prefixes of every name by wrappers: data parallelism, a normalization before the network, compilation."""

_PUBLISHED_NAMES = {"lenet": {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9"}}
"""Names of layers in published checkpoints, where ours are others."""

_COUNTER = "num_batches_tracked"


def load_checkpoint(path: Path, *, architecture: str, classes: int, normalization: Normalization) -> nn.Module:
    """Return the network of a published checkpoint, in eval mode on the CPU, with the names of `build_network`.

    Of the file nothing but tensors is used and nothing is executed.

    Args:
        path: A file of `torch.save` (.pth, .pt, .tar) that holds a state dict, alone or as `state_dict` (Cohen,
            SmoothAdv, Consistency, SmoothMix), `net` (MACER), `network` or `model`; or a file of safetensors.
        architecture: As in a study file.
        classes: Of the checkpoint.
        normalization: The one it was trained with. The file does not say, and a wrong one costs accuracy silently: see
            `check_clean_accuracy`. "architecture" for Cohen's, "none" for MACER's, "centre" for most of SmoothAdv's.

    Raises:
        ModelError: The file cannot be read without executing it, or is of another architecture.
    """
    parameters = read_checkpoint(path)
    network = build_network(architecture, classes=classes, seed=0)
    try:
        set_normalization(network, normalization)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    own = network.state_dict()
    readings = _readings(parameters, published=_PUBLISHED_NAMES.get(architecture, {}))
    names = max(readings, key=lambda reading: sum(name in own for name in reading.values()))
    given = {names[name]: value for name, value in parameters.items()}
    problems = _differences(own, given)
    if problems:
        raise ModelError(
            f"{path}: does not fit {architecture} with {classes} classes: {'; '.join(problems)}; "
            "the checkpoint is of another architecture, depth or number of classes"
        )
    # Checkpoints of before PyTorch 0.4.1 have no such counters, and nothing reads them.
    network.load_state_dict({**{name: value for name, value in own.items() if name.endswith(_COUNTER)}, **given})
    broken = [name for name, value in network.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise ModelError(f"{path}: {_few(broken)} hold NaN or infinity; the file is damaged or its training diverged")
    return network.eval()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the parameters in a checkpoint by the names that the file gives them, executing nothing from it.

    Raises:
        ModelError: The file is missing or damaged, holds no state dict, or cannot be read without executing it.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint file")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load(path)
    places = [content, *(content.get(part) for part in _PARTS)] if isinstance(content, dict) else []
    for parameters in places:
        if isinstance(parameters, dict) and parameters and all(isinstance(v, Tensor) for v in parameters.values()):
            return {str(name): value for name, value in parameters.items()}
    kind = f"a dict of {_few([str(key) for key in content])}" if isinstance(content, dict) else type(content).__name__
    raise ModelError(
        f"{path}: holds {kind}, and no state dict alone or under {', '.join(_PARTS)}; save the state dict alone"
    )


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); allow it") from error
    except Exception as error:
        # torch's own advice is to execute what is in the file.
        code = re.search(r"GLOBAL ([\w.]+)|(legacy .tar|TorchScript)", str(error))
        if code:
            raise ModelError(
                f"{path}: refused, for it holds more than tensors ({code[1] or code[2]}) and reading it could execute "
                "code; if you trust it, load it elsewhere with weights_only=False and torch.save its state dict alone"
            ) from error
        raise ModelError(
            f"{path}: damaged, or no file of torch.save ({type(error).__name__}); download it again"
        ) from error


def _load_safetensors(path: Path) -> Any:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ModelError(f"{path}: needs the package safetensors; pip install safetensors") from error
    try:
        return safetensors.load_file(path, device="cpu")
    except Exception as error:
        raise ModelError(
            f"{path}: damaged, or no file of safetensors ({type(error).__name__}); download it again"
        ) from error


def _readings(names: Collection[str], *, published: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield our names for the names of a file, with one wrapper after the other taken off all of them."""
    prefix: str | None = ""
    while prefix is not None:
        bare = {}
        for name in names:
            first, dot, rest = name.removeprefix(prefix).partition(".")
            bare[name] = published.get(first, first) + dot + rest
        yield bare
        # `Normalize` comes before a network that was saved without.
        yield {name: f"1.{value}" for name, value in bare.items()}
        longer = [prefix + wrapper for wrapper in _WRAPPERS]
        prefix = next((p for p in longer if all(name.startswith(p) for name in names)), None)


def _differences(own: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """Return in words how parameters differ from those that a network has."""
    lacks = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    unknown = [name for name in given if name not in own]
    shapes = [
        f"{name} is {_kind(given[name])} instead of {_kind(own[name])}"
        for name in own
        if name in given and _kind(given[name]) != _kind(own[name])
    ]
    differences = {"it lacks": lacks, "it has besides": unknown, "in it": shapes}
    return [f"{how} {_few(items)}" for how, items in differences.items() if items]


def _kind(value: Tensor) -> str:
    return f"{'' if value.is_floating_point() else f'{value.dtype} '}{list(value.shape)}"


def _few(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"


def check_clean_accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, *, expected: float, tolerance: float, batch_size: int = 100
) -> float:
    """Return a network's accuracy on images without noise, which must be the published one.

    Args:
        network: On the device of the images; it is evaluated in eval mode and stays as it is.
        images: [image, channel, height, width] in [0, 1].
        labels: [image].
        expected: Accuracy that was published, as a fraction.
        tolerance: Largest difference. The accuracy p of n images has a standard error of sqrt(p (1 - p) / n).
        batch_size: Images per forward pass.

    Raises:
        ModelError: It is another; the message names the normalizations with which it would be the published one.
    """
    if not 0 <= expected <= 1 or not 0 <= tolerance <= 1:
        raise ValueError(f"expected and tolerance must be fractions from 0 to 1, got {expected} and {tolerance}")
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(f"images and labels must be of one length above 0, got {len(images)} and {len(labels)}")

    def is_near(accuracy: float) -> bool:
        # Differences of rounded fractions are not exact.
        return abs(accuracy - expected) <= tolerance + 1e-9

    measured = _accuracy(network, images, labels, batch_size=batch_size)
    if is_near(measured):
        return measured
    better = []
    for choice, other in _normalized_otherwise(network):
        accuracy = _accuracy(other, images, labels, batch_size=batch_size)
        if is_near(accuracy):
            better.append(f"normalization={choice!r} gives {accuracy:.3f}")
    remedy = "none of the usual ones helps, check checkpoint, images and order of classes"
    raise ModelError(
        f"clean accuracy on {len(labels)} images is {measured:.3f}, expected {expected:.3f} ± {tolerance:.3f}; "
        f"the wrong normalization is the usual cause: {' and '.join(better) or remedy}"
    )


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> float:
    with evaluating(network):
        predictions = torch.cat([network(batch).argmax(1) for batch in torch.split(images, batch_size)])
    return float((predictions == labels).double().mean())


def _normalized_otherwise(network: nn.Module) -> Iterator[tuple[Normalization, nn.Module]]:
    """Yield the usual normalizations that a network does not have, and a copy of it that has, until the next."""
    now = normalization(network)
    if now is None:
        return
    other, seen = copy.deepcopy(network), [now]
    none = (1.0,) * len(now[0])
    known = [m for pair in (CIFAR10, IMAGENET) for m in (pair, (pair[0], none)) if len(pair[0]) == len(none)]
    choices: tuple[Normalization, ...] = ("architecture", "none", "centre", *known)
    for choice in choices:
        set_normalization(other, choice)
        mean_std = normalization(other)
        if mean_std is not None and mean_std not in seen:
            seen.append(mean_std)
            yield choice, other

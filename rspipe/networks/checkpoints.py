"""Published checkpoints become our networks: names are matched strictly, the normalization is given, not guessed."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rspipe.arrays import check_label_shape
from rspipe.errors import ModelError
from rspipe.networks.architectures import build_network
from rspipe.networks.checkpoint_files import few, read_checkpoint
from rspipe.networks.denoising import Denoised
from rspipe.networks.exported import FileNetwork, file_parameters
from rspipe.networks.modes import copied, evaluating
from rspipe.networks.normalization import (
    CIFAR10,
    IMAGENET,
    MNIST,
    MeanStd,
    Normalization,
    normalization,
    set_normalization,
)
from rspipe.networks.outputs import logits_of
from rspipe.networks.parameter_names import Parameters, fitting_parameters, stored_normalization

_log = logging.getLogger(__name__)

CheckpointNormalization = Normalization | Literal["file"]
"""Of a checkpoint: also the one whose mean and standard deviation lie in the file beside the network."""

_PUBLISHED_NAMES = {"lenet": {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9"}}
"""Names of layers in published checkpoints, where ours are others."""


def load_checkpoint(
    path: Path | str,
    *,
    architecture: str,
    classes: int,
    normalization: CheckpointNormalization,
    parameters: str | None = None,
    denoiser: Path | str | None = None,
) -> nn.Module:
    """Return the network of a published checkpoint, in eval mode on the CPU, with the names of `build_network`.

    Of the file nothing but tensors is used and nothing is executed (but a TorchScript program, when the network runs).
    The parameters are the dictionary in it, at any depth, whose names are those of the network behind a common prefix
    ("module.", "model.", "1.", ...). What lies beside them, and the network has no place for, is left out and listed in
    a warning.

    Args:
        path: A file of `torch.save` (.pth, .pt, .tar) or of safetensors; for the architectures "onnx" and "torchscript"
            such a file.
        architecture: As in a study file.
        classes: Of the checkpoint.
        normalization: The one it was trained with. The file rarely says, and a wrong one costs accuracy silently: see
            `check_clean_accuracy`. "architecture" for Cohen's, "none" for MACER's, "centre" for most of SmoothAdv's,
            "file" where mean and standard deviation lie beside the network.
        parameters: Which ones, where the file has several sets that fit: their place or a part of it, e.g. "ema".
        denoiser: Checkpoint of the denoiser, where the architecture begins with one and the file holds the classifier
            alone.

    Raises:
        ModelError: The file cannot be read without executing it, is of another architecture, has several sets of
            parameters that fit, or lies beside another normalization than the one given.
    """
    path = Path(path)
    network = build_network(architecture, classes=classes, seed=0)
    part = network
    if denoiser is not None:
        if not isinstance(network, Denoised):
            raise ModelError(f"architecture {architecture!r} has no denoiser; name one, e.g. 'dncnn + {architecture}'")
        _fill(network.denoiser, Path(denoiser), f"the denoiser of {architecture}", None, {})
        part = network.classifier
    purpose = f"{architecture} with {classes} classes"
    beside = _fill(part, path, purpose, parameters, _PUBLISHED_NAMES.get(architecture, {}))
    return _normalized(network, normalization, beside, path).eval()


def _fill(network: nn.Module, path: Path, purpose: str, wanted: str | None, published: Mapping[str, str]) -> Parameters:
    """Give a network the parameters in a file, and return the tensors that lie beside them."""
    if isinstance(network, FileNetwork):
        if not path.is_file():
            raise ModelError(f"{path}: no such checkpoint file")
        network.load_state_dict(file_parameters(path.read_bytes()))
        return {}
    fitting = fitting_parameters(
        read_checkpoint(path), network.state_dict(), path=path, purpose=purpose, wanted=wanted, published=published
    )
    network.load_state_dict({**network.state_dict(), **fitting.parameters})
    broken = [name for name, value in network.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise ModelError(f"{path}: {few(broken)} hold NaN or infinity; the file is damaged or its training diverged")
    if fitting.beside:
        _log.warning("warning: %s: left out, for %s has no such parameters: %s", path, purpose, few([*fitting.beside]))
    return fitting.beside


def _normalized(network: nn.Module, to: CheckpointNormalization, beside: Parameters, path: Path) -> nn.Module:
    """Return a network with the normalization that was asked for, which what lies beside it must not contradict."""
    stored = stored_normalization(beside)
    if to == "file":
        if stored is None:
            raise ModelError(f"{path}: holds no mean and standard deviation beside the network; name the normalization")
        to = stored
    try:
        network = set_normalization(network, to)
    except (ModelError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from error
    now = normalization(network)
    if stored is not None and not _alike(stored, now):
        chosen = "none" if now is None else f"mean {now[0]} and std {now[1]}"
        raise ModelError(
            f"{path}: holds a normalization by mean {stored[0]} and std {stored[1]}, but the one chosen is {chosen}; "
            "normalization = 'file' takes the former"
        )
    return network


def _alike(stored: MeanStd, chosen: MeanStd | None) -> bool:
    """Return whether two normalizations are the same but for rounding to three digits; one channel stands for all."""
    mean, std = chosen or ((0.0,), (1.0,))
    pairs = [(stored[0], mean), (stored[1], std)]
    size = max(len(values) for pair in pairs for values in pair)
    if any(len(values) not in (1, size) for pair in pairs for values in pair):
        return False
    spread = [tuple(values * (size // len(values)) for values in pair) for pair in pairs]
    return all(abs(a - b) <= 2e-3 for one, other in spread for a, b in zip(one, other, strict=True))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    check_label_shape(labels.shape)
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(f"images and labels must be of one length above 0, got {len(images)} and {len(labels)}")

    def is_near(accuracy: float) -> bool:
        # Differences of rounded fractions are not exact.
        return abs(accuracy - expected) <= tolerance + 1e-9

    measured = _accuracy(network, images, labels, batch_size=batch_size)
    if is_near(measured):
        return measured
    better = []
    for choice, other in _normalized_otherwise(network, channels=images.shape[1]):
        accuracy = _accuracy(other, images, labels, batch_size=batch_size)
        if is_near(accuracy):
            better.append(f"normalization={choice!r} gives {accuracy:.3f}")
    remedy = "none of the usual ones helps, check checkpoint, images and order of classes"
    raise ModelError(
        f"clean accuracy on {len(labels)} images is {measured:.3f}, expected {expected:.3f} ± {tolerance:.3f}; "
        f"the wrong normalization is the usual cause: {' and '.join(better) or remedy}"
    )


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> float:
    return float(_right(network, images, labels, batch_size=batch_size).double().mean())


def _right(network: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """Return [image] whether a network's class is the label."""

    def predictions(batch: Tensor) -> Tensor:
        # Of one image alone, many networks squeeze the batch away.
        several = batch if len(batch) > 1 else torch.cat([batch, batch])
        return logits_of(network(several)).argmax(1)[: len(batch)]

    with evaluating(network):
        return torch.cat([predictions(batch) for batch in torch.split(images, batch_size)]) == labels


_DOUBT = 3.0
"""Standard errors of a paired difference beyond which another normalization is clearly better."""

_BEYOND_DOUBT = 0.95
"""Accuracy that no other normalization is tried to better."""


def normalization_doubt(network: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 50) -> str:
    """Return in words whether another usual normalization is clearly more accurate than a network's; empty if not.

    Args:
        network: On the device of the images.
        images: [image, channel, height, width] in [0, 1].
        labels: [image].
        batch_size: Images per forward pass.
    """
    now = _right(network, images, labels, batch_size=batch_size).double()
    if float(now.mean()) >= _BEYOND_DOUBT or len(labels) < 2:
        return ""
    best: tuple[float, Normalization] | None = None
    for choice, other in _normalized_otherwise(network, channels=images.shape[1]):
        gain = _right(other, images, labels, batch_size=batch_size).double() - now
        mean, error = float(gain.mean()), float(gain.std()) / len(gain) ** 0.5
        if mean > _DOUBT * error and mean > (best[0] if best else 0.0):
            best = mean, choice
    if best is None:
        return ""
    return (
        f"clean accuracy on {len(labels)} images is {float(now.mean()):.3f}, and would be "
        f"{float(now.mean()) + best[0]:.3f} with normalization = {best[1]!r}; the one chosen is probably wrong"
    )


def _normalized_otherwise(network: nn.Module, *, channels: int) -> Iterator[tuple[Normalization, nn.Module]]:
    """Yield the usual normalizations that a network does not have, and a copy of it that has, until the next."""
    now = normalization(network)
    seen = [now or ((0.0,) * channels, (1.0,) * channels)]
    known: list[MeanStd] = [pair for pair in (MNIST, CIFAR10, IMAGENET) if len(pair[0]) == channels]
    unscaled: list[MeanStd] = [(mean, (1.0,) * channels) for mean, _ in known if channels > 1]
    half = (0.5,) * channels
    named: tuple[Normalization, ...] = ("architecture", "none", "centre") if now is not None else ()
    for choice in (*named, *known, *unscaled, (half, half)):
        try:
            other = set_normalization(copied(network), choice)
        except (ModelError, ValueError):
            # It has several layers, or one for another number of channels.
            continue
        mean_std = normalization(other)
        if mean_std is not None and mean_std not in seen:
            seen.append(mean_std)
            yield choice, other

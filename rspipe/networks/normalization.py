"""Normalization is a network's first layer, so that radii stay in pixel units; it can be read and set."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.denoising import Denoised

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""

NormalizationName = Literal["architecture", "none", "centre"]

Normalization = NormalizationName | MeanStd
"""Of a network: the one its architecture was built with, nothing, its mean alone, or other values."""

CIFAR10: MeanStd = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

MNIST: MeanStd = ((0.1307,), (0.3081,))

IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalize(nn.Module):
    """Per-channel (x - mean) / std, inside the network so that radii stay in pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if not len(mean) == len(std) > 0 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"mean and std must have one finite number per channel, std above 0, got {mean} and {std}")
        self.built_with: MeanStd = tuple(mean), tuple(std)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized images [batch, channel, height, width]."""
        return (images - self.mean) / self.std


def _decimals(values: Tensor) -> tuple[float, ...]:
    """Return the shortest decimals that round to the values in float32: 0.4914, not 0.4914000034."""
    return tuple(float(str(value)) for value in values.detach().flatten().to("cpu", torch.float32).numpy())


def normalize_layers(network: nn.Module) -> list[Normalize]:
    return [module for module in network.modules() if isinstance(module, Normalize)]


def normalization(network: nn.Module) -> MeanStd | None:
    """Return the normalization of a network; None unless it has exactly one `Normalize` layer."""
    layers = normalize_layers(network)
    return (_decimals(layers[0].mean), _decimals(layers[0].std)) if len(layers) == 1 else None


def set_normalization(network: nn.Module, to: Normalization) -> nn.Module:
    """Return a network that normalizes otherwise: its `Normalize` layer is changed in place, or a new one comes first.

    Names of parameters stay where there is such a layer; "none" is mean 0 and std 1. A new layer is called 0, and the
    network behind it 1; behind a denoiser, it comes before the classifier. A state dict does not hold the
    normalization: whoever stores parameters stores it beside them, and sets it again.

    Raises:
        ModelError: The network has several `Normalize` layers, or none whose mean "centre" could take.
        ValueError: There is no such normalization, or it has another number of channels.
    """
    layers = normalize_layers(network)
    if not layers and to in ("architecture", "none"):
        return network
    if not layers and not isinstance(to, str):
        if isinstance(network, Denoised):
            network.classifier = set_normalization(network.classifier, to)
            return network
        return nn.Sequential(Normalize(*to), network)
    if len(layers) != 1:
        raise ModelError(
            f"the network has {len(layers)} Normalize layers, so its normalization cannot be set to {to!r}; "
            + ("name mean and standard deviation" if not layers else "leave one, at its beginning")
        )
    (layer,) = layers
    mean, std = _mean_std(layer, to)
    layer.mean = layer.mean.new_tensor(mean).view(-1, 1, 1)
    layer.std = layer.std.new_tensor(std).view(-1, 1, 1)
    return network


def _mean_std(layer: Normalize, to: Normalization) -> MeanStd:
    mean, std = layer.built_with
    if to == "architecture":
        return mean, std
    if to == "centre":
        return mean, (1.0,) * len(mean)
    if to == "none":
        return (0.0,) * len(mean), (1.0,) * len(mean)
    if isinstance(to, str):
        raise ValueError(f"normalization must be one of {get_args(NormalizationName)} or (mean, std), got {to!r}")
    other = Normalize(*to).built_with
    if len(other[0]) != len(mean):
        raise ValueError(f"normalization must have {len(mean)} channels, as the network's own, got {to}")
    return other

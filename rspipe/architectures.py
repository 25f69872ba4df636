"""Base classifiers by name. Inputs are images in [0, 1] plus noise; normalization is the network's first layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Per-channel (x - mean) / std, inside the network so that radii stay in pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized images [batch, channel, height, width]."""
        return (images - self.mean) / self.std


def digits_cnn(classes: int) -> nn.Module:
    """Return a small convolutional network for 8x8 grey images (81 k multiply-adds)."""
    return nn.Sequential(
        Normalize((0.5,), (0.5,)),
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


def lenet(classes: int) -> nn.Module:
    """Return the LeNet of the MNIST experiments in the literature for 28x28 grey images, without normalization."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, classes),
    )


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {"digits_cnn": digits_cnn, "lenet": lenet}


def build_network(architecture: str, *, classes: int, seed: int) -> nn.Module:
    """Return a freshly initialized network; the initialization depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](classes)

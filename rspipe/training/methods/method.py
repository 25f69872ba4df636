"""The base of the training methods: the batch that they get, the loss that they return, the cost of a step."""

import functools
import operator
from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from rspipe.spec import NonNegativeInt, PositiveInt, Spec
from rspipe.training.randomness import Draws, gaussian_noise


@dataclass(frozen=True)
class Batch:
    """The images of an optimizer step, and the noise under which the network sees them."""

    images: Tensor
    """[image, ...] in [0, 1]."""
    labels: Tensor
    """[image]."""
    noise: Tensor
    """[image, noise, ...], N(0, sigma^2) in pixel units, of `Method.copies` vectors per image."""
    sigma: float
    epoch: int
    """From 0."""
    draws: Draws
    """Source of what else is drawn for the images."""


def noisy_batch(images: Tensor, labels: Tensor, *, copies: int, sigma: float, epoch: int, draws: Draws) -> Batch:
    """Return images [image, ...] and labels [image] as a batch; its noise is the first that is drawn for it."""
    noise = gaussian_noise(images, sigma=sigma, copies=copies, draws=draws)
    return Batch(images, labels, noise, sigma, epoch, draws)


@dataclass(frozen=True)
class Terms:
    """A training loss and the parts it is made of (detached scalars, for the learning curve)."""

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor
    """[image, noise, class], detached, of the noisy copies that the loss was evaluated on."""

    @classmethod
    def sum_of(cls, parts: dict[str, Tensor], *, logits: Tensor) -> Self:
        """Return the loss that is the sum of its parts, added up in their order."""
        loss = functools.reduce(operator.add, parts.values())
        return cls(loss, {name: part.detach() for name, part in parts.items()}, logits.detach())


class Method(Spec):
    """A training method: its hyper-parameters and its loss.

    One that says nothing else has one noise vector per image and one forward-and-backward pass for each. As in
    SmoothAdv's reference, a batch of B images that are seen in m noisy copies is split into m mini-batches of B // m
    images, each an optimizer step of its own.
    """

    name: str

    @property
    def copies(self) -> int:
        """Noise vectors per image."""
        return 1

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch."""
        return self.copies

    def images_per_step(self, batch_size: int) -> int:
        """Return the images in one optimizer step."""
        return batch_size // self.copies

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch, for a network in training mode from [batch, ...] to logits [batch, class]."""


class MultiNoise(Method):
    """A method that sees each image under several noise vectors."""

    m: PositiveInt
    """Noise vectors per image."""

    @property
    def copies(self) -> int:
        """Noise vectors per image."""
        return self.m


class Attacking(MultiNoise):
    """A method that attacks the soft smoothed classifier, under the noise of the training step."""

    T: PositiveInt
    """Steps of the attack."""
    warmup: NonNegativeInt = 10
    """Epochs over which the attack's radius grows linearly to eps."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch: the attack's and one of the adversarial example."""
        return (self.T + 1) * self.m

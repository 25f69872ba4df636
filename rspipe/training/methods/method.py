"""The base of the training methods: the batch that they get, the loss that they return, the cost of a step."""

import functools
import operator
from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rspipe.networks.modes import evaluating
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
    survey: Tensor | None = None
    """[image, ...], the rows of the method's last survey; None where it makes none."""


def noisy_batch(
    images: Tensor,
    labels: Tensor,
    *,
    copies: int,
    sigma: float,
    epoch: int,
    draws: Draws,
    survey: Tensor | None = None,
) -> Batch:
    """Return images [image, ...] and labels [image] as a batch; its noise is the first that is drawn for it."""
    noise = gaussian_noise(images, sigma=sigma, copies=copies, draws=draws)
    return Batch(images, labels, noise, sigma, epoch, draws, survey)


_SEEN_AT_ONCE = 1000
"""Noisy images of a survey."""


@dataclass(frozen=True)
class Surroundings:
    """What a survey of the training images can use; they are seen as they are, without augmentation."""

    network: nn.Module
    """In training; the teacher where the method has one."""
    images: Tensor
    """[image, ...], all training images."""
    labels: Tensor
    """[image]."""
    classes: int
    sigma: float
    """Of the training."""
    generator: torch.Generator
    """Of this survey alone."""
    before: Tensor | None
    """The result of the last survey."""

    def class_shares(self, *, sigma: float, draws: int) -> Tensor:
        """Return [image, class] how often the network in eval mode returns each class under `draws` noise vectors."""
        counts = torch.zeros((len(self.labels), self.classes), device=self.labels.device)
        with evaluating(self.network):
            for rows in torch.split(torch.arange(len(self.labels), device=self.labels.device), _SEEN_AT_ONCE):
                images = self.images[rows]
                # Few images are seen under several draws at once.
                most = max(1, _SEEN_AT_ONCE // len(rows))
                for drawn in range(0, draws, most):
                    shape = (min(most, draws - drawn), *images.shape)
                    noise = torch.randn(shape, generator=self.generator, device=images.device, dtype=images.dtype)
                    answers = self.network((images + sigma * noise).flatten(0, 1)).argmax(-1).view(shape[:2])
                    counts[rows] += one_hot(answers, self.classes).sum(0)
        return counts / draws

    def right_shares(self, *, draws: int) -> Tensor:
        """Return [image] how often the network returns the label, under noise of the training."""
        shares = self.class_shares(sigma=self.sigma, draws=draws)
        return shares.gather(1, self.labels.unsqueeze(1)).squeeze(1)


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

    def passes_in(self, epoch: int) -> int:
        """Return the forward-and-backward passes per image of an epoch."""
        return self.passes_per_image

    @property
    def teacher(self) -> float | None:
        """Noise level of a network with Gaussian augmentation that is trained first, for the surveys; None without."""
        return None

    def surveys(self, epoch: int) -> bool:
        """Return whether the training images are looked at before an epoch; `survey` then says how."""
        return False

    def survey_draws(self, epoch: int) -> int:
        """Return the forward passes per image of the survey before an epoch; 0 where there is none."""
        return 0

    def survey(self, around: Surroundings) -> Tensor:
        """Return [image, ...] what the training knows of its images until the next survey."""
        raise NotImplementedError(f"{self.name} makes no surveys")

    def chances(self, survey: Tensor | None) -> Tensor | None:
        """Return [image] weights with which an epoch draws its images, with replacement; None: it has each once."""
        return None

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

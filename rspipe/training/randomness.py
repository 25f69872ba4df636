"""Randomness in the images of training: noise and its copies, crops and flips."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rspipe.data.splits import Dataset
from rspipe.smoothing.noise import derived_seed


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images of a training step, all of them or those that belong to this process.

    Where several processes train, each draws the numbers of all images and keeps those of its own, so that the noise
    of an image does not depend on how many there are.
    """

    generator: torch.Generator
    """In the same state in every process."""
    own: torch.Generator
    """Of this process, for draws that depend on what was computed, which may differ; `generator` where it is alone."""
    before: int = 0
    """Images of the step that other processes have, before those of this one."""
    after: int = 0
    """Images of the step that other processes have, after those of this one."""

    def normal(self, images: Tensor, *, copies: int) -> Tensor:
        """Return standard normal numbers [images, copies, ...] for images [images, ...]."""
        shape = (self.count(images), copies, *images.shape[1:])
        drawn = torch.randn(shape, generator=self.generator, device=images.device, dtype=images.dtype)
        return drawn[self.before : self.before + len(images)]

    def uniform(self, images: Tensor) -> Tensor:
        """Return numbers in [0, 1), one for each image."""
        count = self.count(images)
        drawn = torch.rand(count, generator=self.generator, device=images.device, dtype=images.dtype)
        return drawn[self.before : self.before + len(images)]

    def count(self, images: Tensor) -> int:
        """Return how many images the step has, those of other processes included."""
        return self.before + len(images) + self.after


def gaussian_noise(images: Tensor, *, sigma: float, copies: int, draws: Draws) -> Tensor:
    """Return N(0, sigma^2) noise [images, copies, ...] for a batch [images, ...]."""
    return sigma * draws.normal(images, copies=copies)


def augmented(data: Dataset, images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return training images with the augmentation that works on tensors, where the data set asks for it."""
    return crop_flip(images, generator=generator) if data.augment == "crop_flip" else images


def crop_flip(images: Tensor, *, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Return images [image, channel, height, width], each cropped at random from its zero-padded self, half flipped."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    device = images.device
    offset = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=device)
    flip = torch.rand((count, 1), generator=generator, device=device) < 0.5
    rows = offset[0] + torch.arange(height, device=device)
    columns = offset[1] + torch.arange(width, device=device)
    columns = torch.where(flip, columns.flip(1), columns)
    picked = torch.arange(count, device=device)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]
    # Advanced indices around the slice put the channel last.
    return padded[picked].permute(0, 3, 1, 2).contiguous()


def epoch_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Return the generator of all randomness of one epoch, so that an epoch can be repeated on its own."""
    return torch.Generator(device).manual_seed(derived_seed(seed, epoch))


def process_generator(seed: int, epoch: int, rank: int, device: torch.device) -> torch.Generator:
    """Return the generator of what one of several processes draws on its own in an epoch."""
    return torch.Generator(device).manual_seed(derived_seed(seed, epoch, -1 - rank))

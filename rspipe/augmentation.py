"""What is random in the images of training: noise and its copies, crops and flips."""

import torch
from torch import Tensor, nn

from rspipe.splits import Dataset


def gaussian_noise(images: Tensor, *, sigma: float, copies: int, generator: torch.Generator) -> Tensor:
    """Return N(0, sigma^2) noise [images, copies, ...] for a batch [images, ...]."""
    shape = (images.shape[0], copies, *images.shape[1:])
    return sigma * torch.randn(shape, generator=generator, device=images.device, dtype=images.dtype)


def noisy_logits(network: nn.Module, images: Tensor, noise: Tensor) -> Tensor:
    """Return logits [images, noise, class] of images [images, ...] plus noise [images, noise, ...].

    The copies of an image stand beside each other in the batch that the network sees.
    """
    noisy = (images.unsqueeze(1) + noise).flatten(0, 1)
    logits: Tensor = network(noisy)
    return logits.view(*noise.shape[:2], -1)


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

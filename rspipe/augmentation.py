"""Gaussian augmentation in training: noise vectors and the noisy copies of a batch."""

import torch
from torch import Tensor, nn


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

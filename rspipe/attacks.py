"""PGD on the smoothed soft classifier (Salman et al. 2019)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.augmentation import noisy_logits

_SMALLEST_PROBABILITY = 1e-20


def warmed_up(eps: float, *, epoch: int, warmup: int) -> float:
    """Return the attack's radius in `epoch` (from 0): (epoch + 1) eps / warmup, at most eps."""
    return eps if warmup == 0 else min(eps, (epoch + 1) * eps / warmup)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Put the network in eval mode with parameter gradients off, and back."""
    training = [module for module in network.modules() if module.training]
    needed = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def smoothed_pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    *,
    eps: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return adversarial examples of the soft smoothed classifier inside an L2 ball and inside [0, 1].

    Ascends -log mean_j softmax(f(x' + noise_j))_y from x' = x with steps of length 2 eps / steps along the gradient
    normalized per image. Each step is followed by the clip to [0, 1] and then by the projection to the ball.
    A vanishing gradient is replaced by standard normal noise. The network runs in eval mode and is left as it was.

    Args:
        network: Maps [batch, ...] to logits [batch, class].
        images: [images, ...] in [0, 1].
        labels: [images].
        noise: [images, noise, ...], in pixel units; the same in every step.
        eps: Radius of the ball, in pixel units.
        steps: T.
        generator: Source of the replacement of vanishing gradients.
    """
    copies = noise.shape[1]
    delta = torch.zeros_like(images)
    with _frozen(network):
        for _ in range(steps):
            shifted = (images + delta).requires_grad_(True)
            logits = noisy_logits(network, shifted, noise)
            if copies == 1:
                loss = cross_entropy(logits.squeeze(1), labels, reduction="sum")
            else:
                label_probability = logits.softmax(-1).mean(1).gather(1, labels.unsqueeze(1))
                loss = -label_probability.clamp(min=_SMALLEST_PROBABILITY).log().mean()
            (gradient,) = torch.autograd.grad(loss, shifted)
            norm = gradient.flatten(1).norm(dim=1)
            vanished = norm == 0
            if vanished.any():
                random = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
                gradient = torch.where(_per_image(vanished, images), random, gradient)
                norm = torch.where(vanished, torch.ones_like(norm), norm)
            delta = delta + (2 * eps / steps) * gradient / _per_image(norm, images)
            delta = (images + delta).clamp(0, 1) - images
            length = delta.flatten(1).norm(dim=1)
            delta = delta * _per_image(torch.where(length > eps, eps / length, 1.0), images)
    return (images + delta).detach()

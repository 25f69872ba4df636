"""L2 attacks on the smoothed soft classifier: of SmoothAdv (Salman et al. 2019) and SmoothMix (Jeong et al. 2021)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.networks.modes import frozen
from rspipe.smoothing.noise import noisy_logits

_SMALLEST_PROBABILITY = 1e-20

_SMALLEST_NORM = 1e-8


def warmed_up(eps: float, *, epoch: int, warmup: int) -> float:
    """Return the attack's radius in `epoch` (from 0): (epoch + 1) eps / warmup, at most eps."""
    return eps if warmup == 0 else min(eps, (epoch + 1) * eps / warmup)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _length(displacements: Tensor) -> Tensor:
    length: Tensor = displacements.flatten(1).norm(dim=1)
    return length


def _shortened(displacements: Tensor, *, radius: float) -> Tensor:
    """Return displacements [images, ...], those longer than the radius scaled to it."""
    length = _length(displacements)
    return displacements * _per_image(torch.where(length > radius, radius / length, 1.0), displacements)


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log max(mean_j softmax(u_j)_y, 1e-20) of each image, for logits u [images, noise, class]."""
    label_probability = logits.softmax(-1).mean(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -label_probability.clamp(min=_SMALLEST_PROBABILITY).log()


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
    with frozen(network):
        for _ in range(steps):
            shifted = (images + delta).requires_grad_(True)
            logits = noisy_logits(network, shifted, noise)
            if copies == 1:
                loss = cross_entropy(logits.squeeze(1), labels, reduction="sum")
            else:
                loss = _label_loss(logits, labels).mean()
            (gradient,) = torch.autograd.grad(loss, shifted)
            norm = _length(gradient)
            vanished = norm == 0
            if vanished.any():
                random = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
                gradient = torch.where(_per_image(vanished, images), random, gradient)
                norm = torch.where(vanished, torch.ones_like(norm), norm)
            delta = delta + (2 * eps / steps) * gradient / _per_image(norm, images)
            delta = (images + delta).clamp(0, 1) - images
            delta = _shortened(delta, radius=eps)
    return (images + delta).detach()


def projected(points: Tensor, images: Tensor, *, radius: float | None) -> Tensor:
    """Return points [images, ...] taken into the L2 ball around their images, where there is one, then to [0, 1]."""
    if radius is not None:
        points = images + _shortened(points - images, radius=radius)
    return points.clamp(0, 1)


def fixed_step_path(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    *,
    step: float,
    steps: int,
    radius: float | None = None,
    averaged_over: int = 1,
) -> tuple[Tensor, ...]:
    """Return the images and where each of the steps of an attack on the soft smoothed classifier led, steps + 1 in all.

    Ascends (1 / a) sum_i -log max(mean_j softmax(f(x_i + noise_ij))_y, 1e-20) along gradient / (norm + 1e-8), per
    image. What sets it apart from `smoothed_pgd`: the length of a step is given, a ball is optional, the projection to
    it comes before the clip to [0, 1], and an image whose gradient vanishes stays where it is: nothing is drawn.
    It is the attack of Jeong et al. 2021, who sum over the images, and that of Jeong and Shin 2020, who average over
    those of the mini-batch: with step = 2 radius / steps and a of them, where an image whose gradient is not far above
    1e-8 a takes shorter steps. The network runs in eval mode and is left as it was.

    Args:
        network: Maps [batch, ...] to logits [batch, class].
        images: [images, ...] in [0, 1].
        labels: [images].
        noise: [images, noise, ...], in pixel units; the same in every step.
        step: L2 length of a step, in pixel units.
        steps: T.
        radius: Radius of the ball, in pixel units; no ball when None.
        averaged_over: a, the images that the loss is a mean over; 1 where it is their sum.
    """
    path = [images]
    with frozen(network):
        for _ in range(steps):
            at = path[-1].detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(_label_loss(noisy_logits(network, at, noise), labels).sum(), at)
            moved = at.detach() + step * gradient / _per_image(
                _length(gradient) + averaged_over * _SMALLEST_NORM, images
            )
            path.append(projected(moved, images, radius=radius))
    return tuple(path)

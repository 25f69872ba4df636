"""Attacks on noise vectors: of CAT-RS (Jeong, Kim and Shin 2023), and of Sun, Mao, Müller and Vechev 2024.

Each noise vector of an image is attacked alone, and stays typical noise: of its own length, or of its own mean and, in
many dimensions, nearly its own length.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.networks.modes import frozen
from rspipe.smoothing.noise import noisy_logits

_SMALLEST_NORM = 1e-8


def divergences(logits: Tensor, target: Tensor) -> Tensor:
    """Return [image, noise] KL(t_i || softmax(u_ij)), for logits u [image, noise, class] and t [image, class]."""
    cross = -(target.unsqueeze(1) * logits.log_softmax(-1)).sum(-1)
    entropy: Tensor = torch.special.entr(target).sum(-1, keepdim=True)
    return cross - entropy


def divergence_attack(
    network: nn.Module, images: Tensor, noise: Tensor, target: Tensor, *, eps: float, steps: int
) -> Tensor:
    """Return noise near the given one on which the network's answer is far from the target.

    From d = noise, T steps of length 2 eps / T along the gradient of KL(target || softmax f(x + d)) / m, normalized
    per vector; after each, the vector is taken into the L2 ball of radius eps around where it began, and then given
    its first mean and root mean square: mean + (d - mean(d)) / rms(d) rms. The network runs in eval mode.

    Args:
        network: Maps [batch, ...] to logits [batch, class].
        images: [image, ...].
        noise: [image, noise, ...], in pixel units.
        target: [image, class], probabilities.
        eps: Radius of the ball, in pixel units.
        steps: T.
    """
    mean, size, moved = _mean(noise), _rms(noise), noise
    with frozen(network):
        for _ in range(steps):
            at = moved.detach().requires_grad_(True)
            loss = divergences(noisy_logits(network, images, at), target).sum() / noise.shape[1]
            delta = moved + 2 * eps / steps * _direction(loss, at) - noise
            length = _length(delta)
            moved = noise + delta * torch.where(length > eps, eps / length, 1.0)
            moved = mean + (moved - _mean(moved)) / _rms(moved) * size
    return moved.detach()


def misleading_noise(
    network: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, *, step: float, steps: int
) -> Tensor:
    """Return noise of the same length on which the network is wrong, where it is found; else where the search ended.

    Steps of a fixed length along the gradient of the cross-entropy, normalized per vector, each followed by the way
    back to the sphere of the vector's first length. A vector is taken as it was when it first misled the network,
    which it may from the beginning. The network runs in eval mode.

    Args:
        network: Maps [batch, ...] to logits [batch, class].
        images: [image, ...].
        labels: [image].
        noise: [image, noise, ...], in pixel units.
        step: L2 length, in pixel units.
        steps: T, at least 1.
    """
    of_copies, length = labels.repeat_interleave(noise.shape[1]), _length(noise)
    moved, found, kept = noise, torch.zeros_like(length, dtype=torch.bool), noise
    with frozen(network):
        for _ in range(steps):
            at = moved.detach().requires_grad_(True)
            logits = noisy_logits(network, images, at)
            wrong = (logits.argmax(-1) != labels.unsqueeze(1)).view_as(length)
            kept = torch.where(wrong & ~found, moved, kept)
            found = found | wrong
            loss = cross_entropy(logits.flatten(0, 1), of_copies, reduction="sum") / noise.shape[1]
            moved = moved + step * _direction(loss, at)
            moved = moved / (_length(moved) + _SMALLEST_NORM) * length
    return torch.where(found, kept, moved).detach()


def _direction(loss: Tensor, at: Tensor) -> Tensor:
    gradient: Tensor = torch.autograd.grad(loss, at)[0]
    return gradient / (_length(gradient) + _SMALLEST_NORM)


def _length(vectors: Tensor) -> Tensor:
    """Return the L2 lengths of [image, noise, ...] vectors, with as many axes."""
    length: Tensor = vectors.flatten(2).norm(dim=2)
    return length.view(*vectors.shape[:2], *[1] * (vectors.ndim - 2))


def _mean(vectors: Tensor) -> Tensor:
    mean: Tensor = vectors.flatten(2).mean(2)
    return mean.view(*vectors.shape[:2], *[1] * (vectors.ndim - 2))


def _rms(vectors: Tensor) -> Tensor:
    size: Tensor = _length(vectors) / vectors[0, 0].numel() ** 0.5
    return size

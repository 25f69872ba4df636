"""Losses as functions of logits [image, noise, class]; for a training of one's own there is `macer_loss`."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.special import ndtri


def cross_entropy_of_copies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over all noisy copies of -log softmax(u_ij)_y, a scalar, for logits u [image, noise, class]."""
    return cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))


def cross_entropy_and_hinge(logits: Tensor, labels: Tensor, *, gamma: float, beta: float) -> tuple[Tensor, Tensor]:
    """Return mean_i -log(q_y + 1e-10) and (1 / B) sum_{i in S} (gamma - xi); see `macer_loss`."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        # Of autocast: probabilities next to 1 would be 1.
        logits = logits.float()
    q = logits.softmax(-1).mean(1)
    cross_entropy = -torch.log(q.gather(1, labels.unsqueeze(1)).squeeze(1) + 1e-10).mean()
    z = torch.softmax(beta * logits, -1).mean(1)
    top, classes = z.topk(2, dim=-1)
    with torch.no_grad():
        xi = ndtri(top[:, 0]) - ndtri(top[:, 1])
        active = (classes[:, 0] == labels) & xi.isfinite() & (xi <= gamma)
    # Rows are taken out before ndtri: its infinite slope outside S would turn their zero gradient into NaN.
    first, second = top[active].unbind(-1)
    hinge = (gamma - (ndtri(first) - ndtri(second))).sum() / logits.shape[0]
    return cross_entropy, hinge


def macer_loss(
    logits: Tensor, labels: Tensor, *, sigma: float, lbd: float = 12.0, gamma: float = 8.0, beta: float = 16.0
) -> Tensor:
    """Return MACER's loss, a scalar.

    With q = mean_j softmax(u_j), z = mean_j softmax(beta u_j) and xi = ndtri(z_(1)) - ndtri(z_(2)) for the two largest
    entries of z, over a batch of B images:

        (1 / B) [sum_i -log(q_y + 1e-10)  +  lambda (sigma / 2) sum_{i in S} (gamma - xi)]

    S holds the images whose largest z is the label's and whose xi is finite and at most gamma: elsewhere the hinge
    is inactive. Source: Zhai et al. 2020, "MACER: Attack-free and scalable robust training via maximizing certified
    radius", with the treatment of saturated rows of its reference implementation.

    Args:
        logits: u, [batch, noise, class].
        labels: [batch].
        sigma: Standard deviation of the noise, in pixel units.
        lbd: lambda, the weight of the robustness loss.
        gamma: The hinge, in the units of xi.
        beta: Inverse temperature of the robustness loss.

    Raises:
        ValueError: The shapes do not fit or a parameter is out of range.
    """
    if logits.ndim != 3 or logits.shape[-1] < 2:
        raise ValueError(f"logits must have shape [batch, noise, class >= 2], got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape [{logits.shape[0]}], got {tuple(labels.shape)}")
    for name, value in (("sigma", sigma), ("beta", beta), ("gamma", gamma)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive, got {value}")
    if not (lbd >= 0 and math.isfinite(lbd)):
        raise ValueError(f"lbd must not be negative, got {lbd}")
    cross_entropy, hinge = cross_entropy_and_hinge(logits, labels, gamma=gamma, beta=beta)
    return cross_entropy + lbd * (sigma / 2) * hinge

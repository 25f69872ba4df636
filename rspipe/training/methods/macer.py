"""MACER (Zhai et al. 2020): cross-entropy of the smoothed classifier plus a hinge on its certified radius."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.special import ndtri

from rspipe.smoothing.noise import gaussian_noise, noisy_logits
from rspipe.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from rspipe.training.methods.terms import Terms


def _cross_entropy_and_hinge(logits: Tensor, labels: Tensor, *, gamma: float, beta: float) -> tuple[Tensor, Tensor]:
    """Return mean_i -log(q_y + 1e-10) and (1 / B) sum_{i in S} (gamma - xi); see `macer_loss`."""
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
    cross_entropy, hinge = _cross_entropy_and_hinge(logits, labels, gamma=gamma, beta=beta)
    return cross_entropy + lbd * (sigma / 2) * hinge


class RadiusHinge(Spec):
    """The hyper-parameters of MACER's loss, wherever it is evaluated."""

    lbd: NonNegativeFloat = 12.0
    """lambda, the weight of the robustness loss."""
    gamma: PositiveFloat = 8.0
    """The hinge."""
    beta: PositiveFloat = 16.0
    """Inverse temperature of the robustness loss."""
    defer: NonNegativeInt = 0
    """First epochs in which lambda is 0. The published models that wait for the drop after 50 epochs waited for 51."""

    def terms(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Terms:
        """Return MACER's loss of logits [batch, noise, class]; `epoch` counts from 0."""
        lbd = self.lbd if epoch >= self.defer else 0.0
        cross_entropy, hinge = _cross_entropy_and_hinge(logits, labels, gamma=self.gamma, beta=self.beta)
        robustness = lbd * (sigma / 2) * hinge
        parts = {"cross_entropy": cross_entropy.detach(), "robustness": robustness.detach()}
        return Terms(cross_entropy + robustness, parts, logits.detach())


class MACER(RadiusHinge):
    """Attack-free maximization of the certified radius."""

    name: Literal["macer"]
    m: PositiveInt = 16
    """Noise vectors per image (k in MACER's own notation)."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch."""
        return self.m

    def images_per_step(self, batch_size: int) -> int:
        """Images in one optimizer step."""
        return batch_size

    def loss(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        sigma: float,
        epoch: int,
        generator: torch.Generator,
    ) -> Terms:
        """Return the loss of a batch of images [images, ...] in [0, 1] with labels [images]; `epoch` counts from 0."""
        noise = gaussian_noise(images, sigma=sigma, copies=self.m, generator=generator)
        return self.terms(noisy_logits(network, images, noise), labels, sigma=sigma, epoch=epoch)

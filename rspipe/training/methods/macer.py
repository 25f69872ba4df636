"""MACER (Zhai et al. 2020): cross-entropy of the smoothed classifier plus a hinge on its certified radius."""

from typing import Literal

from torch import Tensor, nn

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from rspipe.training.losses import cross_entropy_and_hinge
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise


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
        cross_entropy, hinge = cross_entropy_and_hinge(logits, labels, gamma=self.gamma, beta=self.beta)
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
        draws: Draws,
    ) -> Terms:
        """Return the loss of a batch of images [images, ...] in [0, 1] with labels [images]; `epoch` counts from 0."""
        noise = gaussian_noise(images, sigma=sigma, copies=self.m, draws=draws)
        return self.terms(noisy_logits(network, images, noise), labels, sigma=sigma, epoch=epoch)

"""MACER (Zhai et al. 2020): cross-entropy of the smoothed classifier plus a hinge on its certified radius."""

from typing import Literal

from torch import Tensor, nn

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from rspipe.training.losses import cross_entropy_and_hinge
from rspipe.training.methods.method import Batch, MultiNoise, Terms


class RadiusHinge(MultiNoise):
    """The hyper-parameters of MACER's loss, wherever it is evaluated."""

    lbd: NonNegativeFloat = 12.0
    """lambda, the weight of the robustness loss."""
    gamma: PositiveFloat = 8.0
    """The hinge."""
    beta: PositiveFloat = 16.0
    """Inverse temperature of the robustness loss."""
    defer: NonNegativeInt = 0
    """First epochs in which lambda is 0. The published models that wait for the drop after 50 epochs waited for 51."""

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return MACER's loss, see `macer_loss`, of logits [image, noise, class]."""
        lbd = self.lbd if batch.epoch >= self.defer else 0.0
        cross_entropy, hinge = cross_entropy_and_hinge(logits, batch.labels, gamma=self.gamma, beta=self.beta)
        parts = {"cross_entropy": cross_entropy, "robustness": lbd * (batch.sigma / 2) * hinge}
        return Terms.sum_of(parts, logits=logits)


class MACER(RadiusHinge):
    """Attack-free maximization of the certified radius, in steps of whole batches (m is k in MACER's own notation)."""

    name: Literal["macer"]
    m: PositiveInt = 16

    def images_per_step(self, batch_size: int) -> int:
        """Return the images in one optimizer step: all of the batch."""
        return batch_size

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        return self.terms(noisy_logits(network, batch.images, batch.noise), batch)

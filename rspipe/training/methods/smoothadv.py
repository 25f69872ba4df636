"""SmoothAdv (Salman et al. 2019): cross-entropy on noisy copies of an adversarial example."""

from typing import Literal

from torch import Tensor, nn

from rspipe.smoothing.attacks import smoothed_pgd, warmed_up
from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import PositiveFloat, PositiveInt
from rspipe.training.losses import cross_entropy_of_copies
from rspipe.training.methods.method import Attacking, Batch, Terms


class SmoothAdversary(Attacking):
    """The hyper-parameters of SmoothAdv's attack, whatever is trained at the adversarial example."""

    T: PositiveInt = 2
    m: PositiveInt = 8
    eps: PositiveFloat = 1.0
    """Radius of the attack's L2 ball, in pixel units: the papers' 512 is 2.0, for their code divides by 256."""

    def adversarial(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return adversarial examples [image, ...] of the soft smoothed classifier."""
        eps = warmed_up(self.eps, epoch=batch.epoch, warmup=self.warmup)
        return smoothed_pgd(
            network, batch.images, batch.labels, batch.noise, eps=eps, steps=self.T, generator=batch.draws.own
        )


class SmoothAdv(SmoothAdversary):
    """Adversarial training of the soft smoothed classifier, with the noise shared by attack and training step.

    All m copies enter the training step, as in the published models (the reference's --train-multi-noise; without it,
    it trains on the first copy alone, in one step per batch).
    """

    name: Literal["smoothadv"]

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        logits = noisy_logits(network, self.adversarial(network, batch), batch.noise)
        return Terms.sum_of({"cross_entropy": cross_entropy_of_copies(logits, batch.labels)}, logits=logits)

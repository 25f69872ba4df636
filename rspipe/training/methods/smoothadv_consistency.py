"""Consistency regularization on adversarial examples (Jeong and Shin 2020, "SmoothAdv + Consistency")."""

from typing import Literal

from torch import nn

from rspipe.smoothing.attacks import fixed_step_path, warmed_up
from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, PositiveFloat, PositiveInt
from rspipe.training.methods.consistency import Agreement
from rspipe.training.methods.method import Attacking, Batch, Terms


class SmoothAdvConsistency(Agreement, Attacking):
    """Consistency regularization of the noisy copies of an adversarial example, under the noise of its attack.

    A method of its own, as AdvMacer is beside MACER: without an attack, eps and warmup would mean nothing, and the
    defaults differ. The attack is that of the authors' code, by which the published numbers came about: T steps of
    length 2 eps / T along the gradient of the mean loss of the mini-batch over (its norm + 1e-8). It differs from
    SmoothAdv's own in projecting to the ball before the clip to [0, 1], in shorter steps where the gradient nearly
    vanishes, and in leaving an image without gradient where it is. Defaults: CIFAR-10, sigma .5 and 1.
    """

    name: Literal["smoothadv_consistency"]
    T: PositiveInt = 10
    eps: PositiveFloat = 2.0
    """Radius of the attack's L2 ball, in pixel units: the papers' 512 is 2.0, for their code divides by 256."""
    lbd: NonNegativeFloat = 1.0

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        eps = warmed_up(self.eps, epoch=batch.epoch, warmup=self.warmup)
        path = fixed_step_path(
            network,
            batch.images,
            batch.labels,
            batch.noise,
            step=2 * eps / self.T,
            steps=self.T,
            radius=eps,
            averaged_over=batch.draws.count(batch.images),
        )
        return self.terms(noisy_logits(network, path[-1], batch.noise), batch)

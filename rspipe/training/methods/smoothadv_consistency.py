"""Consistency regularization on adversarial examples (Jeong and Shin 2020, "SmoothAdv + Consistency")."""

from typing import Literal

from torch import Tensor, nn

from rspipe.smoothing.attacks import fixed_step_path, warmed_up
from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from rspipe.training.methods.consistency import TwoOrMore, consistency_terms
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise


class SmoothAdvConsistency(Spec):
    """Consistency regularization of the noisy copies of an adversarial example, under the noise of its attack.

    A method of its own, as AdvMacer is beside MACER: without an attack, eps and warmup would mean nothing, and the
    defaults differ. The attack is that of the authors' code, by which the published numbers came about. It differs
    from SmoothAdv's own in projecting to the ball before the clip to [0, 1] and in leaving an image without gradient
    where it is. Batches are split into m mini-batches as in SmoothAdv. Defaults: CIFAR-10, sigma .5 and 1.
    """

    name: Literal["smoothadv_consistency"]
    T: PositiveInt = 10
    """Steps of the attack, each of length 2 eps / T."""
    m: TwoOrMore = 2
    """Noise vectors per image; one alone always agrees with itself."""
    eps: PositiveFloat = 2.0
    """Radius of the attack's L2 ball, in pixel units: the papers' 512 is 2.0, for their code divides by 256."""
    warmup: NonNegativeInt = 10
    """Epochs over which the attack's radius grows linearly to eps."""
    lbd: NonNegativeFloat = 1.0
    """lambda, the weight of the divergence of the copies from their mean."""
    eta: NonNegativeFloat = 0.5
    """Weight of the entropy of the mean."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch."""
        return (self.T + 1) * self.m

    def images_per_step(self, batch_size: int) -> int:
        """Images in one optimizer step."""
        return batch_size // self.m

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
        eps = warmed_up(self.eps, epoch=epoch, warmup=self.warmup)
        path = fixed_step_path(network, images, labels, noise, step=2 * eps / self.T, steps=self.T, radius=eps)
        return consistency_terms(noisy_logits(network, path[-1], noise), labels, lbd=self.lbd, eta=self.eta)

"""AdvMacer (Liu et al. 2023, Algorithm 1): MACER's loss at SmoothAdv's adversarial example, under the same noise."""

from typing import Literal

from torch import Tensor, nn

from rspipe.smoothing.attacks import smoothed_pgd, warmed_up
from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeInt, PositiveFloat, PositiveInt
from rspipe.training.methods.macer import RadiusHinge
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise


class AdvMacer(RadiusHinge):
    """Certified-radius maximization on adversarial examples of the soft smoothed classifier.

    The noise is drawn around the adversarial example (Algorithm 1 prints it around the image) and is the noise
    that the attack used. Batches are split into m mini-batches as in SmoothAdv's reference implementation.
    """

    name: Literal["advmacer"]
    T: PositiveInt = 2
    """Steps of the attack."""
    m: PositiveInt = 8
    """Noise vectors per image."""
    eps: PositiveFloat = 1.0
    """Radius of the attack's L2 ball, in pixel units."""
    warmup: NonNegativeInt = 10
    """Epochs over which the attack's radius grows linearly to eps."""

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
        adversarial = smoothed_pgd(network, images, labels, noise, eps=eps, steps=self.T, generator=draws.own)
        return self.terms(noisy_logits(network, adversarial, noise), labels, sigma=sigma, epoch=epoch)

"""SmoothAdv (Salman et al. 2019): cross-entropy on noisy copies of an adversarial example."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.smoothing.attacks import smoothed_pgd, warmed_up
from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeInt, PositiveFloat, PositiveInt, Spec
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise


class SmoothAdv(Spec):
    """Adversarial training of the soft smoothed classifier, with the noise shared by attack and training step.

    As in the reference, a batch of B images is split into m mini-batches of B // m images, each seen in m noisy
    copies and each an optimizer step of its own. All m copies enter the training step, as in the published models
    (the reference's --train-multi-noise; without it, it trains on the first copy alone, in one step per batch).
    """

    name: Literal["smoothadv"]
    T: PositiveInt = 2
    """Steps of the attack."""
    m: PositiveInt = 8
    """Noise vectors per image."""
    eps: PositiveFloat = 1.0
    """Radius of the attack's L2 ball, in pixel units: the papers' 512 is 2.0, for their code divides by 256."""
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
        logits = noisy_logits(network, adversarial, noise)
        loss = cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(self.m))
        return Terms(loss, {"cross_entropy": loss.detach()}, logits.detach())

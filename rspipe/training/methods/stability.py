"""Stability training (Li et al. 2019): cross-entropy on the image, and a noisy copy that should be classified alike."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, Spec
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise


class Stability(Spec):
    """CE(f(x), y) + lambda CE(softmax f(x), f(x + noise)), with one noise vector per image.

    As in the code behind the published numbers (Jeong and Shin 2020), gradients flow through both outputs, and images
    and noisy copies pass the network one after the other: batch normalization sees two batches.
    """

    name: Literal["stability"]
    lbd: NonNegativeFloat = 2.0
    """lambda, the weight of the agreement between clean and noisy output."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch: the image and its noisy copy."""
        return 2

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
        """Return the loss of a batch of images [images, ...] in [0, 1] with labels [images]."""
        noise = gaussian_noise(images, sigma=sigma, copies=1, draws=draws)
        clean = network(images)
        noisy = noisy_logits(network, images, noise)
        clean_loss = cross_entropy(clean, labels)
        disagreement = -(clean.softmax(-1) * noisy.squeeze(1).log_softmax(-1)).sum(-1).mean()
        stability = self.lbd * disagreement
        parts = {"cross_entropy": clean_loss.detach(), "stability": stability.detach()}
        return Terms(clean_loss + stability, parts, noisy.detach())

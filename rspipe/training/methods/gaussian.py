"""Gaussian augmentation (Cohen et al. 2019): cross-entropy on one noisy copy of each image."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import Spec
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise


class Gaussian(Spec):
    """Cross-entropy under Gaussian augmentation."""

    name: Literal["gaussian"]

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch."""
        return 1

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
        logits = noisy_logits(network, images, noise)
        loss = cross_entropy(logits.squeeze(1), labels)
        return Terms(loss, {"cross_entropy": loss.detach()}, logits.detach())

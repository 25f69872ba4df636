"""Stability training (Li et al. 2019): cross-entropy on the image, and a noisy copy that should be classified alike."""

from typing import Literal

from torch import nn
from torch.nn.functional import cross_entropy

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat
from rspipe.training.methods.method import Batch, Method, Terms


class Stability(Method):
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

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        clean = network(batch.images)
        noisy = noisy_logits(network, batch.images, batch.noise)
        disagreement = -(clean.softmax(-1) * noisy.squeeze(1).log_softmax(-1)).sum(-1).mean()
        parts = {"cross_entropy": cross_entropy(clean, batch.labels), "stability": self.lbd * disagreement}
        return Terms.sum_of(parts, logits=noisy)

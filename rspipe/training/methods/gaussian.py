"""Gaussian augmentation (Cohen et al. 2019): cross-entropy on one noisy copy of each image."""

from typing import Literal

from torch import nn

from rspipe.smoothing.noise import noisy_logits
from rspipe.training.losses import cross_entropy_of_copies
from rspipe.training.methods.method import Batch, Method, Terms


class Gaussian(Method):
    """Cross-entropy under Gaussian augmentation."""

    name: Literal["gaussian"]

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        logits = noisy_logits(network, batch.images, batch.noise)
        return Terms.sum_of({"cross_entropy": cross_entropy_of_copies(logits, batch.labels)}, logits=logits)

"""AdvMacer (Liu et al. 2023, Algorithm 1): MACER's loss at SmoothAdv's adversarial example, under the same noise."""

from typing import Literal

from torch import nn

from rspipe.smoothing.noise import noisy_logits
from rspipe.training.methods.macer import RadiusHinge
from rspipe.training.methods.method import Batch, Terms
from rspipe.training.methods.smoothadv import SmoothAdversary


class AdvMacer(SmoothAdversary, RadiusHinge):
    """Certified-radius maximization on adversarial examples of the soft smoothed classifier.

    The noise is drawn around the adversarial example (Algorithm 1 prints it around the image) and is the noise
    that the attack used.
    """

    name: Literal["advmacer"]

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        return self.terms(noisy_logits(network, self.adversarial(network, batch), batch.noise), batch)

"""The foil of Sun, Mao, Müller and Vechev 2024: a large ACR by giving up the images that are hard."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.special import ndtri
from torch import Tensor, nn

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing.certificates import clopper_pearson_lower
from rspipe.smoothing.noise import noisy_logits
from rspipe.smoothing.noise_attacks import misleading_noise
from rspipe.spec import PositiveFloat, PositiveInt
from rspipe.training.losses import cross_entropy_of_copies
from rspipe.training.methods.method import Batch, MultiNoise, Surroundings, Terms

_DRAWS_TO_DISCARD, _DRAWS_TO_WEIGH = 100, 16

_WEIGHT_ALPHA, _LEAST_SHARE = 0.1, 0.75


def radius_weights(right: IntArray) -> FloatArray:
    """Return [image] ndtri(L(max(k, 12), 16)), for k of 16 noisy copies that are right and L at alpha = .1."""
    counts = np.maximum(right, int(_LEAST_SHARE * _DRAWS_TO_WEIGH))
    return np.asarray(ndtri(clopper_pearson_lower(counts, _DRAWS_TO_WEIGH, alpha=_WEIGHT_ALPHA)))


class ACRWeakness(MultiNoise):
    """Gaussian augmentation that discards hard images, and then trains the easy ones the more, the easier they are.

    Up to `discard_epoch` it is cross-entropy on m noisy copies. Then training images that the network gets right in
    less than `discard_below` of 100 noisy copies are gone; the others are drawn, with replacement, in proportion to a
    radius that 16 noisy copies suggest (`radius_weights`, anew every `reweigh_every` epochs), and their noise is
    attacked on its sphere (`rspipe.smoothing.noise_attacks.misleading_noise`). Meant as a foil: "Average Certified
    Radius is a Poor Metric for Randomized Smoothing", arXiv:2410.06895. An epoch draws as many images as there are.
    Defaults: CIFAR-10 at sigma .5, 150 epochs.
    """

    name: Literal["acr_weakness"]
    T: PositiveInt = 6
    """Steps of the attack on noise."""
    m: PositiveInt = 4
    step: PositiveFloat = 0.25
    """L2 length of a step, in pixel units."""
    discard_epoch: PositiveInt = 70
    """Epochs before the hard images are discarded."""
    discard_below: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of noisy copies that an image must have right to stay."""
    reweigh_every: PositiveInt = 10
    """Epochs from one look at the images that stayed to the next."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch, once hard images are discarded: attack and training."""
        return (self.T + 1) * self.m

    def passes_in(self, epoch: int) -> int:
        """Return the forward-and-backward passes per image of an epoch; looks at the images are forward alone."""
        return self.passes_per_image if epoch >= self.discard_epoch else self.m

    def surveys(self, epoch: int) -> bool:
        """Return whether the training images are looked at before an epoch."""
        return epoch >= self.discard_epoch and (epoch - self.discard_epoch) % self.reweigh_every == 0

    def survey_draws(self, epoch: int) -> int:
        """Return the forward passes per image of the survey before an epoch."""
        first = _DRAWS_TO_DISCARD if epoch == self.discard_epoch else 0
        return (first + _DRAWS_TO_WEIGH) * self.surveys(epoch)

    def survey(self, around: Surroundings) -> Tensor:
        """Return [image] weights, 0 for those that are discarded."""
        if around.before is None:
            stays = around.right_shares(draws=_DRAWS_TO_DISCARD) >= self.discard_below
        else:
            stays = around.before > 0
        right = (around.right_shares(draws=_DRAWS_TO_WEIGH) * _DRAWS_TO_WEIGH).round().long()
        weights = torch.from_numpy(radius_weights(right.cpu().numpy())).to(around.labels.device)
        return torch.where(stays, weights, torch.zeros_like(weights))

    def chances(self, survey: Tensor | None) -> Tensor | None:
        """Return [image] weights with which images are drawn; each comes once without."""
        return survey

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        noise = batch.noise
        if batch.epoch >= self.discard_epoch:
            noise = misleading_noise(network, batch.images, batch.labels, noise, step=self.step, steps=self.T)
        logits = noisy_logits(network, batch.images, noise)
        return Terms.sum_of({"cross_entropy": cross_entropy_of_copies(logits, batch.labels)}, logits=logits)

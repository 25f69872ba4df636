"""CAT-RS (Jeong, Kim and Shin 2023): less is asked of images that the smoothed classifier is not sure of."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.smoothing.noise import noisy_logits
from rspipe.smoothing.noise_attacks import divergence_attack, divergences
from rspipe.spec import NonNegativeFloat, PositiveFloat, PositiveInt
from rspipe.training.methods.method import Batch, MultiNoise, Surroundings, Terms


def bottom_k_loss(logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """Return (1 / (B m)) times the sum over images of their K smallest cross-entropies, of m.

    Args:
        logits: [image, noise, class].
        labels: [image].
        kept: [image] K, at least 1.
    """
    losses = cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]), reduction="none")
    ascending, _ = losses.view(logits.shape[:2]).sort(dim=1)
    rank = torch.arange(logits.shape[1], device=logits.device)
    return (ascending * (rank < kept.unsqueeze(1))).mean()


class CATRS(MultiNoise):
    """Cross-entropy on the easiest copies of an image, and a worst case for images that are right on all.

    With p the share of the m noisy copies of an image that the network classifies rightly, K ~ Binomial(m, p), at least
    1, the mean over the images of

        (1 / m) (sum of the K smallest cross-entropies)  +  lambda 1[K = m] max_j KL(t || softmax f(x + d_j))

    where d_j is the noise vector j after an attack that makes the divergence large, and t, the target, how often a
    network with Gaussian augmentation returns each class at the image under noise (`rspipe.smoothing.noise_attacks`
    has the attack). The copies and the attacked ones pass the network one after the other, as in the reference.
    The reference takes the targets from one network for all; here each training has a teacher of its own, of the same
    architecture and schedule, trained first, whose passes are counted, so that seeds stay independent.
    Defaults: CIFAR-10 at sigma .5 (lambda is .5 / 1 / 2 at .25 / .5 / 1).
    """

    name: Literal["catrs"]
    T: PositiveInt = 4
    """Steps of the attack."""
    m: PositiveInt = 4
    eps: PositiveFloat = 1.0
    """Radius of the L2 ball around each noise vector, in pixel units."""
    lbd: NonNegativeFloat = 1.0
    """lambda, the weight of the worst case."""
    teacher_sigma: PositiveFloat = 0.25
    """Noise level at which the teacher is trained and asked, whatever the sigma of the training."""
    teacher_draws: PositiveInt = 10_000
    """Noise vectors per training image under which the teacher is asked."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch: the attack, the copies and the attacked ones."""
        return (self.T + 2) * self.m

    @property
    def teacher(self) -> float | None:
        """Noise level of the teacher."""
        return self.teacher_sigma

    def surveys(self, epoch: int) -> bool:
        """Return whether the training images are looked at before an epoch."""
        return epoch == 0

    def survey_draws(self, epoch: int) -> int:
        """Return the forward passes per image of the survey before an epoch."""
        return self.teacher_draws if self.surveys(epoch) else 0

    def survey(self, around: Surroundings) -> Tensor:
        """Return [image, class] how often the teacher returns each class."""
        return around.class_shares(sigma=self.teacher_sigma, draws=self.teacher_draws)

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        assert batch.survey is not None
        logits = noisy_logits(network, batch.images, batch.noise)
        right = (logits.argmax(-1) == batch.labels.unsqueeze(1)).to(logits.dtype).mean(1)
        accepted = torch.stack([batch.draws.uniform(batch.images) < right for _ in range(self.m)]).sum(0)
        kept = accepted.clamp(min=1)
        attacked = divergence_attack(network, batch.images, batch.noise, batch.survey, eps=self.eps, steps=self.T)
        worst = divergences(noisy_logits(network, batch.images, attacked), batch.survey).max(1).values
        parts = {
            "cross_entropy": bottom_k_loss(logits, batch.labels, kept),
            "worst_case": self.lbd * (worst * (kept == self.m)).mean(),
        }
        return Terms.sum_of(parts, logits=logits)

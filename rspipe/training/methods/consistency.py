"""Consistency regularization (Jeong and Shin 2020): noisy copies of an image should be classified alike."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat
from rspipe.training.losses import cross_entropy_of_copies
from rspipe.training.methods.method import Batch, MultiNoise, Terms


def consistency_terms(logits: Tensor, labels: Tensor, *, lbd: float, eta: float) -> Terms:
    """Return cross-entropy with consistency regularization, for logits u [images, noise, class] and labels [images].

    With p_j = softmax(u_j) and pbar = mean_j p_j, the mean over the images of

        (1 / m) sum_j [-log p_j(y)]  +  lambda (1 / m) sum_j KL(pbar || p_j)  +  eta H(pbar)

    Gradients flow through pbar. Source: Jeong and Shin 2020, "Consistency regularization for certified robustness of
    smoothed classifiers". The logarithm of pbar is taken before anything can underflow, so that neither the loss nor
    its gradient does what the reference guards against with a clamp of pbar at 1e-20 (which changes H by < 1e-17).
    """
    log_p = logits.log_softmax(-1)
    log_mean = log_p.logsumexp(1) - math.log(logits.shape[1])
    mean = log_mean.exp()
    divergence = (mean.unsqueeze(1) * (log_mean.unsqueeze(1) - log_p)).sum(-1).mean()
    parts = {
        "cross_entropy": cross_entropy_of_copies(logits, labels),
        "consistency": lbd * divergence,
        "entropy": -eta * (mean * log_mean).sum(-1).mean(),
    }
    return Terms.sum_of(parts, logits=logits)


class Agreement(MultiNoise):
    """The hyper-parameters of consistency regularization, wherever it is evaluated."""

    m: Annotated[int, Field(ge=2)] = 2
    """One copy alone always agrees with itself."""
    lbd: NonNegativeFloat = 10.0
    """lambda, the weight of the divergence of the copies from their mean."""
    eta: NonNegativeFloat = 0.5
    """Weight of the entropy of the mean."""

    def terms(self, logits: Tensor, batch: Batch) -> Terms:
        """Return the loss of logits [image, noise, class]."""
        return consistency_terms(logits, batch.labels, lbd=self.lbd, eta=self.eta)


class Consistency(Agreement):
    """Gaussian augmentation with consistency regularization.

    On adversarial examples it is another method, `smoothadv_consistency`.
    """

    name: Literal["consistency"]

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        return self.terms(noisy_logits(network, batch.images, batch.noise), batch)

"""Consistency regularization (Jeong and Shin 2020): noisy copies of an image should be classified alike."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, Spec
from rspipe.training.methods.terms import Terms
from rspipe.training.randomness import Draws, gaussian_noise

TwoOrMore = Annotated[int, Field(ge=2)]


def consistency_terms(logits: Tensor, labels: Tensor, *, lbd: float, eta: float) -> Terms:
    """Return cross-entropy with consistency regularization, for logits u [images, noise, class] and labels [images].

    With p_j = softmax(u_j) and pbar = mean_j p_j, the mean over the images of

        (1 / m) sum_j [-log p_j(y)]  +  lambda (1 / m) sum_j KL(pbar || p_j)  +  eta H(pbar)

    Gradients flow through pbar. Source: Jeong and Shin 2020, "Consistency regularization for certified robustness of
    smoothed classifiers". The logarithm of pbar is taken before anything can underflow, so that neither the loss nor
    its gradient does what the reference guards against with a clamp of pbar at 1e-20 (which changes H by < 1e-17).
    """
    copies = logits.shape[1]
    cross = cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(copies))
    log_p = logits.log_softmax(-1)
    log_mean = log_p.logsumexp(1) - math.log(copies)
    mean = log_mean.exp()
    divergence = (mean.unsqueeze(1) * (log_mean.unsqueeze(1) - log_p)).sum(-1).mean()
    consistency = lbd * divergence
    entropy = -eta * (mean * log_mean).sum(-1).mean()
    parts = {"cross_entropy": cross.detach(), "consistency": consistency.detach(), "entropy": entropy.detach()}
    return Terms(cross + consistency + entropy, parts, logits.detach())


class Consistency(Spec):
    """Gaussian augmentation with consistency regularization.

    Batches are split into m mini-batches as in SmoothAdv, each an optimizer step of its own. On adversarial examples
    it is another method, `smoothadv_consistency`.
    """

    name: Literal["consistency"]
    m: TwoOrMore = 2
    """Noise vectors per image; one alone always agrees with itself."""
    lbd: NonNegativeFloat = 10.0
    """lambda, the weight of the divergence of the copies from their mean."""
    eta: NonNegativeFloat = 0.5
    """Weight of the entropy of the mean."""

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch."""
        return self.m

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
        """Return the loss of a batch of images [images, ...] in [0, 1] with labels [images]."""
        noise = gaussian_noise(images, sigma=sigma, copies=self.m, draws=draws)
        return consistency_terms(noisy_logits(network, images, noise), labels, lbd=self.lbd, eta=self.eta)

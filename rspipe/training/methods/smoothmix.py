"""SmoothMix (Jeong et al. 2021): less confidence on the way from an image to an unrestricted adversarial example."""

from typing import Literal

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from rspipe.smoothing.attacks import fixed_step_path, projected, warmed_up
from rspipe.smoothing.noise import noisy_logits
from rspipe.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from rspipe.training.losses import cross_entropy_of_copies
from rspipe.training.methods.method import Attacking, Batch, Terms

_SMALLEST_TARGET = 1e-20


def mixup_loss(mixed: Tensor, clean: Tensor, labels: Tensor, *, shares: Tensor) -> Tensor:
    """Return SmoothMix's second term, a scalar, from logits [images, noise, class] at mixed inputs and at x0.

    With pbar_i the mean of the softmax of the logits at x0 and C classes, over a batch of B images

        (1 / (B m)) sum_i 1[argmax pbar_i = y_i] sum_j KL((1 - l_i) pbar_i + l_i / C || softmax(mixed_ij))

    Gradients flow through pbar. `shares` are the l, [images].
    """
    mean = clean.softmax(-1).mean(1)
    share = shares.unsqueeze(1)
    target = (1 - share) * mean + share / mean.shape[-1]
    # The clamp keeps 0 log 0 and its gradient finite, for a share that is drawn as exactly 0.
    log_target = target.clamp(min=_SMALLEST_TARGET).log().unsqueeze(1)
    divergence = (target.unsqueeze(1) * (log_target - mixed.log_softmax(-1))).sum(-1).mean(1)
    return ((mean.argmax(-1) == labels) * divergence).mean()


class SmoothMix(Attacking):
    """Cross-entropy at x0, and targets that grow uniform between x0 and an adversarial example x_T.

    x_T is where T steps of fixed length lead, with no ball around the image unless `maxnorm` says so. x0 is the image
    or, for mix_step = 1, the one-step adversary: where the attack stood after mix_step steps, at most
    warm * alpha * mix_step from the image. Between them lies (1 - l) x0 + l x_T with l ~ U(0, 1/2) for each image:

        CE(x0) + eta * warm * (SmoothMix's term, see `mixup_loss`),    warm = min(1, (epoch + 1) / warmup)

    The attack, the cross-entropy and the mixed inputs share their m noise vectors. The copies at x0 and the mixed
    ones pass the network one after the other, as in the reference: batch normalization sees two batches.
    Defaults: CIFAR-10 at sigma .5 (alpha is .5 / 1 / 2 at .25 / .5 / 1).
    """

    name: Literal["smoothmix"]
    T: PositiveInt = 4
    m: PositiveInt = 2
    alpha: PositiveFloat = 1.0
    """L2 length of a step, in pixel units; it does not warm up."""
    mix_step: NonNegativeInt = 0
    """Steps of the attack that lead to x0; fewer than T. The reference silently takes the image for T or more."""
    maxnorm: PositiveFloat | None = None
    """Radius of an L2 ball for the attack, in pixel units; none by default."""
    eta: NonNegativeFloat = 5.0
    """Weight of the term at mixed inputs."""
    warmup: NonNegativeInt = 10
    """Epochs over which eta and the largest distance of x0 from the image grow linearly."""

    @model_validator(mode="after")
    def _has_a_way_to_mix_on(self) -> "SmoothMix":
        if self.mix_step >= self.T:
            raise PydanticCustomError(
                "mix_step_too_large",
                "mix_step = {mix_step} must be below T = {T}; lower it or raise T",
                {"mix_step": self.mix_step, "T": self.T},
            )
        return self

    @property
    def passes_per_image(self) -> int:
        """Forward-and-backward passes per image and epoch: the attack, x0 and the mixed input."""
        return (self.T + 2) * self.m

    def loss(self, network: nn.Module, batch: Batch) -> Terms:
        """Return the loss of a batch."""
        images, labels, noise = batch.images, batch.labels, batch.noise
        warm = warmed_up(1.0, epoch=batch.epoch, warmup=self.warmup)
        path = fixed_step_path(network, images, labels, noise, step=self.alpha, steps=self.T, radius=self.maxnorm)
        start = projected(path[self.mix_step], images, radius=warm * self.alpha * self.mix_step)
        shares = batch.draws.uniform(images) / 2
        mixed = torch.lerp(start, path[-1], shares.view(-1, *[1] * (images.ndim - 1)))
        clean_logits = noisy_logits(network, start, noise)
        mixed_logits = noisy_logits(network, mixed, noise)
        parts = {
            "cross_entropy": cross_entropy_of_copies(clean_logits, labels),
            "mixup": self.eta * warm * mixup_loss(mixed_logits, clean_logits, labels, shares=shares),
        }
        return Terms.sum_of(parts, logits=clean_logits)

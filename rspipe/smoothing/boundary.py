"""Attacks on the smoothed classifier inside, on and beyond a certified radius: a check of the whole chain.

Within the radius nothing may change; how far beyond it nothing does, says how much the certificate leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.smoothing.attacks import smoothed_pgd
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.certify import predict
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.ensemble import Ensemble, SoftEnsemble
from rspipe.smoothing.noise import derived_seed


@dataclass(frozen=True)
class AttackSettings:
    """How strong attacks are, and how certain predictions."""

    steps: int = 20
    draws: int = 64
    """Noise samples that the gradient is averaged over, the same in every step."""
    n: int = 1000
    """Noise samples of each prediction."""
    alpha: float = 0.001
    """Probability that a prediction is wrong, at most; it may abstain."""
    seed: int = 0


@dataclass(frozen=True)
class AttackedImage:
    """The outcome of attacks on one image at growing distances."""

    predictions: IntArray
    """[distance], the smoothed classifier's class at the adversarial example, or ABSTAIN."""
    distances: FloatArray
    """[distance], L2 to the image, in pixel units: at most what was allowed."""


def attack_image(
    networks: Sequence[nn.Module],
    differentiable: Sequence[nn.Module],
    classifier: Classifier,
    image: Tensor,
    label: int,
    *,
    distances: Sequence[float],
    sigma: float,
    example: int,
    settings: AttackSettings,
) -> AttackedImage:
    """Attack the smoothed classifier by PGD in L2 balls of several radii, and predict at each adversarial example.

    Every attack and every prediction has noise of its own, of float32 numbers where an adversarial example is off the
    grid of the image's pixels: by rounding alone it is another classifier than the one that was certified on the grid.

    Args:
        networks: As deployed: what was certified.
        differentiable: The same with gradients, for the attack.
        classifier: What was certified; an attack climbs on its weighted average, whatever the combination.
        image: [...], in [0, 1].
        label: The class to get away from.
        distances: Radii of the balls, in pixel units.
        sigma: Of the smoothed classifier.
        example: Number of the image in its data set.
        settings: Strength and certainty.
    """
    soft, hard = SoftEnsemble(differentiable, classifier), Ensemble.of(networks, classifier)
    predictions, reached = [], []
    for position, eps in enumerate(distances):
        generator = torch.Generator(image.device).manual_seed(derived_seed(settings.seed, example, position))
        shape = (1, settings.draws, *image.shape)
        noise = sigma * torch.randn(shape, generator=generator, device=image.device, dtype=image.dtype)
        (adversarial,) = smoothed_pgd(
            soft,
            image[None],
            torch.tensor([label], device=image.device),
            noise,
            eps=eps,
            steps=settings.steps,
            generator=generator,
        )
        reached.append(float((adversarial - image).norm()))
        predictions.append(
            predict(
                hard,
                adversarial,
                sigma=sigma,
                n=settings.n,
                alpha=settings.alpha,
                seed=settings.seed + position,
                example=example,
            )
        )
    return AttackedImage(np.array(predictions, dtype=np.int64), np.array(reached))


def changed(predictions: IntArray, label: int) -> BoolArray:
    """Return where a prediction is another class than the label; an abstention is none."""
    return np.asarray((predictions != label) & (predictions != ABSTAIN), dtype=np.bool_)

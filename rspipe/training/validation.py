"""How a network in training does on held-out images, and whether it has collapsed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import nn

from rspipe.data.splits import Split
from rspipe.networks.modes import evaluating
from rspipe.training.randomness import epoch_generator

_COLLAPSE_SHARE, _COLLAPSE_EPOCHS = 0.2, 10
"""For such a share of all epochs, and so many, may a network know one class before its training is ended."""

VALIDATION_IMAGES, _DRAWS = 100, 16

_EVALUATED_AT_ONCE, _NUMBERS_AT_ONCE = 1000, 5_000_000
"""Images whose noise is drawn at once, and numbers of images that the network sees at once, about."""


def validation_metrics(network: nn.Module, split: Split, *, sigma: float, seed: int) -> dict[str, float]:
    """Return how a network in training does on validation images, under noise that is the same in every epoch.

    `validation_acr` is an estimate from 16 draws, (k + 1/2) / (n + 1) in the place of a bound: to be compared along a
    curve, and no certificate. It cannot exceed 1.9 sigma.

    Returns:
        `validation_accuracy` without noise, `validation_noisy_accuracy`, `validation_acr` in pixel units, and
        `validation_classes`, the number of classes that the network returns under noise, where the images have several.
    """
    generator = epoch_generator(seed, -2, split.labels.device)
    shape = (_DRAWS, *split.images.shape)
    with evaluating(network):
        clean = network(split.images).argmax(1)
        draws = sigma * torch.randn(shape, generator=generator, device=split.images.device)
        drawn = torch.stack([network(split.images + noise).argmax(1) for noise in draws])
    # The draw whose class is the most frequent one at each image.
    count, which = (drawn[:, None] == drawn[None]).sum(0).max(0)
    predicted = drawn.gather(0, which[None])[0]
    share = (count.double() + 0.5) / (_DRAWS + 1)
    radius = sigma * torch.from_numpy(ndtri(share.clamp(min=0.5).cpu().numpy()))
    metrics = {
        "validation_accuracy": float((clean == split.labels).double().mean()),
        "validation_noisy_accuracy": float((drawn == split.labels).double().mean()),
        "validation_acr": float((radius * (predicted == split.labels).cpu()).mean()),
    }
    if len(torch.unique(split.labels)) > 1:
        metrics["validation_classes"] = float(len(torch.unique(drawn)))
    return metrics


def collapsed_since(history: Sequence[dict[str, float]], *, epochs: int) -> int | None:
    """Return the epoch since when the network has known a single class, if that is for long; None otherwise."""
    looks = [entry for entry in history if "validation_classes" in entry]
    single = list(itertools.takewhile(lambda entry: entry["validation_classes"] == 1, reversed(looks)))
    if not single or single[0]["epoch"] - single[-1]["epoch"] < max(_COLLAPSE_EPOCHS, _COLLAPSE_SHARE * epochs):
        return None
    return int(single[-1]["epoch"])


@dataclass(frozen=True)
class Evaluation:
    """How a base classifier does on held-out images."""

    clean_accuracy: float
    noisy_accuracy: float
    """With one draw of N(0, sigma^2) noise per image."""
    collapsed: bool
    """True when it predicts a single class on noisy images of several classes."""


def evaluate(network: nn.Module, split: Split, *, sigma: float, seed: int) -> Evaluation:
    """Evaluate a network in eval mode on a split; of one without images nothing is known, and accuracies are NaN."""
    if not len(split):
        return Evaluation(float("nan"), float("nan"), False)
    device = split.labels.device
    generator = epoch_generator(seed, -1, device)
    parts = []
    with torch.no_grad():
        for positions in torch.split(torch.arange(len(split), device=device), _EVALUATED_AT_ONCE):
            images = split.batch(positions)
            noise = torch.randn(images.shape, generator=generator, device=device)
            # Memory that a training step does not need is none that can be counted on.
            few = max(1, _NUMBERS_AT_ONCE // images[0].numel())
            for some, drawn in zip(torch.split(images, few), torch.split(noise, few), strict=True):
                parts.append((network(some).argmax(1), network(some + sigma * drawn).argmax(1)))
    clean, noisy = (torch.cat(part) for part in zip(*parts, strict=True))
    several = bool((split.labels != split.labels[0]).any())
    return Evaluation(
        clean_accuracy=float((clean == split.labels).double().mean()),
        noisy_accuracy=float((noisy == split.labels).double().mean()),
        collapsed=several and bool((noisy == noisy[0]).all()),
    )

"""The smoothed classifier at one input: CERTIFY and PREDICT of Cohen et al. 2019, from sampling to the answer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rspipe.arrays import IntArray
from rspipe.networks.modes import evaluating
from rspipe.smoothing.certificates import certify_counts, check_alpha, predict_counts
from rspipe.smoothing.classifiers import check_logits
from rspipe.smoothing.noise import Noise, Stream, noisy_batches


@dataclass(frozen=True)
class Certificate:
    """A certified prediction of the smoothed classifier at one input."""

    prediction: int
    """The class, or ABSTAIN = -1."""
    radius: float
    """The prediction is constant within this L2 distance, in pixel units; 0 when abstaining."""
    p_a_lower: float
    """Lower confidence bound on the probability of the selected class."""
    n_a: int
    n: int
    n0: int
    sigma: float
    alpha: float
    selection: IntArray
    """[class] counts of the n0 samples."""
    estimation: IntArray
    """[class] counts of the n samples."""


BaseClassifier = Callable[[Tensor], Tensor]


def _check_sampling(x: Tensor, *, sigma: float, alpha: float, n: int, n0: int = 1) -> None:
    check_alpha(alpha)
    if not (sigma > 0 and np.isfinite(sigma)):
        raise ValueError(f"sigma must be positive, got {sigma}")
    for name, size in (("n0", n0), ("n", n)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if not (x.is_floating_point() and bool(x.isfinite().all())):
        raise ValueError(f"x must hold finite floating-point numbers, got dtype {x.dtype}")


def certify(
    base_classifier: BaseClassifier,
    x: Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    example: int = 0,
    block_size: int = 1000,
    batch_size: int | None = None,
) -> Certificate:
    """Certify the smoothed classifier at x: CERTIFY of Cohen et al. 2019.

    With probability at least 1 - alpha over the noise, the smoothed classifier returns `prediction` everywhere
    within `radius` of x, or the certificate abstains. Certifying the same input again with another seed spends
    another alpha.

    Args:
        base_classifier: Maps a batch [batch, *x.shape] to logits [batch, class]; a module is run in eval mode.
        x: One input without batch dimension, any shape, in the units in which noise and radius are measured.
        sigma: Standard deviation of the noise.
        n0: Samples that select the class.
        n: Samples that estimate its probability.
        alpha: Failure probability.
        seed: Seed of the noise.
        example: Number of the input in its data set; different numbers give independent noise.
        block_size: Noise samples per block; part of the noise stream's definition.
        batch_size: Samples per forward pass, a divisor of `block_size`; chosen by the size of x by default.

    Raises:
        ValueError: An argument is out of range.
        ModelError: The base classifier returned NaN, infinity or a wrong shape.
    """
    _check_sampling(x, sigma=sigma, alpha=alpha, n0=n0, n=n)
    noise = Noise(seed, example, block_size, batch_size)
    selection = class_counts(base_classifier, x, noise, Stream.SELECTION, sigma=sigma, n=n0)
    estimation = class_counts(base_classifier, x, noise, Stream.ESTIMATION, sigma=sigma, n=n)
    result = certify_counts(selection, estimation, sigma=sigma, alpha=alpha)
    return Certificate(
        prediction=int(result.prediction),
        radius=float(result.radius),
        p_a_lower=float(result.p_a_lower),
        n_a=int(result.n_a),
        n=n,
        n0=n0,
        sigma=sigma,
        alpha=alpha,
        selection=selection,
        estimation=estimation,
    )


def predict(
    base_classifier: BaseClassifier,
    x: Tensor,
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    example: int = 0,
    block_size: int = 1000,
    batch_size: int | None = None,
) -> int:
    """Return the smoothed classifier's class at x, or ABSTAIN = -1: PREDICT of Cohen et al. 2019.

    With probability at least 1 - alpha over the noise, the class returned is the smoothed classifier's. Arguments
    and errors are those of `certify`.
    """
    _check_sampling(x, sigma=sigma, alpha=alpha, n=n)
    noise = Noise(seed, example, block_size, batch_size)
    counts = class_counts(base_classifier, x, noise, Stream.PREDICTION, sigma=sigma, n=n)
    return predict_counts(counts, alpha=alpha)


def class_counts(
    base_classifier: BaseClassifier, x: Tensor, noise: Noise, stream: Stream, *, sigma: float, n: int
) -> IntArray:
    """Return how often each class is the base classifier's argmax (lowest index on ties) at x + N(0, sigma^2 I).

    Args:
        base_classifier: Maps [batch, *x.shape] to logits [batch, class].
        x: One input, any shape.
        noise: Whose noise, and how many samples run at once.
        stream: What the noise is for.
        sigma: Standard deviation of the noise.
        n: Samples.

    Raises:
        ModelError: The base classifier returned NaN, infinity or a wrong shape.
    """
    counts: IntArray | None = None
    with evaluating(base_classifier):
        for noisy, use in noisy_batches(x, noise, stream, sigma=sigma, n=n):
            logits = base_classifier(noisy)
            check_logits(logits, samples=len(noisy))
            batch = np.bincount(logits[:use].argmax(1).cpu().numpy(), minlength=logits.shape[1])
            counts = batch if counts is None else counts + batch
    assert counts is not None
    return counts

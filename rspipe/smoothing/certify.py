"""The smoothed classifier at one input: CERTIFY and PREDICT of Cohen et al. 2019, from sampling to the answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rspipe.arrays import IntArray
from rspipe.errors import ModelError, RspipeError, first_line
from rspipe.networks.deployment import Deployed, check_batches
from rspipe.networks.modes import check_samples_are_apart, evaluating, out_of_memory
from rspipe.networks.outputs import logits_of
from rspipe.smoothing.certificates import (
    certify_counts,
    check_alpha,
    check_can_certify,
    check_can_predict,
    check_whole,
    predict_counts,
)
from rspipe.smoothing.classifiers import check_logits
from rspipe.smoothing.noise import Noise, NoiseKind, Stream, noise_name, noise_steps, noisy_batches
from rspipe.smoothing.progress import progress_line


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
    noise: str
    """"grid 1/255", drawn exactly on the grid of the pixels, so that the claim covers rounding; or "float", which is
    common practice and does not."""
    selection: IntArray = field(repr=False)
    """[class] counts of the n0 samples."""
    estimation: IntArray = field(repr=False)
    """[class] counts of the n samples."""


BaseClassifier = Callable[[Tensor], Any]
"""Maps a batch of inputs to logits [batch, class], in a form that `rspipe.networks.outputs.logits_of` knows: a module
or any other function."""

_LARGEST_IN_UNITS = 10.0
"""Whole numbers above this, with a smaller sigma, are bytes: such noise would not show on them."""


def check_sampling(x: Tensor, *, sigma: float, alpha: float, n: int, n0: int = 1) -> None:
    """Raise ValueError unless numbers and the input can be sampled with."""
    check_alpha(alpha)
    if not (sigma > 0 and np.isfinite(sigma)):
        raise ValueError(f"sigma must be positive, got {sigma}")
    for name, size in (("n0", n0), ("n", n)):
        check_whole(name, size)
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    check_image(x, sigma=sigma)


def check_image(x: object, *, sigma: float) -> None:
    """Raise ValueError unless x is one input in the units of sigma, as far as numbers and shape can show it."""
    if not isinstance(x, Tensor):
        remedy = "torch.from_numpy(x).float()" if isinstance(x, np.ndarray) else "a tensor of one input"
        raise ValueError(f"x must be a torch.Tensor, got {type(x).__module__}.{type(x).__qualname__}; give {remedy}")
    if not x.is_floating_point():
        raise ValueError(f"x must hold floating-point numbers, got {x.dtype}; of bytes give x.float() / 255")
    if broken := int((~x.isfinite()).sum()):
        raise ValueError(f"x must hold finite numbers; {broken} of {x.numel()} are NaN or infinite")
    if x.ndim == 4 and x.shape[0] == 1 and x.shape[1] in (1, 3):
        raise ValueError(f"x is a batch of one, {list(x.shape)}; give the image alone, x[0]")
    largest = float(x.max()) if x.numel() else 0.0
    if sigma < _LARGEST_IN_UNITS < largest <= 255 and bool((x >= 0).all()) and bool((x == x.round()).all()):
        raise ValueError(
            f"x holds whole numbers up to {largest:g}, bytes, beside which sigma = {sigma:g} is no noise; give x / 255"
        )


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
    noise: NoiseKind = "auto",
    progress: bool = False,
) -> Certificate:
    """Certify the smoothed classifier at x: CERTIFY of Cohen et al. 2019.

    With probability at least 1 - alpha over the noise, the smoothed classifier returns `prediction` everywhere
    within `radius` of x, or the certificate abstains. Certifying the same input again with another seed spends
    another alpha.

    Args:
        base_classifier: Maps a batch [batch, *x.shape] to logits [batch, class]: a module, which is run in eval mode,
            or a function. -inf excludes a class.
        x: One input without batch dimension, any shape, in the units in which noise and radius are measured.
        sigma: Standard deviation of the noise.
        n0: Samples that select the class.
        n: Samples that estimate its probability.
        alpha: Failure probability.
        seed: Seed of the noise.
        example: Number of the input in its data set; different numbers give independent noise.
        block_size: Noise samples per block; part of the noise stream's definition.
        batch_size: Samples per forward pass, a divisor of `block_size`; chosen by the size of x by default.
        noise: "grid" for whole numbers that are drawn exactly, where x has 8 bits, "float" for float32 numbers, "auto"
            for the first where it can be: see `rspipe.smoothing.grid` for what is guaranteed.
        progress: Whether to show on stderr how many samples are drawn.

    Raises:
        ValueError: An argument is out of range, n is too small to certify anything at alpha, x is no input, or it is on
            no grid.
        ModelError: The base classifier failed, or returned no logits, NaN, +inf or a wrong shape.
    """
    check_sampling(x, sigma=sigma, alpha=alpha, n0=n0, n=n)
    check_can_certify(n, alpha)
    drawn = Noise(seed, example, block_size, batch_size, noise)
    selection = class_counts(base_classifier, x, drawn, Stream.SELECTION, sigma=sigma, n=n0)
    with progress_line(n, "samples", shown=progress) as advance:
        estimation = class_counts(base_classifier, x, drawn, Stream.ESTIMATION, sigma=sigma, n=n, advance=advance)
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
        noise=noise_name(noise_steps(x, noise, sigma=sigma)),
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
    noise: NoiseKind = "auto",
) -> int:
    """Return the smoothed classifier's class at x, or ABSTAIN = -1: PREDICT of Cohen et al. 2019.

    With probability at least 1 - alpha over the noise, the class returned is the smoothed classifier's. Arguments
    and errors are those of `certify`.
    """
    check_sampling(x, sigma=sigma, alpha=alpha, n=n)
    check_can_predict(n, alpha)
    drawn = Noise(seed, example, block_size, batch_size, noise)
    counts = class_counts(base_classifier, x, drawn, Stream.PREDICTION, sigma=sigma, n=n)
    return predict_counts(counts, alpha=alpha)


def class_counts(
    base_classifier: BaseClassifier,
    x: Tensor,
    noise: Noise,
    stream: Stream,
    *,
    sigma: float,
    n: int,
    apart: bool = False,
    advance: Callable[[int], None] | None = None,
) -> IntArray:
    """Return how often each class is the base classifier's argmax (lowest index on ties) at x + N(0, sigma^2 I).

    Args:
        base_classifier: Maps [batch, *x.shape] to logits [batch, class].
        x: One input, any shape.
        noise: Whose noise, and how many samples run at once.
        stream: What the noise is for.
        sigma: Standard deviation of the noise.
        n: Samples.
        apart: Whether the base classifier was seen not to mix the samples of a batch; else it is looked at again.
        advance: Is told the number of samples after each batch of them.

    Raises:
        ModelError: The base classifier failed, or returned no logits, NaN, +inf or a wrong shape; or it mixes the
            samples of a batch.
    """
    counts: IntArray | None = None
    check_samples_are_apart(base_classifier)
    # What is deployed looks itself; in a function there may be a network in training mode.
    apart = apart or isinstance(base_classifier, Deployed)
    with evaluating(base_classifier):
        for noisy, use in noisy_batches(x, noise, stream, sigma=sigma, n=n):
            if not apart and len(noisy) > 1:
                check_batches(base_classifier, noisy)
                apart = True
            logits = checked_logits(base_classifier, noisy)
            batch = np.bincount(logits[:use].argmax(1).cpu().numpy(), minlength=logits.shape[1])
            counts = batch if counts is None else counts + batch
            if advance is not None:
                advance(use)
    assert counts is not None
    return counts


def checked_logits(base_classifier: BaseClassifier, noisy: Tensor) -> Tensor:
    """Return the checked logits of a batch; what the classifier itself raises is one line with the likely cause."""
    try:
        output = base_classifier(noisy)
    except (RspipeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        remedy = "; x is float64, give x.float()" if noisy.dtype == torch.float64 else ""
        raise ModelError(
            f"the base classifier fails on inputs {list(noisy.shape)} of {noisy.dtype} on {noisy.device} "
            f"({type(error).__name__}: {first_line(error)}){remedy}"
        ) from error
    logits = logits_of(output)
    check_logits(logits, samples=len(noisy))
    return logits

"""Sampling: how often base classifiers return each class under Gaussian noise, and the noise streams.

Noise comes in blocks of fixed shape, each keyed by (seed, example, stream, block). Counts therefore depend neither
on the order in which examples are visited, nor on who visits them, nor on an interruption.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rspipe.errors import ModelError


class Stream(IntEnum):
    """What noise is drawn for. Streams never share a draw."""

    SELECTION = 0
    ESTIMATION = 1
    WEIGHTS = 2
    SEARCH_SELECTION = 3
    SEARCH_ESTIMATION = 4
    PREDICTION = 5


def noise_block(
    shape: tuple[int, ...], *, seed: int, example: int, stream: Stream, block: int, device: torch.device
) -> Tensor:
    """Return a float32 block of standard normal noise on the device.

    On the CPU the generator is NumPy's Philox with key (seed, example) and counter (0, block, stream, 0): distinct
    keys and counters give non-overlapping streams. On a GPU it is the device's own Philox, seeded with 64 bits of a
    hash of the four numbers; its noise is as good but differs from the CPU's.

    Args:
        shape: [sample, ...].
        seed: Seed of the run, in [0, 2^64).
        example: Number of the example, in [0, 2^64).
        stream: What the noise is for.
        block: Number of the block in the stream.
        device: Where the block is drawn.

    Raises:
        ValueError: `seed` or `example` is out of range.
    """
    for name, number in (("seed", seed), ("example", example)):
        if not 0 <= number < 2**64:
            raise ValueError(f"{name} must lie in [0, 2^64), got {number}")
    if device.type == "cpu":
        key, counter = np.array([seed, example], np.uint64), np.array([0, block, int(stream), 0], np.uint64)
        philox = np.random.Generator(np.random.Philox(key=key, counter=counter))
        return torch.from_numpy(philox.standard_normal(shape, dtype=np.float32))
    digest = hashlib.blake2b(f"{seed}/{example}/{int(stream)}/{block}".encode(), digest_size=8).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)


def noisy_blocks(
    x: Tensor, *, sigma: float, n: int, seed: int, example: int, stream: Stream, block_size: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield (noisy inputs [block_size, ...], how many of them count) until n samples are covered.

    Every block has the same shape, the last one too, so that the forward pass of a sample does not depend on n.
    """
    for block in range(-(-n // block_size)):
        noise = noise_block(
            (block_size, *x.shape), seed=seed, example=example, stream=stream, block=block, device=x.device
        )
        yield torch.add(x, noise, alpha=sigma), min(block_size, n - block * block_size)


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a module in eval mode without gradients, and back."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def check_logits(logits: Tensor, *, samples: int, name: str = "the base classifier") -> None:
    """Raise ModelError unless logits are [samples, class >= 2] and finite."""
    if logits.ndim != 2 or logits.shape[0] != samples or logits.shape[1] < 2:
        raise ModelError(
            f"{name} returned shape {list(logits.shape)} for {samples} inputs; expected [{samples}, class]"
        )
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{name} returned NaN or infinite logits; certify nothing with it")


def class_counts(
    base_classifier: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    sigma: float,
    n: int,
    seed: int,
    example: int,
    stream: Stream,
    block_size: int,
) -> NDArray[np.int64]:
    """Return how often each class is the base classifier's argmax (lowest index on ties) at x + N(0, sigma^2 I).

    Args:
        base_classifier: Maps [batch, *x.shape] to logits [batch, class].
        x: One input, any shape.
        sigma: Standard deviation of the noise.
        n: Samples.
        seed: Seed of the run.
        example: Number of the example.
        stream: What the noise is for.
        block_size: Samples per block.

    Raises:
        ModelError: The base classifier returned NaN, infinity or a wrong shape.
    """
    counts: NDArray[np.int64] | None = None
    with evaluating(base_classifier):
        for noisy, use in noisy_blocks(
            x, sigma=sigma, n=n, seed=seed, example=example, stream=stream, block_size=block_size
        ):
            logits = base_classifier(noisy)
            check_logits(logits, samples=block_size)
            block = np.bincount(logits[:use].argmax(1).cpu().numpy(), minlength=logits.shape[1])
            counts = block if counts is None else counts + block
    assert counts is not None
    return counts

"""Sampling: how often base classifiers return each class under Gaussian noise, and the noise streams.

Noise comes in blocks, each keyed by (seed, example, stream, block); a sample's noise is a row of its block. Counts
therefore depend neither on the order in which examples are visited, nor on who visits them, nor on how many samples
run at once, nor on an interruption.
"""

import hashlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Numbers that a batch of inputs may hold: on a CPU its activations should stay in the cache.
_CPU_NUMBERS = 320_000

_GPU_NUMBERS = 40_000_000


class Stream(IntEnum):
    """What noise is drawn for. Streams never share a draw."""

    SELECTION = 0
    ESTIMATION = 1
    WEIGHTS = 2
    SEARCH_SELECTION = 3
    SEARCH_ESTIMATION = 4
    PREDICTION = 5
    PILOT = 6


def derived_seed(*parts: int) -> int:
    """Return 63 bits of a hash of whole numbers: a seed for torch's generators, unrelated for other numbers."""
    digest = hashlib.blake2b("/".join(str(int(part)) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _normal_rows(philox: np.random.Philox, rows: int, size: int) -> NDArray[np.float32]:
    """Return the next rows [row, size] of standard normal noise: Box and Muller's transform of 64 random bits a pair.

    Every row takes the same number of words from the generator, so rows drawn in parts are those drawn at once.
    31 bits give the radius (up to 6.66) and 32 the angle; NumPy's own normal generator takes three times as long.
    """
    pairs = -(-size // 2)
    words = philox.random_raw(rows * pairs).view(np.int32).reshape(rows * pairs, 2)
    radius = (words[:, 0] & 0x7FFFFFFF).astype(np.float32)
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-31)
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    angle = words[:, 1].astype(np.float32)
    angle *= np.float32(np.pi * 2.0**-31)
    first = np.cos(angle)
    np.sin(angle, out=angle)
    first *= radius
    angle *= radius
    return np.concatenate([first.reshape(rows, pairs), angle.reshape(rows, pairs)], axis=1)[:, :size]


def _philox(*, seed: int, example: int, stream: Stream, block: int) -> np.random.Philox:
    key, counter = np.array([seed, example], np.uint64), np.array([0, block, int(stream), 0], np.uint64)
    return np.random.Philox(key=key, counter=counter)


def _block_batches(
    shape: tuple[int, ...],
    *,
    seed: int,
    example: int,
    stream: Stream,
    block: int,
    block_size: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the noise [batch_size, *shape] of one block in parts; the caller may write to them."""
    for name, number in (("seed", seed), ("example", example)):
        if not 0 <= number < 2**64:
            raise ValueError(f"{name} must lie in [0, 2^64), got {number}")
    if device.type == "cpu":
        philox = _philox(seed=seed, example=example, stream=stream, block=block)
        size = int(np.prod(shape))
        for _ in range(0, block_size, batch_size):
            yield torch.from_numpy(_normal_rows(philox, batch_size, size)).reshape(batch_size, *shape)
        return
    generator = torch.Generator(device).manual_seed(derived_seed(seed, example, stream, block))
    whole = torch.randn((block_size, *shape), generator=generator, device=device, dtype=torch.float32)
    yield from torch.split(whole, batch_size)


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
    size = shape[0]
    (whole,) = _block_batches(
        shape[1:],
        seed=seed,
        example=example,
        stream=stream,
        block=block,
        block_size=size,
        batch_size=size,
        device=device,
    )
    return whole


def default_batch(x: Tensor, *, block_size: int) -> int:
    """Return how many samples to run at once: the largest divisor of the block size that the device likes.

    Args:
        x: One input; its size and device decide.
        block_size: Noise samples per block.
    """
    most = max(1, (_CPU_NUMBERS if x.device.type == "cpu" else _GPU_NUMBERS) // max(1, x.numel()))
    return max(size for size in range(1, min(most, block_size) + 1) if block_size % size == 0)


def noisy_batches(
    x: Tensor,
    *,
    sigma: float,
    n: int,
    seed: int,
    example: int,
    stream: Stream,
    block_size: int,
    batch_size: int | None = None,
) -> Iterator[tuple[Tensor, int]]:
    """Yield (noisy inputs [batch_size, ...], how many of them count) until n samples are covered.

    Every batch has the same shape, the last one too, so that the forward pass of a sample does not depend on n.
    Fewer samples than a batch make one batch of their own size.

    Args:
        x: One input, any shape.
        sigma: Standard deviation of the noise.
        n: Samples.
        seed: Seed of the run.
        example: Number of the example.
        stream: What the noise is for.
        block_size: Samples per block of noise.
        batch_size: Samples per batch, a divisor of `block_size`; `default_batch` when None.

    Raises:
        ValueError: `batch_size` does not divide `block_size`.
    """
    size = batch_size or default_batch(x, block_size=block_size)
    if block_size % size:
        raise ValueError(f"batch_size must divide block_size = {block_size}, got {size}")
    size = min(size, n)
    for block in range(-(-n // block_size)):
        left = min(n - block * block_size, block_size)
        parts = _block_batches(
            tuple(x.shape),
            seed=seed,
            example=example,
            stream=stream,
            block=block,
            block_size=block_size,
            batch_size=size,
            device=x.device,
        )
        for begin, noise in zip(range(0, left, size), parts, strict=False):
            # Two roundings on every path: a fused one would depend on where in a batch a sample lies.
            scaled = noise.mul_(sigma)
            yield (scaled + x if x.dtype == torch.float64 else scaled.add_(x)), min(size, left - begin)


def noisy_logits(network: nn.Module, images: Tensor, noise: Tensor) -> Tensor:
    """Return logits [images, noise, class] of images [images, ...] plus noise [images, noise, ...].

    The copies of an image stand beside each other in the batch that the network sees.
    """
    noisy = (images.unsqueeze(1) + noise).flatten(0, 1)
    logits: Tensor = network(noisy)
    return logits.view(*noise.shape[:2], -1)

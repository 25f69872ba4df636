"""Gaussian noise of inputs: its streams, and noisy inputs in batches.

Noise comes in blocks, each keyed by (seed, example, stream, block); a sample's noise is a row of its block. Counts
therefore depend neither on the order in which examples are visited, nor on who visits them, nor on how many samples
run at once, nor on an interruption.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Numbers that a batch of inputs may hold: on a CPU its activations should stay in the cache.
_CPU_NUMBERS = 320_000

_GPU_NUMBERS = 40_000_000


class Stream(IntEnum):
    """The purpose that noise is drawn for. Streams never share a draw."""

    SELECTION = 0
    ESTIMATION = 1
    WEIGHTS = 2
    SEARCH_SELECTION = 3
    SEARCH_ESTIMATION = 4
    PREDICTION = 5
    PILOT = 6


@dataclass(frozen=True)
class Noise:
    """The noise at one input, in all its streams: what its draws depend on, and how many of them run at once."""

    seed: int
    """Of the run, in [0, 2^64)."""
    example: int
    """Number of the input in its data set, in [0, 2^64); different numbers give independent noise."""
    block_size: int = 1000
    """Samples per block of noise, the unit that is drawn: part of the streams' definition."""
    batch_size: int | None = None
    """Samples per forward pass, a divisor of the block size; `default_batch` when None."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number that is out of range."""
        for name, number in (("seed", self.seed), ("example", self.example)):
            if not 0 <= number < 2**64:
                raise ValueError(f"{name} must lie in [0, 2^64), got {number}")
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if self.batch_size is not None and (self.batch_size < 1 or self.block_size % self.batch_size):
            raise ValueError(f"batch_size must divide block_size = {self.block_size}, got {self.batch_size}")


def derived_seed(*parts: int | str) -> int:
    """Return 63 bits of a hash of whole numbers and names: a seed for torch's generators, unrelated for other ones."""
    texts = (part if isinstance(part, str) else str(int(part)) for part in parts)
    digest = hashlib.blake2b("/".join(texts).encode(), digest_size=8).digest()
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


def block_parts(
    noise: Noise, stream: Stream, block: int, *, shape: tuple[int, ...], size: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the standard normal noise [block_size, *shape] of a block, float32, in parts [size, *shape].

    On the CPU the generator is NumPy's Philox with key (seed, example) and counter (0, block, stream, 0): distinct
    keys and counters give non-overlapping streams. On a GPU it is the device's own Philox, seeded with 63 bits of a
    hash of the four numbers; its noise is as good but differs from the CPU's. The caller may write to the parts.

    Args:
        noise: Whose noise.
        stream: What it is for.
        block: Number of the block in the stream.
        shape: Of one sample.
        size: Samples of a part: a divisor of the block size, or all samples that are drawn, where they are fewer.
        device: Where it is drawn.
    """
    if device.type == "cpu":
        key = np.array([noise.seed, noise.example], np.uint64)
        philox = np.random.Philox(key=key, counter=np.array([0, block, stream, 0], np.uint64))
        for _ in range(0, noise.block_size, size):
            yield torch.from_numpy(_normal_rows(philox, size, math.prod(shape))).reshape(size, *shape)
        return
    generator = torch.Generator(device).manual_seed(derived_seed(noise.seed, noise.example, stream, block))
    whole = torch.randn((noise.block_size, *shape), generator=generator, device=device, dtype=torch.float32)
    yield from torch.split(whole, size)


def default_batch(x: Tensor, *, block_size: int) -> int:
    """Return how many samples to run at once: the largest divisor of the block size that the device likes.

    Args:
        x: One input; its size and device decide.
        block_size: Noise samples per block.
    """
    most = max(1, (_CPU_NUMBERS if x.device.type == "cpu" else _GPU_NUMBERS) // max(1, x.numel()))
    return max(size for size in range(1, min(most, block_size) + 1) if block_size % size == 0)


def noisy_batches(x: Tensor, noise: Noise, stream: Stream, *, sigma: float, n: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (noisy inputs [batch, ...], how many of them count) until n samples are covered.

    Every batch has the same shape, the last one too, so that the forward pass of a sample does not depend on n.
    Fewer samples than a batch make one batch of their own size.

    Args:
        x: One input, any shape.
        noise: Whose noise, and how many samples run at once.
        stream: What the noise is for.
        sigma: Standard deviation of the noise.
        n: Samples.
    """
    size = min(n, noise.batch_size or default_batch(x, block_size=noise.block_size))
    for block in range(-(-n // noise.block_size)):
        left = min(n - block * noise.block_size, noise.block_size)
        parts = block_parts(noise, stream, block, shape=tuple(x.shape), size=size, device=x.device)
        for begin, part in zip(range(0, left, size), parts, strict=False):
            # Two roundings on every path: a fused one would depend on where in a batch a sample lies.
            scaled = part.mul_(sigma)
            yield (scaled + x if x.dtype == torch.float64 else scaled.add_(x)), min(size, left - begin)


def noisy_logits(network: nn.Module, images: Tensor, noise: Tensor) -> Tensor:
    """Return logits [images, noise, class] of images [images, ...] plus noise [images, noise, ...].

    The copies of an image stand beside each other in the batch that the network sees.
    """
    noisy = (images.unsqueeze(1) + noise).flatten(0, 1)
    logits: Tensor = network(noisy)
    return logits.view(*noise.shape[:2], -1)

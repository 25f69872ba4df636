"""Gaussian noise of inputs: its streams, and noisy inputs in batches.

Noise comes in blocks, each keyed by (seed, example, stream, block); a sample's noise is a row of its block. Counts
therefore depend neither on the order in which examples are visited, nor on who visits them, nor on how many samples
run at once, nor on an interruption.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rspipe.errors import nearest
from rspipe.smoothing.certificates import check_whole
from rspipe.smoothing.grid import GRIDS, GridTable, grid_steps, grid_table

# Pixels that a batch may have on a CPU, so that its activations stay in the cache: they grow with the pixels, whatever
# the channels. A batch of 1,000 of LeNet's inputs takes a fifth more time than two of 500 (AVX2, two workers).
_CPU_PIXELS = 400_000

# Numbers that a batch may hold on other devices.
_GPU_NUMBERS = 40_000_000

# Numbers of noise that are drawn in one piece on a CPU where their input is tiny: two megabytes.
_DRAWN_TOGETHER = 524_288


class Stream(IntEnum):
    """The purpose that noise is drawn for. Streams never share a draw."""

    SELECTION = 0
    ESTIMATION = 1
    WEIGHTS = 2
    SEARCH_SELECTION = 3
    SEARCH_ESTIMATION = 4
    PREDICTION = 5
    PILOT = 6


NoiseKind = Literal["auto", "grid", "float"]
"""Noise of whole numbers that are drawn exactly, for pixels on a grid (`rspipe.smoothing.grid`); of float32 numbers; or
"auto", the first where an input lies on a grid, the second elsewhere."""


def noise_steps(x: Tensor, kind: NoiseKind, *, sigma: float) -> int | None:
    """Return the steps from 0 to 1 of the grid on which an input gets its noise; None for float32 noise.

    Raises:
        ValueError: Noise on a grid is asked for, and x does not lie on one; or there is no such kind.
    """
    if kind not in get_args(NoiseKind):
        raise ValueError(f"unknown noise {kind!r}{nearest(str(kind), get_args(NoiseKind))}")
    steps = None if kind == "float" else grid_steps(x, sigma=sigma)
    if steps is None and kind == "grid":
        grids = " or ".join(f"1/{steps}" for steps in GRIDS)
        raise ValueError(
            f"noise = 'grid' needs numbers that are multiples of {grids}, and x is on neither grid (its largest is "
            f"{float(x.max()):.9g}) or sigma = {sigma:g} is too large; give the bytes / 255, or noise = 'auto'"
        )
    return steps


def noise_name(steps: int | None) -> str:
    """Return what noise on such a grid, or on none, is called: "grid 1/255", "float"."""
    return "float" if steps is None else f"grid 1/{steps}"


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
    kind: NoiseKind = "float"
    """Certification and prediction draw "auto" noise, the margins of weights and searches that of float32 numbers."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number that is out of range."""
        batch_size = self.block_size if self.batch_size is None else self.batch_size
        for name, number in (("block_size", self.block_size), ("batch_size", batch_size)):
            check_whole(name, number)
        for name, number in (("seed", self.seed), ("example", self.example)):
            check_whole(name, number)
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


def _normal_rows(words: Callable[[int], Tensor], rows: int, size: int) -> NDArray[np.float32]:
    """Return the next rows [row, size] of standard normal noise: Box and Muller's transform of 64 random bits a pair.

    Every row takes the same number of words from the generator, so rows drawn in parts are those drawn at once.
    31 bits give the radius (up to 6.66) and 32 the angle; NumPy's own normal generator takes three times as long.
    """
    pairs = -(-size // 2)
    halves = words(rows * pairs).numpy().view(np.int32).reshape(rows * pairs, 2)
    radius = (halves[:, 0] & 0x7FFFFFFF).astype(np.float32)
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-31)
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    angle = halves[:, 1].astype(np.float32)
    angle *= np.float32(np.pi * 2.0**-31)
    first = np.cos(angle)
    np.sin(angle, out=angle)
    first *= radius
    angle *= radius
    return np.concatenate([first.reshape(rows, pairs), angle.reshape(rows, pairs)], axis=1)[:, :size]


def _words(noise: Noise, stream: Stream, block: int, *, part: int, device: torch.device) -> Callable[[int], Tensor]:
    """Return what draws the next so many words of 64 random bits, int64, of one of two sequences of a block."""
    if device.type == "cpu":
        key, counter = np.array([noise.seed, noise.example], np.uint64), np.array([0, block, stream, part], np.uint64)
        philox = np.random.Philox(key=key, counter=counter)
        return lambda number: torch.from_numpy(philox.random_raw(number).view(np.int64))
    return device_words(derived_seed(noise.seed, noise.example, stream, block, part), device)


def device_words(seed: int, device: torch.device) -> Callable[[int], Tensor]:
    """Return what draws the next so many words by torch's own generator of a device."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(number: int) -> Tensor:
        return torch.empty(number, dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)

    return draw


def _grid_numbers(
    noise: Noise, stream: Stream, blocks: Sequence[int], table: GridTable, *, shape: tuple[int, ...], size: int
) -> Iterator[Tensor]:
    """Yield the noise of blocks on a grid, whole numbers as float32, by the generators of `block_parts`.

    On the CPU in parts [size, *shape], or, where a part is a block, in one piece; what 16 bits do not decide takes its
    words from the counter (0, block, stream, 1). A GPU's generator gives other words where it is asked for fewer at
    once: there in whole blocks.
    """
    device, words = table.decided.device, -(-math.prod(shape) // 4)
    draws, more = ([_words(noise, stream, block, part=part, device=device) for block in blocks] for part in (0, 1))
    rows = size if device.type == "cpu" else noise.block_size
    for _ in range(0, noise.block_size, rows):
        drawn = [draw(rows * words).view(rows, words) for draw in draws]
        whole = drawn[0] if len(drawn) == 1 else torch.cat(drawn)
        yield table.draw(whole, *more, size=math.prod(shape)).view(-1, *shape)


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
        words = _words(noise, stream, block, part=0, device=device)
        for _ in range(0, noise.block_size, size):
            yield torch.from_numpy(_normal_rows(words, size, math.prod(shape))).reshape(size, *shape)
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
    on_cpu = x.device.type == "cpu"
    of_one = x[0].numel() if on_cpu and x.ndim == 3 and len(x) else x.numel()
    largest = max(1, min((_CPU_PIXELS if on_cpu else _GPU_NUMBERS) // max(1, of_one), block_size))
    return next(size for size in range(largest, 0, -1) if block_size % size == 0)


def _with_float_noise(x: Tensor, noise: Noise, stream: Stream, *, sigma: float, n: int, size: int) -> Iterator[Tensor]:
    for block in range(-(-n // noise.block_size)):
        for part in block_parts(noise, stream, block, shape=tuple(x.shape), size=size, device=x.device):
            # Two roundings on every path: a fused one would depend on where in a batch a sample lies.
            scaled = part.mul_(sigma)
            yield scaled + x if x.dtype == torch.float64 else scaled.add_(x)


def _with_grid_noise(
    x: Tensor, noise: Noise, stream: Stream, *, sigma: float, steps: int, n: int, size: int
) -> Iterator[Tensor]:
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    whole = (x.to(dtype) * steps).round()
    # A GPU multiplies by the reciprocal of a plain number, which rounds otherwise.
    divisor = torch.tensor(steps, dtype=dtype, device=x.device)
    table = grid_table(sigma, steps, x.device)
    blocks = range(-(-n // noise.block_size))
    # What is done once for each draw takes as long as the draws of a tiny input.
    alike = x.device.type == "cpu" and size == noise.block_size
    together = max(1, _DRAWN_TOGETHER // max(1, size * x.numel())) if alike else 1
    for begin in range(0, len(blocks), together):
        for drawn in _grid_numbers(
            noise, stream, blocks[begin : begin + together], table, shape=tuple(x.shape), size=size
        ):
            yield from torch.split(drawn.to(dtype).add_(whole).div_(divisor), size)


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
    steps = noise_steps(x, noise.kind, sigma=sigma)
    if steps is None:
        parts = _with_float_noise(x, noise, stream, sigma=sigma, n=n, size=size)
    else:
        parts = _with_grid_noise(x, noise, stream, sigma=sigma, steps=steps, n=n, size=size)
    for begin, noisy in zip(range(0, n, size), parts, strict=False):
        yield noisy, min(size, n - begin)


def noisy_logits(network: nn.Module, images: Tensor, noise: Tensor) -> Tensor:
    """Return logits [images, noise, class] of images [images, ...] plus noise [images, noise, ...].

    The copies of an image stand beside each other in the batch that the network sees.
    """
    noisy = (images.unsqueeze(1) + noise).flatten(0, 1)
    logits: Tensor = network(noisy)
    return logits.view(*noise.shape[:2], -1)

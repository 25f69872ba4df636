"""Blocks of noise in one piece, for tests that compute by hand what is drawn in parts."""

import torch
from torch import Tensor

from rspipe.smoothing.noise import Noise, Stream, block_parts


def noise_block(shape: tuple[int, ...], *, seed: int, example: int, stream: Stream, block: int) -> Tensor:
    """Return the block [sample, ...] on the CPU."""
    noise, size = Noise(seed, example, block_size=shape[0]), shape[0]
    (whole,) = block_parts(noise, stream, block, shape=shape[1:], size=size, device=torch.device("cpu"))
    return whole

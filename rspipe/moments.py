"""Means and covariances of ensemble members' margins under shared noise, mergeable block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rspipe.ensembles import BatchLimit, member_logits
from rspipe.smoothing import Stream, evaluating, noisy_batches

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of samples of a vector; merged by Chan's parallel update."""

    count: int
    mean: FloatArray
    """[..., k]."""
    scatter: FloatArray
    """[..., k, k], sum of outer products of deviations from the mean."""

    @classmethod
    def of(cls, samples: FloatArray) -> Self:
        """Return the moments of samples [sample, ..., k], computed in float64 in two passes."""
        values = np.asarray(samples, dtype=np.float64)
        mean = values.mean(0)
        deviation = values - mean
        return cls(len(values), mean, np.einsum("s...k,s...l->...kl", deviation, deviation))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of samples together."""
        count = self.count + other.count
        shift = other.mean - self.mean
        cross = shift[..., :, None] * shift[..., None, :] * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), self.scatter + other.scatter + cross)

    @property
    def covariance(self) -> FloatArray:
        """[..., k, k], unbiased."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return self.scatter / (self.count - 1)


def label_margins(scores: Sequence[Tensor], label: int) -> FloatArray:
    """Return margins [sample, class - 1, k] of the label over each other class, in float64.

    Args:
        scores: One tensor [sample, class] per member: probabilities or logits.
        label: The class y; the margins are score_y - score_c for c != y in ascending order of c.
    """
    stacked = torch.stack([s.to(torch.float64) for s in scores], dim=-1)
    others = [c for c in range(stacked.shape[1]) if c != label]
    return (stacked[:, label : label + 1] - stacked[:, others]).cpu().numpy()


def image_moments(
    networks: Sequence[nn.Module],
    x: Tensor,
    label: int,
    *,
    average: str,
    sigma: float,
    draws: int,
    seed: int,
    example: int,
    block_size: int = 1000,
    limit: BatchLimit | None = None,
) -> Moments:
    """Return the moments of all members' label margins at one image: mean [class - 1, k].

    Args:
        networks: k members, run on the same noise.
        x: One image, any shape.
        label: Its class.
        average: What the ensemble averages, "probabilities" or "logits".
        sigma: Standard deviation of the noise, in pixel units.
        draws: Noise draws, at least 2.
        seed: Seed of the noise.
        example: Number of the image among the calibration images.
        block_size: Draws per block of noise.
        limit: How many samples to run at once.
    """
    total: Moments | None = None
    with evaluating(*networks):
        for noisy, use in noisy_batches(
            x, sigma=sigma, n=draws, seed=seed, example=example, stream=Stream.WEIGHTS, block_size=block_size
        ):
            logits = [out[:use] for out in member_logits(networks, noisy, limit=limit).values()]
            scores = [out.softmax(1) for out in logits] if average == "probabilities" else logits
            block = Moments.of(label_margins(scores, label))
            total = block if total is None else total.merge(block)
    assert total is not None
    return total


@dataclass(frozen=True)
class MarginPairs:
    """Moments of the margins of (image, competitor) pairs, what the weights are solved from."""

    mean: FloatArray
    """[pair, k]."""
    covariance: FloatArray
    """[pair, k, k], within image."""


def all_pairs(mean: FloatArray, covariance: FloatArray) -> MarginPairs:
    """Return every pair of images' moments, mean [image, class - 1, k] and covariance [image, class - 1, k, k]."""
    k = mean.shape[-1]
    return MarginPairs(mean.reshape(-1, k), covariance.reshape(-1, k, k))


def runner_up_pairs(mean: FloatArray, covariance: FloatArray) -> MarginPairs:
    """Return each image's pair with the smallest mean margin of the uniform ensemble, where that margin is positive.

    These are the images that the uniform ensemble gets right on average, each with its strongest competitor.
    Arguments are those of `all_pairs`.
    """
    uniform = mean.mean(-1)
    runner_up = uniform.argmin(1)
    right = uniform.min(1) > 0
    images = np.flatnonzero(right)
    return MarginPairs(mean[images, runner_up[images]], covariance[images, runner_up[images]])

"""Means and covariances of ensemble members' margins under shared noise, mergeable block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rspipe.arrays import FloatArray
from rspipe.networks.modes import evaluating
from rspipe.smoothing.classifiers import BatchLimit, member_logits
from rspipe.smoothing.noise import Noise, Stream, noisy_batches


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
        deviation = np.moveaxis(values - mean, 0, -1)
        # A product of matrices: numpy's einsum takes fifteen times as long for a hundred members.
        return cls(len(values), mean, deviation @ np.swapaxes(deviation, -1, -2))

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


_LARGEST_KEPT = 6e4

STRONGEST = 16
"""Competitors of an image whose margins are kept, where there are more: those of the smallest mean margins."""


def label_margins(scores: Sequence[Tensor], label: int, competitors: Sequence[int] | None = None) -> FloatArray:
    """Return margins [sample, competitor, k] of the label over other classes, in float64.

    Args:
        scores: One tensor [sample, class] per member: probabilities or logits.
        label: The class y; the margins are score_y - score_c.
        competitors: The classes c; all but y, ascending, by default.
    """
    others = [c for c in range(scores[0].shape[1]) if c != label] if competitors is None else list(competitors)
    stacked = torch.stack([s[:, [label, *others]].to(torch.float64) for s in scores], dim=-1)
    return (stacked[:, :1] - stacked[:, 1:]).cpu().numpy()


def strongest_competitors(scores: Sequence[Tensor], label: int) -> list[int]:
    """Return the classes, ascending, over which some member's label has the smallest mean margin, `STRONGEST` at most.

    Arguments are those of `label_margins`.
    """
    largest = torch.stack([(s - s[:, label : label + 1]).mean(0) for s in scores]).amax(0)
    largest[label] = -torch.inf
    return sorted(largest.topk(min(STRONGEST, len(largest) - 1)).indices.tolist())


@dataclass(frozen=True)
class ImageMargins:
    """The margins of all members at one image."""

    moments: Moments
    """Of the label's margins over the competitors: mean [competitor, k]."""
    competitors: tuple[int, ...]
    """Their classes."""
    label_probability: NDArray[np.float32]
    """[draw, k], of the label."""
    margins: NDArray[np.float16]
    """[draw, competitor, k]: what shows at how many draws an ensemble is right."""


class _Collected:
    """The margins of one kind of score, block by block."""

    def __init__(self) -> None:
        self.competitors: list[int] = []
        self._total: Moments | None = None
        self._label_probability: list[NDArray[np.float32]] = []
        self._margins: list[NDArray[np.float16]] = []

    def add(self, scores: Sequence[Tensor], label: int, label_probability: NDArray[np.float32]) -> None:
        """Take the scores [draw, class] of every member; the first block decides the competitors."""
        self.competitors = self.competitors or strongest_competitors(scores, label)
        margins = label_margins(scores, label, self.competitors)
        block = Moments.of(margins)
        self._total = block if self._total is None else self._total.merge(block)
        self._margins.append(margins.clip(-_LARGEST_KEPT, _LARGEST_KEPT).astype(np.float16))
        self._label_probability.append(label_probability)

    def result(self) -> ImageMargins:
        """Return the margins of all blocks so far."""
        assert self._total is not None
        return ImageMargins(
            self._total,
            tuple(self.competitors),
            np.concatenate(self._label_probability),
            np.concatenate(self._margins),
        )


def image_margins(
    networks: Sequence[nn.Module],
    x: Tensor,
    label: int,
    noise: Noise,
    *,
    averages: Sequence[str],
    sigma: float,
    draws: int,
    limit: BatchLimit | None = None,
) -> dict[str, ImageMargins]:
    """Return all members' label margins at one image, their moments, and their probabilities of the label.

    They come by what is averaged, and the members run once for all of it. Beyond `STRONGEST` competitors only the
    strongest are kept, as the first draws show them: a covariance for each of a thousand classes would be large, and
    those that never come close do not matter.

    Args:
        networks: k members, run on the same noise.
        x: One image, any shape.
        label: Its class.
        noise: Whose noise, of an image among the calibration images.
        averages: What ensembles average: "probabilities", "logits" or both.
        sigma: Standard deviation of the noise, in pixel units.
        draws: Noise draws, at least 2.
        limit: How many samples to run at once.
    """
    by_average = {average: _Collected() for average in averages}
    with evaluating(*networks):
        for noisy, use in noisy_batches(x, noise, Stream.WEIGHTS, sigma=sigma, n=draws):
            outputs = [out[:use] for out in member_logits(networks, noisy, limit=limit).values()]
            probabilities = [out.softmax(1) for out in outputs]
            # A class that a member excludes (-inf) is as far away as margins are kept.
            logits = [out.nan_to_num(neginf=-_LARGEST_KEPT) for out in outputs]
            of_label = torch.stack([one[:, label] for one in probabilities], dim=1).float().cpu().numpy()
            for average, collected in by_average.items():
                collected.add(probabilities if average == "probabilities" else logits, label, of_label)
    return {average: collected.result() for average, collected in by_average.items()}


@dataclass(frozen=True)
class MarginPairs:
    """Moments of the margins of (image, competitor) pairs, what the weights are solved from."""

    mean: FloatArray
    """[pair, k]."""
    covariance: FloatArray
    """[pair, k, k], within image."""


def runner_up_pairs(mean: FloatArray, covariance: FloatArray) -> MarginPairs:
    """Return each image's pair with the smallest mean margin of all members together, where that margin is positive.

    These are the images that the members get right on average, each with its strongest competitor. Members count in
    units of their own margins (root mean square), so that the scale of a member's logits does not decide.

    Args:
        mean: [image, competitor, k].
        covariance: [image, competitor, k, k].
    """
    unit = np.sqrt((mean**2).mean((0, 1)))
    together = (mean / np.where(unit > 0, unit, 1.0)).mean(-1)
    runner_up = together.argmin(1)
    images = np.flatnonzero(together.min(1) > 0)
    return MarginPairs(mean[images, runner_up[images]], covariance[images, runner_up[images]])

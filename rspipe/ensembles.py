"""Ensembles: base classifiers made of members that see one noise draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rspipe.smoothing import Stream, check_logits, evaluating, noisy_blocks


@dataclass(frozen=True)
class Classifier:
    """A base classifier: the argmax of a weighted average of members' probabilities or logits.

    A single model is a classifier with one member.
    """

    id: str
    members: tuple[int, ...]
    """Positions among the networks of a pass."""
    weights: tuple[float, ...]
    """One per member; non-negative, sum 1."""
    average: Literal["probabilities", "logits"] = "logits"

    def __post_init__(self) -> None:
        """Raise ValueError for weights with which the argmax would silently mean something else."""
        if len(self.weights) != len(self.members):
            raise ValueError(f"{self.id} has {len(self.members)} members but {len(self.weights)} weights")
        # Written so that a NaN fails, too.
        if not (min(self.weights, default=-1.0) >= 0 and abs(sum(self.weights) - 1) <= 1e-6):
            raise ValueError(f"weights of {self.id} must be non-negative with sum 1, got {self.weights}")


def classify(classifiers: Sequence[Classifier], logits: Sequence[Tensor]) -> Tensor:
    """Return the class [classifier, sample] that each classifier gives each sample.

    Weighted sums run over a classifier's own members in their order, so that no result depends on which other
    classifiers are evaluated beside it. Ties go to the lowest class.

    Args:
        classifiers: What to evaluate.
        logits: One tensor [sample, class] per network, all on the same samples.
    """
    averaged = {m for c in classifiers if c.average == "probabilities" and len(c.members) > 1 for m in c.members}
    probabilities = {m: logits[m].softmax(1) for m in averaged}
    classes = []
    for classifier in classifiers:
        if len(classifier.members) == 1:
            score = logits[classifier.members[0]]
        else:
            source = probabilities if classifier.average == "probabilities" else logits
            score = torch.zeros_like(logits[classifier.members[0]])
            for member, weight in zip(classifier.members, classifier.weights, strict=True):
                score = score + weight * source[member]
        classes.append(score.argmax(1))
    return torch.stack(classes)


def ensemble_counts(
    networks: Sequence[nn.Module],
    classifiers: Sequence[Classifier],
    x: Tensor,
    *,
    sigma: float,
    n: int,
    seed: int,
    example: int,
    stream: Stream,
    block_size: int,
) -> NDArray[np.int64]:
    """Return class counts [classifier, class] of many classifiers at x + N(0, sigma^2 I), from one pass of noise.

    Every network runs once per noise sample, however many classifiers use it. Arguments are those of
    `rspipe.smoothing.class_counts`.

    Raises:
        ModelError: A network returned NaN, infinity or a wrong shape.
    """
    total: Tensor | None = None
    for noisy, use in noisy_blocks(
        x, sigma=sigma, n=n, seed=seed, example=example, stream=stream, block_size=block_size
    ):
        logits = member_logits(networks, noisy)
        classes, width = classify(classifiers, logits)[:, :use], logits[0].shape[1]
        offsets = width * torch.arange(len(classifiers), device=classes.device).unsqueeze(1)
        block = torch.bincount((classes + offsets).flatten(), minlength=width * len(classifiers))
        total = block if total is None else total + block
    assert total is not None
    return total.view(len(classifiers), -1).cpu().numpy()


def member_logits(networks: Sequence[nn.Module], noisy: Tensor) -> list[Tensor]:
    """Return the logits [sample, class] of every network on the same noisy inputs, checked to be finite."""
    logits = []
    for position, network in enumerate(networks):
        with evaluating(network):
            logits.append(network(noisy))
        check_logits(logits[-1], samples=noisy.shape[0], name=f"member {position}")
    if len({out.shape for out in logits}) > 1:
        raise ValueError(f"members disagree on the number of classes: {[out.shape[1] for out in logits]}")
    return logits

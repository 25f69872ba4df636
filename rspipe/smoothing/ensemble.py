"""Several networks as one: as they are certified, and as an attack climbs on them."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from rspipe.networks.outputs import logits_of
from rspipe.smoothing.classifiers import Average, Classifier, Combination, Scores, classify, member_logits

_SMALLEST_PROBABILITY = 1e-20


class Ensemble(nn.Module):
    """Networks that see the same noise, combined as a study combines them: a base classifier.

    Args:
        networks: The members, as they are deployed.
        weights: One per member, non-negative with sum 1; uniform by default.
        average: What is averaged.
        combination: How the members decide together; see `rspipe.smoothing.classifiers.Classifier`.
        consensus_size: Members whose agreement decides, the first ones, for "consensus" alone.

    Raises:
        ValueError: The weights or `consensus_size` do not fit the members, `average` or `combination` is unknown, there
            is no member, or one is an ensemble.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        weights: Sequence[float] | None = None,
        average: Average = "probabilities",
        combination: Combination = "average",
        consensus_size: int = 0,
    ) -> None:
        super().__init__()
        refuse_ensembles(networks)
        self.members = nn.ModuleList(networks)
        size = len(self.members)
        if combination == "mme" and weights is not None and len({*map(float, weights)}) > 1:
            raise ValueError("combination 'mme' uses no weights: the member with the largest margin answers; drop them")
        given = (1 / max(1, size),) * size if weights is None else tuple(float(weight) for weight in weights)
        self.classifier = Classifier(
            "ensemble", tuple(range(size)), given, average, combination=combination, consensus_size=consensus_size
        )

    @classmethod
    def of(cls, networks: Sequence[nn.Module], classifier: Classifier) -> Self:
        """Return a classifier of some networks as a network."""
        return cls(
            [networks[member] for member in classifier.members],
            weights=classifier.weights,
            average=classifier.average,
            combination=classifier.combination,
            consensus_size=classifier.consensus_size,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [sample, class]: 1 at the class that the members decide for, else 0; of equals the lowest."""
        scores = self._scores(x)
        return nn.functional.one_hot(scores.classes, scores.probabilities.shape[1]).float()

    def probabilities(self, x: Tensor) -> Tensor:
        """Return [sample, class] probabilities: of the average, or of the member that decides."""
        return self._scores(x).probabilities

    def _scores(self, x: Tensor) -> Scores:
        (scores,) = classify([self.classifier], member_logits([*self.members], x))
        return scores


def refuse_ensembles(models: Sequence[object]) -> None:
    """Raise ValueError where one of several models is or holds an ensemble: its votes are no logits to average."""
    for position, model in enumerate(models):
        if isinstance(model, nn.Module) and any(isinstance(part, Ensemble) for part in model.modules()):
            raise ValueError(
                f"model {position} is an Ensemble, which returns votes, not logits to average; list its members instead"
            )


class SoftEnsemble(nn.Module):
    """The weighted average of networks as one network, differentiable: what an attack climbs on."""

    def __init__(self, networks: Sequence[Callable[[Tensor], Any]], classifier: Classifier) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks[member] for member in classifier.members)  # type: ignore[misc]
        self.weights, self.average = classifier.weights, classifier.average

    def forward(self, x: Tensor) -> Tensor:
        """Return averaged logits, or the logarithms of averaged probabilities [sample, class]."""
        outputs = [logits_of(member(x)) for member in self.members]
        logits = [one.clamp(min=torch.finfo(one.dtype).min) for one in outputs]
        if self.average == "logits" or len(logits) == 1:
            return torch.stack([w * one for w, one in zip(self.weights, logits, strict=True)]).sum(0)
        mean = torch.stack([w * one.softmax(1) for w, one in zip(self.weights, logits, strict=True)]).sum(0)
        return mean.clamp(min=_SMALLEST_PROBABILITY).log()

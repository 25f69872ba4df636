"""Ensembles: base classifiers made of members that see one noise draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from rspipe.smoothing import check_logits

Combination = Literal["average", "mme", "consensus"]
_FEW_CLASSES = 15
COMBINATIONS: dict[str, Combination] = {"mme": "mme", "consensus": "consensus"}
"""The combination that a study file names among the weightings; any other weighting is an average."""


@dataclass(frozen=True)
class Classifier:
    """A base classifier made of one or several members.

    `average`: the argmax of the weighted average of the members' probabilities or logits. `mme` (max-margin
    ensemble, Yang et al. 2022): the class of the member whose two largest probabilities lie furthest apart.
    `consensus` (Horváth et al. 2022): the class on which the first `first` members agree; where they do not, that of
    the average. A single model is a classifier with one member.
    """

    id: str
    members: tuple[int, ...]
    """Positions among the networks of a pass."""
    weights: tuple[float, ...]
    """One per member; non-negative, sum 1."""
    average: Literal["probabilities", "logits"] = "logits"
    combination: Combination = "average"
    first: int = 0
    """Members that are asked first, for `consensus` alone."""

    def __post_init__(self) -> None:
        """Raise ValueError for weights with which the argmax would silently mean something else."""
        if len(self.weights) != len(self.members):
            raise ValueError(f"{self.id} has {len(self.members)} members but {len(self.weights)} weights")
        # Written so that a NaN fails, too.
        if not (min(self.weights, default=-1.0) >= 0 and abs(sum(self.weights) - 1) <= 1e-6):
            raise ValueError(f"weights of {self.id} must be non-negative with sum 1, got {self.weights}")
        if self.combination == "consensus" and not 2 <= self.first < len(self.members):
            raise ValueError(f"consensus of {self.id} asks first = {self.first} of {len(self.members)} members")


@dataclass(frozen=True)
class Scores:
    """What a classifier makes of a batch."""

    classes: Tensor
    """[sample], int64: the class; ties go to the lowest."""
    probabilities: Tensor
    """[sample, class]: of the member or average that decides."""


def classify(classifiers: Sequence[Classifier], logits: Mapping[int, Tensor]) -> list[Scores]:
    """Return what each classifier makes of each sample.

    Every classifier is computed from its own members in their order, sample by sample, so that no result depends
    on which other classifiers are evaluated beside it.

    Args:
        classifiers: What to evaluate.
        logits: One tensor [sample, class] per network by position, all on the same samples.
    """
    members = _Members(logits)
    averages = {row: _average(one, members) for row, one in enumerate(classifiers) if _is_average(one)}
    of_logits = [row for row in averages if classifiers[row].average == "logits"]
    soft = averages | dict(zip(of_logits, _softmax_each([averages[row] for row in of_logits]), strict=True))
    return [_decide(one, members, averages.get(row), soft.get(row)) for row, one in enumerate(classifiers)]


def _is_average(classifier: Classifier) -> bool:
    return len(classifier.members) > 1 and classifier.combination != "mme"


class _Members:
    """What members make of a batch; each quantity is computed of all of them at once, when it is first needed."""

    def __init__(self, logits: Mapping[int, Tensor]) -> None:
        self.logits = logits

    @cached_property
    def probabilities(self) -> dict[int, Tensor]:
        """[sample, class] by position."""
        return dict(zip(self.logits, _softmax_each(list(self.logits.values())), strict=True))

    @cached_property
    def classes(self) -> dict[int, Tensor]:
        """[sample] by position."""
        return {member: logits.argmax(1) for member, logits in self.logits.items()}

    @cached_property
    def margins(self) -> dict[int, Tensor]:
        """[sample] by position, between the two largest probabilities."""
        top = {member: probabilities.topk(2, dim=1).values for member, probabilities in self.probabilities.items()}
        return {member: two[:, 0] - two[:, 1] for member, two in top.items()}


def _softmax_each(logits: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the softmax of each tensor [sample, class]."""
    return torch.split(_softmax(torch.cat(list(logits))), len(logits[0])) if logits else ()


def _softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the classes of [sample, class]."""
    if logits.device.type == "cpu" and logits.shape[1] <= _FEW_CLASSES:
        # Vectors of samples instead of short rows: four times as fast for ten classes. The sum over classes is spelt
        # out, since a library's would depend on a sample's place in the batch.
        powers = logits.t().contiguous()
        # Not in place: a single row is contiguous either way, and still the caller's.
        powers = (powers - powers.amax(0)).exp_()
        total = powers[0].clone()
        for power in powers[1:]:
            total += power
        return powers.div_(total).t().contiguous()
    return logits.softmax(1)


def _decide(classifier: Classifier, members: _Members, average: Tensor | None, soft: Tensor | None) -> Scores:
    """Return the class of each sample, from the average of the members and its probabilities where there is one."""
    first = classifier.members[0]
    if average is None or soft is None:
        if len(classifier.members) == 1:
            return Scores(members.classes[first], members.probabilities[first])
        return _widest_margin(classifier.members, members)
    averaged = Scores(average.argmax(1), soft)
    if classifier.combination == "consensus":
        return _consensus([members.classes[member] for member in classifier.members[: classifier.first]], averaged)
    return averaged


def _average(classifier: Classifier, members: _Members) -> Tensor:
    """Return the weighted average [sample, class] of the members' probabilities or logits."""
    source = members.logits if classifier.average == "logits" else members.probabilities
    # Products and sums are rounded one by one: a fused operation would depend on a sample's place in the batch.
    pairs = zip(classifier.members, classifier.weights, strict=True)
    member, weight = next(pairs)
    score = source[member] * weight
    for member, weight in pairs:
        score += source[member] * weight
    return score


def _widest_margin(positions: Sequence[int], members: _Members) -> Scores:
    first, *others = positions
    best, classes, probabilities = members.margins[first], members.classes[first], members.probabilities[first]
    for member in others:
        # The first of equals stays.
        wider = members.margins[member] > best
        best = torch.where(wider, members.margins[member], best)
        classes = torch.where(wider, members.classes[member], classes)
        probabilities = torch.where(wider.unsqueeze(1), members.probabilities[member], probabilities)
    return Scores(classes, probabilities)


def _consensus(classes: Sequence[Tensor], averaged: Scores) -> Scores:
    agree = torch.stack([one == classes[0] for one in classes[1:]]).all(0)
    # The probabilities are those of the average: agreement has none of its own.
    return Scores(torch.where(agree, classes[0], averaged.classes), averaged.probabilities)


class BatchLimit:
    """How many samples fit into memory at once: halved when they do not, and remembered."""

    def __init__(self) -> None:
        self.size: int | None = None

    def run(self, network: nn.Module, noisy: Tensor) -> Tensor:
        """Return a network's logits, of the whole batch or piece by piece.

        Raises:
            RuntimeError: Not even one sample fits.
        """
        while True:
            try:
                pieces = [network(piece) for piece in torch.split(noisy, self.size or len(noisy))]
                return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            except (RuntimeError, MemoryError) as error:
                now = min(self.size or len(noisy), len(noisy))
                if not _out_of_memory(error) or now == 1:
                    raise
            # Outside of the handler, whose traceback refers to all that was allocated.
            self.size = -(-now // 2)
            if noisy.device.type == "cuda":
                torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    # On a CPU torch's allocator, oneDNN and C++ each raise a plain RuntimeError in words of their own.
    words = ("DefaultCPUAllocator", "not enough memory", "could not create a primitive", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def member_logits(
    networks: Sequence[nn.Module],
    noisy: Tensor,
    *,
    needed: Sequence[int] | None = None,
    limit: BatchLimit | None = None,
    classes: int | None = None,
) -> dict[int, Tensor]:
    """Return the logits [sample, class] of networks on the same noisy inputs by position, checked to be finite.

    Args:
        networks: The members, within `rspipe.smoothing.evaluating`.
        noisy: [sample, ...].
        needed: Positions of those to run; all when None.
        limit: How many samples to run at once.
        classes: Number of classes that they must know; that of the first one when None.

    Raises:
        ModelError: A network returned NaN, infinity, a wrong shape or another number of classes.
    """
    limit, logits = limit or BatchLimit(), {}
    for position in range(len(networks)) if needed is None else needed:
        out = limit.run(networks[position], noisy)
        check_logits(out, samples=noisy.shape[0], name=f"member {position}", classes=classes)
        classes = out.shape[1]
        logits[position] = out
    return logits

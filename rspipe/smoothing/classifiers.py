"""Classifiers made of members that see one noise draw: what each returns, from the members' logits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rspipe.errors import ModelError, nearest
from rspipe.networks.modes import out_of_memory
from rspipe.networks.outputs import logits_of

Combination = Literal["average", "mme", "consensus"]

Average = Literal["probabilities", "logits"]
"""What an average is taken of."""

COMBINATIONS: dict[str, Combination] = {"mme": "mme", "consensus": "consensus"}
"""The combination that a study file names among the weightings; any other weighting is an average."""


@dataclass(frozen=True)
class Classifier:
    """A base classifier made of one or several members.

    `average`: the argmax of the weighted average of the members' probabilities or logits. `mme` (max-margin
    ensemble, Yang et al. 2022): the class of the member whose two largest probabilities lie furthest apart.
    `consensus` (Horváth et al. 2022): the class on which the first `consensus_size` members agree; where they do not,
    that of the average. A single model is a classifier with one member.
    """

    id: str
    members: tuple[int, ...]
    """Positions among the networks of a pass."""
    weights: tuple[float, ...]
    """One per member; non-negative, sum 1."""
    average: Average = "logits"
    combination: Combination = "average"
    consensus_size: int = 0
    """Members whose agreement decides, the first ones, for `consensus` alone."""

    def __post_init__(self) -> None:
        """Raise ValueError for weights with which the argmax would silently mean something else."""
        for name, kinds in (("average", Average), ("combination", Combination)):
            if (given := getattr(self, name)) not in get_args(kinds):
                raise ValueError(f"unknown {name} {given!r}{nearest(str(given), get_args(kinds))}")
        if len(self.weights) != len(self.members):
            raise ValueError(f"{self.id} has {len(self.members)} members but {len(self.weights)} weights")
        # Written so that a NaN fails, too.
        if not (min(self.weights, default=-1.0) >= 0 and abs(sum(self.weights) - 1) <= 1e-6):
            raise ValueError(f"weights of {self.id} must be non-negative with sum 1, got {self.weights}")
        if self.consensus_size and self.combination != "consensus":
            raise ValueError(f"consensus_size = {self.consensus_size} is for combination = 'consensus' alone")
        if self.combination == "consensus" and not 2 <= self.consensus_size < len(self.members):
            raise ValueError(
                f"consensus_size of {self.id} must be at least 2 and less than its {len(self.members)} members, "
                f"got {self.consensus_size}"
            )

    @property
    def kind(self) -> Literal["model", "ensemble"]:
        """A single model, or several of them."""
        return "model" if len(self.members) == 1 else "ensemble"


@dataclass(frozen=True)
class Scores:
    """The classes and scores that a classifier returns for a batch."""

    classes: Tensor
    """[sample], int64: the class; ties go to the lowest."""
    probabilities: Tensor
    """[sample, class]: of the member or average that decides."""


def classify(classifiers: Sequence[Classifier], logits: Mapping[int, Tensor]) -> list[Scores]:
    """Return the classes and scores that each classifier returns for each sample.

    Every classifier is computed from its own members in their order, sample by sample, so that no result depends
    on which other classifiers are evaluated beside it.

    Args:
        classifiers: What to evaluate.
        logits: One tensor [sample, class] per network by position, all on the same samples.
    """
    members, scores = _Members(logits), dict[int, Scores]()
    kinds: dict[tuple[str, int], list[int]] = {}
    for row, one in enumerate(classifiers):
        kinds.setdefault((_kind(one), len(one.members)), []).append(row)
    for (kind, _), rows in kinds.items():
        scores |= zip(rows, members.scores(kind, [classifiers[row] for row in rows]), strict=True)
    return [scores[row] for row in range(len(classifiers))]


def _kind(classifier: Classifier) -> str:
    """Return what is computed of its members; a consensus is computed from an average."""
    if len(classifier.members) == 1:
        return "single"
    return "mme" if classifier.combination == "mme" else classifier.average


class _Members:
    """Scores of the members on a batch, in vectors of samples: [class, member, sample]."""

    def __init__(self, logits: Mapping[int, Tensor]) -> None:
        self._place = {position: place for place, position in enumerate(logits)}
        stacked = torch.stack([one.t() for one in logits.values()], 1)
        # Numbers of classes are computed in the same precision.
        stacked = stacked.float() if stacked.dtype in (torch.bfloat16, torch.float16) else stacked
        # A class that a member excludes has -inf, of which a product with a weight of 0 would be NaN.
        self._logits = stacked.clamp_(min=torch.finfo(stacked.dtype).min)

        self._top = self._logits.amax(0)

    @cached_property
    def _probabilities(self) -> Tensor:
        return _softmax(self._logits, self._top)

    @cached_property
    def _classes(self) -> Tensor:
        """[member, sample]."""
        return _largest(self._logits, self._top)

    @cached_property
    def _rows(self) -> Tensor:
        """[member, sample, class] probabilities."""
        return _by_sample(self._probabilities)

    def scores(self, kind: str, classifiers: Sequence[Classifier]) -> list[Scores]:
        """Return the classes and scores of classifiers of one kind, each with as many members."""
        if kind == "single":
            places = [self._place[one.members[0]] for one in classifiers]
            return [Scores(self._classes[place], self._rows[place]) for place in places]
        if kind == "mme":
            return self._widest_margins(classifiers)
        averages = self._averages(classifiers, self._logits if kind == "logits" else self._probabilities)
        top = averages.amax(0)
        classes = _largest(averages, top)
        asking = [row for row, one in enumerate(classifiers) if one.combination == "consensus"]
        if asking:
            classes[asking] = self._consensus([classifiers[row] for row in asking], classes[asking])
        # Those of a consensus are the average's: agreement has none of its own.
        rows = _by_sample(_softmax(averages, top) if kind == "logits" else averages)
        return [Scores(*pair) for pair in zip(classes, rows, strict=True)]

    def _slots(self, ensembles: Sequence[tuple[int, ...]]) -> Tensor:
        """Return places [slot, ensemble] of their members in order, and then of the first again."""
        slots = max(len(members) for members in ensembles)
        filled = (members + members[:1] * (slots - len(members)) for members in ensembles)
        places = tuple(tuple(self._place[member] for member in members) for members in filled)
        return _table(places, torch.int64, self._logits.device)

    def _averages(self, classifiers: Sequence[Classifier], source: Tensor) -> Tensor:
        """Return weighted averages [class, classifier, sample] of the members' probabilities or logits."""
        places = self._slots([one.members for one in classifiers])
        weights = _table(tuple(one.weights for one in classifiers), source.dtype, source.device)
        total: Tensor | None = None
        # Products and sums are rounded one by one: a fused operation would depend on a sample's place in the batch.
        for place, weight in zip(places, weights, strict=True):
            term = source.index_select(1, place).mul_(weight[:, None])
            total = term if total is None else total.add_(term)
        assert total is not None
        return total

    def _widest_margins(self, classifiers: Sequence[Classifier]) -> list[Scores]:
        two = _two_largest(self._probabilities)
        margins = two[0] - two[1]
        first, *others = self._slots([one.members for one in classifiers])
        best, winner = margins[first], first[:, None]
        for place in others:
            # The first of equals stays.
            margin = margins[place]
            winner = torch.where(margin > best, place[:, None], winner)
            best = torch.maximum(best, margin)
        n = margins.shape[1]
        flat = winner * n + torch.arange(n, device=margins.device)
        rows = self._rows.flatten(0, 1).index_select(0, flat.flatten()).reshape(*flat.shape, -1)
        return [Scores(*pair) for pair in zip(self._classes.flatten()[flat], rows, strict=True)]

    def _consensus(self, classifiers: Sequence[Classifier], averaged: Tensor) -> Tensor:
        """Return classes [classifier, sample]: those on which the first members agree, else the average's."""
        places = self._slots([one.members[: one.consensus_size] for one in classifiers])
        first, second, *others = (self._classes[place] for place in places)
        agree = first == second
        for other in others:
            agree &= first == other
        return torch.where(agree, first, averaged)


@lru_cache(maxsize=64)
def _table(rows: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return rows as the columns of a tensor; the same in every batch of a pass, therefore remembered."""
    return torch.tensor(rows, dtype=dtype, device=device).t().contiguous()


def _by_sample(scores: Tensor) -> Tensor:
    """Return [row, sample, class] of [class, row, sample], the same memory."""
    return scores.permute(1, 2, 0)


def _softmax(logits: Tensor, top: Tensor) -> Tensor:
    """Return the softmax over the classes of [class, row, sample], whose largest are `top` [row, sample]."""
    powers = (logits - top).exp_()
    # Spelt out, since a library's sum over classes would depend on a sample's place in the batch.
    total = powers[0].clone()
    for power in powers[1:]:
        total += power
    return powers.div_(total)


def _largest(scores: Tensor, top: Tensor) -> Tensor:
    """Return the class of the largest, `top` [row, sample], the lowest of equals, of [class, row, sample]."""
    # Maxima over vectors of samples, several times as fast as argmax on a CPU; comparisons are slow there unless they
    # return what they compare.
    is_largest = torch.eq(scores, top, out=torch.empty_like(scores))
    countdown = torch.arange(len(scores), 0, -1, dtype=scores.dtype, device=scores.device)
    return len(scores) - is_largest.mul_(countdown[:, None, None]).amax(0).to(torch.int64)


def _two_largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest and the second largest over the classes, [row, sample] of [class, row, sample]."""
    first, second = torch.maximum(values[0], values[1]), torch.minimum(values[0], values[1])
    for value in values[2:]:
        second = torch.maximum(second, torch.minimum(first, value))
        first = torch.maximum(first, value)
    return first, second


class BatchLimit:
    """How many samples fit into memory at once: halved when they do not, and remembered."""

    def __init__(self) -> None:
        self.size: int | None = None

    def run(self, network: Callable[[Tensor], Any], noisy: Tensor, *, name: str = "the base classifier") -> Tensor:
        """Return a network's logits, of the whole batch or piece by piece.

        Raises:
            RuntimeError: Not even one sample fits.
            ModelError: What the network, here called `name`, returned are no logits.
        """
        while True:
            try:
                parts = torch.split(noisy, self.size or len(noisy))
                # Copies: a network may use its output's memory again at its next call.
                pieces = [logits_of(network(piece), name=name).clone() for piece in parts]
                return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            except (RuntimeError, MemoryError) as error:
                now = min(self.size or len(noisy), len(noisy))
                if not out_of_memory(error) or now == 1:
                    raise
            # Outside of the handler, whose traceback refers to all that was allocated.
            self.size = -(-now // 2)
            if noisy.device.type == "cuda":
                torch.cuda.empty_cache()


def member_logits(
    networks: Sequence[nn.Module],
    noisy: Tensor,
    *,
    needed: Sequence[int] | None = None,
    limit: BatchLimit | None = None,
    classes: int | None = None,
) -> dict[int, Tensor]:
    """Return the logits [sample, class] of networks on the same noisy inputs by position, checked by `check_logits`.

    Args:
        networks: The members, within `rspipe.networks.modes.evaluating`.
        noisy: [sample, ...].
        needed: Positions of those to run; all when None.
        limit: How many samples to run at once.
        classes: Number of classes that they must know; that of the first one when None.

    Raises:
        ModelError: A network returned no logits, NaN, +inf, a wrong shape or another number of classes, or wrote into
            what others see.
    """
    limit, logits = limit or BatchLimit(), {}
    running = list(range(len(networks)) if needed is None else needed)
    for position in running:
        name, version = f"member {position}", _version(noisy)
        try:
            out = limit.run(networks[position], noisy, name=name)
            if len(running) > 1 and _version(noisy) != version:
                raise ModelError(f"{name} writes into its input, which others see, too; let it write into a copy")
            check_logits(out, samples=noisy.shape[0], name=name, classes=classes)
        except ModelError as error:
            error.member = position
            raise
        classes = out.shape[1]
        logits[position] = out
    return logits


def _version(x: Tensor) -> int:
    """Return a number that changes where x is written into; in inference mode none is kept."""
    return 0 if x.is_inference() else x._version


def check_logits(
    logits: Tensor, *, samples: int, name: str = "the base classifier", classes: int | None = None
) -> None:
    """Raise ModelError unless logits are [samples, class >= 2], of the right number of classes, and rank the classes.

    NaN and +inf do not. -inf excludes a class, and is refused where it excludes all.
    """
    if logits.ndim != 2 or logits.shape[0] != samples or logits.shape[1] < 2:
        raise ModelError(
            f"{name} returned shape {list(logits.shape)} for {samples} inputs; expected [{samples}, class]"
        )
    if classes is not None and logits.shape[1] != classes:
        raise ModelError(
            f"{name} knows {logits.shape[1]} classes but the data have {classes}; give it the data's classes"
        )
    # A sum of finite numbers is finite but for overflow, and far cheaper to find.
    if not math.isfinite(float(logits.detach().sum())):
        if bool((logits.isnan() | logits.isposinf()).any()):
            raise ModelError(f"{name} returned NaN or +inf as a logit; certify nothing with it")
        if bool(logits.isneginf().all(1).any()):
            raise ModelError(f"{name} returned -inf for every class; certify nothing with it")

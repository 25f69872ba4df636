"""One pass of noise over one image: the class counts of many classifiers, each with the samples its rule asks for.

All classifiers see the same noise, and each counts the first samples of a stream, as many as it needs. What it counts
therefore depends on itself alone, not on which others are counted beside it; a member runs while one of the
classifiers that it belongs to still draws.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rspipe.arrays import BoolArray, IntArray
from rspipe.networks.modes import evaluating
from rspipe.smoothing.classifiers import BatchLimit, Classifier, Scores, classify, member_logits
from rspipe.smoothing.counts import NO_LABEL, CountTable
from rspipe.smoothing.noise import Noise, Stream, noise_name, noise_steps, noisy_batches
from rspipe.smoothing.rules import futile, looks, planned_sizes, settled, size_grid
from rspipe.smoothing.sampling import LOOKING, Sampling

# Scores of active classifiers that are computed in one piece, of one batch at least: few enough to stay in the cache,
# and so many that what is done once for a piece does not take as long as a tiny network.
_SCORES = 400_000


@dataclass(frozen=True)
class _Source:
    """Where samples come from."""

    networks: Sequence[nn.Module]
    classifiers: Sequence[Classifier]
    x: Tensor
    sigma: float
    spec: Sampling
    example: int
    classes: int
    limit: BatchLimit

    def scores(self, batches: Iterable[Tensor], active: IntArray) -> list[Scores]:
        """Return what the active classifiers make of batches, one after the other."""
        chosen = [self.classifiers[one] for one in active]
        needed = sorted({member for classifier in chosen for member in classifier.members})
        parts = [
            member_logits(self.networks, noisy, needed=needed, limit=self.limit, classes=self.classes)
            for noisy in batches
        ]
        return classify(chosen, {member: torch.cat([part[member] for part in parts]) for member in needed})

    def histogram(self, drawn: IntArray) -> IntArray:
        """Return counts [classifier, class] of classes [classifier, sample]."""
        offsets = self.classes * np.arange(len(drawn))[:, None]
        counts = np.bincount((drawn + offsets).ravel(), minlength=self.classes * len(drawn))
        return counts.reshape(len(drawn), self.classes)

    def noisy(self, stream: Stream, n: int) -> Iterator[tuple[Tensor, int]]:
        """Yield noisy inputs and how many of them count."""
        batch_size, rule = self.spec.batch_size, self.spec.rule
        if batch_size is None and rule.name == "decide":
            # Most images end at one of the first looks.
            batch_size = math.gcd(rule.step, self.spec.block_size)
        noise = Noise(self.spec.seed, self.example, self.spec.block_size, batch_size, self.spec.noise)
        return noisy_batches(self.x, noise, stream, sigma=self.sigma, n=n)

    def count(self, stream: Stream, n: int, active: IntArray) -> IntArray:
        """Return counts [classifier, class] of n samples; zeros for classifiers that are not active."""
        counts = np.zeros((len(self.classifiers), self.classes), np.int64)
        if not active.size:
            return counts
        with evaluating(*self.networks):
            for noisy, use in self.noisy(stream, n):
                drawn = _classes(self.scores([noisy], active))
                counts[active] += self.histogram(drawn[:, :use])
        return counts


def _classes(scores: Sequence[Scores]) -> IntArray:
    return torch.stack([one.classes for one in scores]).cpu().numpy()


def count_image(
    networks: Sequence[nn.Module],
    classifiers: Sequence[Classifier],
    x: Tensor,
    *,
    label: int | None,
    sigma: float,
    spec: Sampling,
    example: int,
    classes: int,
    limit: BatchLimit | None = None,
) -> CountTable:
    """Count the classes that classifiers return at x + N(0, sigma^2 I), by the rule of `spec`: a row for each.

    Args:
        networks: The members, as they are deployed.
        classifiers: What to count, made of members by position.
        x: One input, any shape.
        label: Its class, for rules that stop where the selection misses it; None never stops so.
        sigma: Standard deviation of the noise, in pixel units.
        spec: The rule and its numbers.
        example: Number of the input in its data set.
        classes: Number of classes.
        limit: Memory limit to respect and to remember.

    Raises:
        ValueError: Noise on a grid is asked for, and x is on none.
        ModelError: A network returned NaN, infinity, a wrong shape or another number of classes.
    """
    began = time.monotonic()
    source = _Source(networks, classifiers, x, sigma, spec, example, classes, limit or BatchLimit())
    rule, everyone = spec.rule, np.arange(len(classifiers))
    selection = source.count(Stream.SELECTION, spec.n0, everyone)
    selected = selection.argmax(1)
    stop = np.full(len(classifiers), "", dtype="<U8")
    if rule.label_stop and label is not None:
        stop[selected != label] = "label"
    pilot = np.zeros_like(selection)
    targets = np.full(len(classifiers), spec.n)
    if rule.name == "planned":
        pilot = source.count(Stream.PILOT, rule.pilot - spec.n0, np.flatnonzero(stop == ""))
        successes = (selection + pilot)[everyone, selected]
        stop[(stop == "") & futile(successes, rule.pilot, futility=rule.futility)] = "futility"
        grid = size_grid(spec.n, block=spec.block_size)
        targets = planned_sizes(n=spec.n, alpha=spec.alpha, pilot=rule.pilot, eps=rule.eps, grid=grid)[successes]
        stop[(stop == "") & (targets < spec.n)] = "planned"
    targets[np.isin(stop, ["label", "futility"])] = 0
    estimate = _Estimate(source, selected, targets)
    with evaluating(*networks):
        estimate.run()
    if rule.name in LOOKING:
        stop[(stop == "") & (estimate.targets < spec.n)] = "settled"
    rows = len(classifiers)
    return CountTable(
        sigma=sigma,
        rule=rule,
        n0=spec.n0,
        n=spec.n,
        alpha=spec.alpha,
        seed=spec.seed,
        classifier=np.array([one.id for one in classifiers]),
        kind=np.array([one.kind for one in classifiers]),
        example=np.full(rows, example),
        label=np.full(rows, NO_LABEL if label is None else label),
        selection=selection,
        pilot=pilot,
        estimation=estimate.counts,
        stop=stop,
        marks=estimate.marks,
        prefix=estimate.prefix,
        probability_sum=estimate.sums[0].cpu().numpy(),
        probability_square=estimate.sums[1].cpu().numpy(),
        batch_size=np.full(rows, estimate.batch_size),
        noise=np.full(rows, noise_name(noise_steps(x, spec.noise, sigma=sigma))),
        seconds=np.full(rows, time.monotonic() - began),
    )


class _Estimate:
    """The estimation samples of all classifiers, each until its own target."""

    def __init__(self, source: _Source, selected: IntArray, targets: IntArray) -> None:
        spec, shape = source.spec, (len(selected), source.classes)
        self._source, self._selected = source, selected
        self._schedule = looks(spec.n, spec.alpha)
        self.marks = np.array([look.n for look in self._schedule])
        self.targets, rule = targets, spec.rule
        if rule.name == "decide":
            decisions = rule.looks(sigma=source.sigma, n=spec.n, alpha=spec.alpha)
            self.marks = decisions[0].t.copy()
            # [look, radius], of which every classifier has proven and given up some.
            self._accept, self._give_up = (
                np.stack([getattr(d, at) for d in decisions], 1) for at in ("accept", "give_up")
            )
            self._proven = np.zeros((shape[0], len(decisions)), dtype=bool)
            self._lost = np.zeros_like(self._proven)
        self._looking = rule.name in LOOKING
        if self._looking:
            self.targets = np.minimum(targets, self.marks[0])
        self.counts = np.zeros(shape, np.int64)
        self.prefix = np.full((shape[0], len(self.marks), shape[1]), -1, np.int64)
        self.sums = torch.zeros((2, *shape), dtype=torch.float64, device=source.x.device)
        self.batch_size = 0

    def run(self) -> None:
        """Draw until every classifier has reached its target."""
        position = 0
        if not self.targets.any():
            return
        spec = self._source.spec
        # Whole blocks, as their batches have one size.
        n = spec.n if self._looking else min(spec.n, -(-int(self.targets.max()) // spec.block_size) * spec.block_size)
        drawn = (noisy for noisy, _ in self._source.noisy(Stream.ESTIMATION, n))
        first = next(drawn)
        batches, size = itertools.chain([first], drawn), len(first)
        while (active := np.flatnonzero(self.targets > position)).size:
            # As many as all of them need, in one piece: what is done once for a piece takes as long as tiny networks.
            most = min(int(self.targets[active].min()) - position, _SCORES // (len(active) * self._source.classes))
            number = max(1, most // size)
            scores = self._source.scores(itertools.islice(batches, number), active)
            self.batch_size = min(self._source.limit.size or size, size)
            self._count(_classes(scores), active, position)
            used = np.minimum(number * size, self.targets[active] - position)
            for samples in np.unique(used):
                rows = np.flatnonzero(used == samples)
                place = slice(None) if len(rows) == len(self.targets) else active[rows]
                self._add([scores[row].probabilities[:samples] for row in rows], place, batches=number)
            position += number * size

    def _add(self, probabilities: Sequence[Tensor], place: slice | IntArray, *, batches: int) -> None:
        """Add probabilities [sample, class] to the sums of their classifiers, a batch of each at a time.

        A classifier's sums must not depend on where others stop, nor on how many batches were scored in one piece.
        """
        those = torch.stack([one.t() for one in probabilities]).to(torch.float64)
        those = those.view(*those.shape[:2], batches, -1)
        for power, sums in enumerate((those.sum(3), those.square_().sum(3))):
            for batch in range(batches):
                self.sums[power, place] += sums[:, :, batch]

    def _count(self, drawn: IntArray, active: IntArray, begin: int) -> None:
        """Count classes [active, sample] of a batch, cut where a count is noted or a classifier stops."""
        position, end = begin, begin + drawn.shape[1]
        while position < end and (going := self.targets[active] > position).any():
            those = active[going]
            mark = int(np.searchsorted(self.marks, position, side="right"))
            cut = int(min(end, self.marks[mark], self.targets[those].min()))
            self.counts[those] += self._source.histogram(drawn[going, position - begin : cut - begin])
            position = cut
            if cut == self.marks[mark]:
                self.prefix[those, mark] = self.counts[those]
                if self._looking and mark + 1 < len(self.marks):
                    self._look(those, mark)

    def _look(self, those: IntArray, mark: int) -> None:
        """Let classifiers whose answer is not clear yet go on to the next look."""
        rule, source = self._source.spec.rule, self._source
        n_a = self.prefix[those, : mark + 1, self._selected[those]]
        if rule.name == "decide":
            done = self._decided(those, n_a[:, -1:], mark)
        else:
            assert rule.name == "radius_grid"
            done = settled(n_a, self._schedule, sigma=source.sigma, grid=rule.grid, futility=rule.futility)
        self.targets[those[~done]] = self.marks[mark + 1]

    def _decided(self, those: IntArray, n_a: IntArray, mark: int) -> BoolArray:
        """Return whether classifiers with counts [row, 1] need no further look: beyond a lost radius none counts."""
        proven = self._proven[those] | (n_a >= self._accept[mark])
        lost = self._lost[those] | (~proven & (n_a <= self._give_up[mark]))
        self._proven[those], self._lost[those] = proven, lost
        return np.asarray((proven | np.logical_or.accumulate(lost, axis=1)).all(1), dtype=np.bool_)

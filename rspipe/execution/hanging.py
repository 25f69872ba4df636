"""Work that hangs: a step of it that takes ten times as long as any like it has taken, and five minutes at least.

Where none like it has ended yet nobody knows how long it takes: it is told of, and left alone.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_FACTOR = 10.0

_LEAST_SECONDS = 300.0
"""What no file system, no busy machine and no look at the validation images takes."""

_FIRST_SECONDS = 3600.0
"""The least for a step before which data are read, and until work of which nothing is known is told of."""

_PAUSE_SECONDS = 30.0
"""Nobody has asked for so long: whoever does it stood still, and so may all have that are asked for."""


@dataclass(frozen=True)
class Held:
    """A piece of work, who is at it, and what its steps cost."""

    name: str
    node: str
    worker: bytes
    """The sealed handle of its actor."""
    kind: str
    """Steps of one kind take as long for the same cost."""
    reads_data: bool
    """Whether its worker has to read the data before the step that it begins with."""
    costs: tuple[float, ...]
    """Of each step, in units of the kind's own; the last one, which ends the piece, is of a kind of its own."""


class Deadlines:
    """Which pieces have not moved for too long, by the times that steps of their kind took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[Hashable, Held] = {}
        self._moved: dict[Hashable, float] = {}
        self._step: dict[Hashable, int | None] = {}
        """That a piece is at; not known before it first moves, since it may go on from any."""
        self._slowest: dict[tuple[str, bool], float] = {}
        """Seconds for a unit of cost, by kind and whether the step is a last one."""
        self._with_reading: dict[tuple[str, bool], float] = {}
        """The same of steps before which data were read: all there is to go by until another has ended."""
        self._told: set[Hashable] = set()
        self._reads: set[Hashable] = set()
        """Pieces whose workers may still be reading data."""
        self._asked = clock()

    def begin(self, piece: Hashable, held: Held, step: int | None = None) -> None:
        """Note who begins a piece, at a step; without one it may go on from any, if it has more than one."""
        step = 0 if len(held.costs) == 1 else step
        self._held[piece], self._moved[piece], self._step[piece] = held, self._clock(), step
        self._told.discard(piece)
        if held.reads_data:
            self._reads.add(piece)

    def move(self, piece: Hashable, fraction: float) -> None:
        """Note how far a piece is, in [0, 1]."""
        held = self._held.get(piece)
        if held is None:
            return
        steps = len(held.costs)
        done = round(fraction * steps)
        if done > 0:
            self._learn(piece, held.costs[done - 1], last=done == steps)
        self._reads.discard(piece)
        if done == steps:
            self.end(piece)
        else:
            self._moved[piece], self._step[piece] = self._clock(), done

    def finish(self, piece: Hashable, cost: float) -> None:
        """Note that a piece of one step is finished, and what it cost, which may be less than it could have."""
        if piece in self._held:
            self._learn(piece, cost, last=True)
        self.end(piece)

    def _learn(self, piece: Hashable, cost: float, *, last: bool) -> None:
        """Note how long the step took that a piece has just ended."""
        kind, seconds = (self._held[piece].kind, last), (self._clock() - self._moved[piece]) / cost
        known = self._with_reading if piece in self._reads else self._slowest
        known[kind] = max(seconds, known.get(kind, 0.0))

    def end(self, piece: Hashable) -> None:
        """Forget a piece that is finished or that nobody is at any more."""
        self._held.pop(piece, None)
        self._reads.discard(piece)

    def end_all(self) -> None:
        """Forget all pieces: nobody is at any."""
        for piece in list(self._held):
            self.end(piece)

    def hung(self) -> list[tuple[bytes | None, str]]:
        """Return the worker of each piece that hangs, None where it may be slow, and what to say of it; once."""
        messages: list[tuple[bytes | None, str]] = []
        now = self._clock()
        pause, self._asked = now - self._asked, now
        for piece, held in list(self._held.items()):
            if pause > _PAUSE_SECONDS:
                self._moved[piece] = min(now, self._moved[piece] + pause)
            waited, step = now - self._moved[piece], self._step[piece]
            expected, limit = self._expected(held, step), _FIRST_SECONDS if piece in self._reads else _LEAST_SECONDS
            text = f"{held.name} on node {held.node} has not moved for {waited / 60:.0f} min"
            if expected is None:
                if waited > _FIRST_SECONDS and piece not in self._told:
                    self._told.add(piece)
                    messages.append((None, f"{text}, and nothing like it has ended yet: it hangs, or takes as long"))
            elif waited > max(limit, _FACTOR * expected):
                most = f"{expected:.0f} s were the most to expect"
                messages.append((held.worker, f"{text}, where {most}; its worker is replaced"))
                self.end(piece)
        return messages

    def _expected(self, held: Held, step: int | None) -> float | None:
        """Return the most seconds that a step should take; None where none like it has ended."""
        last = step == len(held.costs) - 1
        slowest = self._slowest.get((held.kind, last), self._with_reading.get((held.kind, last)))
        return None if slowest is None else slowest * (max(held.costs) if step is None else held.costs[step])

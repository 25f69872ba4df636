"""Work that hangs: a step of it that takes ten times as long as any like it has taken, and ten minutes at least."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_FACTOR = 10.0

_LEAST_SECONDS = 600.0

_FIRST_SECONDS = 3600.0
"""The least for the first step of a worker, which reads the data before it."""


@dataclass(frozen=True)
class Held:
    """A piece of work, who is at it, and what its steps cost."""

    name: str
    node: str
    worker: bytes
    """The sealed handle of its actor."""
    kind: str
    """Steps of one kind take as long for the same cost."""
    costs: tuple[float, ...]
    """Of each step, in units of the kind's own; the last one, which ends the piece, is of a kind of its own."""


class Deadlines:
    """Which pieces have not moved for too long, by the times that steps of their kind took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[int, Held] = {}
        self._moved: dict[int, float] = {}
        self._step: dict[int, int | None] = {}
        """That a piece is at; not known before it first moves, since it may go on from any."""
        self._slowest: dict[tuple[str, bool], float] = {}
        """Seconds for a unit of cost, by kind and whether the step is a last one."""

    def begin(self, piece: int, held: Held) -> None:
        """Note who begins a piece; it may go on from a later step than its first."""
        self._held[piece], self._moved[piece], self._step[piece] = held, self._clock(), None

    def move(self, piece: int, fraction: float) -> None:
        """Note how far a piece is, in [0, 1]."""
        held = self._held.get(piece)
        if held is None:
            return
        now, steps = self._clock(), len(held.costs)
        done = round(fraction * steps)
        if done > 0:
            kind, seconds = (held.kind, done == steps), (now - self._moved[piece]) / held.costs[done - 1]
            self._slowest[kind] = max(seconds, self._slowest.get(kind, 0.0))
        if done == steps:
            self.end(piece)
        else:
            self._moved[piece], self._step[piece] = now, done

    def end(self, piece: int) -> None:
        """Forget a piece that is finished or that nobody is at any more."""
        self._held.pop(piece, None)

    def hung(self) -> list[tuple[bytes, str]]:
        """Return the worker of each piece that hangs, and what to say of it; once."""
        found = []
        for piece, held in list(self._held.items()):
            waited, step = self._clock() - self._moved[piece], self._step[piece]
            expected, limit = self._expected(held, step), _FIRST_SECONDS if step is None else _LEAST_SECONDS
            if expected is not None and waited > max(limit, _FACTOR * expected):
                message = (
                    f"{held.name} on node {held.node} has not moved for {waited / 60:.0f} min, where {expected:.0f} s "
                    "were the most to expect; its worker is replaced"
                )
                found.append((held.worker, message))
                self.end(piece)
        return found

    def _expected(self, held: Held, step: int | None) -> float | None:
        """Return the most seconds that a step should take; None where none like it has ended."""
        last = step == len(held.costs) - 1
        slowest = self._slowest.get((held.kind, last))
        return None if slowest is None else slowest * (max(held.costs) if step is None else held.costs[step])

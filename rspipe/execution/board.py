"""Progress of work that runs on a cluster: a board that workers write to and the driver reads."""

import heapq
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from rspipe.errors import RspipeError
from rspipe.execution.endings import head_lost
from rspipe.execution.failures import root_cause
from rspipe.execution.hanging import Deadlines, Held

T = TypeVar("T")

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

# Tune gives a trial ten seconds to end before it kills it.
_END_SECONDS = 30.0


@dataclass(frozen=True)
class Progress:
    """How far a stage is, in units of its own."""

    stage: str
    done: float
    """Pieces, begun ones in part."""
    total: float
    unit: str
    detail: str = ""
    resumed: float = 0.0
    """Of what is done, parts of pieces that checkpoints of an earlier run held."""

    @property
    def whole(self) -> int:
        """Pieces without those that are begun."""
        # A sum of fractions may end below what it stands for.
        return int(self.done + 1e-6)


OnProgress = Callable[[Progress], None]


def after(before: float, on_progress: OnProgress) -> OnProgress:
    """Return what gets the progress of the rest of a stage, `before` pieces of which were done before."""
    return lambda rest: on_progress(replace(rest, done=rest.done + before, total=rest.total + before))


def sealed(value: Any) -> bytes:
    """Return what another process may hand on without the modules that it takes to read it: torch, for many seconds.

    A handle of an actor, too, is read with all that its class imports.
    """
    import ray

    return bytes(ray.cloudpickle.dumps(value))


def unsealed(content: bytes) -> Any:
    """Return what was sealed."""
    import ray

    return ray.cloudpickle.loads(content)


class Board:
    """A queue of work and how far each piece is. Lives on a desk."""

    def __init__(self, work: int) -> None:
        self._fraction = [0.0] * work
        self._resumed = 0.0
        self._waiting = list(range(work))
        self._taken: dict[int, set[int]] = {}
        self._workers: dict[tuple[int, int], bytes] = {}
        self._reserved: dict[int, list[bytes]] = {}
        self._open = True
        self._deadlines = Deadlines()
        self._detail = ""
        self._failure: RspipeError | None = None

    def join(self, group: int, rank: int, worker: bytes) -> None:
        """Note an actor of a group that begins to work, by its sealed handle."""
        self._workers[group, rank] = worker

    def leave(self, group: int, rank: int) -> None:
        """Note that an actor ends by itself."""
        self._workers.pop((group, rank), None)

    def size(self) -> int:
        """Return how many actors are at work."""
        return len(self._workers)

    def reserve(self, group: int, resources: bytes) -> None:
        """Note what a group holds of the cluster, a sealed placement group."""
        self._reserved.setdefault(group, []).append(resources)

    def close(self) -> list[bytes]:
        """Give up the work, and return the sealed handles of the actors that are still at it."""
        self._open = False
        self._waiting.clear()
        return list(self._workers.values())

    def take(self, group: int) -> int | None:
        """Return the next piece of work, which is then that group's, or None."""
        if not self._waiting:
            return None
        piece = heapq.heappop(self._waiting)
        self._taken.setdefault(group, set()).add(piece)
        return piece

    def release(self, group: int) -> list[bytes]:
        """Hand out again, unless the work was given up, what a group has taken and not finished: it is gone.

        Return what it had reserved.
        """
        self._workers = {place: worker for place, worker in self._workers.items() if place[0] != group}
        for piece in self._taken.pop(group, set()):
            self._deadlines.end(piece)
            if self._open and self._fraction[piece] < 1:
                heapq.heappush(self._waiting, piece)
        return self._reserved.pop(group, [])

    def left(self) -> tuple[int, int]:
        """Return how many pieces nobody has taken, and how many are not finished; none of work that was given up."""
        return len(self._waiting), sum(done < 1 for done in self._fraction) if self._open else 0

    def update(self, piece: int, fraction: float, detail: str = "") -> None:
        """Note how far a piece is, in [0, 1]."""
        self._fraction[piece] = fraction
        self._deadlines.move(piece, fraction)
        self._detail = detail or self._detail

    def resume(self, piece: int, fraction: float) -> None:
        """Note how far a piece is by its checkpoint; what this board has not heard of is work of an earlier run."""
        ahead = max(0.0, fraction - self._fraction[piece])
        self._resumed += ahead
        self._fraction[piece] += ahead

    def begin(self, piece: int, held: Held) -> None:
        """Note who is at a piece, to tell when it hangs."""
        self._deadlines.begin(piece, held)

    def hung(self) -> list[tuple[bytes | None, str]]:
        """Return what hangs, see `Deadlines.hung`."""
        return self._deadlines.hung()

    def fail(self, error: RspipeError) -> None:
        """Note an error that only the user can remedy: nothing more is handed out."""
        self._failure = self._failure or error
        self.close()

    def read(self) -> tuple[float, float, str, RspipeError | None]:
        """Return pieces done and resumed, fractions added, the latest detail until all are, and the first failure."""
        whole = all(fraction >= 1 for fraction in self._fraction)
        return sum(self._fraction), self._resumed, "" if whole else self._detail, self._failure


def beside_driver(kind: type) -> Any:
    """Return a class as one of Ray actors that take no CPU and live as long as the driver's own node: others may go."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind)


class Desk:
    """Keeps the boards and rosters of a driver. Lives in a Ray actor, one process for all of them."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def put(self, kind: type, *given: Any) -> int:
        """Make an object and keep it; return its place."""
        self._kept.append(kind(*given))
        return len(self._kept) - 1

    def ask(self, place: int, method: str, *given: Any) -> Any:
        """Return what a method of the object at a place returns."""
        return getattr(self._kept[place], method)(*given)


@dataclass(frozen=True)
class Kept:
    """An object that a desk keeps, asked as an actor is: `kept.method.remote(...)`."""

    desk: Any
    place: int

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return SimpleNamespace(remote=partial(self.desk.ask.remote, self.place, method))


def _kept(kind: type, *given: Any) -> Kept:
    """Make an object on the desk of this driver, which is there from the first one on."""
    import ray

    desk = beside_driver(Desk).options(name="rspipe desk", get_if_exists=True).remote()
    # The first handle keeps it alive; those by its name do not, and would lose it when that one's stage is forgotten.
    _desks.setdefault(desk._actor_id, desk)
    return Kept(desk, ray.get(desk.put.remote(kind, *given)))


_desks: dict[Any, Any] = {}
"""The first handle of each desk of this process."""


def make_board(work: int) -> Any:
    """Return a new board, to be asked as an actor is."""
    return _kept(Board, work)


def make_deadlines() -> Any:
    """Return new deadlines, to be asked as an actor is."""
    return _kept(Deadlines)


def replace_hung(deadlines: Any) -> None:
    """Warn of what hangs by a board or by deadlines, and end the workers that are to be replaced."""
    import ray

    for worker, message in ray.get(deadlines.hung.remote()):
        _log.warning("warning: %s", message)
        if worker is not None:
            ray.kill(unsealed(worker))


class Roster:
    """The actors of a pool. Lives on a desk.

    Ray Data frees its actors by dropping references. An error that is being handled refers to them, too, and they
    would hold their CPUs for as long as it is kept: so they are ended by name.
    """

    def __init__(self) -> None:
        self._open = True
        self._members: list[bytes] = []

    def join(self, member: bytes) -> bool:
        """Note an actor that has started, by its sealed handle; False when the pool is closed."""
        self._members.append(member)
        return self._open

    def size(self) -> int:
        """Return how many have joined."""
        return len(self._members)

    def close(self) -> list[bytes]:
        """Admit no actor any more, and return the sealed handles of those that have joined."""
        self._open = False
        return self._members


@contextmanager
def pool() -> Iterator[Any]:
    """Yield a roster for the actors of one pass; whoever joins it has ended when this ends."""
    import ray

    roster = _kept(Roster)
    try:
        yield roster
    finally:
        if not head_lost.is_set():
            for member in ray.get(roster.close.remote()):
                ray.kill(unsealed(member))


def watch(
    function: Callable[[], T],
    board: Any,
    *,
    stop: Callable[[], object],
    stage: str,
    work: int,
    unit: str,
    on_progress: OnProgress,
    look: Callable[[], None] = lambda: None,
) -> T:
    """Return the function's result, reporting the progress on the board while it runs.

    Args:
        function: Runs in a thread of its own.
        board: The board that workers write to.
        stop: Makes the function end, and give back what it holds of the cluster. Called when a worker has failed or
            the user interrupts: otherwise the function would go on behind the next stage.
        stage: Name for the progress.
        work: Pieces of work on the board.
        unit: What a piece is, in the plural.
        on_progress: Gets the progress.
        look: Called again and again; ends the stage by an error.

    Raises:
        RspipeError: The `root_cause` of a failure in the cluster.
    """
    import ray
    from ray.train import TrainingFailedError
    from ray.tune import TuneError

    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = function()
        except BaseException as error:  # noqa: BLE001 raised again below, in the main thread
            outcome["error"] = error

    # A daemon, so that an interrupt from the keyboard does not wait for the cluster.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        running = True
        while running:
            thread.join(_POLL_SECONDS)
            # Once more after the end, so that nothing of the last moment is missed.
            running = thread.is_alive()
            done, resumed, detail, failure = ray.get(board.read.remote())
            if failure is not None:
                raise failure
            on_progress(Progress(stage, done, work, unit, detail, resumed))
            replace_hung(board)
            look()
        if "error" in outcome:
            raise outcome["error"]
    except BaseException as error:
        if thread.is_alive() and not head_lost.is_set():
            stop()
            # Who has just pressed Ctrl-C does not wait.
            thread.join(_END_SECONDS if isinstance(error, Exception) else 0)
        if isinstance(error, ray.exceptions.RayError | TrainingFailedError | TuneError):
            raise root_cause(error) from error
        raise
    result: T = outcome["result"]
    return result

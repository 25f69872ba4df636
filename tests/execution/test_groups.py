"""Groups of training workers on a cluster whose nodes come and go, with stand-ins for Ray and Ray Train."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from rspipe.errors import ClusterError, DataError
from rspipe.execution import groups
from rspipe.execution.board import Board
from rspipe.execution.resources import Cluster, Node, Resources


class Method:
    """A method of an actor that is no actor."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class Actor:
    """A board as Ray would show it."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._board, name))


@dataclass
class World:
    """A cluster whose size is set by the test, and what groups were started on it."""

    cpus: float
    board: Board
    resources: Resources
    stopped: threading.Event = field(default_factory=threading.Event)
    started: list[tuple[int, int]] = field(default_factory=list)
    """(group, workers)."""
    held: int = 0
    """CPUs that others hold."""

    def now(self) -> Cluster:
        return replace(Cluster("here", (Node(self.cpus, 0),), self.resources))

    def free(self, *_: int, **__: object) -> int:
        return int(self.cpus) - self.held


Run = Callable[[World, int], None]


def run(world: World, monkeypatch: pytest.MonkeyPatch, run_group: Run) -> None:
    """Run groups, each by a function of the world and its number instead of by Ray Train."""

    def trainer(_: Any, config: dict[str, Any], workers: int, **__: Any) -> Callable[[], None]:
        world.started.append((config["group"], workers))
        return lambda: run_group(world, config["group"])

    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(groups, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr("rspipe.execution.resources.requests_that_wait", lambda: 0)
    monkeypatch.setattr(groups, "_trainer", trainer)
    groups.run_groups(
        lambda _: None,
        {},
        board=Actor(world.board),
        cluster=world,  # type: ignore[arg-type]
        scratch=Path("/nowhere"),
        stopped=world.stopped,
    )


def finish_all(world: World, group: int) -> None:
    while (piece := world.board.take(group)) is not None:
        world.board.update(piece, 1.0)


def world(pieces: int, *, cpus: float, **amounts: Any) -> World:
    return World(cpus, Board(pieces), Resources(**amounts))


def test_one_group_as_large_as_the_cluster_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(5, cpus=3)
    run(here, monkeypatch, finish_all)
    assert here.started == [(0, 3)]


def test_a_group_leaves_others_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(5, cpus=5, workers_per_model=2)
    here.held = 2
    run(here, monkeypatch, finish_all)
    assert here.started == [(0, 2)]


def test_a_group_that_loses_workers_is_followed_by_one_that_fits_and_does_the_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = world(5, cpus=3)

    def lose_first(world: World, group: int) -> None:
        if group == 0:
            world.board.update(world.board.take(0) or 0, 1.0)
            world.board.take(0)
            world.cpus = 2
            raise ray.exceptions.ActorDiedError
        finish_all(world, group)

    run(here, monkeypatch, lose_first)
    assert here.started == [(0, 3), (1, 2)]
    assert here.board.left() == (0, 0)
    assert "workers were lost" in caplog.text


def test_nodes_that_join_while_models_wait_get_a_group_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(6, cpus=2)

    def grow(world: World, group: int) -> None:
        if group == 0:
            held = [world.board.take(0), world.board.take(0)]
            world.cpus = 5
            while world.board.left()[1] > len(held):
                time.sleep(0.001)
            for piece in held:
                world.board.update(piece or 0, 1.0)
        finish_all(world, group)

    run(here, monkeypatch, grow)
    assert here.started == [(0, 2), (1, 3)]


def test_no_group_is_started_beside_workers_that_are_about_to_take_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    here, looks = world(3, cpus=9), []

    def slow_start(world: World, group: int) -> None:
        while len(looks) < 5:
            time.sleep(0.001)
        finish_all(world, group)

    left = here.board.left

    def look() -> tuple[int, int]:
        looks.append(0)
        return left()

    monkeypatch.setattr(here.board, "left", look)
    run(here, monkeypatch, slow_start)
    assert here.started == [(0, 3)]


def test_workers_that_share_models_come_in_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(9, cpus=7, workers_per_model=2)
    run(here, monkeypatch, finish_all)
    assert here.started == [(0, 6)]


def test_groups_that_get_no_further_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(2, cpus=1)

    def die(world: World, group: int) -> None:
        world.board.take(group)
        raise ray.exceptions.ActorDiedError

    with pytest.raises(ClusterError, match="workers were lost"):
        run(here, monkeypatch, die)
    assert len(here.started) == groups._FRUITLESS_GROUPS


def test_groups_that_get_further_each_time_are_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(1, cpus=1)

    def a_bit(world: World, group: int) -> None:
        piece = world.board.take(group)
        assert piece == 0
        world.board.update(0, (group + 1) / 20)
        if group < 19:
            raise ray.exceptions.ActorDiedError

    run(here, monkeypatch, a_bit)
    assert len(here.started) == 20


def test_what_nobody_but_the_user_can_mend_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(2, cpus=1)

    def fail(world: World, group: int) -> None:
        raise RuntimeError from DataError("no such folder")

    with pytest.raises(DataError, match="no such folder"):
        run(here, monkeypatch, fail)
    assert here.started == [(0, 1)]


def test_a_cluster_without_room_for_one_worker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="the cluster has 0 CPUs"):
        run(world(2, cpus=0), monkeypatch, finish_all)


def test_groups_that_are_stopped_are_waited_for_and_ray_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here, ended = world(4, cpus=2), []

    def stop(world: World, group: int) -> None:
        world.board.take(group)
        world.stopped.set()
        # From now on there is no Ray.
        monkeypatch.setattr(ray, "get", None)
        time.sleep(0.1)
        ended.append(group)
        raise ray.exceptions.ActorDiedError

    run(here, monkeypatch, stop)
    assert ended == [0]
    assert here.started == [(0, 2)]

"""Work that hangs is told from work that is slow, by a clock of the test's own."""

from dataclasses import replace

import pytest

from rspipe.execution.hanging import Deadlines, Held

MODEL = Held(name="a", node="n1", worker=b"one", kind="cnn", costs=(1.0, 4.0, 4.0, 1.0))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def finished(clock: Clock, *, seconds: float) -> Deadlines:
    """Return the deadlines after a model whose passes took so long."""
    deadlines = Deadlines(clock)
    deadlines.begin(0, MODEL)
    for step, cost in enumerate(MODEL.costs, start=1):
        clock.now += cost * seconds
        deadlines.move(0, step / len(MODEL.costs))
    return deadlines


def waits(deadlines: Deadlines, clock: Clock, seconds: float) -> list[str]:
    clock.now += seconds
    return [message for _, message in deadlines.hung()]


def test_a_step_that_takes_ten_times_as_long_as_its_cost_hangs_and_is_told_once(clock: Clock) -> None:
    deadlines = finished(clock, seconds=30)
    deadlines.begin(1, replace(MODEL, name="b", worker=b"two"))
    clock.now += 30
    deadlines.move(1, 1 / 4)
    # Four passes are to take two minutes.
    assert waits(deadlines, clock, 1199) == []
    clock.now += 2
    ((worker, message),) = deadlines.hung()
    assert worker == b"two"
    assert message == (
        "b on node n1 has not moved for 20 min, where 120 s were the most to expect; its worker is replaced"
    )
    assert deadlines.hung() == []


def test_short_steps_have_ten_minutes_and_the_first_an_hour(clock: Clock) -> None:
    deadlines = finished(clock, seconds=0.1)
    deadlines.begin(1, MODEL)
    deadlines.begin(2, MODEL)
    deadlines.move(2, 1 / 4)
    assert waits(deadlines, clock, 599) == []
    assert len(waits(deadlines, clock, 2)) == 1
    assert waits(deadlines, clock, 2998) == []
    assert len(waits(deadlines, clock, 2)) == 1


def test_nothing_hangs_before_a_step_like_it_has_ended(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    deadlines.begin(0, MODEL)
    assert waits(deadlines, clock, 1e6) == []
    deadlines.move(0, 3 / 4)
    # The end, with its evaluation, is no epoch.
    assert waits(deadlines, clock, 1e9) == []


def test_what_is_finished_or_given_back_does_not_hang(clock: Clock) -> None:
    deadlines = finished(clock, seconds=1)
    deadlines.begin(1, MODEL)
    deadlines.end(1)
    assert waits(deadlines, clock, 1e6) == []

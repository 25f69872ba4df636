"""Work that hangs is told from work that is slow, by a clock of the test's own."""

from dataclasses import replace

import pytest

from rspipe.execution.hanging import Deadlines, Held

MODEL = Held(name="a", node="n1", worker=b"one", kind="cnn", reads_data=True, costs=(1.0, 4.0, 4.0, 1.0))


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
    assert deadlines.hung() == []
    return deadlines


def waits(deadlines: Deadlines, clock: Clock, seconds: float) -> list[str]:
    """Return what is said while somebody asks again and again for so long."""
    return [message for _, message in asked(deadlines, clock, seconds)]


def asked(deadlines: Deadlines, clock: Clock, seconds: float) -> list[tuple[bytes | None, str]]:
    end, messages = clock.now + seconds, list[tuple[bytes | None, str]]()
    while clock.now < end:
        clock.now = min(end, clock.now + 20)
        messages += deadlines.hung()
    return messages


def test_a_step_that_takes_ten_times_as_long_as_its_cost_hangs_and_is_told_once(clock: Clock) -> None:
    deadlines = finished(clock, seconds=30)
    deadlines.begin(1, replace(MODEL, name="b", worker=b"two"))
    assert waits(deadlines, clock, 30) == []
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


def test_short_steps_have_five_minutes_and_one_that_reads_data_an_hour(clock: Clock) -> None:
    deadlines = finished(clock, seconds=0.1)
    deadlines.begin(1, MODEL)
    deadlines.begin(2, replace(MODEL, name="in memory", reads_data=False))
    deadlines.begin(3, replace(MODEL, name="moved"))
    deadlines.move(3, 1 / 4)
    assert waits(deadlines, clock, 299) == []
    assert [line.partition(" on ")[0] for line in waits(deadlines, clock, 2)] == ["in memory", "moved"]
    assert waits(deadlines, clock, 3298) == []
    assert [line.partition(" on ")[0] for line in waits(deadlines, clock, 2)] == ["a"]


def test_time_in_which_everything_stood_still_is_nobodys(clock: Clock) -> None:
    """Of a study that was stopped and continued, all steps are late at once."""
    deadlines = finished(clock, seconds=0.1)
    deadlines.begin(1, replace(MODEL, reads_data=False))
    assert waits(deadlines, clock, 100) == []
    clock.now += 7200
    assert deadlines.hung() == []
    assert waits(deadlines, clock, 199) == []
    assert len(waits(deadlines, clock, 2)) == 1


def test_before_a_step_like_it_has_ended_it_is_told_once_and_nobody_is_replaced(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    deadlines.begin(0, MODEL)
    assert waits(deadlines, clock, 3599) == []
    clock.now += 2
    ((worker, message),) = deadlines.hung()
    assert worker is None
    assert message == (
        "a on node n1 has not moved for 60 min, and nothing like it has ended yet: it hangs, or takes as long"
    )
    assert waits(deadlines, clock, 1e5) == []
    deadlines.move(0, 3 / 4)
    # The end, with its evaluation, is no epoch.
    assert waits(deadlines, clock, 1e5) == []


IMAGE = Held(name="image 7", node="n1", worker=b"one", kind="pass", reads_data=False, costs=(100_000.0,))


def test_an_image_hangs_by_what_samples_took_however_few_others_needed(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    deadlines.begin(0, IMAGE, 0)
    assert waits(deadlines, clock, 30) == []
    # It was settled after a tenth of the samples: all of them are to take five minutes.
    deadlines.finish(0, 10_000.0)
    deadlines.begin(1, replace(IMAGE, worker=b"two"), 0)
    assert waits(deadlines, clock, 2999) == []
    clock.now += 2
    ((worker, message),) = deadlines.hung()
    assert worker == b"two"
    assert message.startswith("image 7 on node n1 has not moved for 50 min, where 300 s were the most to expect")
    deadlines.begin(2, IMAGE, 0)
    deadlines.end_all()
    assert waits(deadlines, clock, 1e5) == []


def test_a_model_that_is_loaded_hangs_by_what_others_took(clock: Clock) -> None:
    loaded = replace(MODEL, reads_data=False, costs=(1.0,))
    deadlines = Deadlines(clock)
    deadlines.begin(0, loaded)
    assert waits(deadlines, clock, 300) == []
    deadlines.move(0, 1.0)
    deadlines.begin(1, replace(loaded, worker=b"two"))
    assert waits(deadlines, clock, 2999) == []
    clock.now += 2
    ((worker, message),) = deadlines.hung()
    assert worker == b"two"
    assert "300 s were the most to expect; its worker is replaced" in message


def test_what_is_finished_or_given_back_does_not_hang(clock: Clock) -> None:
    deadlines = finished(clock, seconds=1)
    deadlines.begin(1, MODEL)
    deadlines.end(1)
    assert waits(deadlines, clock, 1e5) == []


def test_an_image_before_which_networks_were_loaded_is_no_measure_once_another_has_ended(clock: Clock) -> None:
    deadlines = Deadlines(clock)
    deadlines.begin(0, replace(IMAGE, reads_data=True), 0)
    clock.now += 10
    deadlines.finish(0, 100.0)
    deadlines.begin(1, IMAGE, 0)
    assert waits(deadlines, clock, 99_999) == []
    deadlines.begin(1, IMAGE, 0)
    clock.now += 1
    deadlines.finish(1, 1000.0)
    deadlines.begin(2, IMAGE, 0)
    assert waits(deadlines, clock, 999) == []
    assert len(waits(deadlines, clock, 2)) == 1

"""Publishing beside a study: in order, waited for in the end alone, cut short where the study is."""

import threading
from typing import Any

import pytest

from rspipe.tracking.publisher import Publisher


class Slow:
    """A tracker that waits, for a minute at most, before it does anything."""

    def __init__(self) -> None:
        self.go, self.stopped = threading.Event(), threading.Event()
        self.done: list[Any] = []

    def open(self) -> None:
        assert self.go.wait(60)
        self.done.append("opened")

    def publish(self, *what: Any) -> None:
        self.done.append("cut short" if self.stopped.is_set() else what)

    def stop(self) -> None:
        self.stopped.set()
        self.go.set()

    def finish(self, status: str) -> None:
        self.done.append(status)


@pytest.fixture
def slow() -> Slow:
    return Slow()


def published_beside(slow: Slow) -> Publisher:
    """Return a publisher that was asked to open and to publish, and has done nothing yet."""
    publisher: Any = Publisher(slow)  # type: ignore[arg-type]
    publisher.open()
    publisher.publish("results", ("summary",))
    assert slow.done == []
    return publisher  # type: ignore[no-any-return]


def test_a_study_goes_on_while_it_is_published_and_waits_in_the_end(slow: Slow) -> None:
    publisher = published_beside(slow)
    slow.go.set()
    publisher.wait()
    everything = ["opened", ("results", ("summary",), None, None)]
    assert slow.done == everything
    publisher.finish("FINISHED")
    assert slow.done == [*everything, "FINISHED"]
    assert not slow.stopped.is_set()


def test_a_study_that_ends_before_all_is_published_waits_for_it(slow: Slow) -> None:
    publisher = published_beside(slow)
    threading.Timer(0.2, slow.go.set).start()
    publisher.finish("FINISHED")
    assert slow.done == ["opened", ("results", ("summary",), None, None), "FINISHED"]


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_a_study_that_is_cut_short_cuts_short_what_is_published(slow: Slow, status: str) -> None:
    published_beside(slow).finish(status)
    assert slow.done == ["opened", "cut short", status]

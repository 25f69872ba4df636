"""What a command is at, in the terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from rspipe.commands import terminal as module
from rspipe.commands.terminal import Terminal
from rspipe.execution.board import Progress
from tests.processes import PATIENCE


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def lines(clock: Clock, capsys: pytest.CaptureFixture[str], *steps: tuple[float, Progress | str]) -> list[str]:
    """Return what is printed where there is no terminal."""
    terminal = Terminal()
    for now, step in steps:
        clock.now = now
        if isinstance(step, str):
            terminal.doing(step)
        else:
            terminal.show(step)
        terminal.print_if_due()
    terminal.stop()
    return capsys.readouterr().out.splitlines()


def certify(done: float) -> Progress:
    return Progress("certify", done, 100, "images")


def test_without_a_terminal_a_long_stage_prints_its_eta_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [(0.0, certify(0)), (5.0, certify(10)), (20.0, certify(25)), (21.0, certify(30)), (31.0, certify(50))]
    assert lines(clock, capsys, *steps) == [
        "certify: 0/100 images, 0:00, starting",
        "certify: 25/100 images, 0:20, ETA 1:00",
        "certify: 50/100 images, 0:31, ETA 0:31",
    ]


def test_a_stage_of_hours_prints_a_line_a_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(clock, capsys, *((float(second), certify(second / 100)) for second in range(0, 3600, 5)))
    begun = [line for line in shown if int(line.split(", ")[1].split(":")[0]) < 5]
    assert len(begun) == 30
    assert len(shown) - len(begun) == 55


def test_the_first_moments_of_a_stage_give_no_eta(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (11.0, certify(0.5)), (61.0, certify(0)), (70.0, certify(1))]
    assert lines(clock, capsys, *steps)[1:] == [
        "certify: 0/100 images, 0:11, starting",
        "certify: 0/100 images, 1:01, no estimate yet",
        "certify: 1/100 images, 1:10, ETA 1:55:30",
    ]


def test_what_was_done_before_a_resume_is_counted_and_takes_no_part_in_the_eta(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(clock, capsys, (0.0, certify(60)), (10.0, certify(70))) == [
        "certify: 60/100 images, 0:00, starting",
        "certify: 70/100 images, 0:10, ETA 0:30",
    ]


def test_what_checkpoints_held_takes_no_part_in_the_eta(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    resumed = (Progress("train", done, 2, "models", resumed=0.5) for done in (0.5, 1.0))
    steps = [(0.0, Progress("train", 0, 2, "models")), *zip((9.0, 20.0), resumed, strict=True)]
    assert lines(clock, capsys, *steps) == [
        "train: 0/2 models, 0:00, starting",
        "train: 0/2 models, 0:09, starting",
        "train: 1/2 models, 0:20, ETA 0:40",
    ]


def test_a_piece_that_is_nearly_done_is_not_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (20.0, Progress("train", 1.9, 2, "models")), (40.0, Progress("train", 2, 2, "models"))]
    shown = lines(clock, capsys, *steps)
    assert [line.split(",")[0] for line in shown[1:]] == ["train: 1/2 models", "train: 2/2 models"]


def test_the_end_of_a_stage_is_printed_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (1.0, certify(100)), (1.5, certify(100)), (60.0, certify(100))]
    assert lines(clock, capsys, *steps)[1:] == ["certify: 100/100 images, 0:01"]


def test_a_stage_that_begins_again_has_a_time_of_its_own(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (9.0, certify(100)), (20.0, certify(0)), (25.0, certify(100))]
    assert [line.split(", ")[1] for line in lines(clock, capsys, *steps)] == ["0:00", "0:09", "0:00", "0:05"]


def test_a_stage_that_a_study_does_not_have_is_not_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(clock, capsys, (0.0, Progress("search", 0, 0, "trials"))) == []


def test_what_takes_long_between_stages_is_named_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(100)), (1.0, "joining Ray"), (12.0, certify(100)), (13.0, "writing"), (14.0, "publishing")]
    assert lines(clock, capsys, *steps) == ["certify: 100/100 images, 0:00", "writing, 0:00"]
    terminal = Terminal()
    terminal.doing("joining Ray")
    clock.now += 9
    terminal.print_if_due()
    assert capsys.readouterr().out == "joining Ray, 0:09\n"


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_gets_a_bar_with_an_eta_per_stage_that_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    monkeypatch.setattr(module, "_SafeConsole", lambda **_: console)
    terminal = Terminal()
    terminal.show(Progress("train", 1.8, 4, "models", "gaussian"))
    terminal.show(Progress("certify", 30, 100, "images x sigmas", "a detail " * 20))
    terminal.doing("writing the report")
    terminal.start()
    deadline = time.monotonic() + PATIENCE
    while "writing the report" not in screen.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    terminal.stop()
    shown = screen.getvalue()
    for text in ("train", "1/4 models", "gaussian", "certify", "30/100 images x sigmas", "starting"):
        assert text in shown
    lines_drawn = re.split(r"\n|\x1b\[2K", shown)
    written = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line) for line in lines_drawn]
    assert max(map(len, written)) <= width
    assert "writing" not in shown.rpartition("certify")[2], "what is over is taken away in the end"

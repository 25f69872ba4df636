"""Progress and tables in the terminal."""

import io

import pytest
from rich.console import Console

from rspipe.commands import terminal as module
from rspipe.commands.terminal import Terminal, fitting_columns
from rspipe.execution.board import Progress
from rspipe.report.sections.results import result_table
from tests.results_builder import results


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


def lines(clock: Clock, capsys: pytest.CaptureFixture[str], *steps: tuple[float, Progress]) -> list[str]:
    """Return what is printed where there is no terminal."""
    terminal = Terminal()
    for now, progress in steps:
        clock.now = now
        terminal.show(progress)
    terminal.stop()
    return capsys.readouterr().out.splitlines()


def certify(done: float) -> Progress:
    return Progress("certify", done, 100, "images")


def test_without_a_terminal_a_long_stage_prints_its_eta_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [(0.0, certify(0)), (5.0, certify(10)), (20.0, certify(25)), (21.0, certify(30)), (31.0, certify(50))]
    assert lines(clock, capsys, *steps) == [
        "certify: 0/100 images, 0 s, starting",
        "certify: 25/100 images, 20 s, ETA 60 s",
        "certify: 50/100 images, 31 s, ETA 31 s",
    ]


def test_the_first_moments_of_a_stage_give_no_eta(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (11.0, certify(0.5)), (70.0, certify(1))]
    assert lines(clock, capsys, *steps)[1:] == [
        "certify: 0/100 images, 11 s, starting",
        "certify: 1/100 images, 70 s, ETA 6930 s",
    ]


def test_a_piece_that_is_nearly_done_is_not_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (20.0, Progress("train", 1.9, 2, "models")), (40.0, Progress("train", 2, 2, "models"))]
    shown = lines(clock, capsys, *steps)
    assert [line.split(",")[0] for line in shown[1:]] == ["train: 1/2 models", "train: 2/2 models"]


def test_the_end_of_a_stage_is_printed_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [(0.0, certify(0)), (1.0, certify(100)), (1.5, certify(100)), (60.0, certify(100))]
    assert lines(clock, capsys, *steps)[1:] == ["certify: 100/100 images, 1 s"]


def test_a_stage_without_work_is_finished_at_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(clock, capsys, (0.0, Progress("train", 0, 0, "models"))) == ["train: 0/0 models, 0 s"]


def test_a_terminal_gets_a_bar_with_an_eta_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr(module, "Console", lambda **_: console)
    terminal = Terminal()
    terminal.show(Progress("train", 1.8, 4, "models", "gaussian"))
    terminal.show(Progress("certify", 30, 100, "images"))
    terminal.stop()
    shown = screen.getvalue()
    for text in ("train", "1/4 models", "gaussian", "certify", "30/100 images", "ETA"):
        assert text in shown


@pytest.mark.parametrize(
    ("width", "last"),
    [(200, "passes"), (140, "training"), (110, "training"), (100, "CA(1)"), (70, "CA(0)"), (20, "ACR ± 95 %")],
)
def test_a_narrow_terminal_gets_fewer_columns_not_broken_ones(width: int, last: str) -> None:
    table = result_table(results().summaries)
    shown = fitting_columns(table, width)
    assert shown[:3] == ["σ", "classifier", "ACR ± 95 %"]
    assert shown[-1] == last
    assert shown == [column for column in table.columns if column in shown]


def test_details_go_before_radii_and_what_few_need_goes_first() -> None:
    table = result_table(results().summaries)
    gone: list[str] = []
    for width in range(220, 20, -1):
        shown = fitting_columns(table, width)
        gone += [column for column in table.columns if column not in shown and column not in gone]
        assert not {*gone} & {*shown}
    details = ["two-sided ACR", "passes", "saturated", "samples", "abstained", "training"]
    assert gone == [*details, "CA(1)", "CA(0.5)", "CA(0.25)", "CA(0)"]

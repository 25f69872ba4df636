"""Tables in the terminal, and the end of a study."""

import io

import pytest
from rich.console import Console

from rspipe.commands.tables import SCREEN_ROWS, fitting_columns, print_headline
from rspipe.report.headline import headline
from rspipe.report.sections.results import result_table
from tests.results_builder import results


@pytest.mark.parametrize(
    ("width", "last"),
    [(200, "passes"), (125, "training"), (93, "training"), (85, "CA(1)"), (60, "CA(0)"), (20, "ACR ± 95 %")],
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


@pytest.mark.parametrize("width", [80, 100])
def test_the_end_of_a_study_fits_a_screen_and_every_word_of_it_a_narrow_one(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    message = headline(results(), most=SCREEN_ROWS)
    print_headline(console, message)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    # With the title, four lines of paths, and the prompt.
    assert len(lines) <= 30 - 6 or width < 100
    flat = " ".join(" ".join(lines).split())
    assert all(sentence in flat for sentence in message.sentences)
    assert all(row.entry.name.split()[0] in flat for row in message.rows)


def test_in_a_file_the_best_is_marked_by_a_star_and_not_by_control_codes() -> None:
    console = Console(file=io.StringIO(), width=180)
    message = headline(results())
    print_headline(console, message)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    best = [row.entry.name for row in message.rows if row.best_acr]
    assert best
    assert all(f"*{name}" in text for name in best)
    assert "*: the largest" in text
    assert not [character for character in text if ord(character) < 32 and character != "\n"]

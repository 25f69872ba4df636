"""Tables in the terminal, and the end of a study: what it found, on one screen."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rspipe.report.headline import Headline, headline_table
from rspipe.report.names import legend
from rspipe.report.tables import Cell
from rspipe.report.tables import Table as Content

SCREEN_ROWS = 8
"""Of the table of a headline that leave room for the rest of it on a screen of 30 lines."""

_NAME_WIDTH = 32

_NAMES = ("classifier", "against", "mean of")


def print_table(console: Console, content: Content, *, title: str = "") -> bool:
    """Print a table with the columns that the terminal has room for; return whether these are all."""
    shown = fitting_columns(content, console.width)
    table = Table(title=escape(title) or None, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in shown:
        name = column in _NAMES
        table.add_column(column, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for row in content.rows:
        cells = dict(zip(content.columns, row, strict=True))
        table.add_row(*(_text(cells[column], bold=console.is_terminal) for column in shown))
    console.print(table)
    return len(shown) == len(content.columns)


def _text(cell: Cell, *, bold: bool) -> str:
    if cell.tone != "strong":
        return escape(cell.text)
    return f"[bold]{escape(cell.text)}[/]" if bold else escape(f"*{cell.text}")


def fitting_columns(content: Content, width: int) -> list[str]:
    """Return the columns of a result table that a terminal has room for; details go first, large radii next."""
    details = ["two-sided ACR", "passes", "saturated", "samples", "abstained", "training", "mean of"]
    radii = [column for column in content.columns if column.startswith("CA(")]
    widths = {
        column: max(len(column), *(len(row[index].text) for row in content.rows))
        for index, column in enumerate(content.columns)
    }
    # Names may break into lines.
    widths["classifier"] = min(widths.get("classifier", 0), _NAME_WIDTH)
    shown = list(content.columns)
    for column in (one for one in (*details, *reversed(radii)) if one in shown):
        if sum(widths[one] + 2 for one in shown) - 2 <= width:
            break
        shown.remove(column)
    return shown


def print_headline(console: Console, message: Headline) -> None:
    """Print what a study found: its sentences, its table, and what a reader of the table must know."""
    for sentence in message.sentences:
        console.print(escape(sentence), highlight=False)
    if not message.rows:
        return
    console.print()
    print_table(console, headline_table(message))
    # The rest takes lines that a screen does not have, and is in the report.
    meanings = {*legend([row.entry.name for row in message.rows])}
    notes = [note for note in message.notes if note not in meanings and not note.startswith(("CA(r)", "Mean of"))]
    text = "; ".join(notes).replace("Bold:", "Bold:" if console.is_terminal else "*:", 1)
    console.print(f"[dim]{escape(text)}[/]", highlight=False)

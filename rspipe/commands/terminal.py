"""Progress and tables in the terminal."""

import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from rspipe.execution.board import Progress
from rspipe.report.tables import Table as Content

_LINE_SECONDS = 10.0

_EARLY_SECONDS = 60.0

_PLAIN_WIDTH = 180

_NAME_WIDTH = 32


class Terminal:
    """Progress bars where there is a terminal, a line now and then where there is none."""

    def __init__(self) -> None:
        self.console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH, highlight=False)
        columns = (
            TextColumn("{task.description:<8}"),
            BarColumn(),
            TextColumn("{task.fields[whole]}/{task.total:.0f} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        # Ray's stage of the run swaps sys.stderr; two who do so would undo each other.
        bars = Bars(*columns, console=self.console, redirect_stderr=False)
        self._bars = bars if self.console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._printed = 0.0
        self._finished: set[str] = set()

    def stop(self) -> None:
        """Leave the terminal as it is."""
        if self._bars is not None:
            self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show how far a stage is."""
        now, new = time.monotonic(), progress.stage not in self._began
        began = self._began.setdefault(progress.stage, now)
        if self._bars is not None:
            self._bars.start()
            if new:
                self._tasks[progress.stage] = self._bars.add_task(progress.stage, whole=0, unit="", detail="")
            self._bars.update(
                self._tasks[progress.stage],
                # An empty stage is a finished one.
                completed=progress.done if progress.total else 1,
                total=progress.total or 1,
                whole=progress.whole if progress.total else 1,
                unit=progress.unit,
                detail=progress.detail,
            )
            return
        finished = progress.done >= progress.total
        if progress.stage not in self._finished and (new or finished or now - self._printed > _LINE_SECONDS):
            self._printed = now
            if finished:
                self._finished.add(progress.stage)
            # Workers take seconds to start; an estimate from the first moments would be a wild one.
            early = progress.done == 0 or (progress.done < 0.02 * progress.total and now - began < _EARLY_SECONDS)
            left = None if early else (now - began) * (progress.total - progress.done) / progress.done
            eta = "" if finished else f", ETA {left:.0f} s" if left is not None else ", starting"
            self.console.print(
                f"{progress.stage}: {progress.whole}/{progress.total:.0f} {progress.unit}, "
                f"{now - began:.0f} s{eta} {progress.detail}".rstrip()
            )


def print_table(console: Console, content: Content, *, title: str) -> bool:
    """Print a result table with the columns that the terminal has room for; return whether these are all."""
    shown = fitting_columns(content, console.width)
    table = Table(title=escape(title), title_justify="left")
    for column in shown:
        name = column in ("classifier", "against")
        table.add_column(column, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for row in content.rows:
        cells = dict(zip(content.columns, row, strict=True))
        table.add_row(*(escape(cells[column].text) for column in shown))
    console.print(table)
    return len(shown) == len(content.columns)


def fitting_columns(content: Content, width: int) -> list[str]:
    """Return the columns of a result table that a terminal has room for; details go first, large radii next."""
    details = ["two-sided ACR", "passes", "saturated", "samples", "abstained", "training"]
    radii = [column for column in content.columns if column.startswith("CA(")]
    widths = {
        column: max(len(column), *(len(row[index].text) for row in content.rows))
        for index, column in enumerate(content.columns)
    }
    # Names may break into lines.
    widths["classifier"] = min(widths.get("classifier", 0), _NAME_WIDTH)
    shown = list(content.columns)
    for column in (one for one in (*details, *reversed(radii)) if one in shown):
        if 1 + sum(widths[one] + 3 for one in shown) <= width:
            break
        shown.remove(column)
    return shown

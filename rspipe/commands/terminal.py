"""What a command is at, shown from its first moment: bars, or a line now and then where there is no terminal.

The seconds until then are those of the imports here: they are few.
"""

import logging
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rspipe.errors import printable
from rspipe.execution.board import Progress

_LINE_SECONDS = 8.0

_EARLY_SECONDS = 60.0

# Of a stage that runs for hours nobody wants to read thousands of lines.
_LONG_SECONDS, _LONG_LINE_SECONDS = 300.0, 60.0

_PLAIN_WIDTH = 180

_BAR_WIDTH = 20


def _clock(seconds: float) -> str:
    """Return a duration as 0:41 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class _Stage:
    """A stage that is shown."""

    progress: Progress
    began: float
    before: float
    """Pieces that were done when it began."""
    ended: float | None = None

    def text(self, now: float) -> str:
        """Return how far it is, how long that took, and how long the rest will take."""
        progress, seconds = self.progress, (self.ended or now) - self.began
        text = f"{progress.whole}/{progress.total:.0f} {progress.unit}, {_clock(seconds)}"
        if self.ended is not None:
            return text
        # Workers take seconds to start; an estimate from the first moments would be a wild one.
        done, left = progress.done - progress.resumed - self.before, progress.total - progress.done
        if done <= 0 or (done < 0.02 * (done + left) and seconds < _EARLY_SECONDS):
            # The first epoch of a large network takes minutes.
            return f"{text}, {'starting' if seconds < _EARLY_SECONDS else 'no estimate yet'}"
        return f"{text}, ETA {_clock(seconds * left / done)}"


class _SafeConsole(Console):
    """A console that what it prints cannot command: names and texts may come from a stranger's files."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text as it is shown."""
        return super().render_str(printable(text), **settings)


class SafeFormatter(logging.Formatter):
    """Formats messages that cannot command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a message."""
        return printable(super().format(record))


class Terminal:
    """Shows what is going on, so that nobody waits in front of nothing; warnings and results are printed above it."""

    def __init__(self) -> None:
        self.console = _SafeConsole() if sys.stdout.isatty() else _SafeConsole(width=_PLAIN_WIDTH, highlight=False)
        self._stages: dict[str, _Stage] = {}
        self._doing, self._since, self._printed = "", 0.0, 0.0
        self._spinner = Spinner("line")
        self._live: Live | None = None
        self._stopped: threading.Event | None = None

    def start(self) -> None:
        """Show from now on, also while the main thread is busy, what was said last and how long that has taken."""
        if self.console.is_terminal and self._live is None:
            # Ray's stage of the run swaps sys.stderr; two who do so would undo each other.
            self._live = Live(
                console=self.console, get_renderable=self._screen, refresh_per_second=8, redirect_stderr=False
            )
            self._live.start()
        elif not self.console.is_terminal and self._stopped is None:
            self._stopped = threading.Event()
            threading.Thread(target=self._beat, args=(self._stopped,), daemon=True).start()

    def stop(self) -> None:
        """Leave the bars as they are, and nothing of what was being done."""
        self._doing = ""
        if self._live is not None:
            self._live.transient = not self._stages
            self._live.stop()
            self._live = None
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None

    def say(self, message: str) -> None:
        """Print a line, as it is."""
        self._printed = time.monotonic()
        self.console.print(escape(message), soft_wrap=True, highlight=False)

    def doing(self, what: str) -> None:
        """Show what is being done, until something else is, or a stage goes on."""
        self._doing, self._since = what, time.monotonic()

    def show(self, progress: Progress) -> None:
        """Show how far a stage is; one that has nothing to do in this study is left out."""
        if not progress.total:
            return
        now, stage, whole = time.monotonic(), self._stages.get(progress.stage), progress.done >= progress.total
        # One that has ended may begin again, with other work.
        new = stage is None or (stage.ended is not None and not whole)
        if stage is None or new:
            stage = self._stages[progress.stage] = _Stage(progress, now, progress.done)
        stage.progress, self._doing = progress, ""
        ends = stage.ended is None and whole
        if ends:
            stage.ended = now
        if self.console.is_terminal:
            self.start()
        elif new or ends:
            self._print_line(progress.stage, stage)
        else:
            self.print_if_due()

    def print_if_due(self) -> None:
        """Print a line about what goes on, where nothing was printed for a while."""
        now = time.monotonic()
        open_stages = [(name, stage) for name, stage in self._stages.items() if stage.ended is None]
        began = self._since if self._doing or not open_stages else open_stages[-1][1].began
        pause = _LINE_SECONDS if now - began < _LONG_SECONDS else _LONG_LINE_SECONDS
        if now - self._printed < pause:
            return
        if self._doing:
            self.say(f"{self._doing}, {_clock(now - self._since)}")
        elif open_stages:
            self._print_line(*open_stages[-1])

    def _print_line(self, name: str, stage: _Stage) -> None:
        text = f"{name}: {stage.text(time.monotonic())}"
        self.say(f"{text}, {stage.progress.detail}" if stage.progress.detail else text)

    def _beat(self, stopped: threading.Event) -> None:
        while not stopped.wait(0.5):
            self.print_if_due()

    def _screen(self) -> RenderableType:
        """Return a bar per stage, and what is being done."""
        now, stages = time.monotonic(), [*self._stages.items()]
        texts = [stage.text(now) for _, stage in stages]
        taken = max((len(name) for name, _ in stages), default=0) + _BAR_WIDTH + max(map(len, texts), default=0) + 4
        bars = Table.grid(padding=(0, 1))
        for (name, stage), text in zip(stages, texts, strict=True):
            bar = ProgressBar(total=stage.progress.total, completed=stage.progress.done, width=_BAR_WIDTH)
            detail = Text(printable(stage.progress.detail), style="dim")
            detail.truncate(max(0, self.console.width - taken), overflow="ellipsis")
            bars.add_row(Text(name), bar, Text(text), detail)
        if not self._doing:
            return bars
        self._spinner.update(text=f"{escape(self._doing)} [dim]{_clock(now - self._since)}")
        return Group(bars, self._spinner) if self._stages else self._spinner

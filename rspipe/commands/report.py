"""Write the reports of a run directory, finished or not, and publish them to MLflow."""

from dataclasses import dataclass

from rspipe.commands.options import ReadRun
from rspipe.commands.session import reopen_session
from rspipe.commands.terminal import Terminal
from rspipe.stages.report import FigureFormat


@dataclass(frozen=True)
class Options:
    """Which run directory to report; it is all that is needed."""

    run: ReadRun
    """The run directory: a folder or an address."""
    figures: tuple[FigureFormat, ...] = ("svg",)
    """Formats of the files in figures/: svg, pdf, or both."""


def main(options: Options, terminal: Terminal) -> None:
    """Write the reports and publish what is complete."""
    with reopen_session(options.run, terminal) as session:
        session.report(figures=options.figures)

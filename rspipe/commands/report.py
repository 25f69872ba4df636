"""Write the reports of a study from its run directory, finished or not, and publish them to MLflow."""

from dataclasses import dataclass, field

import tyro

from rspipe.commands.options import RunOptions, run_to_read
from rspipe.commands.session import open_session
from rspipe.execution.resources import Resources
from rspipe.stages.report import FigureFormat


@dataclass(frozen=True)
class Options:
    """Which run directory to report; no Ray is needed, but every stage takes the same options."""

    run: tyro.conf.OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)
    ray_address: str | None = None
    resources: Resources = field(default_factory=Resources)
    figures: tuple[FigureFormat, ...] = ("svg",)
    """Formats of the files in figures/: svg, pdf, or both."""


def main(options: Options) -> None:
    """Write the reports and publish what is complete."""
    with open_session(
        run_to_read(options.run), ray_address=options.ray_address, resources=options.resources
    ) as session:
        session.report(figures=options.figures)

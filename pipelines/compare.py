"""Compare the classifiers of run directories: paired differences of ACR on the images that they share.

Runs that differ in alpha, n, rule or images are refused, unless certificates on the same terms may be derived from
the stored counts.
"""

from dataclasses import dataclass

import tyro
from rich.console import Console
from session import print_table, run

from rspipe.errors import MismatchError
from rspipe.report.runs import agreed_terms, compare_runs, comparison_table
from rspipe.stages.report import read_run
from rspipe.storage.paths import place


@dataclass(frozen=True)
class Wanted:
    """What to compare."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, folders or addresses; the first is what the others are compared with, name by name."""
    against: str | None = None
    """A label or an ensemble of the first run to compare everything with, e.g. gaussian; one run is enough then."""
    rederive: bool = False
    """Derive certificates from the counts where alpha, n or the rule differ, and use the images that are common."""
    alpha: float | None = None
    """Of derived certificates; the smallest of the runs by default."""
    n: int | None = None
    """Samples of derived certificates; as many as all runs have by default."""


def compare(wanted: Wanted) -> None:
    """Print paired differences between the runs' classifiers."""
    if len(wanted.runs) < (1 if wanted.against else 2):
        raise MismatchError("give two run directories or more, or one and --against")
    runs = [read_run(place(text)) for text in wanted.runs]
    try:
        terms = agreed_terms(runs, rederive=wanted.rederive, alpha=wanted.alpha, n=wanted.n)
    except ValueError as error:
        raise MismatchError(str(error)) from error
    found = compare_runs(runs, terms, against=wanted.against, common_images=wanted.rederive)
    console = Console(width=None if Console().is_terminal else 180)
    how = "the rule's own certificates" if terms.by_rule else "CERTIFY with the first n samples, from the counts"
    print_table(console, comparison_table(found), title=f"ACR, {how}: n = {terms.n:,}, alpha = {terms.alpha:g}")
    console.print(
        f"{len(found)} paired differences, each with its own 95 % interval over images, not adjusted for their number.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run(compare, description=__doc__, options=Wanted)

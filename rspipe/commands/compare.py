"""Compare the classifiers of run directories: paired differences of ACR on the images that they share.

Runs that differ in alpha, n, rule or images are refused, unless certificates on the same terms may be derived from
the stored counts.
"""

from dataclasses import dataclass

import tyro
from rich.console import Console

from rspipe.commands.terminal import print_table
from rspipe.errors import MismatchError
from rspipe.report.runs import agreed_terms, compare_runs, comparison_table, costs_of_terms
from rspipe.stages.report import read_run


@dataclass(frozen=True)
class Options:
    """Which run directories to compare, and on which terms."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, folders or addresses; the first is what the others are compared with, name by name."""
    against: str | None = None
    """A label or an ensemble of the first run to compare everything with, e.g. gaussian; one run is enough then."""
    rederive: bool = False
    """Derive certificates from the counts where alpha, n or the rule differ, with the samples that both sides have of
    an image, and use the images that are common. What that costs is shown."""
    alpha: float | None = None
    """Of derived certificates; the smallest of the runs by default."""
    n: int | None = None
    """Samples of derived certificates, at most; as many as both sides have of an image by default."""
    allow_code: bool = False
    """Let studies name architectures as module:function; as when they were run."""


def main(options: Options) -> None:
    """Print paired differences between the runs' classifiers."""
    if len(options.runs) < (1 if options.against else 2):
        raise MismatchError("give two run directories or more, or one and --against")
    runs = [read_run(text, allow_code=options.allow_code) for text in options.runs]
    try:
        terms = agreed_terms(runs, rederive=options.rederive, alpha=options.alpha, n=options.n)
    except ValueError as error:
        raise MismatchError(str(error)) from error
    differences = compare_runs(runs, terms, against=options.against, common_images=options.rederive)
    console = Console(width=None if Console().is_terminal else 180)
    if terms.by_rule:
        source = f"the rule's own certificates: n = {terms.n:,}"
    else:
        source = f"CERTIFY with the first samples, as many as both have of an image, at most {terms.n:,}"
        costs = costs_of_terms(runs, terms, against=options.against)
        print_table(console, costs, title="Common terms: mean samples of an image, and ACR, by the own rule and here")
    title = f"ACR, {source}, alpha = {terms.alpha:g}"
    print_table(console, comparison_table(differences), title=title)
    note = (
        f"{len(differences)} differences. These models: the networks as they are, on other test images. These "
        "procedures: trained again with other seeds, too; where both sides are the same models, they are paired. With "
        "Holm: it stays when all of these differences are counted."
    )
    console.print(note, soft_wrap=True)

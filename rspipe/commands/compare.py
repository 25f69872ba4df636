"""Compare runs and certification logs, image by image: paired differences of ACR.

What differs in alpha, n, rule or images is refused, unless certificates on the same terms may be derived from the
stored counts, or from those that a log's radii imply.
"""

from dataclasses import dataclass

import tyro
from rich.markup import escape

from rspipe.commands.tables import print_table
from rspipe.commands.terminal import Terminal
from rspipe.errors import MismatchError
from rspipe.report.logged import LoggedCertificates, log_caveat
from rspipe.report.runs import agreed_terms, compare_runs, comparison_table, costs_of_terms
from rspipe.stages.report import read_run_or_log


@dataclass(frozen=True)
class Options:
    """The runs to compare, and the terms."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories, folders or addresses, and certification logs, FILE.parquet#7-11 for the trainings of a recipe;
    the first is what the others are compared with, name by name, logs with everything at their noise level."""
    against: str | None = None
    """A label or an ensemble of the first run to compare everything with, e.g. gaussian; one run is enough then."""
    only: tuple[str, ...] = ()
    """Labels or ensembles of the first run to compare, e.g. consistency smoothadv; all by default."""
    rederive: bool = False
    """Derive certificates from the counts where alpha, n or the rule differ, with the samples that both sides have of
    an image, and use the images that are common. What that costs is shown."""
    alpha: float | None = None
    """Of derived certificates; the smallest of the runs by default."""
    n: int | None = None
    """Samples of derived certificates, at most; as many as both sides have of an image by default."""
    sigma: float | None = None
    """Noise level of logs; what their name, a column or their radii say by default."""


def main(options: Options, terminal: Terminal) -> None:
    """Print paired differences between the runs' classifiers."""
    if len(options.runs) < (1 if options.against else 2):
        raise MismatchError("give two run directories or logs or more, or one and --against")
    console = terminal.console
    try:
        first, *others = [read_run_or_log(text, sigma=options.sigma) for text in options.runs]
        runs = [first.only([*options.only, *filter(None, [options.against])]) if options.only else first, *others]
        if options.rederive:
            # Their certificates have shares of alpha at several levels, of which none has fewer samples than others.
            runs = [run.without_cascades() for run in runs]
        terms = agreed_terms(runs, rederive=options.rederive, alpha=options.alpha, n=options.n)
    except ValueError as error:
        raise MismatchError(str(error)) from error
    differences = compare_runs(runs, terms, against=options.against, common_images=options.rederive)
    for run in runs:
        for one in run.all_certified:
            if isinstance(one, LoggedCertificates) and (caveat := log_caveat(one)):
                console.print(f"[yellow]warning:[/] {escape(run.name)}: {caveat}", soft_wrap=True)
    if terms.by_rule:
        source = f"the rule's own certificates: n = {terms.n:,}" if terms.n else "as logged: n not known"
    else:
        source = f"CERTIFY with the first samples, as many as both have of an image, at most {terms.n:,}"
        costs = costs_of_terms(runs, terms, against=options.against)
        print_table(console, costs, title="Common terms: mean samples of an image, and ACR, by the own rule and here")
    title = f"ACR, {source}, alpha {'not known' if terms.alpha is None else f'= {terms.alpha:g}'}"
    print_table(console, comparison_table(differences), title=title)
    alone = any(one.difference.population is not None for one in differences)
    images = "on other test images but where it says: these alone" if alone else "on other test images"
    note = (
        f"{len(differences)} differences. These models: the networks as they are, {images}. These "
        "procedures: trained again with other seeds, too; where both sides are the same models, they are paired. With "
        "Holm: it stays when all of these differences are counted."
    )
    console.print(note, soft_wrap=True)

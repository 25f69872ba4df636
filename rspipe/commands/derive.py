"""Derive other certificates from the stored counts of a study, without sampling: no GPU, no Ray."""

from dataclasses import dataclass

from rspipe.commands.options import ReadRun, run_to_read
from rspipe.commands.tables import print_table
from rspipe.commands.terminal import Terminal
from rspipe.errors import StudyError
from rspipe.smoothing.derivation import CertificateKind
from rspipe.stages.report import write_derived
from rspipe.storage.locks import exclusive


@dataclass(frozen=True)
class Options:
    """Which certificates to derive, and from which run directory."""

    run: ReadRun
    """The run directory: a folder or an address; it is all that is needed."""
    certificate: CertificateKind = "certify"
    """certify: the rule's own; two_sided: bounds the runner-up, too; soft: of the mean probability instead of votes
    (another classifier); predict: PREDICT's class, without a radius. All but certify need counts that hold all samples
    of every image: rule fixed, for predict without label_stop. Cascades have certify alone."""
    alpha: float | None = None
    """Failure probability of each certificate; the study's by default."""
    n: int | None = None
    """Estimation samples, at most; all by default."""


def main(options: Options, terminal: Terminal) -> None:
    """Print the derived results of every classifier, and write them image by image below the run directory."""
    store, study = run_to_read(options.run)
    try:
        with exclusive(store.run_dir):
            table, folder = write_derived(store, study, kind=options.certificate, alpha=options.alpha, n=options.n)
    except ValueError as error:
        raise StudyError(str(error)) from error
    print_table(terminal.console, table, title=f"{study.name}: {folder.name}")
    terminal.say(f"Image by image: {folder}")

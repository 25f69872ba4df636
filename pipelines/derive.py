"""Derive other certificates from the stored counts of a study, without sampling: no GPU, no Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from session import DIGITS, RunDir, print_table, resolve_run_dir, run

from rspipe.errors import StudyError
from rspipe.smoothing.derivation import CertificateKind
from rspipe.stages.report import write_derived
from rspipe.storage.store import Store
from rspipe.study.loading import load_study


@dataclass(frozen=True)
class Wanted:
    """What to derive, and from which study."""

    study: Path = DIGITS
    """The study file."""
    run_dir: RunDir = None
    """Where its results are; runs/<study id> by default."""
    override: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")]] = ()
    """The overrides of the study file that it was run with."""
    allow_code: bool = False
    """Let the study file name architectures as module:function; as when it was run."""
    certificate: CertificateKind = "certify"
    """certify: the rule's own; two_sided: bounds the runner-up, too; soft: of the mean probability instead of votes
    (another classifier); predict: PREDICT's class, without a radius."""
    alpha: float | None = None
    """Failure probability of each certificate; the study's by default."""
    n: int | None = None
    """Estimation samples, at most; all by default."""


def derive(wanted: Wanted) -> None:
    """Print the derived results of every classifier, and write them image by image below the run directory."""
    study = load_study(wanted.study, overrides=wanted.override, allow_code=wanted.allow_code)
    store = Store(resolve_run_dir(wanted.run_dir, study))
    store.check_owner(study)
    try:
        table, folder = write_derived(store, study, kind=wanted.certificate, alpha=wanted.alpha, n=wanted.n)
    except ValueError as error:
        raise StudyError(str(error)) from error
    console = Console()
    print_table(console, table, title=f"{study.name}: {folder.name}")
    console.print(f"Image by image: {folder}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run(derive, description=__doc__, options=Wanted)

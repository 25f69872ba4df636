"""Attack certified classifiers of a finished run inside, on and beyond their certified radii."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from session import DIGITS, RunDir, Terminal, print_table, resolve_run_dir, run

from rspipe.execution.worker import set_deterministic, worker_device
from rspipe.report.sections.attacks import attack_findings, attack_table
from rspipe.smoothing.boundary import AttackSettings
from rspipe.stages.attack import attack_classifier, chosen_classifiers
from rspipe.stages.report import read_results, write_report
from rspipe.storage.store import Store
from rspipe.study.loading import load_study


@dataclass(frozen=True)
class Wanted:
    """Which classifiers to attack, and how."""

    study: Path = DIGITS
    """The study file."""
    run_dir: RunDir = None
    """Where its results are; runs/<study id> by default."""
    override: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")]] = ()
    """The overrides of the study file that it was run with."""
    classifier: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Part of a name as tables show it, e.g. "advmacer, seed 0"; the best model and the best ensemble by default."""
    images: int = 40
    """Test images per classifier, of those with the right class and a radius above 0."""
    factors: tuple[float, ...] = (0.5, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    """Distances of the attacks, in units of each image's certified radius."""
    gpus: float = 0.0
    """1 to run on a GPU."""
    attack: AttackSettings = field(default_factory=AttackSettings)


def check_boundary(wanted: Wanted) -> None:
    """Attack, print what came of it, keep it in the run directory, and write the report anew."""
    study = load_study(wanted.study, overrides=wanted.override)
    store, terminal = Store(resolve_run_dir(wanted.run_dir, study)), Terminal()
    store.check_owner(study)
    set_deterministic(threads=1)
    results = read_results(store, study)
    device = worker_device(wanted.gpus)
    checks = [
        attack_classifier(
            store,
            results,
            record,
            images=wanted.images,
            factors=sorted(wanted.factors),
            settings=wanted.attack,
            device=device,
            on_progress=terminal.show,
        )
        for record in chosen_classifiers(results, wanted.classifier)
    ]
    _, files = write_report(store, read_results(store, study))
    terminal.stop()
    console = Console()
    print_table(console, attack_table(checks), title=f"{study.name}: attacks around certified test images")
    for sentence in attack_findings(checks):
        console.print(escape(sentence), soft_wrap=True, highlight=False)
    console.print(f"Report: {files['report.html']}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run(check_boundary, description=__doc__, options=Wanted)

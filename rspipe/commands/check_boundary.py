"""Attack certified classifiers of a finished run inside, on and beyond their certified radii."""

from dataclasses import dataclass, field

import tyro
from rich.console import Console
from rich.markup import escape

from rspipe.commands.options import RunOptions, has_folder, run_to_read
from rspipe.commands.terminal import Terminal, print_table
from rspipe.errors import DataError
from rspipe.execution.worker import set_deterministic, worker_device
from rspipe.report.sections.attacks import attack_findings, attack_table
from rspipe.smoothing.boundary import AttackSettings
from rspipe.stages.attack import attack_classifier, chosen_classifiers
from rspipe.stages.report import read_results, write_report
from rspipe.storage.store import Store


@dataclass(frozen=True)
class Options:
    """Which classifiers to attack, and how."""

    run: tyro.conf.OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)
    classifier: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Part of a name as tables show it, e.g. "advmacer, seed 0"; the best model and the best ensemble by default."""
    images: int = 40
    """Test images per classifier, of those with the right class and a radius above 0."""
    factors: tuple[float, ...] = (0.5, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    """Distances of the attacks, in units of each image's certified radius."""
    gpus: float = 0.0
    """1 to run on a GPU."""
    attack: AttackSettings = field(default_factory=AttackSettings)


def main(options: Options) -> None:
    """Attack, print the outcome, keep it in the run directory, and write the report again."""
    run = run_to_read(options.run)
    if not has_folder(run.study):
        raise DataError(f"{run.run_dir} does not say where its images are; name its study file with --study")
    store, terminal = Store(run.run_dir), Terminal()
    set_deterministic(threads=1)
    results = read_results(store, run.study)
    device = worker_device(options.gpus)
    checks = [
        attack_classifier(
            store,
            results,
            record,
            images=options.images,
            factors=sorted(options.factors),
            settings=options.attack,
            device=device,
            on_progress=terminal.show,
        )
        for record in chosen_classifiers(results, options.classifier)
    ]
    _, files = write_report(store, read_results(store, run.study))
    terminal.stop()
    console = Console()
    print_table(console, attack_table(checks), title=f"{run.study.name}: attacks around certified test images")
    for sentence in attack_findings(checks):
        console.print(escape(sentence), soft_wrap=True, highlight=False)
    console.print(f"Report: {files['report.html']}", soft_wrap=True, highlight=False)

"""Attack certified classifiers of a finished run inside, on and beyond their certified radii."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from rspipe.commands.options import ReadRun, run_to_read
from rspipe.commands.tables import print_table
from rspipe.commands.terminal import Terminal
from rspipe.data.spec import DigitsData
from rspipe.errors import DataError, StudyError
from rspipe.execution.worker import gpu_of_this_process, set_deterministic
from rspipe.networks.architectures import allow_code_in
from rspipe.report.sections.attacks import attack_findings, attack_table
from rspipe.smoothing.boundary import AttackSettings
from rspipe.smoothing.certificates import check_can_predict
from rspipe.stages.attack import attack_classifier, chosen_classifiers
from rspipe.stages.report import read_results, write_report
from rspipe.storage.locks import exclusive
from rspipe.study.config import StudyConfig


@dataclass(frozen=True)
class Options:
    """Which classifiers to attack, and how."""

    run: ReadRun
    """The run directory: a folder or an address."""
    classifier: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Part of a name as tables show it, e.g. "advmacer, seed 0"; the best model and the best ensemble by default."""
    images: int = 40
    """Test images per classifier, of those with the right class and a radius above 0."""
    factors: tuple[float, ...] = (0.5, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    """Distances of the attacks, in units of each image's certified radius."""
    gpus: float = 0.0
    """1 to run on a GPU."""
    data_folder: str | None = None
    """Where the test images are, if no longer where they were when the study ran."""
    allow_code: bool = False
    """Let architectures that the run names as module:function, and TorchScript, run; a module is installed, or lies in
    the working directory."""
    attack: AttackSettings = field(default_factory=AttackSettings)


def main(options: Options, terminal: Terminal) -> None:
    """Attack, print the outcome, keep it in the run directory, and write the report again."""
    _check(options)
    store, study = run_to_read(options.run)
    if options.allow_code:
        allow_code_in(Path.cwd())
    study = _with_images(study, options.data_folder)
    set_deterministic(threads=1)
    results = read_results(store, study)
    device = gpu_of_this_process("--gpus") if options.gpus else torch.device("cpu")
    with exclusive(store.run_dir):
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
        _, files = write_report(store, read_results(store, study))
    terminal.stop()
    print_table(terminal.console, attack_table(checks), title=f"{study.name}: attacks around certified test images")
    for sentence in attack_findings(checks):
        terminal.say(sentence)
    terminal.say(f"Report: {files['report.html']}")


def _check(options: Options) -> None:
    """Raise StudyError for numbers with which nothing would be attacked, or nothing be predicted."""
    attack = options.attack
    for name, number in (("images", options.images), ("attack.steps", attack.steps), ("attack.draws", attack.draws)):
        if number < 1:
            raise StudyError(f"--{name} must be at least 1, got {number}")
    if not options.factors or not min(options.factors) > 0:
        raise StudyError(f"--factors must be one distance or more, all above 0, got {list(options.factors)}")
    try:
        check_can_predict(attack.n, attack.alpha)
    except ValueError as error:
        raise StudyError(f"--attack: {error}") from error


def _with_images(study: StudyConfig, folder: str | None) -> StudyConfig:
    """Return a study whose images are in a folder, where one is named, or where they were when it ran."""
    if isinstance(study.data, DigitsData):
        return study
    place = Path(folder or study.data.folder).resolve()
    if not place.is_dir():
        raise DataError(f"{place}: there is no such folder of images; say where those of the study are, --data-folder")
    return study.model_copy(update={"data": study.data.model_copy(update={"folder": str(place)})})

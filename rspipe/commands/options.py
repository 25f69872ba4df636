"""Options that commands share, and what they name: a study, and the run directory of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import torch
import tyro

from rspipe.errors import StoreError, StudyError, nearest
from rspipe.execution.resources import Resources
from rspipe.networks.precision import Precision, fastest_precision
from rspipe.storage.opening import begun_id, read_study
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import study_of_text, study_text

STUDIES = Path(__file__).parent / "studies"
"""The study files that come with rspipe, in the repository a link to `pipelines/studies`."""

DEFAULT_STUDY = "digits"

Overrides = tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")]]

RunDir = Annotated[str | None, tyro.conf.arg(metavar="PATH|ADDRESS")]

StudyFile = Annotated[str | None, tyro.conf.arg(metavar="FILE")]

ReadRun = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]


@dataclass(frozen=True)
class StageOptions:
    """Command line of the commands that run stages of a study."""

    file: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = None
    """The study file, or the name of one that comes with rspipe; digits by default."""
    study: StudyFile = None
    """The same, by name."""
    run_dir: RunDir = None
    """Where results go, and where the same study resumes: a folder or an address such as s3://bucket/name;
    runs/<study id> by default (see RSPIPE_RUNS)."""
    override: Overrides = ()
    """An override of the study file, e.g. certify.n=1000 or models.0.seeds=[0]; may be given several times."""
    allow_code: bool = False
    """Let the study file name architectures that are code, module:function or torchscript, which then runs here and on
    every worker."""
    ray_address: str | None = None
    """host:port of a running Ray head; RAY_ADDRESS by default, and without that a Ray of this run's own."""
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class StudyRun:
    """A study, and where its results are or go."""

    study: StudyConfig
    run_dir: StorePath
    source: str
    """Text of the study file."""


def study_path(name: str | None) -> Path:
    """Return the path of a study file: as given, or of the one that comes with rspipe and has this name.

    Raises:
        StudyError: It is neither a file nor a name that rspipe knows.
    """
    text = name or DEFAULT_STUDY
    path = Path(text)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    known = {file.stem: file for file in STUDIES.glob("*.toml")}
    if text not in known:
        raise StudyError(f"{text}: no such study file, nor a study that comes with rspipe{nearest(text, known)}")
    return known[text]


def _only(given: str | None, named: str | None, *, option: str) -> str | None:
    """Return what was given by position or by name.

    Raises:
        StudyError: Both were, and differ.
    """
    if given is not None and named is not None and given != named:
        raise StudyError(f"{given!r} and {option} {named!r} name the same thing; give one of them")
    return named if given is None else given


def resolve_run_dir(given: str | None, study: StudyConfig) -> StorePath:
    """Return the run directory, absolute: as given, or $RSPIPE_RUNS/<study id>, or runs/<study id>.

    A job with a working directory runs in a copy that Ray deletes; there the default is below the home directory.

    Raises:
        StoreError: It would be deleted, or is an address that cannot be used.
    """
    temporary = "working_dir_files" in Path.cwd().parts
    root = os.environ.get("RSPIPE_RUNS") or ("~/rspipe-runs" if temporary else "runs")
    chosen = StorePath.of(given) if given else StorePath.of(root) / study.id
    if chosen.is_local and "working_dir_files" in chosen.local_part.parts:
        raise StoreError(
            f"run directory {chosen} would lie in this job's working directory, which Ray deletes; "
            "give an absolute path or an address that all nodes see with --run-dir"
        )
    return chosen


def run_to_do(options: StageOptions) -> StudyRun:
    """Return the study to run, and its run directory, which need not exist.

    Raises:
        StudyError: The file or an override is wrong.
        StoreError: The run directory cannot be used.
    """
    path = study_path(_only(options.file, options.study, option="--study"))
    text = study_text(path)
    load = partial(study_of_text, text, path=path, overrides=options.override, allow_code=options.allow_code)
    return begun_or_new(lambda auto: load(auto=auto), options.run_dir, source=text, resources=options.resources)


def fastest_for_workers(resources: Resources) -> Precision:
    """Return the precision that is faster on the kind of device that workers compute on, as seen from this machine.

    Of GPUs that other machines have it is not known how old they are; those since 2020 have bfloat16. Nor is it known,
    where workers take GPUs if there are any, whether other machines have some: then this one decides.
    """
    if resources.gpus_per_worker != 0 and torch.cuda.is_available():
        return fastest_precision(torch.device("cuda"))
    return fastest_precision(torch.device("cpu")) if resources.gpus_per_worker in ("auto", 0) else "bfloat16"


def begun_or_new(
    load: Callable[[Precision], StudyConfig], run_dir: str | None, *, source: str, resources: Resources
) -> StudyRun:
    """Return a study with what stands for its precision "auto": what its run directory was begun with, or is faster.

    Args:
        load: Returns the study, given that.
        run_dir: As given on the command line.
        source: Text of the study file.
        resources: Say which kind of device workers compute on.

    Raises:
        StudyError: The study is wrong.
        StoreError: The run directory cannot be used.
    """
    fastest = fastest_for_workers(resources)
    runs = []
    for precision in (fastest, *(other for other in get_args(Precision) if other != fastest)):
        study = load(precision)
        run = StudyRun(study, resolve_run_dir(run_dir, study), source)
        if begun_id(Store(run.run_dir)) == study.id:
            return run
        runs.append(run)
    return runs[0]


def run_to_read(run_dir: str) -> tuple[Store, StudyConfig]:
    """Return an existing run directory, and the study that it was made with.

    Raises:
        StoreError: It is no run directory, or of another version of rspipe.
    """
    store = Store(run_dir)
    return store, read_study(store)

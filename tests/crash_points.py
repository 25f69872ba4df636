"""Stop a study at every single step of its writing, go on, and compare all files: python -m tests.crash_points

A study of every stage runs in this process. What it trains, weighs and counts is remembered, so that a run costs little
but its writing. It dies before and after each file is opened, half written, written, synced and renamed, and before and
after each deletion; what a process that is killed cannot do any more (its `except` and `finally`) has no effect. Then
the same run goes on, and must end with the same files, bit for bit.
"""

import copy
import errno
import itertools
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tyro
from rich.console import Console

from rspipe.data.sources import load_dataset
from rspipe.errors import StoreError
from rspipe.stages import checkpoints, train, trials
from rspipe.storage import paths
from rspipe.storage.paths import StorePath
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests import run_builder
from tests.run_builder import EVERYTHING, run_alone

console = Console(highlight=False, soft_wrap=True)


class Crash(BaseException):
    """The process is dead."""


class Steps:
    """Counts the steps of writing. At one of them the process dies, or the disk refuses to be written with an error."""

    def __init__(self, last: int | None = None, *, refusal: int | None = None) -> None:
        self.count, self._last, self._refusal = 0, last, refusal

    def __call__(self, *, writes: bool = False) -> None:
        """Take a step; a dead process takes none, and one whose disk refuses cleans up."""
        if self._last is None or self.count < self._last:
            self.count += 1
        elif self._refusal is None:
            raise Crash
        elif writes:
            raise OSError(self._refusal, os.strerror(self._refusal))


@contextmanager
def stepping(steps: Steps) -> Iterator[None]:
    """Let everything that a run directory is written by take steps."""

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            steps()
            result = real(*values, **named)
            steps()
            return result

        return call

    class Written:
        """A file that is written in two halves."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, content: Any) -> None:
            steps(writes=True)
            half = len(content) // 2
            self._file.write(memoryview(content)[:half])
            self._file.flush()
            steps(writes=True)
            self._file.write(memoryview(content)[half:])

        def __enter__(self) -> "Written":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    real_open = Path.open

    def opened(path: Path, mode: str = "r", *values: Any, **named: Any) -> Any:
        if mode != "wb":
            return real_open(path, mode, *values, **named)
        steps(writes=True)
        return Written(real_open(path, mode, *values, **named))

    with ExitStack() as patches:
        patches.enter_context(patch.object(Path, "open", opened))
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (StorePath, "unlink")):
            patches.enter_context(patch.object(owner, name, around(getattr(owner, name))))
        patches.enter_context(patch.object(paths.StorePath, "set_aside", around(StorePath.set_aside)))
        yield


@contextmanager
def remembering() -> Iterator[None]:
    """Remember what is trained, judged, loaded, made of images and solved, so that a second run computes nothing."""
    known: dict[Any, Any] = {}

    def fit(spec: Any, data: Any, *, state: Any, on_epoch: Any, **named: Any) -> Any:
        if spec.id not in known:
            known[spec.id] = real_fit(spec, data, state=None, on_epoch=None, **named)
        # An interrupted training goes on from what it stored, and from nothing else.
        assert state is None or state == {"epoch": 1, "of": spec.id}
        on_epoch({"epoch": 1, "of": spec.id})
        return copy.deepcopy(known[spec.id])

    def judged(search: Any, index: int, parameters: Any, data: Any, *, state: Any, on_epoch: Any, **named: Any) -> Any:
        if (search.id, index) not in known:
            known[search.id, index] = real_judged(search, index, parameters, data, **named)
        assert state is None or state == {"epoch": 1, "history": [], "of": index, "passes": 1}
        on_epoch({"epoch": 1, "history": [], "of": index, "passes": 1})
        return known[search.id, index]

    def run_pass(self: Any, networks: Any, image: Any, label: int, example: int, *, limit: Any) -> Any:
        key = (repr(self), example)
        if key not in known:
            known[key] = real_passes[type(self)](self, networks, image, label, example, limit=limit)
        return known[key]

    def load_network(store: Any, model: str, **named: Any) -> Any:
        if (model, "network") not in known:
            known[model, "network"] = real_load(store, model, **named)
        return known[model, "network"]

    def solve_ensemble(ensemble: Any, calibration: Any) -> Any:
        if (ensemble.id, "weights") not in known:
            known[ensemble.id, "weights"] = real_solve(ensemble, calibration)
        return known[ensemble.id, "weights"]

    real_fit, real_judged = train.fit, trials.judged_trial
    real_load, real_solve = run_builder.load_network, run_builder.weigh.solve_ensemble
    kinds = (run_builder.certify.CountPass, run_builder.weigh.MomentPass)
    real_passes = {kind: kind.run for kind in kinds}
    with ExitStack() as patches:
        patches.enter_context(patch.object(train, "fit", fit))
        patches.enter_context(patch.object(trials, "judged_trial", judged))
        patches.enter_context(patch.object(run_builder, "load_network", load_network))
        patches.enter_context(patch.object(run_builder.weigh, "solve_ensemble", solve_ensemble))
        patches.enter_context(patch.object(checkpoints, "CHECKPOINT_SECONDS", -1.0))
        for kind in kinds:
            patches.enter_context(patch.object(kind, "run", run_pass))
        yield


def files(run_dir: Path) -> dict[str, bytes]:
    """Return the content of all files but the lock."""
    every = (path for path in run_dir.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in every}


def steps_of(folder: Path, study: StudyConfig) -> tuple[int, dict[str, bytes]]:
    """Return how many steps an undisturbed run takes, and its files."""
    steps = Steps()
    with stepping(steps):
        run_alone(folder, study, text=EVERYTHING)
    return steps.count, files(folder)


def crash(folder: Path, study: StudyConfig, *, at: int) -> None:
    """Stop a new run before a step, and go on to the end.

    Raises:
        AssertionError: It did not stop.
    """
    try:
        with stepping(Steps(at)):
            run_alone(folder, study, text=EVERYTHING)
    except Crash:
        run_alone(folder, study, text=EVERYTHING)
        return
    raise AssertionError(f"it did not stop at step {at}")


def refuse(folder: Path, study: StudyConfig, *, at: int, number: int) -> None:
    """Let the disk refuse a new run from a step on with the error of a number; go on to the end when it no longer does.

    Raises:
        AssertionError: What is said is no line with the reason and the remedy, or something half written is left.
    """
    said = f"could not be written: {os.strerror(number)} (on {platform.node()}); free space or fix permissions, then"
    line = said
    try:
        with stepping(Steps(at, refusal=number)):
            run_alone(folder, study, text=EVERYTHING)
    except StoreError as error:
        line = str(error)
    assert said in line, line
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    run_alone(folder, study, text=EVERYTHING)


def all_crashes(every: int = 1, errors: tuple[str, ...] = ("", "ENOSPC", "EACCES")) -> int:
    """Crash before each step, or before every so many; return how many steps there are.

    Args:
        every: How many steps lie between two crashes.
        errors: Also with a disk that refuses by errors of these names, e.g. ENOSPC; "" is a crash.

    Raises:
        AssertionError: Files differ.
    """
    with tempfile.TemporaryDirectory() as name, remembering():
        folder = Path(name)
        (folder / "study.toml").write_text(EVERYTHING, encoding="utf-8")
        study = load_study(folder / "study.toml")
        load_dataset(study.data)
        run_alone(folder / "first", study, text=EVERYTHING)
        count, whole = steps_of(folder / "whole", study)
        assert files(folder / "first") == whole
        failed: list[str] = []
        for seen, (error, at) in enumerate(itertools.product(errors, range(0, count, every)), start=1):
            run = folder / f"run-{at}-{error}"
            if error:
                refuse(run, study, at=at, number=getattr(errno, error))
            else:
                crash(run, study, at=at)
            found = files(run)
            if differing := sorted(path for path in {*found, *whole} if found.get(path) != whole.get(path)):
                failed.append(f"stopped before step {at} of {count} {error}: {differing}")
            shutil.rmtree(run)
            if seen % 50 == 0:
                console.print(f"{seen} points, up to step {at} of {count} {error}; {len(failed)} differ")
    assert not failed, "\n".join(failed)
    return count


if __name__ == "__main__":
    console.print(f"{tyro.cli(partial(all_crashes))} steps: all files are the same, bit for bit")

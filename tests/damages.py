"""Damage run directories, study files and logs at random, and see that no number changes without a word.

    python -m tests.damages --flips 500 --directories 500 --studies 2000 --logs 300 --seed 0

The suite does the same with fewer of each. What a damaged thing may do: the same numbers, or one line that names it.
"""

import hashlib
import json
import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from rspipe.errors import RspipeError
from rspipe.records import BoundaryCheck
from rspipe.stages.report import read_results
from rspipe.storage.classifiers import certification_keys
from rspipe.storage.damage import set_damaged_aside
from rspipe.storage.files import read_content
from rspipe.storage.opening import read_study
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from tests.run_builder import EVERYTHING, run_alone

console = Console(highlight=False, soft_wrap=True)

KINDS = (
    "study.json",
    "environment.json",
    "images.json",
    "models/*/model.json",
    "models/*/weights.pt",
    "models/*/checkpoint.pt",
    "search/*/trial-*.json",
    "search/*/result.json",
    "search/*/checkpoint-*.pt",
    "moments/*.npz",
    "weights/*.json",
    "certificates/*.parquet",
    "published/*.tsv",
    "cascades/*.json",
    "boundary/*.json",
)
"""Files that numbers follow from."""

SECONDS = 20.0
"""That anything may take before it counts as hung; on a busy machine."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise AssertionError where something hangs."""
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    assert seconds < SECONDS, f"it took {seconds:.0f} s"


def refusal(do: Callable[[], object]) -> str | None:
    """Return the line with which something was refused; None where it was not.

    Raises:
        AssertionError: It took too long, or what it says is no single printable line.
    """
    with in_time():
        try:
            do()
        except RspipeError as error:
            line = str(error)
            assert 0 < len(line) < 1500, line[:3000]
            assert line.isprintable(), line
            return line
    return None


def small_run(folder: Path) -> Path:
    """Return a finished run with a file of every kind."""
    (folder / "study.toml").write_text(EVERYTHING, encoding="utf-8")
    study = load_study(folder / "study.toml")
    run_alone(folder / "run", study, text=EVERYTHING)
    store = Store(folder / "run")
    model, (search,) = study.model_specs[0].id, study.search_specs
    state = {"epoch": 1, "network": store.parameters(model)}
    store.save_checkpoint(model, state)
    store.save_trial_checkpoint(search.id, {"lbd": 1.0}, state)
    results = read_results(store, study)
    keys = certification_keys(study, results.models, results.ensembles)
    for cascade in results.cascades:
        store.save_cascade(cascade, keys=keys, alpha=study.certify.alpha)
    counts = (1, 1)
    attacked = {"images": 2, "steps": 1, "draws": 2, "n": 100, "alpha": 0.01, "factors": (0.5, 1.0), "same": counts}
    others = dict.fromkeys(("abstained", "changed", "ever_changed"), (0, 1))
    check = BoundaryCheck(
        classifier=model, name="a", sigma=0.25, key=keys[model], distance=(0.5, 1.0), **attacked, **others
    )
    store.save_boundary_check(check)
    log = folder / "log.tsv"
    rows = "".join(f"{index}\t{index % 10}\t{index % 10}\t0.{index}1\t1\t0:00:01\n" for index in range(20))
    log.write_text(f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n{rows}", encoding="utf-8")
    store.keep_published(str(log))
    return folder / "run"


def numbers(run_dir: Path) -> str:
    """Return a hash of all numbers that are read from a run directory: times and what is shown among them."""
    store = Store(run_dir)
    study = read_study(store)
    results = read_results(store, study)
    records = [*results.models, *results.searches, *results.trials, *results.ensembles, *store.boundary_checks()]
    table = store.counts()
    content: list[Any] = [record.to_json() for record in records]
    content += [results.environment, store.images_to_certify(), [] if table is None else table.to_pylist()]
    content += [sorted(one.record.id for one in results.cascades), study.model_dump(mode="json")]
    content += [store.published(str(run_dir.parent / "log.tsv")) and "log"]
    arrays = [store.parameters(one.id) for one in results.models]
    arrays += [store.moments(path.name.removesuffix(".npz")) for path in (store.run_dir / "moments").glob("*.npz")]
    arrays += [state["network"] for one in results.models if (state := store.checkpoint(one.id))]
    arrays += [store.trial_checkpoint(one.id, {"lbd": 1.0})["network"] for one in study.search_specs]
    for path in (store.run_dir / "cascades").glob("*.json"):
        content.append(read_content(path))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for one in arrays:
        for name, values in (one or {}).items():
            digest.update(name.encode() + np.asarray(values).tobytes())
    return digest.hexdigest()


def flip(path: Path, rng: random.Random) -> bytes:
    """Flip one bit of a file; return what it was."""
    before = path.read_bytes()
    content, at = bytearray(before), rng.randrange(8 * len(before))
    content[at // 8] ^= 1 << (at % 8)
    path.write_bytes(content)
    return before


@dataclass(frozen=True)
class Flips:
    """What became of flipped bits of a kind of file."""

    refused: int
    """Readers named the file, and whoever goes on set it aside."""
    same: int
    """Nothing that is read was another."""


def flip_bits(run_dir: Path, kind: str, flips: int, rng: random.Random) -> Flips:
    """Flip single bits of the files of a kind, each alone, and undo it.

    Raises:
        AssertionError: A number changed, nobody was told, or something else than the damaged file was set aside.
    """
    before, files, outcomes = numbers(run_dir), sorted(run_dir.glob(kind)), Counter[str]()
    assert files, kind
    for _ in range(flips):
        path = rng.choice(files)
        content = flip(path, rng)
        try:
            outcomes[_of_flip(run_dir, path, before)] += 1
        finally:
            for aside in run_dir.rglob("*.damaged"):
                aside.rename(aside.with_suffix(""))
            path.write_bytes(content)
    return Flips(outcomes["refused"], outcomes["same"])


def _of_flip(run_dir: Path, path: Path, before: str) -> str:
    after: list[str] = []
    line = refusal(lambda: after.append(numbers(run_dir)))
    if line is None:
        assert after == [before], f"a bit of {path} changed a number"
        return "same"
    assert str(path.parent) in line, line
    with told() as lines:
        set_damaged_aside(Store(run_dir))
    assert len(lines) == 1, lines
    assert str(path.parent) in lines[0]
    assert not path.exists()
    left = {one.name for one in run_dir.rglob("*.damaged")}
    model = {"model.json.damaged", "weights.pt.damaged"}
    assert left == (model if f"{path.name}.damaged" in model else {f"{path.name}.damaged"})
    return "refused"


@contextmanager
def told() -> Iterator[list[str]]:
    """Collect what is warned of, each in a line."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("rspipe")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
    assert all(line.isprintable() for line in lines)


@dataclass(frozen=True)
class Options:
    """Command line."""

    flips: int = 500
    """Of bits in each kind of file."""
    seed: int = 0


def damages(options: Options) -> None:
    """Run everything and say what became of it."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        run_dir = small_run(Path(name))
        for kind in KINDS:
            console.print(kind, flip_bits(run_dir, kind, options.flips, rng))


if __name__ == "__main__":
    damages(tyro.cli(Options, description=__doc__))

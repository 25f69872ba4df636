"""Damage run directories, study files and logs at random, and see that no number changes without a word.

    python -m tests.damages --flips 500 --reads 20 --directories 500 --studies 2000 --logs 300 --seed 0

The suite does the same with fewer of each. What a damaged thing may do: the same numbers, or one line that names it.
"""

import copy
import hashlib
import json
import logging
import random
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console

from rspipe.audit.audit import audit_lines, audit_log, cohen_log, rspipe_log
from rspipe.audit.collection import read_collection
from rspipe.audit.log import parse_log, read_log
from rspipe.commands.options import STUDIES
from rspipe.errors import LogError, MismatchError, RspipeError, printable
from rspipe.records import BoundaryCheck
from rspipe.report.rejudged import rejudge
from rspipe.report.rejudged_tables import rejudged_markdown
from rspipe.report.runs import agreed_terms, compare_runs, comparison_table
from rspipe.stages.report import read_results, read_run, read_run_or_log, write_derived, write_report
from rspipe.storage.classifiers import certification_keys
from rspipe.storage.damage import set_damaged_aside
from rspipe.storage.files import read_content, write_record
from rspipe.storage.opening import read_study
from rspipe.storage.store import Store
from rspipe.study.loading import load_study, study_of_content, study_of_text
from tests.audit.test_audit import four_decimals, mutations, three_digits
from tests.audit.test_audit import rows as log_rows
from tests.audit.test_audit import text as log_text
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
    "choices/*.json",
    "certificates/*.parquet",
    "published/*.tsv",
    "cascades/*.json",
    "boundary/*.json",
)
"""Files that numbers follow from."""

_READ_EVERY = 10
"""Of flipped bits, those that are read, too, as every command does: it costs more than to set a file aside."""

SECONDS = 20.0
"""Of the CPU that anything may take before it counts as hung."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise AssertionError where something hangs."""
    began = time.process_time()
    yield
    seconds = time.process_time() - began
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
            assert line == printable(line).replace("\n", ""), line
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
    content += [sorted(one.record.id for one in results.cascades), [one.to_json() for one in results.choices.values()]]
    content += [study.model_dump(mode="json")]
    content += [store.published(str(run_dir.parent / "log.tsv")) and "log"]
    arrays = [store.parameters(one.id) for one in results.models]
    arrays += [store.moments(path.name.removesuffix(".npz")) for path in (store.run_dir / "moments").glob("*.npz")]
    arrays += [state["network"] for one in results.models if (state := store.checkpoint(one.id))]
    states = [store.trial_checkpoint(one.id, {"lbd": 1.0}) for one in study.search_specs]
    arrays += [state["network"] for state in states if state]
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


def flip_bits(run_dir: Path, kind: str, flips: int, rng: random.Random) -> Counter[str]:
    """Flip single bits of the files of a kind, each alone, and undo it.

    Return how many were refused: readers named the file, and whoever goes on set it aside. Of the others nothing that
    is read was another.

    Raises:
        AssertionError: A number changed, nobody was told, or something else than the damaged file was set aside.
    """
    before, files, outcomes = numbers(run_dir), sorted(run_dir.glob(kind)), Counter[str]()
    assert files, kind
    for number in range(flips):
        path = rng.choice(files)
        content = flip(path, rng)
        try:
            outcomes[_of_flip(run_dir, path, before, read=number % _READ_EVERY == 0)] += 1
        finally:
            for aside in run_dir.rglob("*.damaged"):
                aside.rename(aside.with_suffix(""))
            path.write_bytes(content)
    return outcomes


def flip_every_kind(run_dir: Path, rounds: int, rng: random.Random) -> Counter[tuple[str, str]]:
    """Flip a bit of a file of every kind at once, and undo it; return how many of each kind were refused.

    Raises:
        AssertionError: One of them was not set aside though it changes a number, nobody was told of it, or something
            else was set aside.
    """
    before, outcomes = numbers(run_dir), Counter[tuple[str, str]]()
    files = {kind: sorted(run_dir.glob(kind)) for kind in KINDS}
    for _ in range(rounds):
        kinds = {rng.choice(paths): kind for kind, paths in files.items()}
        whole = {path: flip(path, rng) for path in kinds}
        flipped = {path: path.read_bytes() for path in kinds}
        with told() as lines:
            set_damaged_aside(Store(run_dir))
        aside = {path.with_suffix("") for path in run_dir.rglob("*.damaged")}
        for path in aside:
            path.with_name(f"{path.name}.damaged").rename(path)
        for path, content in whole.items():
            path.write_bytes(content)
        # A model's record and its parameters go together.
        pairs = {path.parent / name for path in kinds for name in _MODEL if path.name in _MODEL}
        assert aside <= {*kinds, *pairs}, aside - {*kinds, *pairs}
        for path, kind in kinds.items():
            if path in aside:
                assert any(str(path.parent) in line for line in lines), lines
                outcomes[kind, "refused"] += 1
                continue
            path.write_bytes(flipped[path])
            assert numbers(run_dir) == before, f"a bit of {path} changed a number"
            path.write_bytes(whole[path])
            outcomes[kind, "same"] += 1
    return outcomes


_MODEL = ("model.json", "weights.pt")


def _of_flip(run_dir: Path, path: Path, before: str, *, read: bool) -> str:
    after: list[str] = []
    with told() as lines:
        line = refusal(lambda: after.append(numbers(run_dir))) if read else None
        set_damaged_aside(Store(run_dir))
    if not lines:
        assert line is None
        assert (after or [numbers(run_dir)]) == [before], f"a bit of {path} changed a number"
        return "same"
    if read:
        assert line is not None, f"nobody who reads {path} was told"
        assert str(path.parent) in line, line
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
    assert all(printable(line) == line and "\n" not in line for line in lines)


WILD: tuple[Any, ...] = (
    *(0, 1, -1, 2, 10**6, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**4000),
    *(0.0, -0.0, 0.5, 1e-300, 1e308, -1.5, float("inf"), float("-inf"), float("nan"), True, False),
    *("", " ", "..", "../../x", "/etc/passwd", "gaussian", "gaussian x2", "gaussian x0", "x" * 400, "a" * 20_000),
    *("\x1b[31m", "\u202e", "\0", "é", "𝕏", "=1+1", "<script>", "a|b", "os:system", "antigravity:fly", "$(reboot)"),
    *(
        [],
        [[]],
        [0],
        [1, 1],
        ["a", 1],
        {},
        {"name": "gaussian"},
        {"low": 1, "high": 0},
        {"choices": []},
        {"a": {"b": []}},
    ),
)
"""Values that stand where they should not."""


def places(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the places of everything in parsed content."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate(content: dict[str, Any], rng: random.Random) -> None:
    """Change parsed content at one to three places: other values, keys, orders, and things of elsewhere."""
    for _ in range(rng.randint(1, 3)):
        every = [*places(content)]
        if not every:
            return
        *parents, last = rng.choice(every)
        place: Any = content
        for key in parents:
            place = place[key]
        *elsewhere, key = rng.choice(every)
        other: Any = content
        for step in elsewhere:
            other = other[step]
        match rng.randrange(6):
            case 0:
                del place[last]
            case 1:
                place[last] = copy.deepcopy(other[key])
            case 2:
                place[last] = [copy.deepcopy(place[last])] * rng.randint(1, 3)
            case 3 if isinstance(place, dict):
                place[rng.choice([f"{last}x", str(last)[:-1], "", "a.b", "\x1b", str(key)])] = place.pop(last)
            case 4 if isinstance(place[last], int | float) and not isinstance(place[last], bool):
                place[last] *= rng.choice([-1, 0, 1e-9, 10, 1e12])
            case _:
                place[last] = copy.deepcopy(rng.choice(WILD))


def mutated_text(text: str, rng: random.Random) -> str:
    """Return a text with characters or lines lost, repeated, swapped or replaced."""
    at, length = rng.randrange(len(text)), rng.randint(1, 40)
    lines = text.split("\n")
    rng_line = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + text[at + length :]
        case 2:
            wild = ("\0", "\x1b", "[", "]", "{", "}", "=", ".", '"', "'", "#", "\n", "9" * 5000, "[" * 500, "\ufeff")
            return text[:at] + rng.choice(wild) + text[at:]
        case 3:
            return "\n".join([*lines[:rng_line], *lines[rng_line + 1 :]])
        case _:
            return "\n".join([*lines, *lines[rng_line : rng_line + 3]])


def mutate_studies(studies: int, rng: random.Random) -> Counter[str]:
    """Load mutated study files; return how many were refused, and how many still are studies.

    Raises:
        AssertionError: One took too long, or was refused in what is no list of printable lines.
    """
    texts = [EVERYTHING, *(path.read_text(encoding="utf-8") for path in sorted(STUDIES.glob("*.toml")))]
    outcomes = Counter[str]()
    for _ in range(studies):
        text = rng.choice(texts)
        path = STUDIES / "mutated.toml"
        outcomes[_of_study(text, path, rng)] += 1
    return outcomes


def _of_study(text: str, path: Path, rng: random.Random) -> str:
    with in_time():
        try:
            if rng.random() < 0.3:
                study_of_text(mutated_text(text, rng), path=path)
            else:
                content = tomllib.loads(text)
                mutate(content, rng)
                study_of_content(content, path=path)
        except RspipeError as error:
            lines = str(error).split("\n")
            assert all(line and printable(line) == line and len(line) < 2000 for line in lines), lines
            return "refused"
    return "a study"


def change_directory(run_dir: Path, rng: random.Random) -> None:
    """Change a run directory as a stranger may, who knows how records are written."""
    store, files = Store(run_dir), sorted(path for path in run_dir.rglob("*.*") if path.is_file())
    path = rng.choice([one for one in files if one.suffix == ".json"] if rng.random() < 0.5 else files)
    match rng.randrange(8):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(rng.randbytes(rng.randint(0, 500)))
        case 2:
            path.write_bytes(rng.choice(files).read_bytes())
        case 3:
            path.unlink()
            path.mkdir()
        case 4:
            (
                path.parent / rng.choice(["a\x1b[31m", "trial-x.json", "=1+1.json", "part-é.parquet", "𝕏" * 30])
            ).write_text("{}")
        case 5:
            # It may be damaged already.
            table = None if refusal(store.counts) else store.counts()
            if table is not None:
                index = rng.randrange(table.num_columns)
                shutil.rmtree(run_dir / "certificates")
                field, values = table.schema.field(index), table.column(index).to_pylist()
                wild: list[Any] = [values[0], *WILD, [1, -1], [2**62] * 10, [[]], [float("nan")] * 10]
                values[rng.randrange(len(values))] = rng.choice(wild)
                try:
                    column = pa.array(values, field.type if rng.random() < 0.8 else None)
                except (pa.ArrowException, OverflowError, UnicodeError):
                    column = pa.array([None] * len(values), field.type)
                store.save_counts(table.set_column(index, field.name, column))
        case _ if path.suffix == ".json" and path.is_file():
            try:
                content = json.loads(path.read_bytes())
                del content["sha256"]
            except (ValueError, KeyError, TypeError):
                # It is damaged already.
                return
            mutate(content, rng)
            try:
                write_record(store.run_dir / str(path.relative_to(run_dir)), content)
            except (UnicodeError, ValueError):
                path.write_text("{}")
        case _:
            pass


def read_everything(run_dir: Path, *, page: bool = False) -> None:
    """Read a run directory as every command does."""
    numbers(run_dir)
    store = Store(run_dir)
    study = read_study(store)
    results = read_results(store, study)
    run = read_run(run_dir)
    comparison_table(compare_runs([run], agreed_terms([run]), against="gaussian"))
    write_derived(store, study, kind="certify", alpha=0.01, n=None)
    if page:
        write_report(store, results)


def mutate_directories(
    run_dir: Path, directories: int, rng: random.Random, *, pages: float = 0.04
) -> Counter[tuple[str, str]]:
    """Read changed copies of a run directory, and open them to go on; return how many were refused.

    Args:
        run_dir: What is copied.
        directories: How many copies.
        rng: Draws the changes.
        pages: Share of them that a page is made of.

    Raises:
        AssertionError: A reader hung, imported or wrote something, or refused in something else than a line.
    """
    outcomes = Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in" / "run"
        folder.parent.mkdir()
        shutil.copy(run_dir.parent / "log.tsv", folder.parent)
        for _ in range(directories):
            shutil.copytree(run_dir, folder)
            for _ in range(rng.randint(1, 2)):
                change_directory(folder, rng)
            modules = {*sys.modules}
            read = refusal(lambda: read_everything(folder, page=rng.random() < pages))
            opened = refusal(lambda: set_damaged_aside(Store(folder)))
            outcomes["read" if read is None else "refused", "opened" if opened is None else "not opened"] += 1
            assert not {"antigravity", "os:system", "nets_of_a_stranger"} & ({*sys.modules} - modules)
            assert {path.name for path in Path(name).iterdir()} == {"in"}
            assert {path.name for path in folder.parent.iterdir()} <= {"run", "log.tsv"}
            shutil.rmtree(folder)
    return outcomes


def mutate_logs(logs: int, rng: random.Random) -> Counter[str]:
    """Read mutated certification logs, and collections of them; return how many are none any more.

    Raises:
        AssertionError: One hung, or was refused in something else than a line.
    """
    outcomes = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        whole, changed = Path(name, "whole.tsv"), Path(name, "changed.tsv")
        for number in range(logs):
            if number % 4 == 3:
                table = collection(Path(name))
                mutate_collection(table, rng)
                line = refusal(lambda table=table: rejudge_collection(table))
            else:
                seed = rng.randrange(2**16)
                data = log_text(
                    log_rows(images=rng.randint(1, 60), seed=seed, written=(three_digits, four_decimals)[seed % 2])
                )
                whole.write_bytes(data)
                changed.write_bytes(mutated_log(data, rng))
                line = refusal(lambda: read_logs(whole, changed))
            outcomes["read" if line is None else "refused"] += 1
    return outcomes


def mutated_log(data: bytes, rng: random.Random) -> bytes:
    """Return a log with damage of one or two kinds."""
    mutated = rng.choice(mutations(data, np.random.default_rng(rng.randrange(2**32))))()
    if rng.random() < 0.3:
        text = mutated_text(mutated.decode("utf-8", "replace") + "\n", rng)
        mutated = text.encode(rng.choice(["utf-8", "utf-16", "utf-8-sig"]), "replace")
    return mutated


def read_logs(whole: Path, changed: Path) -> None:
    """Audit a log, and compare it with another, as commands do."""
    audit = audit_log(read_log(changed))
    assert all(printable(line) == line and "\n" not in line for _, line in audit_lines(audit))
    for export in (cohen_log, rspipe_log):
        assert parse_log(export(audit).encode(), name="export").idx.tolist() == audit.idx.tolist()
    runs = [read_run_or_log(str(path), sigma=0.25) for path in (whole, changed)]
    try:
        comparison_table(compare_runs(runs, agreed_terms(runs)))
        comparison_table(compare_runs(runs, agreed_terms(runs, rederive=True), common_images=True))
    except ValueError as error:
        raise MismatchError(printable(str(error))) from error


_COLLECTED = "id,repository,data_set,architecture,method,settings,sigma,n,alpha,recipe,model"


def collection(folder: Path) -> Path:
    """Write a collection of four logs of two methods."""
    lines = [f"{log},a/b,digits,cnn,{'xy'[log % 2]},s{log},0.25,1000,0.001,{log % 2},{log}" for log in range(4)]
    (folder / "logs.csv").write_text("\n".join([_COLLECTED, *lines, ""]), encoding="utf-8")
    log, idx = np.divmod(np.arange(80), 20)
    radius = np.round(0.25 * np.abs(np.sin(np.arange(80) + 1)), 3)
    columns = {"log": log, "idx": idx, "label": idx % 10, "predict": (idx + (idx % 5 == 0)) % 10, "radius": radius}
    pq.write_table(pa.table(columns), folder / "logs.parquet", write_page_checksum=True)
    return folder / "logs.parquet"


def mutate_collection(table: Path, rng: random.Random) -> None:
    """Change the catalogue of a collection, its rows, or a bit of them."""
    catalogue = table.with_suffix(".csv")
    match rng.randrange(4):
        case 0:
            catalogue.write_text(mutated_text(catalogue.read_text(), rng), encoding="utf-8", errors="replace")
        case 1:
            lines = [line.split(",") for line in catalogue.read_text().split("\n")]
            line = rng.choice(lines[:-1])
            line[rng.randrange(len(line))] = str(
                rng.choice([one for one in WILD if not isinstance(one, int) or one < 2**99])
            )
            catalogue.write_text("\n".join(map(",".join, lines)), encoding="utf-8", errors="replace")
        case 2:
            rows = pq.read_table(table)
            index = rng.randrange(rows.num_columns)
            values: list[Any] = rows.column(index).to_pylist()
            values[rng.randrange(80)] = rng.choice([*WILD, values[0], values[1], None])
            try:
                column = pa.array(values, rows.schema.field(index).type if rng.random() < 0.5 else None)
            except (pa.ArrowException, OverflowError, UnicodeError):
                column = pa.array(map(str, [*values[:79], "x"]))
            pq.write_table(rows.set_column(index, rows.schema.names[index], column), table, write_page_checksum=True)
        case _:
            flip(table, rng)


def rejudge_collection(table: Path) -> None:
    """Judge a collection as the command does."""
    settings = rejudge(read_collection(table))
    if not settings:
        raise LogError(f"{table}: nothing to compare")
    markdown = rejudged_markdown(settings, source=table.name)
    assert printable(markdown) == markdown


@dataclass(frozen=True)
class Options:
    """Command line."""

    flips: int = 500
    """Of bits in each kind of file."""
    reads: int = 20
    """Of bits in each kind of file, alone, a tenth of which is read as every command does."""
    directories: int = 500
    """Changed run directories."""
    studies: int = 2000
    """Mutated study files."""
    logs: int = 300
    """Mutated certification logs."""
    seed: int = 0


def damages(options: Options) -> None:
    """Run everything and say what became of it."""
    rng = random.Random(options.seed)
    in_parts("mutated study files", options.studies, lambda count: mutate_studies(count, rng))
    in_parts("mutated logs", options.logs, lambda count: mutate_logs(count, rng))
    with tempfile.TemporaryDirectory() as name:
        run_dir = small_run(Path(name))
        in_parts("changed run directories", options.directories, lambda count: mutate_directories(run_dir, count, rng))
        in_parts("flipped bits of every kind", options.flips, lambda count: flip_every_kind(run_dir, count, rng))
        for kind in KINDS:
            in_parts(f"reads of {kind}", options.reads, lambda count, kind=kind: flip_bits(run_dir, kind, count, rng))


_PART = 50


def in_parts(what: str, count: int, damage: Callable[[int], Counter[Any]]) -> None:
    """Damage so many things, a part at a time, and say what became of them so far: all of them take minutes."""
    outcomes = Counter[Any]()
    for first in range(0, count, _PART):
        outcomes += damage(min(_PART, count - first))
        named = {" ".join([key] if isinstance(key, str) else key): times for key, times in outcomes.items()}
        console.print(f"{min(count, first + _PART)} of {count} {what}:", named)


if __name__ == "__main__":
    damages(tyro.cli(Options, description=__doc__))

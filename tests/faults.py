"""Kill processes of small studies at random times and compare every result with the undisturbed run's.

    python -m tests.faults --kills 50 --seed 0

Each study runs once undisturbed; then again and again, on a Ray of its own or on three nodes, while drivers, workers,
actors, raylets and Ray's central server are killed. A lost node is replaced by another, a lost head by another cluster.
Whatever does not go on by itself is started again with the same command. In the end every number must be the
undisturbed run's, bit for bit, and what was finished when a process was killed must still be the same file, written
once. Nothing is killed that this script did not start.
"""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.markup import escape

from tests.processes import PIPELINES, TINY, descendants
from tests.stages.test_full_study import assert_same_results

if TYPE_CHECKING:
    from tests.stages.nodes import Nodes

SMALL = (
    "training.epochs=3",
    "search.0.trials=2",
    "search.0.n=50",
    "weigh.images=20",
    "weigh.draws=20",
    "certify.images=24",
)
STUDIES = {
    "fixed": SMALL,
    "planned": (*SMALL, "certify.rule=planned", "certify.n=4000", "certify.seed=1"),
    "grid": (*SMALL, "certify.rule=radius_grid", "certify.precision=bfloat16", "models.2.seeds=[3]"),
}
RECORDS = ("models/*/model.json", "search/*/*.json", "moments/*.npz", "weights/*.json", "certificates/part-*.parquet")
# By what their command lines hold. A process of Ray's that waits for work is of no interest.
KINDS = {
    "worker": ("ray::RayTrainWorker", "ray::ImplicitFunc", "ray::_trainable", "ray::bundle"),
    "actor": ("ray::MapWorker", "ray::Desk", "ray::Controller", "ray::Map"),
    "raylet": ("/raylet/raylet ",),
    "server": ("gcs_server",),
}
# No shorter than this many seconds, nor than so many times the undisturbed run.
HANGS_AFTER, HANGS_TIMES = 420.0, 8.0
# How long drivers look for a head that is lost; a minute by default.
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
# Of a command that ends with an error again and again.
RESTARTS = 12
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Options:
    """Command line."""

    kills: int = 50
    """Processes to kill, at least."""
    seed: int = 0
    """Of which studies run where, which processes are killed, and when."""
    minutes: float = 120.0
    """No new run is begun after so long."""
    most: int = 12
    """Processes to kill in one run, at most; a third of it at least."""
    spacing: float | None = None
    """Seconds between two kills, at most; by default as many as make them cover the run four times over."""
    folder: Path | None = None
    """Where runs and kills.jsonl are kept; a temporary folder by default."""
    studies: tuple[str, ...] = tuple(STUDIES)
    """Of fixed, planned and grid."""


@dataclass
class Kill:
    """One killed process."""

    study: str
    where: str
    kind: str
    process: str
    seconds: float
    """Since the driver was started."""
    finished: int
    """Records that there were."""
    then: str = ""
    """How the driver reacted: it went on, ended (and was started again), or hung."""


@dataclass
class Run:
    """A study being disturbed."""

    study: str
    where: str
    run_dir: Path
    kills: list[Kill] = field(default_factory=list)
    restarts: int = 0
    """Of drivers that ended with an error."""
    written: dict[Path, int] = field(default_factory=dict)
    """When what was finished at a kill was written."""

    def note_records(self) -> int:
        """Note what is finished now; return how much that is."""
        for path in records(self.run_dir):
            self.written.setdefault(path, path.stat().st_mtime_ns)
        return len(self.written)

    def check(self, undisturbed: Path) -> None:
        """Raise AssertionError unless nothing was lost, nothing was done twice, and every number is the same."""
        assert_same_results(self.run_dir, undisturbed)
        for path, before in self.written.items():
            assert path.is_file(), f"{path} was lost"
            assert path.stat().st_mtime_ns == before, f"{path} was written again"


def records(run_dir: Path) -> list[Path]:
    """Return the files that say that something is finished."""
    return [path for pattern in RECORDS for path in run_dir.glob(pattern)]


def command(study: str, run_dir: Path, *words: str) -> list[str]:
    """Return what runs a study."""
    settings = [word for setting in STUDIES[study] for word in ("--set", setting)]
    script = [sys.executable, str(PIPELINES / "full_study.py")]
    return [*script, "--study", str(TINY), "--run-dir", str(run_dir), *settings, *words]


def start(words: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a driver in a process group of its own, its output appended to a file."""
    environment = {**os.environ, **IMPATIENT}
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def end(process: "subprocess.Popen[bytes]", below: list[int]) -> None:
    """Wait for a dead driver's Ray to end by itself, as it should; end what is left of it after a while."""
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Machines:
    """Three nodes on this machine, a head that works for nobody and two of one CPU; replaced when the head is lost."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: Nodes | None = None

    @property
    def nodes(self) -> "Nodes":
        """The cluster, started when it is first asked for."""
        from tests.stages.nodes import Nodes

        if self._nodes is None:
            self._nodes = Nodes(Path(tempfile.mkdtemp(prefix="nodes-", dir=self._folder)), others=2)
        return self._nodes

    @property
    def head(self) -> int:
        """Process id of the head's raylet."""
        from tests.stages.nodes import raylet

        return raylet(self.nodes.head)

    def replace(self, pid: int) -> None:
        """Give up the node of a dead raylet and start another."""
        from tests.stages.nodes import raylet

        self.nodes.lose(next(node for node in self.nodes.others if raylet(node) == pid))
        self.nodes.add()

    def close(self) -> None:
        """End all nodes."""
        if self._nodes is not None:
            self._nodes.close()
            self._nodes = None


def candidates(process: "subprocess.Popen[bytes]", machines: Machines | None) -> dict[str, list[tuple[int, str]]]:
    """Return what may be killed now, as (process id, name) by kind."""
    by_kind: dict[str, list[tuple[int, str]]] = {"driver": [(process.pid, "full_study.py")]}
    # Of several nodes the head is lost with its server.
    head = None if machines is None else machines.head
    for pid, line in descendants(process.pid if machines is None else os.getpid()):
        for kind, names in KINDS.items():
            if any(name in line for name in names) and pid != head:
                by_kind.setdefault(kind, []).append((pid, line.split()[0].rpartition("/")[2]))
                break
    return by_kind


def disturb(
    run: Run, rng: random.Random, *, seconds: float, most: int, patience: float, machines: Machines | None
) -> None:
    """Run a study to its end, killing up to `most` processes.

    Each is killed at a time after the last one, or the start, that is drawn from [0, `seconds`]; the end has to come
    `patience` seconds after the last one.
    """
    log = run.run_dir.with_suffix(".log")

    def begin() -> "tuple[subprocess.Popen[bytes], float, float]":
        where = ["--resources.cpus", "2"] if machines is None else ["--ray-address", machines.nodes.address]
        now = time.monotonic()
        return start(command(run.study, run.run_dir, *where), log), now, now + rng.uniform(0, seconds)

    process, began, at = begin()
    while True:
        left = len(run.kills) < most
        try:
            status = process.wait(max(0.0, at - time.monotonic()) if left else patience)
        except subprocess.TimeoutExpired:
            below = [pid for pid, _ in descendants(process.pid)]
            if left:
                kill = kill_one(run, process, rng, began, machines)
                at = time.monotonic() + rng.uniform(0, seconds)
                if kill.kind in ("driver", "server") or (kill.kind == "raylet" and machines is None):
                    # A driver that lost its Ray is given time to find out.
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(60)
                    kill.then = "ended" if process.poll() is not None else "hung"
                    end(process, below)
                    if machines is not None and kill.kind == "server":
                        machines.close()
                    process, began, at = begin()
                continue
            run.kills[-1].then = "hung"
            end(process, below)
            raise AssertionError(f"no end within {patience:g} s after the last kill; see {log}") from None
        if status == 0:
            for kill in run.kills:
                kill.then = kill.then or "went on"
            return
        # What did not go on by itself: as its user would, start it again.
        assert run.kills, f"an undisturbed study ended with {status}; see {log}"
        run.kills[-1].then = run.kills[-1].then or f"ended with {status}"
        run.restarts += 1
        assert run.restarts <= RESTARTS, f"{run.restarts} runs of the same command ended with an error; see {log}"
        process, began, at = begin()


def kill_one(
    run: Run, process: "subprocess.Popen[bytes]", rng: random.Random, began: float, machines: Machines | None
) -> Kill:
    """Kill one process of a kind drawn first, and note what was finished."""
    choice = candidates(process, machines)
    kind = rng.choice(sorted(choice))
    pid, name = rng.choice(sorted(choice[kind]))
    finished = run.note_records()
    kill = Kill(run.study, run.where, kind, name, round(time.monotonic() - began, 1), finished)
    run.kills.append(kill)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    if machines is not None and kind == "raylet":
        machines.replace(pid)
    return kill


def faults(options: Options) -> None:
    """Run everything; exit with 1 where a result differs."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    rng, began = random.Random(options.seed), time.monotonic()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"runs and kills.jsonl in {folder}")
    undisturbed: dict[str, tuple[Path, float]] = {}
    kills: list[Kill] = []
    machines = Machines(folder)
    runs, failures = 0, 0
    try:
        while len(kills) < options.kills and time.monotonic() - began < 60 * options.minutes:
            study, where = rng.choice(options.studies), rng.choice(("own Ray", "three nodes"))
            if study not in undisturbed:
                undisturbed[study] = reference(study, folder)
            run = Run(study, where, folder / f"run-{runs}-{study}")
            runs += 1
            good = survives(run, undisturbed[study], rng, options, machines if where == "three nodes" else None)
            failures += not good
            kills += run.kills
            with (folder / "kills.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(kill)) + "\n" for kill in run.kills)
            killed = ", ".join(f"{kill.kind} after {kill.seconds:g} s ({kill.then})" for kill in run.kills) or "none"
            outcome = "as undisturbed" if good else "DIFFERENT"
            console.print(f"{run.run_dir.name} on {where}: {outcome}; killed: {killed}")
    finally:
        machines.close()
    by_kind = Counter((kill.kind, kill.where, kill.then) for kill in kills)
    for (kind, where, then), count in sorted(by_kind.items()):
        console.print(f"{count:4d} x {kind} on {where}: {then}")
    console.print(
        f"{len(kills)} kills in {runs} runs of {len(undisturbed)} studies, seed {options.seed}, "
        f"{(time.monotonic() - began) / 60:.1f} min: {failures} runs differ from the undisturbed one"
    )
    sys.exit(1 if failures else 0)


def reference(study: str, folder: Path) -> tuple[Path, float]:
    """Run a study undisturbed, or take the run that is there; return its directory and how many seconds it took."""
    run_dir, began = folder / f"undisturbed-{study}", time.monotonic()
    done = folder / f"undisturbed-{study}.seconds"
    if not done.is_file():
        process = start(command(study, run_dir, "--resources.cpus", "2"), run_dir.with_suffix(".log"))
        status = process.wait()
        assert status == 0, f"the undisturbed study ended with {status}; see {run_dir.with_suffix('.log')}"
        done.write_text(f"{time.monotonic() - began:.1f}", encoding="utf-8")
    seconds = float(done.read_text(encoding="utf-8"))
    console.print(f"undisturbed {study}: {seconds:g} s, {len(records(run_dir))} records")
    return run_dir, seconds


def survives(
    run: Run, undisturbed: tuple[Path, float], rng: random.Random, options: Options, machines: Machines | None
) -> bool:
    """Disturb a run; return whether it ended as the undisturbed one."""
    run_dir, seconds = undisturbed
    try:
        kills = rng.randint(-(-options.most // 3), options.most)
        # The more, the faster one follows the other.
        spacing = options.spacing or 4 * seconds / kills
        patience = max(HANGS_AFTER, HANGS_TIMES * seconds)
        disturb(run, rng, seconds=spacing, most=kills, patience=patience, machines=machines)
        run.check(run_dir)
    except AssertionError as error:
        console.print(f"[red]{escape(str(error)[:2000])}")
        return False
    return True


if __name__ == "__main__":
    faults(tyro.cli(Options, description=__doc__))

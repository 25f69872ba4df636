"""Fixtures shared by all tests, the Rays among them; which tests need a Ray; how tests are dealt to processes."""

import gc
import os

# Until all is imported: what modules hold is no garbage, and to look for some among it takes seconds.
gc.disable()
# Before anything imports ray or mlflow.
os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Or workers would wait for the tests that compute beside them.
        "RAY_worker_niceness": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
)
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "RSPIPE_RUNS"):
    os.environ.pop(name, None)

import fcntl
import http.client
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from rspipe.errors import ClusterError
from tests.processes import PATIENCE, RAY, REPOSITORY, SECRETS, TINY, Head, free_ports, kill_all, repeated, submit

# What is heavy is imported by the fixtures that need it: one of the processes only deals out the tests.
if TYPE_CHECKING:
    from rspipe.execution.resources import Cluster
    from rspipe.storage.paths import StorePath
    from tests.stages.nodes import Nodes

# No test depends on how fast the machine is, or on chance.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Fixtures that start a Ray, the first of which counts, and the group of their tests, which share a process.
RAYS = {"nodes": "nodes", "own_ray": "own", "head": "head", "reference": "head", "cluster": "cluster"}
# In which groups and files are dealt out; each of three processes begins with two of them. The nodes take longest, and
# what comes with them is short; the longest of the files without a Ray is begun early, too.
ORDER = ["nodes", "head", "cluster", "tests/test_api.py", "own", "tests/tracking/test_publish.py"]


class HeavyFirst(LoadScopeScheduling):
    """Tests that need the same Ray run in one process, and so do those of a file that need none."""

    def _split_scope(self, nodeid: str) -> str:
        # Behind the parameters, which may hold anything, `--dist=loadgroup` writes the group.
        if nodeid.rfind("@") > nodeid.rfind("]"):
            return nodeid.rpartition("@")[2]
        return nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> HeavyFirst:
    """Return how tests are dealt to processes."""
    return HeavyFirst(config, log)


def group_of(item: pytest.Item | None) -> str | None:
    """Return the group of a test that needs a Ray."""
    mark = None if item is None else item.get_closest_marker("xdist_group")
    return None if mark is None else str(mark.args[0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a Ray, and put the longest groups first, so that all processes are busy to the end.

    Before xdist's own hook, which writes the groups that it finds by then behind the names of tests.
    """

    def rank(item: pytest.Item) -> int:
        unit = group_of(item) or item.nodeid.partition("::")[0]
        return ORDER.index(unit) if unit in ORDER else len(ORDER)

    for item in items:
        parameters = getattr(item, "callspec", None)
        fixtures = set(getattr(item, "fixturenames", ())) - set(parameters.params if parameters else ())
        for fixture, group in RAYS.items():
            if fixture in fixtures:
                item.add_marker("cluster")
                item.add_marker(pytest.mark.xdist_group(group))
                break
    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but of what is there already."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_ray_unless_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a Ray whose address is not named, but to tests that start one of their own.

    A test without a fixture that starts one would be slow, and lack the mark; one that forgets the address of its
    fixture's would start another, or join one that has nothing to do with tests.
    """
    if "own_ray" not in request.fixturenames:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")


@pytest.fixture(autouse=True)
def _finished_studies_are_proven(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prove every radius of the studies that a test with a Ray has finished, without rspipe."""
    has_ray = request.node.get_closest_marker("cluster") is not None and "tmp_path" in request.fixturenames
    # Asked for before the test, or it is gone after it.
    pages = request.getfixturevalue("tmp_path").rglob("report.html") if has_ray else ()
    yield
    if not has_ray:
        return
    from pipelines import check_run

    for page in pages:
        if any(page.parent.glob("certificates/part-*.parquet")):
            assert check_run.main([str(page.parent)]) == 0


@pytest.fixture
def own_ray() -> None:
    """Let a test start pipelines that start a Ray of their own."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Cluster]":
    """A Ray of two CPUs, started once."""
    from rspipe.execution.connection import connect
    from rspipe.execution.resources import Resources

    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with ExitStack() as exits:
        yield repeated(
            lambda: exits.enter_context(connect(address="local", resources=Resources(cpus=2), log=log)), ClusterError
        )


@pytest.fixture
def repository() -> Path:
    """Return the root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder `data` in RSPIPE_SHARED, real images and logs; the test is skipped where there is none."""
    folder = Path(os.environ.get("RSPIPE_SHARED", ""), "data")
    if not os.environ.get("RSPIPE_SHARED") or not folder.is_dir():
        pytest.skip("needs real images and logs: RSPIPE_SHARED names no folder with data/ in it")
    return folder


@contextmanager
def running_head() -> Iterator[Head]:
    """Start a head of two CPUs in the repository's folder; stop it in the end."""
    gcs, dashboard, agent, agent_grpc, client = free_ports(5)
    # Sockets want a short path.
    temporary = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", **SECRETS}
    # Of a test that is the first to ask for a head.
    environment.pop("RAY_ADDRESS", None)
    words = [RAY, "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000"]
    words += [f"--port={gcs}", f"--temp-dir={temporary}", "--include-dashboard=true"]
    words += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    words += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}"]
    log = (Path(temporary) / "head.log").open("wb")
    own = {**environment, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(words, cwd=REPOSITORY, env=own, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            # Its port is open before it can answer.
            jobs = urllib.request.Request(f"http://127.0.0.1:{dashboard}/api/jobs/")
            jobs.add_header("Authorization", f"Bearer {environment['RAY_AUTH_TOKEN']}")
            with suppress(OSError, http.client.HTTPException), urllib.request.urlopen(jobs, timeout=10) as answer:
                assert answer.status == 200
                # Its dashboard answers before it is known whether its node comes up.
                if b"Ray runtime started" in Path(log.name).read_bytes():
                    break
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.3)
        yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment, Path(temporary))
    finally:
        kill_all(process)
        log.close()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A head of two CPUs that wants a token, started once in the repository's folder."""
    with ExitStack() as exits:
        yield repeated(lambda: exits.enter_context(running_head()), AssertionError)


@pytest.fixture(scope="module")
def nodes(object_store: str, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Nodes]":
    """Start a head and two nodes that have nothing in common but what is in buckets."""
    from tests.stages.nodes import Nodes

    machines = Nodes(tmp_path_factory.mktemp("nodes"), others=2, environment=object_store_access(object_store))
    yield machines
    machines.close()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: what a stage takes of the cluster must not depend on that to be given back."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the reduced study once, undisturbed, as a job; return its directory and what it printed.

    Processes that test side by side share it: the first to ask starts a head and runs the study, others wait.
    Nobody changes it: there is `copied`.
    """
    base = tmp_path_factory.getbasetemp()
    elsewhere = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reference"
    elsewhere.mkdir(exist_ok=True)
    run_dir, printed = elsewhere / "run", elsewhere / "printed"
    with (elsewhere / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            head = request.getfixturevalue("head")
            words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(run_dir))
            words += ("--resources.workers", "1")
            done = submit(head, *words, cwd=elsewhere)
            assert done.returncode == 0, done.stdout
            # Of Ray's: everybody on the machine may read them.
            shutil.copytree(head.folder / "session_latest" / "logs", elsewhere / "logs", symlinks=True)
            printed.write_text(done.stdout, encoding="utf-8")
    return run_dir, printed.read_text(encoding="utf-8")


@pytest.fixture
def copied(reference: tuple[Path, str], empty_database: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the finished run directory, `without` some of what is in it."""

    def copy(*, without: Sequence[str] = ()) -> Path:
        run_dir = tmp_path / "run"
        shutil.copytree(reference[0], run_dir, ignore=lambda at, _: without if Path(at) == reference[0] else ())
        shutil.copy(empty_database, tmp_path)
        return run_dir

    return copy


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Start moto's S3 server on 127.0.0.1; return its address."""
    moto = pytest.importorskip("moto.server", reason="needs moto, which is in the dev extra", exc_type=ImportError)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def object_store_access(address: str) -> dict[str, str]:
    """Return the environment that it takes to reach the buckets of an object store."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "StorePath":
    """Return a new bucket, with what it takes to reach it in the environment, and an empty home directory."""
    from rspipe.storage.paths import StorePath

    for name, value in {**object_store_access(object_store), "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    made = StorePath("s3", f"bucket-{uuid.uuid4().hex}")
    urllib.request.urlopen(urllib.request.Request(f"{object_store}/{made.path}", method="PUT"), timeout=30).close()
    return made


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, whose making takes longer than a study to be written."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path

"""Fixtures shared by all tests: one small Ray for the whole session, and the folder of real data."""

import os

# Before anything imports ray or mlflow.
os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
)
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RSPIPE_RUNS"):
    os.environ.pop(name, None)

import gc
import http.client
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
from mlflow import MlflowClient
from xdist.scheduler import LoadScopeScheduling

from rspipe.execution.connection import connect
from rspipe.execution.resources import Cluster, Resources
from rspipe.storage.paths import StorePath
from tests.processes import RAY, REPOSITORY, TINY, Head, free_ports, kill_all, submit

# No test depends on how fast the machine is, or on chance.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Files of tests/stages that share a head, an undisturbed run and the pipelines started on them.
WHOLE_STUDIES = (
    "test_full_study.py",
    "test_job.py",
    "test_nodes.py",
    "test_nodes_storage.py",
    "test_safety.py",
    "test_train.py",
)


class StagesTogether(LoadScopeScheduling):
    """Whole studies run in one process and the other stages' tests in one, since they share a Ray; files elsewhere."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if not file.startswith("tests/stages/"):
            return file
        return "whole studies" if file.endswith(WHOLE_STUDIES) else "stages"


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> StagesTogether:
    """Return how tests are dealt to processes."""
    return StagesTogether(config, log)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray of two CPUs, started once."""
    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with connect(address="local", resources=Resources(cpus=2), log=log) as connected:
        yield connected


@pytest.fixture
def repository() -> Path:
    """Return the root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def shared_data() -> Path:
    """Return the folder `data` in RSPIPE_SHARED, real images and logs; the test is skipped where there is none."""
    folder = Path(os.environ.get("RSPIPE_SHARED", ""), "data")
    if not os.environ.get("RSPIPE_SHARED") or not folder.is_dir():
        pytest.skip("needs real images and logs: RSPIPE_SHARED names no folder with data/ in it")
    return folder


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Start a head of two CPUs in the repository's folder; stop it in the end."""
    gcs, dashboard, agent, agent_grpc, client = free_ports(5)
    # Sockets want a short path.
    temporary = tempfile.mkdtemp(prefix="rs-", dir="/tmp")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32}
    words = [RAY, "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000"]
    words += [f"--port={gcs}", f"--temp-dir={temporary}", "--include-dashboard=true"]
    words += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    words += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}"]
    log = (Path(temporary) / "head.log").open("wb")
    process = subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while True:
            # Its port is open before it can answer.
            jobs = urllib.request.Request(f"http://127.0.0.1:{dashboard}/api/jobs/")
            jobs.add_header("Authorization", f"Bearer {environment['RAY_AUTH_TOKEN']}")
            with suppress(OSError, http.client.HTTPException), urllib.request.urlopen(jobs, timeout=10) as answer:
                assert answer.status == 200
                break
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.3)
        yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
    finally:
        kill_all(process)
        log.close()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: what a stage takes of the cluster must not depend on that to be given back."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def reference(head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the reduced study once, undisturbed, as a job; return its directory and what it printed."""
    elsewhere = tmp_path_factory.mktemp("reference")
    run_dir = elsewhere / "run"
    words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(run_dir))
    done = submit(head, *words, cwd=elsewhere)
    assert done.returncode == 0, done.stdout
    return run_dir, done.stdout


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


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StorePath:
    """Return a new bucket, with what it takes to reach it in the environment, and an empty home directory."""
    reached = {
        "AWS_ENDPOINT_URL": object_store,
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path / "home"),
    }
    for name, value in reached.items():
        monkeypatch.setenv(name, value)
    made = StorePath("s3", f"bucket-{uuid.uuid4().hex}")
    urllib.request.urlopen(urllib.request.Request(f"{object_store}/{made.path}", method="PUT"), timeout=30).close()
    return made


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, whose making takes longer than a study to be written."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path

"""A study as a job on a running cluster, whose head this test starts and stops."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stages.processes import TINY, descendants, run

REPOSITORY = TINY.parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running Ray head that wants a token."""

    address: str
    dashboard: str
    environment: dict[str, str]
    """Of a client that knows the token."""


def free_ports(count: int) -> list[int]:
    """Return free ports outside of the range that Ray's workers use."""
    ports: list[int] = []
    for port in range(20_500 + os.getpid() % 5000, 30_000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("0.0.0.0", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """End a head and every process it started."""
    below = [pid for pid, _ in descendants(process.pid)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(3)
    for pid in [process.pid, *below]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
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
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", dashboard), timeout=1).close()
                break
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.3)
        yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
    finally:
        kill_all(process)
        log.close()
        shutil.rmtree(temporary, ignore_errors=True)


def submit(head: Head, *words: str, options: tuple[str, ...] = (), cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `ray job submit` to its end, with its output in one text."""
    return subprocess.run(
        [RAY, "job", "submit", f"--address={head.dashboard}", *options, "--", "python", *words],
        cwd=cwd,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def submitted(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the reduced study as a job; return its run directory."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run_dir = elsewhere / "run"
    words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(run_dir))
    done = submit(head, *words, cwd=elsewhere)
    assert done.returncode == 0, done.stdout
    assert "certify: 60/60 images" in done.stdout
    assert str(run_dir / "report.html") in done.stdout
    return run_dir


def test_a_job_runs_the_whole_study_on_a_head_started_in_the_repository(submitted: Path) -> None:
    assert (submitted / "summary.tsv").read_text(encoding="utf-8").count("\n") == 1 + 10
    assert "<svg" in (submitted / "report.html").read_text(encoding="utf-8")


def test_a_job_with_a_working_directory_goes_on_with_the_same_run_directory(head: Head, submitted: Path) -> None:
    words = ("pipelines/full_study.py", "--study", "tests/stages/tiny.toml", "--run-dir", str(submitted))
    done = submit(head, *words, options=("--working-dir", str(REPOSITORY)), cwd=submitted.parent)
    assert done.returncode == 0, done.stdout
    assert "train: 0/0 models" in done.stdout


def test_a_job_that_fails_says_so_with_its_exit_status(head: Head, tmp_path: Path) -> None:
    words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(tmp_path / "r"), "--set", "certify.n=5")
    done = submit(head, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "use n >= 10" in done.stdout
    assert "Traceback" not in done.stdout
    assert "exit code 2" in done.stdout


def test_a_driver_joins_a_running_cluster_by_its_address(head: Head, submitted: Path) -> None:
    words = ("--study", str(TINY), "--run-dir", str(submitted), "--ray-address", head.address)
    status, output = run("full_study.py", *words, environment=head.environment)
    assert status == 0, output
    # Ray names the head by another of its addresses.
    assert re.search(rf"Ray at [\d.]+:{head.address.rpartition(':')[2]}\b", output)


def test_a_refused_token_is_one_line_that_says_what_to_export(head: Head, tmp_path: Path) -> None:
    words = ("--study", str(TINY), "--run-dir", str(tmp_path / "run"), "--ray-address", head.address)
    status, output = run("full_study.py", *words, environment={**head.environment, "RAY_AUTH_TOKEN": "b" * 32})
    assert status == 2, output
    (line,) = output.strip().splitlines()
    assert "refuses this client's token" in line
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" in line


def test_resources_that_the_cluster_cannot_give_are_refused(head: Head, tmp_path: Path) -> None:
    words = ("--study", str(TINY), "--run-dir", str(tmp_path / "run"), "--ray-address", head.address)
    status, output = run("train.py", *words, "--resources.workers", "5", environment=head.environment)
    assert status == 2, output
    (line,) = output.strip().splitlines()
    assert "the cluster has 2 CPUs and 0 GPUs; lower --resources.workers" in line

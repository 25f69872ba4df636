"""Addresses, resources and what users are told about them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rspipe.errors import ClusterError
from rspipe.execution import connection as runtime
from rspipe.execution.connection import connect
from rspipe.execution.resources import Cluster, Node, Resources
from rspipe.execution.worker import set_deterministic
from rspipe.storage.environment import environment


def cluster_of(cpus: float, gpus: float, **asked: float) -> Cluster:
    return Cluster("here:1", (Node(cpus, gpus),), Resources(**asked))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cluster", "work", "workers"),
    [
        (cluster_of(8, 0), 100, 8),
        (cluster_of(8, 0), 3, 3),
        (cluster_of(8, 0, workers=4), 100, 4),
        (cluster_of(8, 0, cpus_per_worker=2.5), 100, 3),
        (cluster_of(8, 2, gpus_per_worker=0.5), 100, 4),
        (cluster_of(2, 4, gpus_per_worker=1.0), 100, 2),
        (cluster_of(8, 4, cpus_per_worker=0.0, gpus_per_worker=0.25), 100, 16),
        (cluster_of(8, 0), 0, 1),
    ],
)
def test_as_many_workers_start_as_fit_and_have_work(cluster: Cluster, work: int, workers: int) -> None:
    assert cluster.workers(work) == workers


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (
            cluster_of(2, 0, cpus_per_worker=4.0),
            "4 CPUs and 0 GPUs per worker are asked for but the cluster has 2 CPUs",
        ),
        (cluster_of(2, 0, gpus_per_worker=1.0), "the cluster has 2 CPUs and 0 GPUs"),
        (cluster_of(2, 0, workers=3), "3 workers .* lower --resources.workers"),
    ],
)
def test_what_does_not_fit_is_refused(cluster: Cluster, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        cluster.workers(10)


@pytest.mark.parametrize(
    ("nodes", "asked", "workers"),
    [
        ([(2, 0)] * 4, {"cpus_per_worker": 2.0}, 4),
        ([(3, 0)] * 4, {"cpus_per_worker": 2.0}, 4),
        ([(1, 0), (8, 0)], {"cpus_per_worker": 4.0}, 2),
        ([(8, 0), (8, 1)], {"gpus_per_worker": 0.5}, 2),
        ([(0, 0), (4, 2)], {"gpus_per_worker": 1 / 3}, 4),
    ],
)
def test_a_worker_does_not_span_two_nodes(
    nodes: list[tuple[float, float]], asked: dict[str, float], workers: int
) -> None:
    cluster = Cluster("here:1", tuple(Node(*node) for node in nodes), Resources(**asked))  # type: ignore[arg-type]
    assert cluster.workers(100) == workers


def test_nodes_that_are_each_too_small_are_refused() -> None:
    cluster = Cluster("here:1", (Node(2, 0), Node(2, 0)), Resources(cpus_per_worker=4.0))
    with pytest.raises(ClusterError, match=r"4 CPUs .* the cluster has 4 CPUs and 0 GPUs on 2 nodes"):
        cluster.workers(1)


class Machines:
    """A cluster that has one more node each time somebody looks, and that notes what it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
        self.requests: list[list[dict[str, float]]] = []
        self._counts = list(counts)
        monkeypatch.setattr(runtime, "_alive_nodes", self._look)
        monkeypatch.setattr(runtime, "_NODE_POLL_SECONDS", 0.01)
        monkeypatch.setattr("ray.autoscaler.sdk.request_resources", self._note)

    def _note(self, *, bundles: list[dict[str, float]]) -> None:
        self.requests.append(bundles)

    def _look(self) -> tuple[Node, ...]:
        count = self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]
        return (Node(0, 0), *[Node(4, 1)] * count)

    def now(self, **asked: float) -> Cluster:
        return Cluster("here:1", (), Resources(gpus_per_worker=1.0, **asked)).now()  # type: ignore[arg-type]


def test_a_cluster_without_workers_is_asked_for_one_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, 0, 0, 0, 2)
    assert machines.now(wait_minutes=1.0).workers(10) == 2
    # The request is taken back: it would outlive this process.
    assert machines.requests == [[{"CPU": 1.0, "GPU": 1.0}], []]


def test_nobody_waits_for_a_cluster_that_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, 1)
    assert machines.now(wait_minutes=1.0).workers(10) == 1
    assert machines.requests == []


def test_waiting_for_machines_ends_and_the_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, 0)
    began = time.monotonic()
    cluster = machines.now(wait_minutes=0.005)
    assert 0.3 <= time.monotonic() - began < 5
    with pytest.raises(ClusterError, match=r"the cluster has 0 CPUs and 0 GPUs; lower --resources\.\* or add nodes"):
        cluster.workers(1)
    assert machines.requests[-1] == []


def test_a_study_whose_nodes_were_lost_goes_on_with_fewer_workers_than_it_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines = Machines(monkeypatch, 2)
    assert machines.now(workers=3).workers(10) == 2
    assert machines.now(workers=1).workers(10) == 1


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"wait_minutes": -1.0}, r"--resources\.wait-minutes = -1 must be at least 0"),
        ({"cpus_per_worker": -1.0}, r"--resources\.cpus-per-worker = -1 must be at least 0"),
        ({"gpus_per_worker": -0.5}, r"--resources\.gpus-per-worker = -0\.5 must be at least 0"),
        ({"gpus_per_worker": 2.0}, r"--resources\.gpus-per-worker = 2, but a worker .* --resources\.workers-per-model"),
        ({"gpus_per_worker": float("nan")}, r"--resources\.gpus-per-worker = nan must be at least 0"),
        ({"workers": 0}, r"--resources\.workers = 0 must be at least 1"),
        ({"cpus": 0}, r"--resources\.cpus = 0 must be at least 1"),
        ({"cpus_per_worker": 0.0}, "are both 0; raise one"),
    ],
)
def test_amounts_that_mean_nothing_are_refused(asked: dict[str, float], says: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=says),
        connect(address="127.0.0.1:9", resources=Resources(**asked), log=tmp_path / "ray.log"),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_the_address_of_a_client_or_a_dashboard_is_refused(address: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=r"is that of a client or a dashboard; give the head's own"),
        connect(address=address, resources=Resources(), log=tmp_path / "ray.log"),
    ):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"no Ray head answers at 127\.0\.0\.1:9 .*`ray start --head`"),
        connect(address="127.0.0.1:9", resources=Resources(), log=tmp_path / "ray.log"),
    ):
        pass
    # Ray itself would try for minutes.
    assert time.monotonic() - began < 30


def test_the_environment_names_commit_packages_and_machine() -> None:
    found = environment()
    assert found["torch"] != "absent"
    assert all(found[name] for name in ("started", "commit", "python", "ray", "mlflow", "cpu", "precision"))
    assert all(isinstance(value, str) for value in found.values())


def test_a_commit_is_that_of_the_image_where_there_is_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSPIPE_COMMIT", "abc")
    assert runtime._commit(Path(runtime.__file__).parent) != "abc"
    assert runtime._commit(Path("/")) == "abc"
    monkeypatch.delenv("RSPIPE_COMMIT")
    assert runtime._commit(Path("/")) == "unknown"


def test_workers_compute_with_one_thread_in_float32_proper() -> None:
    torch.set_num_threads(2)
    set_deterministic()
    assert torch.get_num_threads() == 1
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_native_output_goes_to_the_log_and_python_errors_to_the_terminal(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rspipe.execution.connection import _native_stderr\n"
        "with _native_stderr(Path(sys.argv[1])) as said:\n"
        "    os.write(2, b'native words\\n')\n"
        "    print('python words', file=sys.stderr)\n"
        "    assert said() == 'native words\\n'\n"
        "os.write(2, b'afterwards\\n')\n"
    )
    log = tmp_path / "ray.log"
    done = subprocess.run(
        [sys.executable, "-c", script, str(log)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert log.read_text() == "native words\n"
    assert done.stderr == "python words\nafterwards\n"

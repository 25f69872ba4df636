"""As many workers as fit, nodes that come and go, and the errors about them."""

import time

import pytest

from rspipe.errors import ClusterError
from rspipe.execution import resources
from rspipe.execution.resources import Cluster, Node, Resources


def cluster_of(cpus: float, gpus: float, **amounts: float) -> Cluster:
    return Cluster("here:1", (Node(cpus, gpus),), Resources(**amounts))  # type: ignore[arg-type]


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
    ("cluster", "message"),
    [
        (
            cluster_of(2, 0, cpus_per_worker=4.0),
            "4 CPUs and 0 GPUs per worker are asked for but the cluster has 2 CPUs",
        ),
        (cluster_of(2, 0, gpus_per_worker=1.0), "the cluster has 2 CPUs and 0 GPUs"),
        (cluster_of(2, 0, workers=3), "3 workers .* lower --resources.workers"),
    ],
)
def test_what_does_not_fit_is_refused(cluster: Cluster, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        cluster.workers(10)


@pytest.mark.parametrize(
    ("nodes", "amounts", "workers"),
    [
        ([(2, 0)] * 4, {"cpus_per_worker": 2.0}, 4),
        ([(3, 0)] * 4, {"cpus_per_worker": 2.0}, 4),
        ([(1, 0), (8, 0)], {"cpus_per_worker": 4.0}, 2),
        ([(8, 0), (8, 1)], {"gpus_per_worker": 0.5}, 2),
        ([(0, 0), (4, 2)], {"gpus_per_worker": 1 / 3}, 4),
    ],
)
def test_a_worker_does_not_span_two_nodes(
    nodes: list[tuple[float, float]], amounts: dict[str, float], workers: int
) -> None:
    cluster = Cluster("here:1", tuple(Node(*node) for node in nodes), Resources(**amounts))  # type: ignore[arg-type]
    assert cluster.workers(100) == workers


@pytest.mark.parametrize(
    ("nodes", "gpus"),
    [([(8, 0)], 0.0), ([(0, 0), (8, 4)], 1.0), ([(8, 0), (8, 1)], 1.0), ([(0, 8), (4, 0)], 0.0), ([], 0.0)],
)
def test_a_worker_has_a_gpu_by_default_where_the_cluster_has_any_for_it(
    nodes: list[tuple[float, float]], gpus: float
) -> None:
    decided = Resources().on(tuple(Node(*node) for node in nodes))
    assert decided.gpus == gpus
    assert Resources(gpus_per_worker=0.0).on((Node(8, 4),)).gpus == 0


@pytest.mark.parametrize(
    ("gpus", "share", "workers"), [(2, 0.4, 4), (3, 0.6, 3), (2, 1 / 3, 6), (1.4, 0.4, 3), (0.4, 0.4, 1), (0.3, 0.4, 0)]
)
def test_a_share_of_a_gpu_does_not_span_two(gpus: float, share: float, workers: int) -> None:
    assert cluster_of(8, gpus, gpus_per_worker=share).fits == workers


def test_nodes_that_are_each_too_small_are_refused() -> None:
    cluster = Cluster("here:1", (Node(2, 0), Node(2, 0)), Resources(cpus_per_worker=4.0))
    with pytest.raises(ClusterError, match=r"4 CPUs .* the cluster has 4 CPUs and 0 GPUs on 2 nodes"):
        cluster.workers(1)


class Machines:
    """A cluster that has one more node each time somebody looks, and that notes the requests for nodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
        self.requests: list[list[dict[str, float]]] = []
        self._counts = list(counts)
        monkeypatch.setattr(resources, "_alive_nodes", self._look)
        monkeypatch.setattr(resources, "_NODE_POLL_SECONDS", 0.01)
        monkeypatch.setattr("ray.autoscaler.sdk.request_resources", self._note)

    def _note(self, *, bundles: list[dict[str, float]]) -> None:
        self.requests.append(bundles)

    def _look(self) -> tuple[Node, ...]:
        count = self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]
        return (Node(0, 0), *[Node(4, 1)] * count)

    def now(self, **amounts: float) -> Cluster:
        return Cluster("here:1", (), Resources(gpus_per_worker=1.0, **amounts)).now()  # type: ignore[arg-type]


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


class Others:
    """A node of four CPUs of which others hold ever fewer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *held: int) -> None:
        self._held = list(held)
        monkeypatch.setattr(resources, "_alive_nodes", lambda: (Node(4, 0),))
        monkeypatch.setattr(resources, "_free_nodes", self._look)
        for name in ("_NODE_POLL_SECONDS", "_SILENT_SECONDS", "_SETTLED_SECONDS"):
            monkeypatch.setattr(resources, name, 0.01)
        monkeypatch.setattr(resources, "_FREED_SECONDS", 0.1)

    def _look(self) -> tuple[Node, ...]:
        return (Node(4 - (self._held.pop(0) if len(self._held) > 1 else self._held[0]), 0),)

    def free(self, workers: int, *, at_best: int) -> int:
        return Cluster("here:1", (Node(4, 0),), Resources()).free(workers, at_best=at_best, stage="training")


def test_a_stage_waits_for_what_others_hold_and_says_who_waits_for_what(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert Others(monkeypatch, *[4] * 6, 2, 0).free(1, at_best=1) == 2
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("training waits for 1 CPUs and 0 GPUs per worker: others hold 4 of 4 CPUs, for ")


def test_a_stage_takes_what_there_is_where_others_keep_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Others(monkeypatch, 3).free(1, at_best=4) == 1
    assert Others(monkeypatch, 3, 0).free(1, at_best=4) == 4
    assert Others(monkeypatch, 4).free(0, at_best=0) == 0


def test_a_stage_ends_when_others_hold_everything_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        r"training waited .* min for 1 CPUs .*: others hold 4 of 4 CPUs; wait longer with --resources\.wait-minutes"
    )
    with pytest.raises(ClusterError, match=expected):
        Others(monkeypatch, 4).free(1, at_best=1)


def test_a_study_whose_nodes_were_lost_goes_on_with_fewer_workers_than_it_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines = Machines(monkeypatch, 2)
    assert machines.now(workers=3).workers(10) == 2
    assert machines.now(workers=1).workers(10) == 1

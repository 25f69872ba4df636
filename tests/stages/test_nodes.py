"""Studies on a cluster whose nodes come and go: the numbers are those of an undisturbed run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray._private.node import Node
from ray.cluster_utils import Cluster as Nodes

from rspipe.data.sources import load_dataset
from rspipe.smoothing.classifiers import Classifier
from rspipe.stages.train import train_one
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from tests.processes import REPOSITORY, TINY, descendants, finish, start, wait_until
from tests.stages.counted import expected_rows, rows
from tests.stages.late import IMAGES
from tests.stages.test_full_study import assert_same_results

# Seven processes of Ray's per node on a busy machine: no figure, only an end for what hangs.
LIMIT = 900.0
# Long enough that a node can be taken away in between: half a second per image.
SETTINGS = ("certify.n=100000", "certify.images=40", 'certify.rule="radius_grid"', "training.epochs=2")


def soon(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    wait_until(condition, process, seconds=LIMIT)


@contextmanager
def started(*, head_cpus: int, others: int) -> Iterator[Nodes]:
    """Start a head and so many other nodes of one CPU each, as processes of this machine."""
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False})
    try:
        for _ in range(others):
            nodes.add_node(num_cpus=1)
        yield nodes
    finally:
        nodes.shutdown()


def node_with(nodes: Nodes, process: str) -> Node | None:
    """Return a node that is no head and runs a process whose command line holds a name."""
    for node in nodes.worker_nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        if any(process in command for _, command in descendants(raylet)):
            return node
    return None


def node_at_work(nodes: Nodes, worker: str, process: "subprocess.Popen[str]") -> Node:
    """Wait for a node that is no head and runs a process whose command line holds a name; return it."""
    seen: list[Node] = []

    def there() -> bool:
        node = node_with(nodes, worker)
        seen.extend([] if node is None else [node])
        return bool(seen)

    soon(there, process)
    return seen[0]


@pytest.fixture
def begun(reference: tuple[Path, str], tmp_path: Path) -> Path:
    """A run directory of the reduced study in which half of each stage is done up to training."""
    run_dir = tmp_path / "run"
    shutil.copytree(reference[0], run_dir)
    (search,) = (run_dir / "search").iterdir()
    for name in ("result.json", "trial-2.json", "trial-3.json"):
        (search / name).unlink()
    models = [path for path in (run_dir / "models").iterdir() if path.name.startswith(("smoothadv", "advmacer_tuned"))]
    assert len(models) == 2
    for path in [*models, run_dir / "moments", run_dir / "weights", run_dir / "certificates"]:
        shutil.rmtree(path)
    for path in [*run_dir.glob("summary.*"), run_dir / "report.html"]:
        path.unlink()
    return run_dir


def test_a_study_that_loses_a_node_in_every_stage_ends_by_itself_and_one_whose_head_is_lost_resumes(
    begun: Path, reference: tuple[Path, str]
) -> None:
    words = ("--study", str(TINY), "--run-dir", str(begun))
    # How long a driver looks for its head.
    impatient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}

    def found(pattern: str) -> set[Path]:
        return set(begun.glob(pattern))

    # By the processes that do the work, and by what is written when it is done.
    stages = {
        "search": ("ray::ImplicitFunc", "search/*/result.json"),
        "training": ("ray::RayTrainWorker", "models/smoothadv-*/model.json"),
        "weighing": ("ray::MapWorker", "moments/*"),
    }
    with started(head_cpus=0, others=2) as nodes:
        process = start("full_study.py", *words, "--ray-address", nodes.address, environment=impatient)
        for stage, (worker, result) in stages.items():
            lost = node_at_work(nodes, worker, process)
            # That the node is gone takes Ray seconds to notice, in which what is left may end the stage.
            assert not found(result), f"{stage} had ended before the node was lost"
            nodes.remove_node(lost, allow_graceful=False)
            nodes.add_node(num_cpus=1)
        soon(lambda: found("certificates/part-*.parquet"), process)
        # The head is lost with all its nodes, at once: to end them one by one takes longer than the study.
        nodes.head_node.all_processes["gcs_server"][0].process.kill()
        for node in nodes.worker_nodes:
            node.all_processes["raylet"][0].process.kill()
    status, output = finish(process, seconds=LIMIT)
    assert status != 0, output
    assert not (begun / "report.html").exists(), "the study had ended before its head was lost"
    before = found("certificates/part-*.parquet")
    with started(head_cpus=0, others=2) as nodes:
        process = start("full_study.py", *words, "--ray-address", nodes.address)
        lost = node_at_work(nodes, "ray::MapWorker", process)
        soon(lambda: found("certificates/part-*.parquet") - before, process)
        assert not (begun / "summary.tsv").exists(), "certification had ended before the node was lost"
        nodes.remove_node(lost, allow_graceful=False)
        status, resumed = finish(process, seconds=LIMIT)
    assert status == 0, resumed
    assert "going on with those that are left" in output
    assert "(raylet)" not in output + resumed, "Ray's own messages reached the terminal"
    assert "(raylet)" in (begun / "ray.log").read_text(encoding="utf-8")
    assert_same_results(begun, reference[0])


def test_a_node_that_is_lost_in_certification_costs_time_alone(tmp_path: Path) -> None:
    study = load_study(TINY, overrides=SETTINGS)
    store, data = Store(tmp_path), load_dataset(study.data)
    model = train_one(store, study.model_specs[0], data)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ("--study", str(TINY), "--run-dir", str(tmp_path), *settings)
    parts = tmp_path / "certificates"
    with started(head_cpus=1, others=1) as nodes:
        process = start("certify.py", *words, "--ray-address", nodes.address)
        soon(lambda: len(list(parts.glob("part-*.parquet"))) >= 3, process)
        nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
        before = len(list(parts.glob("part-*.parquet")))
        status, output = finish(process, seconds=LIMIT)
    assert status == 0, output
    assert "going on with the" in output
    assert before < len(list(parts.glob("part-*.parquet")))
    found, expected = rows(store), expected_rows(store, study, data, [model], [Classifier(model.id, (0,), (1.0,))])
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        assert {name: found[key][name] for name in wanted} == wanted, key


def test_a_node_that_joins_during_a_pass_over_images_gets_some_of_them(tmp_path: Path) -> None:
    with started(head_cpus=1, others=0) as nodes:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.stages.late", nodes.address, str(tmp_path)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            start_new_session=True,
        )
        arrived = tmp_path / "arrived"
        soon(lambda: arrived.is_dir() and len(list(arrived.iterdir())) == 1, process)
        nodes.add_node(num_cpus=1)
        soon(lambda: len(list(arrived.iterdir())) == 2, process)
        (tmp_path / "go").touch()
        status, output = finish(process, seconds=LIMIT)
    assert status == 0, output
    assert sorted(output.split("\n")[:-1]) == sorted(f"visited {example}" for example in range(IMAGES))

"""Certification on a cluster whose nodes come and go: the counts are those of an undisturbed run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster as Nodes

from rspipe.datasets import load_dataset
from rspipe.ensembles import Classifier
from rspipe.stages.store import Store
from rspipe.stages.train import train_one
from rspipe.study import load_study
from tests.stages.counted import expected_rows, rows
from tests.stages.late import IMAGES
from tests.stages.processes import REPOSITORY, TINY, finish, start, wait_until

# Long enough that a node can be taken away in between: half a second per image.
SETTINGS = ("certify.n=100000", "certify.images=40", 'certify.rule="radius_grid"', "training.epochs=2")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes of one CPU each, as processes of this machine."""
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    try:
        yield nodes
    finally:
        nodes.shutdown()


def test_a_node_that_is_lost_in_certification_costs_time_alone(nodes: Nodes, tmp_path: Path) -> None:
    study = load_study(TINY, overrides=SETTINGS)
    store, data = Store(tmp_path), load_dataset(study.data)
    model = train_one(store, study.model_specs[0], data)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ("--study", str(TINY), "--run-dir", str(tmp_path), *settings, "--ray-address", nodes.address)
    process = start("certify.py", *words)
    parts = tmp_path / "certificates"
    wait_until(lambda: len(list(parts.glob("part-*.parquet"))) >= 3, process)
    nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
    before = len(list(parts.glob("part-*.parquet")))
    status, output = finish(process)
    assert status == 0, output
    assert "going on with the" in output
    assert before < len(list(parts.glob("part-*.parquet")))
    found, expected = rows(store), expected_rows(store, study, data, [model], [Classifier(model.id, (0,), (1.0,))])
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        assert {name: found[key][name] for name in wanted} == wanted, key


def test_a_node_that_joins_during_a_pass_over_images_gets_some_of_them(tmp_path: Path) -> None:
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
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
        wait_until(lambda: arrived.is_dir() and len(list(arrived.iterdir())) == 1, process)
        nodes.add_node(num_cpus=1)
        wait_until(lambda: len(list(arrived.iterdir())) == 2, process)
        (tmp_path / "go").touch()
        status, output = finish(process)
    finally:
        nodes.shutdown()
    assert status == 0, output
    assert sorted(output.split("\n")[:-1]) == sorted(f"visited {example}" for example in range(IMAGES))

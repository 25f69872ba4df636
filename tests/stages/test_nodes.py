"""Certification on a cluster whose nodes come and go: the counts are those of an undisturbed run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster as Nodes

from rspipe.datasets import load_dataset
from rspipe.stages.store import Store
from rspipe.stages.train import train_one
from rspipe.study import load_study
from tests.stages.processes import TINY, finish, start, wait_until

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


def counts(run_dir: Path) -> dict[tuple[str, int], object]:
    table = Store(run_dir).counts()
    assert table is not None
    listed = [{name: value for name, value in row.items() if name != "seconds"} for row in table.to_pylist()]
    found = {(row["classifier"], row["example"]): row for row in listed}
    assert len(found) == len(listed)
    return found


def certify(run_dir: Path, *words: str):
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return start("certify.py", "--study", str(TINY), "--run-dir", str(run_dir), *settings, *words)


def test_a_node_that_is_lost_in_certification_costs_time_alone(nodes: Nodes, tmp_path: Path) -> None:
    study = load_study(TINY, overrides=SETTINGS)
    spec = study.model_specs[0]
    for name in ("disturbed", "undisturbed"):
        train_one(Store(tmp_path / name), spec, load_dataset(study.data))
    disturbed = tmp_path / "disturbed"
    process = certify(disturbed, "--ray-address", nodes.address)
    parts = disturbed / "certificates"
    wait_until(lambda: len(list(parts.glob("part-*.parquet"))) >= 3, process)
    nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
    before = len(list(parts.glob("part-*.parquet")))
    status, output = finish(process)
    assert status == 0, output
    assert "going on with the" in output
    assert before < len(list(parts.glob("part-*.parquet")))
    status, output = finish(certify(tmp_path / "undisturbed", "--resources.cpus", "2"))
    assert status == 0, output
    assert counts(disturbed) == counts(tmp_path / "undisturbed")
    assert len(counts(disturbed)) == study.certify.images

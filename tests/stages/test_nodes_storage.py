"""A study on two nodes that have nothing in common but a bucket."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs
from ray.cluster_utils import Cluster as Nodes

from rspipe.stages.report import read_run, write_derived
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from tests.processes import TINY, finish, kill, start, wait_until
from tests.stages.test_full_study import assert_same_results

KEPT = ("models/", "search/", "moments/", "weights/", "figures/", "summary.", "report.", "study.", "environment.json")


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """Return a folder of each node, which is its home and has its temporary files."""
    return [tmp_path / f"node-{node}" for node in range(2)]


@pytest.fixture
def nodes(bucket: StorePath, homes: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Two nodes of one CPU each, as processes of this machine, that can reach the bucket."""
    nodes = Nodes()
    try:
        for home in homes:
            (home / "tmp").mkdir(parents=True)
            monkeypatch.chdir(home)
            own = {"HOME": str(home), "TMPDIR": str(home / "tmp")}
            nodes.add_node(num_cpus=1, include_dashboard=False, env_vars=own)
        yield nodes
    finally:
        nodes.shutdown()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_study_killed_and_resumed_in_a_bucket_has_the_numbers_of_one_in_a_folder(
    nodes: Nodes, homes: list[Path], bucket: StorePath, reference: tuple[Path, str], tmp_path: Path
) -> None:
    study = load_study(TINY)
    run_dir = bucket / "runs" / study.id
    words = ("--study", str(TINY), "--ray-address", nodes.address)
    records = [run_dir / "models" / spec.id / "model.json" for spec in study.model_specs]

    def trained() -> int:
        time.sleep(0.3)
        return sum(path.is_file() for path in records)

    process = start("full_study.py", *words, "--run-dir", str(run_dir))
    wait_until(trained, process)
    kill(process)
    assert not (run_dir / "summary.tsv").is_file(), "the study had ended before the driver was killed"
    assert list((run_dir / "lock").glob("*")), "the driver that was killed held no lock"
    status, output = finish(start("full_study.py", *words, environment={"RSPIPE_RUNS": str(bucket / "runs")}))
    assert status == 0, output
    assert f"{run_dir}/report.html" in output
    assert "MLflow at" not in output

    fetched = tmp_path / "fetched"
    connected, _ = fs.FileSystem.from_uri(f"s3://{bucket.path}")
    fs.copy_files(run_dir.path, str(fetched), source_filesystem=connected)
    assert_same_results(fetched, reference[0])
    assert {name for name in files(reference[0]) if name.startswith(KEPT)} - files(fetched) == set()
    assert not any((run_dir / "lock").glob("*"))
    assert not [name for name in files(fetched) if b"a-secret-key" in (fetched / name).read_bytes()]
    assert "a-secret-key" not in output

    # Where the driver ran there are logs, scratch and MLflow's files; where workers ran there is nothing.
    local = run_dir.local_part
    assert {name for name in files(local) if not name.startswith(".ray/")} == {"ray.log"}
    assert {path.name for path in local.parent.iterdir()} == {study.id, "mlflow.db", "mlartifacts"}
    assert [path.name for path in local.parents[1].iterdir()] == ["runs"]
    assert any(name.endswith("/weights.pt") for name in files(local.parent / "mlartifacts"))
    assert not [path for path in local.parent.rglob("*") if path.is_file() and b"a-secret-key" in path.read_bytes()]
    assert [files(home) for home in homes] == [set(), set()]

    ours, theirs = read_run(str(run_dir)), read_run(reference[0])
    assert [*ours.counts] == [*theirs.counts]
    table, folder = write_derived(Store(run_dir), study, kind="two_sided", alpha=0.01, n=1000)
    assert len(table.rows) == len(list(folder.glob("*.tsv"))) == 10

"""Studies on a cluster whose nodes come and go: the numbers are those of an undisturbed run."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import fs

from rspipe.data.sources import load_dataset
from rspipe.smoothing.classifiers import Classifier
from rspipe.stages.report import read_run, write_derived
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from tests.processes import REPOSITORY, TINY, finish, kill, start, wait_until
from tests.stages.counts import expected_rows, rows
from tests.stages.nodes import Nodes
from tests.stages.test_full_study import assert_quiet, assert_same_results, in_this_process
from tests.stages.waiting_pass import IMAGES

KEPT = ("models/", "search/", "moments/", "weights/", "figures/", "summary.", "report.", "study.", "environment.json")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_study_that_loses_drivers_workers_and_nodes_at_every_stage_and_its_head_ends_with_the_same_numbers(
    nodes: Nodes, request: pytest.FixtureRequest, empty_database: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copy(empty_database, tmp_path)

    def written(pattern: str) -> set[Path]:
        return set(run_dir.glob(pattern))

    def begin(script: str, *, workers: int) -> "subprocess.Popen[str]":
        words = ("--study", str(TINY), "--run-dir", str(run_dir), "--resources.workers", str(workers))
        # How long a driver looks for its head.
        impatient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
        # Of a driver that was killed.
        nodes.wait_until_idle()
        return start(script, *words, "--ray-address", nodes.address, environment=impatient)

    def more(pattern: str, process: "subprocess.Popen[str]") -> None:
        """Wait for another result."""
        before = written(pattern)
        wait_until(lambda: written(pattern) - before, process)

    def lose_node(worker: str, result: str, process: "subprocess.Popen[str]") -> None:
        """Replace the node of a worker by another while there is no result of the stage yet."""
        lost = nodes.at_work(worker, process)
        # That the node is gone takes Ray seconds to notice, in which what is left may end the stage.
        assert not written(result), f"there was a {result} before the node was lost"
        nodes.lose(lost)
        nodes.add()

    def ended(process: "subprocess.Popen[str]") -> str:
        """Wait for a script that goes on by itself."""
        status, output = finish(process)
        assert status == 0, output
        assert "(raylet)" not in output, "Ray's own messages reached the terminal"
        return output

    def killed(process: "subprocess.Popen[str]") -> str:
        process.kill()
        _, output = finish(process)
        assert not (run_dir / "report.html").exists(), "the study had ended before its driver was killed"
        return output

    # Where one worker does everything, what comes after its end was done by another.
    trials, models, parts = "search/*/trial-*.json", "models/*/model.json", "certificates/part-*.parquet"
    process = begin("tune.py", workers=1)
    more(trials, process)
    killed(process)
    assert not written("search/*/result.json"), "the search had ended before its driver was killed"

    process = begin("train.py", workers=1)
    lose_node("ray::RayTrainWorker", models, process)
    more(models, process)
    assert nodes.replace_worker("ray::RayTrainWorker", process), "the models were trained before a worker was killed"
    assert "going on with those that are left" in killed(process)
    finished = {path: path.stat().st_mtime_ns for path in written(models)}
    assert len(finished) < 4, "the models were trained before the driver was killed"

    assert_quiet(ended(begin("train.py", workers=2)))
    assert len(written(models)) == 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished model was trained again"

    process = begin("full_study.py", workers=1)
    lose_node("ray::ImplicitFunc", "search/*/result.json", process)
    # Of the winner, after the search; then the driver goes, too, while images are weighed.
    wait_until(lambda: len(written(models)) == 5, process)
    assert written("search/*/result.json")
    nodes.at_work("ray::MapWorker", process)
    assert not written("moments/*"), "the moments were there before the driver was killed"
    killed(process)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished model was trained again"

    process = begin("weigh.py", workers=2)
    lose_node("ray::MapWorker", "moments/*", process)
    ended(process)
    assert len(written("weights/*.json")) == 5

    process = begin("full_study.py", workers=2)
    more(parts, process)
    assert nodes.kill_worker("ray::MapWorker"), "the images were certified before a worker was killed"
    more(parts, process)
    nodes.lose_head()
    status, output = finish(process)
    assert status == 2, output
    assert re.search(
        r"^error: the Ray head at [\d.:]+ is lost; the same command goes on from here", output, re.MULTILINE
    )
    nodes.start()
    process = begin("certify.py", workers=2)
    lost = nodes.at_work("ray::MapWorker", process)
    more(parts, process)
    before = written(parts)
    nodes.lose(lost)
    assert "going on with the" in ended(process)
    assert written(parts) - before, "certification had ended before the node was lost"
    assert not (run_dir / "summary.tsv").exists()
    nodes.add()
    in_this_process("report.py", str(run_dir))

    assert "(raylet)" in (run_dir / "ray.log").read_text(encoding="utf-8")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished model was trained again"
    # The other process runs it meanwhile.
    reference, _ = request.getfixturevalue("reference")
    assert_same_results(run_dir, reference)
    study, store = load_study(TINY), Store(run_dir)
    model = store.existing_model(study.model_specs[0].id)
    core = expected_rows(store, study, load_dataset(study.data), [model], [Classifier(model.id, (0,), (1.0,))])
    stored = rows(store)
    assert len(core) == study.certify.images
    for key, expected in core.items():
        assert {name: stored[key][name] for name in expected} == expected, key


def test_a_node_that_joins_during_a_pass_over_images_gets_some_of_them(nodes: Nodes, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stages.waiting_pass", nodes.address, str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        start_new_session=True,
    )
    arrived = tmp_path / "arrived"
    wait_until(lambda: arrived.is_dir() and len(list(arrived.iterdir())) == 2, process)
    joined = nodes.add()
    wait_until(lambda: len(list(arrived.iterdir())) == 3, process)
    (tmp_path / "go").touch()
    status, output = finish(process)
    nodes.lose(joined)
    assert status == 0, output
    assert sorted(output.split("\n")[:-1]) == sorted(f"visited {example}" for example in range(IMAGES))


def test_a_study_killed_and_resumed_in_a_bucket_has_the_numbers_of_one_in_a_folder(
    nodes: Nodes, bucket: StorePath, reference: tuple[Path, str], tmp_path: Path
) -> None:
    study = load_study(TINY)
    run_dir = bucket / "runs" / study.id
    connected, _ = fs.FileSystem.from_uri(f"s3://{bucket.path}")
    # Half of its search and most of its models are there.
    for folder in ("models", "search"):
        shutil.copytree(reference[0] / folder, tmp_path / "begun" / folder)
    (search,) = (tmp_path / "begun" / "search").iterdir()
    for name in ("result.json", "trial-2.json", "trial-3.json"):
        (search / name).unlink()
    missing = [spec.id for spec in study.model_specs if spec.label in ("macer", "smoothadv")]
    missing += [path.name for path in (reference[0] / "models").glob("advmacer_tuned-*")]
    assert len(missing) == 3
    for name in missing:
        shutil.rmtree(tmp_path / "begun" / "models" / name)
    fs.copy_files(str(tmp_path / "begun"), run_dir.path, destination_filesystem=connected)
    words = ("--study", str(TINY), "--ray-address", nodes.address, "--resources.workers", "1")
    records = [run_dir / "models" / name / "model.json" for name in missing]

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
    assert [name for home in nodes.homes for name in files(home)] == []

    ours, theirs = read_run(str(run_dir)), read_run(reference[0])
    assert [*ours.certified] == [*theirs.certified]
    table, folder = write_derived(Store(run_dir), study, kind="two_sided", alpha=0.01, n=1000)
    assert len(table.rows) == len(list(folder.glob("*.tsv"))) == 10

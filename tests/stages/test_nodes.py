"""Studies on a cluster whose nodes come and go: the numbers are those of an undisturbed run."""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import pytest
from pyarrow import fs

from rspipe.data.sources import load_dataset
from rspipe.smoothing.classifiers import Classifier
from rspipe.stages.report import read_run, write_derived
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.loading import load_study
from tests.processes import REPOSITORY, TINY, finish, start, wait_until
from tests.stages.counts import expected_rows, rows
from tests.stages.nodes import Nodes
from tests.stages.test_full_study import Copied, assert_quiet, assert_same_results, in_this_process
from tests.stages.waiting_pass import IMAGES

Process: TypeAlias = "subprocess.Popen[str]"

KEPT = ("models/", "search/", "moments/", "weights/", "figures/", "summary.", "report.", "study.", "environment.json")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_study_in_a_bucket_that_loses_drivers_workers_nodes_and_its_head_ends_with_the_numbers_of_one_in_a_folder(
    nodes: Nodes,
    bucket: StorePath,
    request: pytest.FixtureRequest,
    empty_database: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = load_study(TINY)
    run_dir = bucket / "runs" / study.id
    connected, _ = fs.FileSystem.from_uri(f"s3://{bucket.path}")
    local = run_dir.local_part
    local.parent.mkdir(parents=True)
    shutil.copy(empty_database, local.parent)
    homes, printed = list[Path](), list[str]()

    def written(pattern: str) -> dict[str, int]:
        """Return when the files whose names below the run directory match a pattern were written."""
        folder, slash, _ = pattern.partition("/")
        selector = fs.FileSelector(
            f"{run_dir.path}/{folder}" if slash else run_dir.path, recursive="*/" in pattern, allow_not_found=True
        )
        written_at = {
            entry.path.removeprefix(f"{run_dir.path}/"): entry.mtime_ns
            for entry in connected.get_file_info(selector)
            if entry.is_file
        }
        return {name: at for name, at in written_at.items() if fnmatchcase(name, pattern)}

    def begin(script: str, *, workers: int, folder: Sequence[str] = ("--run-dir", str(run_dir))) -> Process:
        words = ("--study", str(TINY), *folder, "--resources.workers", str(workers))
        # Where a run directory goes that is not named; how long a driver looks for its head.
        told = {"RSPIPE_RUNS": str(bucket / "runs"), "RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
        # Of a driver that was killed.
        nodes.wait_until_idle()
        return start(script, *words, "--ray-address", nodes.address, environment=told)

    def seldom() -> None:
        """Leave the CPUs to the study: the object store is in this process."""
        time.sleep(0.3)

    def more(pattern: str, process: Process) -> None:
        """Wait for another result."""
        before = written(pattern).keys()
        wait_until(lambda: seldom() or written(pattern).keys() - before, process)

    def lose_node(worker: str, result: str, process: Process) -> None:
        """Replace the node of a worker by another while there is no result of the stage yet."""
        lost = nodes.at_work(worker, process)
        # That the node is gone takes Ray seconds to notice, in which what is left may end the stage.
        assert not written(result), f"there was a {result} before the node was lost"
        nodes.lose(lost)
        nodes.add()

    def ended(process: Process, *, with_status: int = 0) -> str:
        """Wait for a script that goes on by itself."""
        status, output = finish(process)
        assert status == with_status, output
        assert "(raylet)" not in output, "Ray's own messages reached the terminal"
        printed.append(output)
        return output

    def killed(process: Process) -> str:
        process.kill()
        _, output = finish(process)
        printed.append(output)
        assert not written("report.html"), "the study had ended before its driver was killed"
        assert written("lock/*"), "the driver that was killed held no lock"
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
    finished = written(models)
    assert len(finished) < 4, "the models were trained before the driver was killed"

    def assert_not_made_again() -> None:
        now = written(models)
        assert {name: now[name] for name in finished} == finished, "a finished model was trained again"

    process = begin("full_study.py", workers=1)
    lose_node("ray::ImplicitFunc", "search/*/result.json", process)
    assert len(written(models)) == 4
    # Of the winner, after the search; then the driver goes, too, while images are weighed.
    wait_until(lambda: seldom() or len(written(models)) == 5, process)
    assert written("search/*/result.json")
    nodes.at_work("ray::MapWorker", process)
    assert not written("moments/*"), "the moments were there before the driver was killed"
    killed(process)
    assert_not_made_again()

    process = begin("weigh.py", workers=2)
    lose_node("ray::MapWorker", "moments/*", process)
    assert_quiet(ended(process))
    assert len(written("weights/*.json")) == 5

    process = begin("full_study.py", workers=2, folder=())
    more(parts, process)
    assert nodes.kill_worker("ray::MapWorker"), "the images were certified before a worker was killed"
    more(parts, process)
    homes += nodes.homes
    nodes.lose_head()
    lost_head = r"^error: the Ray head at [\d.:]+ is lost; the same command goes on from here"
    assert re.search(lost_head, ended(process, with_status=2), re.MULTILINE)
    nodes.start()
    process = begin("certify.py", workers=2)
    lost = nodes.at_work("ray::MapWorker", process)
    more(parts, process)
    before = written(parts).keys()
    nodes.lose(lost)
    assert "going on with the" in ended(process)
    assert written(parts).keys() - before, "certification had ended before the node was lost"
    assert not written("summary.tsv")
    nodes.add()
    homes += nodes.homes
    assert_not_made_again()

    capsys.readouterr()
    in_this_process("report.py", str(run_dir))
    printed.append(capsys.readouterr().out)
    assert f"{run_dir}/report.html" in printed[-1]
    assert "MLflow at" not in printed[-1]

    fetched = tmp_path / "fetched"
    fs.copy_files(run_dir.path, str(fetched), source_filesystem=connected)
    # The other process runs it meanwhile.
    reference, _ = request.getfixturevalue("reference")
    assert_same_results(fetched, reference)
    assert {name for name in files(reference) if name.startswith(KEPT)} - files(fetched) == set()
    assert not written("lock/*")
    assert not [name for name in files(fetched) if b"a-secret-key" in (fetched / name).read_bytes()]
    assert not [output for output in printed if "a-secret-key" in output]

    # Where the driver ran there are logs, scratch and MLflow's files; where workers ran there is nothing.
    assert "(raylet)" in (local / "ray.log").read_text(encoding="utf-8")
    assert {name for name in files(local) if not name.startswith(".ray/")} == {"ray.log"}
    assert {path.name for path in local.parent.iterdir()} == {study.id, "mlflow.db", "mlartifacts"}
    assert [path.name for path in local.parents[1].iterdir()] == ["runs"]
    assert any(name.endswith("/weights.pt") for name in files(local.parent / "mlartifacts"))
    assert not [path for path in local.parent.rglob("*") if path.is_file() and b"a-secret-key" in path.read_bytes()]
    assert [name for home in homes for name in files(home)] == []

    store = Store(run_dir)
    model = store.existing_model(study.model_specs[0].id)
    core = expected_rows(store, study, load_dataset(study.data), [model], [Classifier(model.id, (0,), (1.0,))])
    stored = rows(store)
    assert len(core) == study.certify.images
    for key, expected in core.items():
        assert {name: stored[key][name] for name in expected} == expected, key
    ours, theirs = read_run(str(run_dir)), read_run(reference)
    assert [*ours.certified] == [*theirs.certified]
    table, folder = write_derived(store, study, kind="two_sided", alpha=0.01, n=1000)
    assert len(table.rows) == len(list(folder.glob("*.tsv"))) == 10


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


def test_a_gpu_that_torch_does_not_see_ends_a_stage_with_node_and_reason(
    nodes: Nodes, copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    blind, run_dir = nodes.add(gpus=1), copied(without=("certificates",))
    words = ("--study", str(TINY), "--run-dir", str(run_dir), "--ray-address", nodes.address)
    for script, lost in (("certify.py", "certificates"), ("train.py", "models")):
        shutil.rmtree(run_dir / lost, ignore_errors=True)
        status, output = finish(start(script, *words))
        assert status == 2, output
        assert "1 worker with 1 CPU and 1 GPU each" in output
        (line,) = [one for one in output.splitlines() if "reserved a GPU" in one]
        assert line.startswith(f"error: a worker on node {platform.node()} reserved a GPU, but ")
        assert line.endswith("--resources.gpus-per-worker 0, or --resources.allow-cpu for such nodes alone")
        assert not any(run_dir.glob(f"{lost}/*"))
    nodes.lose(blind)

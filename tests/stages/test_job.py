"""A study as a job on a running cluster, whose head the tests start and stop."""

import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.processes import PATIENCE, RAY, REPOSITORY, TINY, Head, run, submit
from tests.stages.test_full_study import Copied, assert_same_results


def test_a_job_runs_the_whole_study_on_a_head_started_in_the_repository(reference: tuple[Path, str]) -> None:
    submitted, output = reference
    assert "certify: 60/60 images" in output
    assert str(submitted / "report.html") in output
    assert (submitted / "summary.tsv").read_text(encoding="utf-8").count("\n") == 1 + 10
    assert "<svg" in (submitted / "report.html").read_text(encoding="utf-8")


def test_a_job_that_fails_says_so_with_its_exit_status(head: Head, tmp_path: Path) -> None:
    words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(tmp_path / "r"), "--set", "certify.n=5")
    done = submit(head, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "use n >= 10" in done.stdout
    assert "Traceback" not in done.stdout
    assert "exit code 2" in done.stdout


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs the repository, which says what is tracked")
def test_the_upload_of_a_working_directory_is_the_project_alone(tmp_path: Path) -> None:
    copy, package = tmp_path / "copy", tmp_path / "package.zip"
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    tracked = [name for name in listed.splitlines() if (REPOSITORY / name).is_file()]
    needed = {name for name in tracked if not name.startswith("tests/") and name != "pipelines/RESULTS.md"}
    # What gathers in the folder of somebody who works with it.
    others = ["runs/digits/models/a/weights.pt", "data/cifar-10-batches-py/data_batch_1", ".venv/bin/python"]
    others += ["mlflow.db", "mlartifacts/1/a", ".git/objects/pack/a", ".mypy_cache/a", "weights.pt", "rspipe-17.log"]
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, copy / name)
    for name in others:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"x")
    create_package(str(copy), package, include_gitignore=True)
    with zipfile.ZipFile(package) as content:
        packed = {name for name in content.namelist() if not name.endswith("/")}
    assert packed == needed
    # Ray's limit is 512 MiB; ours is what nobody waits for.
    assert package.stat().st_size < 2_000_000


def job(head: Head, *words: str) -> str:
    """Run a command of `ray job` that ends at once; return what it says."""
    done = subprocess.run(
        [RAY, "job", words[0], f"--address={head.dashboard}", *words[1:]],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_job_that_was_stopped_goes_on_with_a_working_directory_and_does_nothing_again_that_is_finished(
    head: Head, reference: tuple[Path, str], copied: Copied, tmp_path: Path
) -> None:
    run_dir = copied(without=("certificates",))
    words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(run_dir), "--resources.workers", "1")
    submitted = submit(head, *words, options=("--no-wait", "--submission-id", "to-be-stopped"), cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stdout
    deadline = time.monotonic() + PATIENCE
    while not any(run_dir.glob("certificates/part-*.parquet")):
        assert time.monotonic() < deadline, job(head, "logs", "to-be-stopped")
        time.sleep(0.1)
    job(head, "stop", "to-be-stopped")
    assert "'to-be-stopped' was stopped" in job(head, "status", "to-be-stopped")
    before = {
        path: path.stat().st_mtime_ns
        for folder in ("models", "search", "certificates", "weights", "moments")
        for path in (run_dir / folder).rglob("*")
        if path.is_file()
    }
    done = submit(head, *words, options=("--working-dir", str(REPOSITORY)), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished result was made again"
    assert [line for line in done.stdout.splitlines() if "train:" in line] == ["train: 5/5 models, 0:00"]
    # Ray names the head by another of its addresses.
    assert re.search(rf"Ray of .* at [\d.]+:{head.address.rpartition(':')[2]}\b", done.stdout)
    assert_same_results(run_dir, reference[0])


def test_a_refused_token_is_one_line_that_says_what_to_export(head: Head, tmp_path: Path) -> None:
    words = ("--study", str(TINY), "--run-dir", str(tmp_path / "run"), "--ray-address", head.address)
    status, output = run("full_study.py", *words, environment={**head.environment, "RAY_AUTH_TOKEN": "b" * 32})
    assert status == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "refuses this client's token" in line
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" in line


def test_resources_that_the_cluster_cannot_give_are_refused(head: Head, tmp_path: Path) -> None:
    words = ("--study", str(TINY), "--run-dir", str(tmp_path / "run"), "--ray-address", head.address)
    status, output = run("train.py", *words, "--resources.workers", "5", environment=head.environment)
    assert status == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "the cluster has 2 CPUs and 0 GPUs; lower --resources.workers" in line

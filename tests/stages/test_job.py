"""A study as a job on a running cluster, whose head the tests start and stop."""

from pathlib import Path

import pytest

from tests.stages.processes import REPOSITORY, TINY, Head, run, submit


def test_a_job_runs_the_whole_study_on_a_head_started_in_the_repository(reference: tuple[Path, str]) -> None:
    submitted, output = reference
    assert "certify: 60/60 images" in output
    assert str(submitted / "report.html") in output
    assert (submitted / "summary.tsv").read_text(encoding="utf-8").count("\n") == 1 + 10
    assert "<svg" in (submitted / "report.html").read_text(encoding="utf-8")


def test_a_job_with_a_working_directory_goes_on_with_the_same_run_directory(
    head: Head, reference: tuple[Path, str]
) -> None:
    words = ("pipelines/full_study.py", "--study", "tests/stages/tiny.toml", "--run-dir", str(reference[0]))
    done = submit(head, *words, options=("--working-dir", str(REPOSITORY)), cwd=reference[0].parent)
    assert done.returncode == 0, done.stdout
    assert "train: 0/0 models" in done.stdout


def test_a_job_that_fails_says_so_with_its_exit_status(head: Head, tmp_path: Path) -> None:
    words = ("pipelines/full_study.py", "--study", str(TINY), "--run-dir", str(tmp_path / "r"), "--set", "certify.n=5")
    done = submit(head, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "use n >= 10" in done.stdout
    assert "Traceback" not in done.stdout
    assert "exit code 2" in done.stdout


def test_a_refused_token_is_one_line_that_says_what_to_export(head: Head, tmp_path: Path) -> None:
    words = ("--study", str(TINY), "--run-dir", str(tmp_path / "run"), "--ray-address", head.address)
    status, output = run("full_study.py", *words, environment={**head.environment, "RAY_AUTH_TOKEN": "b" * 32})
    assert status == 2, output
    (line,) = output.strip().splitlines()
    assert "refuses this client's token" in line
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" in line


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--resources.workers", "5"), "lower --resources.workers"),
        (("--resources.gpus-per-worker", "1"), "lower --resources.* or add nodes"),
    ],
)
def test_resources_that_the_cluster_cannot_give_are_refused(
    words: tuple[str, ...], remedy: str, head: Head, tmp_path: Path
) -> None:
    given = ("--study", str(TINY), "--run-dir", str(tmp_path / "run"), "--ray-address", head.address, *words)
    status, output = run("train.py", *given, environment=head.environment)
    assert status == 2, output
    (line,) = output.strip().splitlines()
    assert f"the cluster has 2 CPUs and 0 GPUs; {remedy}" in line

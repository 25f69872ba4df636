"""A run directory alone is enough for every command that reads one: no study file, data, checkpoint or own code."""

import json
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import rspipe
from pipelines import recount
from rspipe.commands.main import run
from rspipe.commands.options import run_to_read
from rspipe.data.sources import load_dataset
from rspipe.errors import StoreError, StudyError
from rspipe.networks.architectures import CODE_FOLDERS
from rspipe.networks.small_images import digits_cnn
from rspipe.report.results import Results
from rspipe.stages.report import read_results, write_report
from rspipe.storage.classifiers import trained_network
from rspipe.storage.files import read_content, write_record
from rspipe.storage.locks import exclusive
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from tests.damages import small_run
from tests.run_builder import finished_run

STUDY = """
name = "alone"
architecture = "nets_of_a_run:build"
data = { name = "tensors", title = "levels", folder = "images", test = "levels.npz", classes = 2 }
[[models]]
label = "published"
checkpoint = { file = "a.pt", normalization = "none" }
sigma = 0.25
seeds = 0
[[models]]
label = "other"
checkpoint = { file = "b.pt", normalization = "none" }
sigma = 0.25
seeds = 0
[certify]
n0 = 20
n = 200
images = 6
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two checkpoints of somebody's own architecture, of which nothing but itself is left."""
    folder = tmp_path_factory.mktemp("runs")
    code = "from rspipe.networks.small_images import digits_cnn as build\n"
    (folder / "nets_of_a_run.py").write_text(code, encoding="utf-8")
    (folder / "images").mkdir()
    levels = np.linspace(0, 1, 12, dtype=np.float32)[:, None, None] * np.ones((8, 8), np.float32)
    np.savez(folder / "images" / "levels.npz", images=levels, labels=np.arange(12) // 6)
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        torch.save(digits_cnn(2).state_dict(), folder / name)
    finished_run(folder / "run", STUDY, allow_code=True)
    for path in ("study.toml", "nets_of_a_run.py", "images/levels.npz", "a.pt", "b.pt"):
        (folder / path).unlink()
    (folder / "images").rmdir()
    (folder / "run").rename(folder / "moved")
    sys.modules.pop("nets_of_a_run")
    load_dataset.cache_clear()
    return folder / "moved"


@pytest.mark.parametrize(
    ("command", "words", "shown"),
    [
        ("report", [], "ACR"),
        ("derive", ["--alpha", "0.01"], "alpha0.01"),
        ("compare", ["--against", "published"], "1 differences"),
    ],
)
def test_what_is_stored_is_read_from_the_run_directory_alone(
    command: str,
    words: Sequence[str],
    shown: str,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = {path: (run_dir / path).read_bytes() for path in ("study.json", "study.toml", "environment.json")}
    run(command, [str(run_dir), *words])
    assert shown in capsys.readouterr().out
    assert {path: (run_dir / path).read_bytes() for path in before} == before
    assert "nets_of_a_run" not in sys.modules


def test_a_finished_run_is_read_in_python_without_its_code(run_dir: Path) -> None:
    assert rspipe.read_run(run_dir).summaries.name.tolist() == ["published, seed 0", "other, seed 0"]
    assert "nets_of_a_run" not in sys.modules


def test_a_classifier_is_complete_where_all_images_of_its_study_are_certified(run_dir: Path) -> None:
    assert Store(run_dir).images_to_certify() == 6


@pytest.mark.parametrize("command", ["report", "derive", "compare", "check-boundary"])
@pytest.mark.parametrize("words", [["--study", "digits"], ["--set", "certify.n=1000"], ["--run-dir", "x"]])
def test_no_command_that_reads_a_run_takes_a_study_file(
    command: str, words: Sequence[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, [str(run_dir), *words])
    assert words[0] in capsys.readouterr().err


def refused(run_dir: Path, *words: str, capsys: pytest.CaptureFixture[str], command: str = "check-boundary") -> str:
    """Return the line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        run(command, [str(run_dir), *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["report", "derive", "check-boundary"])
def test_a_run_that_another_process_writes_in_is_not_written_in(
    command: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-folder", str(tmp_path)] if command == "check-boundary" else []
    with exclusive(StorePath.of(run_dir)):
        line = refused(run_dir, *words, command=command, capsys=capsys)
    assert line == f"error: run directory {run_dir} is in use by another process; wait for it or end it"


def test_attacks_need_the_images_and_say_so(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"error: {run_dir.parent / 'images'}: there is no such folder of images; say where those of the study are"
    assert refused(run_dir, capsys=capsys).startswith(gone)
    elsewhere = refused(run_dir, "--data-folder", str(tmp_path), capsys=capsys)
    assert elsewhere.startswith(f"error: {tmp_path / 'levels.npz'}: no such file")


def test_attacks_on_a_gpu_that_torch_does_not_see_are_refused_with_node_and_reason(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir.parent / "images").mkdir()
    line = refused(run_dir, "--gpus", "1", "--allow-code", capsys=capsys)
    why = r"(its torch \S+ is built for CPUs|CUDA_VISIBLE_DEVICES hides all of them from torch)"
    assert re.fullmatch(rf"error: --gpus: on {platform.node()} {why}; leave it out to compute on the CPU", line), line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--images", "0"], "--images must be at least 1, got 0"),
        (["--attack.steps", "0"], "--attack.steps must be at least 1, got 0"),
        (["--attack.draws", "0"], "--attack.draws must be at least 1, got 0"),
        (["--attack.n", "5"], "--attack: n = 5 can never predict at alpha = 0.001; use n >= 11"),
        (["--factors", "0.5", "-1"], "--factors must be one distance or more, all above 0, got [0.5, -1.0]"),
    ],
)
def test_attacks_that_could_show_nothing_are_refused(
    words: Sequence[str], says: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_dir, *words, capsys=capsys) == f"error: {says}"


def test_a_network_that_is_code_runs_only_where_that_is_allowed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, study = run_to_read(str(run_dir))
    model, cpu = study.model_specs[0].id, torch.device("cpu")
    monkeypatch.delenv(CODE_FOLDERS, raising=False)
    with pytest.raises(StoreError, match="runs code of module 'nets_of_a_run'; pass --allow-code if you trust it"):
        trained_network(store, model, classes=2, device=cpu)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(CODE_FOLDERS, str(run_dir))
    with pytest.raises(StudyError, match="module 'nets_of_a_run' cannot be imported"):
        trained_network(store, model, classes=2, device=cpu)


@pytest.mark.parametrize("command", ["report", "derive", "compare", "check-boundary"])
def test_a_folder_that_is_no_run_directory_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--against", "gaussian"] if command == "compare" else []
    assert "is no run directory; give one that" in refused(tmp_path, *words, command=command, capsys=capsys)


def test_a_mistyped_name_of_a_log_is_said_not_to_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(tmp_path / "nothere.tsv", "--against", "gaussian", command="compare", capsys=capsys)
    assert "nothere.tsv: there is no such run directory or certification log" in text


def test_a_study_that_this_version_cannot_read_is_refused_with_what_it_cannot_read(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_content(StorePath.of(run_dir) / "study.json")
    content["study"]["certify"]["later"] = 1
    write_record(StorePath.of(tmp_path) / "study.json", content)
    line = refused(tmp_path, command="report", capsys=capsys)
    assert "written by another version of rspipe (certify: unknown key 'later'; valid names: " in line
    assert line.endswith("); read it with the version that wrote it, or run the study again")


def test_a_run_directory_knows_where_the_images_of_its_study_were(run_dir: Path) -> None:
    store, study = run_to_read(str(run_dir))
    assert study.data.folder == str(run_dir.parent / "images")  # type: ignore[union-attr]
    assert study.id == json.loads((run_dir / "study.json").read_text())["id"]
    assert store.run_dir.local_part == run_dir


def test_a_bundle_makes_the_folders_it_lies_in_and_is_no_folder(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(*report_of(run_dir))
    run("bundle", [str(run_dir), "--out", str(tmp_path / "new" / "run.zip")])
    assert zipfile.is_zipfile(tmp_path / "new" / "run.zip")
    line = refused(run_dir, "--out", str(tmp_path), command="bundle", capsys=capsys)
    assert line.startswith(f"error: {tmp_path} is a folder; name a file in it, --out {tmp_path / 'alone-'}")


def report_of(run_dir: Path) -> tuple[Store, Results]:
    """Return what a report is written of."""
    store, study = run_to_read(str(run_dir))
    return store, read_results(store, study)


def test_a_bundle_has_a_report_and_that_of_its_own_counts(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "copy", tmp_path / "run.zip"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("report.html"))
    line = refused(copy, "--out", str(out), command="bundle", capsys=capsys)
    assert line == f"error: {copy}: there is no report; run pipelines/report.py first"
    write_report(*report_of(copy), figures=())
    run("bundle", [str(copy), "--out", str(out)])
    out.unlink()
    part = next(copy.glob("certificates/part-*.parquet"))
    table = pq.read_table(part)
    kept = table.filter(pc.field("example") != table["example"][0].as_py())
    part.unlink()
    Store(copy).save_counts(kept)
    line = refused(copy, "--out", str(out), command="bundle", capsys=capsys)
    assert "summary.tsv, and with it the report, is not what follows here from its counts and records; run " in line
    assert not out.exists()


def test_as_many_images_are_said_to_be_counted_again_as_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recount.compare(small_run(tmp_path), 7)
    assert capsys.readouterr().out.endswith("images with the same counts as before: 5\n")


def test_what_cannot_be_counted_again_is_one_line_that_names_what_helps(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = "if you trust it and this run directory, name its folder in RSPIPE_CODE"
    for allowed, says in (("", helps), ("a_folder", "images")):
        monkeypatch.setenv(CODE_FOLDERS, allowed)
        with pytest.raises(SystemExit) as ended:
            recount.compare(run_dir, 1)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert says in line

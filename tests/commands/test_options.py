"""Which study and which run directory a command line names."""

import shutil
import sys
from pathlib import Path

import pytest
import tyro

from rspipe.commands.options import STUDIES, RunOptions, StageOptions, has_folder, run_to_do, run_to_read, study_path
from rspipe.errors import StoreError, StudyError
from rspipe.stages.report import read_run
from rspipe.storage.opening import open_store
from rspipe.storage.paths import StorePath
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import REPOSITORY, TINY


def begun(run_dir: Path, study: StudyConfig) -> Path:
    """Return a run directory in which a study was begun."""
    with open_store(run_dir, study, source=TINY.read_text(encoding="utf-8"), environment={}):
        return run_dir


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "digits"),
        (["ensembles"], "ensembles"),
        ([str(TINY)], "tiny"),
        (["--study", str(TINY)], "tiny"),
        ([str(TINY), "--study", str(TINY)], "tiny"),
        (["--set", "certify.n=100", str(TINY)], "tiny"),
    ],
)
def test_a_study_is_a_file_or_one_that_comes_with_rspipe(words: list[str], name: str) -> None:
    assert run_to_do(tyro.cli(StageOptions, args=words)).study.name == name


def test_a_file_comes_before_a_study_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, tmp_path / "digits")
    assert run_to_do(StageOptions(file="digits")).study.name == "tiny"


def test_a_folder_does_not_hide_a_study_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert study_path("digits") == STUDIES / "digits.toml"


def test_the_studies_that_come_with_rspipe_are_those_of_the_repository() -> None:
    assert STUDIES.resolve() == REPOSITORY / "pipelines" / "studies"


def test_a_study_that_there_is_not_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StudyError, match=r"^digit: no such study file, nor a study .*; did you mean 'digits'\?"):
        run_to_do(StageOptions(file="digit"))
    with pytest.raises(StudyError, match=r"^no/such\.toml: no such study file"):
        run_to_do(StageOptions(file="no/such.toml"))


def test_one_thing_is_not_named_twice() -> None:
    with pytest.raises(StudyError, match="'digits' and --study 'ensembles' name the same thing; give one of them"):
        run_to_do(StageOptions(file="digits", study="ensembles"))
    with pytest.raises(StudyError, match="'a' and --run-dir 'b' name the same thing"):
        run_to_read(RunOptions(run="a", run_dir="b"))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_run_directory_names_its_study(by_name: bool, tmp_path: Path) -> None:
    run_dir = begun(tmp_path / "run", load_study(TINY))
    run = run_to_read(RunOptions(run_dir=str(run_dir)) if by_name else RunOptions(run=str(run_dir)))
    assert (run.study.id, run.run_dir) == (load_study(TINY).id, StorePath.of(run_dir))
    assert run.source == TINY.read_text(encoding="utf-8")
    assert has_folder(run.study)


def test_a_run_directory_does_not_say_where_images_are(tmp_path: Path) -> None:
    study = load_study(study_path("mnist_short"))
    assert has_folder(study)
    assert not has_folder(run_to_read(RunOptions(run=str(begun(tmp_path / "run", study)))).study)


def test_a_run_directory_of_another_study_than_the_file_is_refused(tmp_path: Path) -> None:
    run_dir = begun(tmp_path / "run", load_study(TINY))
    with pytest.raises(StoreError, match="belongs to study tiny-"):
        run_to_read(RunOptions(run=str(run_dir), study="digits"))
    with pytest.raises(StudyError, match="--set changes a study file, and none is named; add --study"):
        run_to_read(RunOptions(run=str(run_dir), override=("certify.n=1000",)))
    with pytest.raises(StoreError, match="is no run directory"):
        run_to_read(RunOptions(run=str(tmp_path)))


def test_a_run_directory_that_names_code_is_read_only_where_its_reader_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from rspipe.networks.small_images import digits_cnn as build\n"
    (tmp_path / "nets_of_a_run.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    study = load_study(TINY, overrides=["architecture='nets_of_a_run:build'"], allow_code=True)
    run_dir = begun(tmp_path / "run", study)
    monkeypatch.delitem(sys.modules, "nets_of_a_run")
    for read in (lambda: run_to_read(RunOptions(run=str(run_dir))), lambda: read_run(run_dir)):
        with pytest.raises(
            StoreError, match=r"study\.json: this runs code of module 'nets_of_a_run'; pass --allow-code"
        ):
            read()
        assert "nets_of_a_run" not in sys.modules
    assert run_to_read(RunOptions(run=str(run_dir), allow_code=True)).study.id == study.id

"""Which study and which run directory a command line names."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import tyro

from rspipe.commands import certify_model
from rspipe.commands.options import STUDIES, StageOptions, run_to_do, study_path
from rspipe.errors import StudyError
from rspipe.networks.architectures import CODE_FOLDERS
from tests.processes import REPOSITORY, TINY


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


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_study_file_in_another_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "caf\u00e9"\n', encoding=encoding)
    with pytest.raises(StudyError, match=r"study\.toml: not a readable TOML file"):
        run_to_do(StageOptions(file=str(tmp_path / "study.toml")))


def test_one_thing_is_not_named_twice() -> None:
    with pytest.raises(StudyError, match="'digits' and --study 'ensembles' name the same thing; give one of them"):
        run_to_do(StageOptions(file="digits", study="ensembles"))


@pytest.mark.parametrize(
    ("models", "consent"),
    [
        (["mynets:build"], True),
        (["mynets:denoiser + cifar_resnet20"], True),
        (["cifar_resnet20"], False),
        (["torchscript"], False),
        (["mynets:denoiser + torchscript"], False),
        (["mynets:build", "torchscript"], False),
    ],
)
def test_naming_a_function_is_consent_to_its_code_and_to_no_program_in_a_file(models: list[str], consent: bool) -> None:
    assert certify_model.consents(models) == consent


def test_a_function_that_is_named_is_asked_for_the_number_of_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CODE_FOLDERS, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "functions_that_are_named.py").write_text(
        "from torch import nn\n"
        "def net(classes): return nn.ModuleDict({'fc': nn.Linear(4, classes), 'layer': nn.Conv2d(1, 4, 3)})\n"
    )
    parameters = {"fc.weight": torch.zeros(3, 4), "layer.weight": torch.zeros(4, 1, 3, 3)}
    torch.save(parameters, tmp_path / "net.pt")
    (tmp_path / "test.parquet").touch()
    options = certify_model.Options(
        checkpoint=("net.pt",), images="test.parquet", sigma=(0.5,), model=("functions_that_are_named:net",)
    )
    assert tomllib.loads(certify_model.study_text(options))["data"]["classes"] == 3

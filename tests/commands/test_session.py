"""Where results go."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import tyro

from rspipe.commands import options, session
from rspipe.commands.options import StageOptions, resolve_run_dir, run_to_do, study_path
from rspipe.commands.session import Session, open_run, open_session
from rspipe.commands.terminal import Terminal
from rspipe.data.sources import load_dataset
from rspipe.errors import ModelError, StoreError
from rspipe.execution.resources import Resources
from rspipe.networks.architectures import CODE_FOLDERS, build_network
from rspipe.networks.precision import SLOW, Precision
from rspipe.stages.train import train_one
from rspipe.storage.opening import open_store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import TINY
from tests.results_builder import search


@pytest.fixture
def study() -> StudyConfig:
    return load_study(study_path(None))


def test_the_default_study_is_the_digits(study: StudyConfig) -> None:
    assert study.name == "digits"


def test_every_override_of_a_command_line_counts() -> None:
    options = tyro.cli(StageOptions, args=["--set", "certify.n=1000", "--set", "certify.seed=3"])
    assert options.override == ("certify.n=1000", "certify.seed=3")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in the working directory that Ray makes for a job; return the home directory."""
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RSPIPE_RUNS", raising=False)
    return tmp_path / "home"


def test_runs_go_to_the_current_folder_by_default(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSPIPE_RUNS", raising=False)
    assert resolve_run_dir(None, study).local_part == tmp_path / "runs" / study.id
    assert resolve_run_dir("mine", study).local_part == tmp_path / "mine"
    monkeypatch.setenv("RSPIPE_RUNS", str(tmp_path / "all"))
    assert resolve_run_dir(None, study).local_part == tmp_path / "all" / study.id
    assert resolve_run_dir("mine", study).local_part == tmp_path / "mine"


@pytest.mark.parametrize("given", [None, "mine"])
@pytest.mark.parametrize(("first", "then"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_run_goes_on_in_the_precision_that_it_was_begun_with(
    given: str | None, first: Precision, then: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSPIPE_RUNS", raising=False)
    auto = StageOptions(run_dir=given, override=("certify.precision='auto'",))
    monkeypatch.setattr(options, "fastest_precision", lambda _: first)
    begun = run_to_do(auto)
    assert begun.study.certify.precision == first
    with open_store(begun.run_dir, begun.study, source=begun.source, environment={}):
        pass
    # The same command on another machine.
    monkeypatch.setattr(options, "fastest_precision", lambda _: then)
    assert run_to_do(auto) == begun
    # Who names a precision gets it, in a study of its own.
    named = StageOptions(run_dir=given, override=(f"certify.precision='{then}'",))
    assert run_to_do(named).study.certify.precision == then


def test_a_job_in_a_folder_of_rays_uses_the_home_directory(study: StudyConfig, job: Path) -> None:
    assert resolve_run_dir(None, study).local_part == job / "rspipe-runs" / study.id
    assert resolve_run_dir("~/mine", study).local_part == job / "mine"
    assert resolve_run_dir(str(job / "there"), study).local_part == job / "there"


def test_a_job_in_a_folder_of_rays_refuses_a_path_in_it(
    study: StudyConfig, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del job
    with pytest.raises(StoreError, match=r"runs/mine would lie in this job's working directory, which Ray deletes"):
        resolve_run_dir("runs/mine", study)
    with pytest.raises(StoreError, match="which Ray deletes"):
        resolve_run_dir(str(Path.cwd() / "runs"), study)
    monkeypatch.setenv("RSPIPE_RUNS", "runs")
    with pytest.raises(StoreError, match="give an absolute path"):
        resolve_run_dir(None, study)


def test_trials_that_diverge_or_are_more_than_asked_for_are_reported_on_the_terminal(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, trials = search(0.5)
    more = replace(result, trials=study.search_specs[0].trials + 1)
    monkeypatch.setattr(session, "run_searches", lambda *_, **__: (more,))
    monkeypatch.setattr(Session, "cluster", None)
    monkeypatch.setattr(Session, "_publish", lambda _: None)
    store = MagicMock()
    store.trials.return_value = trials
    store.search_result.return_value = None
    Session(study, store, Terminal(), ExitStack(), ray_address=None, resources=Resources()).search()
    output = capsys.readouterr().out
    assert "warning: advmacer_tuned-s0.5: 1 of 3 trials diverged, the first of them trial 1" in output
    assert "warning: advmacer_tuned-s0.5: the winner is that of the 7 trials in the run directory, not of 6" in output


@pytest.mark.parametrize(
    ("setting", "warned"),
    [
        ("training.precision='bfloat16'", "training.precision = 'bfloat16': {slow} where nothing is trained yet"),
        (
            "models.1.training.precision='bfloat16'",
            "training.precision = 'bfloat16': {slow} where nothing is trained yet",
        ),
        ("certify.precision='bfloat16'", "certify.precision = 'bfloat16': {slow} where nothing is certified yet"),
        ("name='other'", None),
    ],
)
@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_bfloat16_is_warned_of_where_it_is_slow(
    setting: str,
    warned: str | None,
    fastest: Precision,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(session, "fastest_for_workers", lambda _: fastest)
    run = run_to_do(StageOptions(run_dir=str(tmp_path / "run"), override=(setting,)))
    with open_session(run, Terminal(), ray_address=None, resources=Resources()):
        pass
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    expected = [f"warning: {warned.format(slow=SLOW)}"] if warned and fastest == "float32" else []
    assert warnings == expected


def test_own_code_that_has_changed_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TINY.read_text(encoding="utf-8").replace('"digits_cnn"', '"nets_of_a_session:build"')
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    code = "from rspipe.networks.small_images import digits_cnn as build\n"
    (tmp_path / "nets_of_a_session.py").write_text(code, encoding="utf-8")
    # What follows changes both.
    monkeypatch.setenv(CODE_FOLDERS, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = {"study": tmp_path / "study.toml", "run_dir": str(tmp_path / "run"), "override": ("training.epochs=1",)}
    run = run_to_do(StageOptions(**words, allow_code=True))
    terminal = Terminal()
    with open_run(run, terminal, ray_address=None, resources=Resources()) as opened:
        train_one(opened.store, run.study.model_specs[0], load_dataset(run.study.data))
    with open_run(run, terminal, ray_address=None, resources=Resources()):
        pass
    changed = "    network = digits_cnn(classes)\n    network[4] = nn.SiLU()\n    return network\n"
    code = f"from torch import nn\nfrom rspipe.networks.small_images import digits_cnn\ndef build(classes):\n{changed}"
    (tmp_path / "nets_of_a_session.py").write_text(code, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "nets_of_a_session")
    with (
        pytest.raises(ModelError, match="nets_of_a_session:build is another function than the one that was trained"),
        open_run(run, terminal, ray_address=None, resources=Resources()),
    ):
        pass
    monkeypatch.delitem(sys.modules, "nets_of_a_session")


def test_a_network_that_its_parameters_do_not_make_again_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TINY.read_text(encoding="utf-8").replace('"digits_cnn"', '"nets_that_draw:build"')
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    code = """
import torch
from torch import nn

class Projected(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.register_buffer("projection", torch.randn(64, 64) / 8, persistent=False)
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(x.flatten(1) @ self.projection)

def build(classes):
    return Projected(classes)
"""
    (tmp_path / "nets_that_draw.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv(CODE_FOLDERS, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = run_to_do(StageOptions(study=tmp_path / "study.toml", run_dir=str(tmp_path / "run"), allow_code=True))
    with (
        pytest.raises(ModelError, match=r"draws values that are neither parameters nor buffers, .*; register them as"),
        open_run(run, Terminal(), ray_address=None, resources=Resources()),
    ):
        pass
    monkeypatch.delitem(sys.modules, "nets_that_draw")


def test_one_network_in_two_files_is_no_two_seeds(tmp_path: Path) -> None:
    network = build_network("digits_cnn", classes=10, seed=0)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    torch.save({"state_dict": network.state_dict()}, tmp_path / "b.pt")
    entry = """
[[models]]
label = "a"
sigma = 0.25
seeds = {}
checkpoint = {{ file = "{}.pt", normalization = "none" }}
"""
    text = "name = 'two'\narchitecture = 'digits_cnn'\n" + entry.format(0, "a") + entry.format(1, "b")
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    run = run_to_do(StageOptions(study=tmp_path / "study.toml", run_dir=str(tmp_path / "run")))
    with (
        pytest.raises(ModelError, match=r"a-\S+ and a-\S+ have the same parameters, as if one network were two seeds"),
        open_run(run, Terminal(), ray_address=None, resources=Resources()),
    ):
        pass

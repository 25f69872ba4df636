"""The examples run as they are."""

import importlib
import json
import runpy
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import tyro
from PIL import Image

from rspipe.commands import certify_model
from rspipe.data.sources import load_dataset
from rspipe.study.loading import study_of_text
from tests.processes import PIPELINES
from tests.run_builder import finished_run

EXAMPLES = PIPELINES / "examples"
STUDY = """
name = "shown"
architecture = "digits_mlp"
training = { epochs = 1 }
[[models]]
method = { name = "gaussian" }
sigma = 0.25
seeds = [0, 1]
[certify]
n0 = 20
n = 200
images = 12
"""


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("certify_images", ["CertifiedDataset: sigma = 0.5, rule planned", "certified accuracy at"]),
        ("weigh_ensemble", ["weights: [", "member 2", "Certificate(prediction="]),
        ("predict", ["label 0: certified class 0, radius 0."]),
    ],
)
def test_a_script_runs_and_shows_its_results(
    script: str,
    shown: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    with mpl.rc_context({"backend": "agg"}):
        runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert [text for text in shown if text not in printed] == []


def test_the_notebook_runs_on_a_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", str(finished_run(tmp_path / "run", STUDY)))
    notebook = json.loads((EXAMPLES / "read_a_run.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 4
    names: dict[str, object] = {}
    with mpl.rc_context({"backend": "agg"}):
        for cell in cells:
            exec(compile(cell, "read_a_run.ipynb", "exec"), names)
    assert "gaussian, seed 0" in repr(names["run"])
    assert names["credits_of"].shape == (12, 2)  # type: ignore[attr-defined]


def test_the_notebook_is_kept_without_results() -> None:
    notebook = json.loads((EXAMPLES / "read_a_run.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])


def test_the_pretrained_network_is_certified_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other weights in the place of the package's: the command makes a study of the pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("pretrained_imagenet")
    path = tmp_path / "weights.pth"
    torch.save({"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}, path)
    monkeypatch.setattr(example, "weights", lambda: str(path))
    for label in ("7", "207", "notes"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.new("RGB", (300, 260), (int(label[0] == "2") * 200, 0, 0)).save(tmp_path / "pictures" / label / "a.png")
    words = example.command(tmp_path / "pictures", sigma=(0.05, 0.25), images=2, n=500, run_dir=tmp_path / "run")
    options = tyro.cli(certify_model.Options, args=words)
    text = certify_model.study_text(options)
    study = study_of_text(text, path=tmp_path / "options", overrides=options.override, allow_code=True)
    assert [(spec.label, spec.train_sigma) for spec in study.model_specs] == [("weights", 0.05), ("weights", 0.25)]
    data = load_dataset(study.data)
    assert (data.classes, data.sample_shape, data.test.labels.tolist()) == (1000, (3, 224, 224), [7, 207])

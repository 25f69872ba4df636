"""Checkpoints and pictures, one command: a run like any other, with the counts that one call gives."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import rspipe
from rspipe.commands import certify_model, session
from rspipe.commands.terminal import Terminal
from rspipe.data.sources import load_dataset
from rspipe.execution.resources import Cluster
from rspipe.networks.architectures import build_network
from rspipe.report.section import Section


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, empty_database: Path) -> Path:
    """A working directory with two checkpoints of unequal layout and class folders of pictures."""
    shutil.copy(empty_database, tmp_path)
    digits = load_dataset(rspipe.load_study(_digits(tmp_path)).data).test
    for at in range(30):
        label = int(digits.labels[at])
        path = tmp_path / "pictures" / str(label) / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[at, 0] * 255).byte().numpy()).save(path)
    classes = len(list((tmp_path / "pictures").iterdir()))
    for seed, (name, prefix) in enumerate((("a.pt", "module."), ("b.pt", "model.1."))):
        state = build_network("digits_mlp", classes=classes, seed=seed).state_dict()
        torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    one_worker = replace(cluster, resources=replace(cluster.resources, workers=1))
    monkeypatch.setattr(session, "connect", lambda **_: _connected(one_worker))
    # To draw them takes most of the time of a report.
    monkeypatch.setattr(Section, "pictures", {})
    return tmp_path


def _digits(folder: Path) -> Path:
    path = folder / "digits.toml"
    path.write_text(
        'name = "d"\n[[models]]\nmethod = { name = "gaussian" }\narchitecture = "digits_mlp"\nsigma = 1\nseeds = 0\n'
    )
    return path


class _connected:  # noqa: N801 - a context that is entered as if it connected
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __enter__(self) -> Cluster:
        return self.cluster

    def __exit__(self, *_: object) -> None:
        """Leave the Ray to others."""


def test_one_command_certifies_checkpoints_alone_and_together(
    brought: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = certify_model.Options(
        checkpoint=("a.pt", "b.pt"),
        images="pictures/",
        sigma=(0.25,),
        model=("digits_mlp",),
        mean=(0.5,),
        std=(0.25,),
        ensemble=("uniform",),
        held_out=5,
        n0=20,
        n=200,
        run_dir="run",
        override=("certify.images=6", "weigh.draws=20"),
    )
    certify_model.main(options, Terminal())
    shown = capsys.readouterr().out
    assert shown.count("clean accuracy") == 2
    run = rspipe.read_run(brought / "run")
    assert run.summaries.label.tolist() == ["a", "b", "a x1 + b x1"]
    for name in ("report.html", "summary.tsv", "study.toml"):
        assert (brought / "run" / name).is_file()
    logs = sorted((brought / "run" / "derived").rglob("*.tsv"))
    assert len(logs) == 3
    assert logs[0].read_text().splitlines()[0].split("\t") == ["idx", "label", "predict", "radius", "correct", "time"]
    _same_as_one_call(
        run, load_dataset(run.results.study.data.model_copy(update={"folder": str(brought / "pictures")}))
    )
    # The same command again finds all done.
    certify_model.main(options, Terminal())
    assert [line for line in capsys.readouterr().out.splitlines() if "train:" in line] == ["train: 2/2 models, 0:00"]


def _same_as_one_call(run: rspipe.Run, data: Any) -> None:
    """Compare a run's counts with those of the library for the same images and networks."""
    networks = [
        rspipe.load_checkpoint(file, architecture="digits_mlp", classes=data.classes, normalization=((0.5,), (0.25,)))
        for file in ("a.pt", "b.pt")
    ]
    certified = data.test.chosen(6)
    result = rspipe.certify_dataset(
        networks,
        certified.images,
        certified.labels,
        sigma=0.25,
        n0=20,
        n=200,
        examples=certified.index.tolist(),
    )
    counts = run.counts
    for one, summary in zip((*result.members, result), run.results.summaries, strict=True):
        rows = counts[counts.classifier == summary.id].sort_values("example")
        for name in ("selection", "estimation"):
            stored = [list(row) for row in rows[name]]
            assert stored == [getattr(one.counts, name)[at].tolist() for at in one.counts.example.argsort()]

"""Facts about what is found before a study starts: pictures that cannot be read, parts that are not there."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rspipe.commands.options import StageOptions
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal
from rspipe.errors import DataError
from rspipe.networks.architectures import build_network

DATA = """
name = "pictures"
architecture = "digits_cnn"

[data]
name = "image_folder"
title = "levels"
folder = "."
mode = "L"
validation = 2
calibration = 2

[training]
epochs = 1

[certify]
n = 200
"""
TRAINED = """
[[models]]
method = { name = "gaussian" }
sigma = 0.5
seeds = [0]
"""
ENTRY = """
[[models]]
label = "published"
sigma = 0.5
seeds = {}
checkpoint = {{ file = "{}.pt", normalization = "none" }}
"""
LOADED = ENTRY.format(0, "a") + ENTRY.format(1, "b")
ENSEMBLE = """
[[ensembles]]
members = "published x2"
"""


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of each of two classes to train on, and three to test with; two checkpoints for them."""
    for part, count in (("train", 5), ("test", 3)):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(count):
                (tmp_path / part / label / f"{number}.png").write_bytes(picture(40 * number))
    for seed, name in enumerate("ab"):
        torch.save(build_network("digits_cnn", classes=2, seed=seed).state_dict(), tmp_path / f"{name}.pt")
    return tmp_path


def opened(folder: Path, text: str, *overrides: str, run: str = "run") -> None:
    """Open the session of a study, as every stage does; no Ray is started."""
    (folder / "study.toml").write_text(DATA + text)
    with open_stages(
        StageOptions(str(folder / "study.toml"), run_dir=str(folder / run), override=overrides), Terminal()
    ):
        pass


@pytest.mark.parametrize("models", [TRAINED, LOADED])
def test_an_unreadable_test_picture_is_found_before_anything_runs(folder: Path, models: str) -> None:
    opened(folder, models)
    (folder / "test" / "b" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"test/b/1\.png: not a readable image"):
        opened(folder, models)


def test_pictures_that_are_not_certified_are_not_looked_at(folder: Path) -> None:
    (folder / "test" / "b" / "1.png").write_bytes(b"")
    opened(folder, TRAINED, "certify.images={first=4}")
    with pytest.raises(DataError, match=r"test/b/1\.png: not a readable image"):
        opened(folder, TRAINED, "certify.images={first=5}", run="other")


def test_what_was_left_out_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    opened(folder, TRAINED)
    assert "warning: " in (said := capsys.readouterr().out)
    assert "train: left out 1 that are hidden (.ipynb_checkpoints)" in said


def without_training_part(folder: Path) -> Path:
    (folder / "train").rename(folder / "elsewhere")
    return folder


def test_a_test_part_is_enough_for_checkpoints_and_not_for_training(folder: Path) -> None:
    opened(without_training_part(folder), LOADED)
    with pytest.raises(DataError, match="levels has no training part, which 'gaussian' is trained on"):
        opened(folder, TRAINED)


def test_ensembles_of_checkpoints_need_calibration_images_of_the_test_part(folder: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.calibration_from = 'test' and data\.calibration"):
        opened(without_training_part(folder), LOADED + ENSEMBLE)
    opened(folder, LOADED + ENSEMBLE, 'data.calibration_from="test"', "weigh.images=2")

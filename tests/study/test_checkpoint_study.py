"""The study that one command makes of checkpoints and images: a study file like any other."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import nn

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DataSpec
from rspipe.errors import StudyError
from rspipe.networks.architectures import CODE_FOLDERS, build_network
from rspipe.study.checkpoint_study import CheckpointStudy, _labels, checkpoint_study
from rspipe.study.loading import study_of_text

DEFAULTS: dict[str, Any] = {
    "model": ("digits_cnn",),
    "mean": (),
    "std": (),
    "normalization": None,
    "parameters": None,
    "denoiser": None,
    "ensemble": (),
    "average": None,
    "held_out": None,
    "rule": "fixed",
    "n0": 20,
    "n": 200,
    "alpha": 0.001,
    "precision": "float32",
    "size": None,
    "resize": None,
    "classes": None,
    "data_folder": "data",
    "name": "checkpoints",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints, and pictures in class folders."""
    for seed, name in enumerate(("Best-Model.pth.tar", "2nd.pt", "run_a/last.pt", "run_b/last.pt")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save({"state_dict": build_network("digits_cnn", classes=3, seed=seed).state_dict()}, path)
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "colour.pt")
    for label in "abc":
        for number in range(4):
            picture = tmp_path / "pictures" / label / f"{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 60 * number).save(picture)
    return tmp_path


def made(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the parsed study file of some options."""
    options = {**DEFAULTS, "checkpoint": ("2nd.pt",), "images": "pictures", "sigma": (0.5,), **changes}
    return tomllib.loads(checkpoint_study(CheckpointStudy(**options), folder=folder))


def test_a_folder_of_class_folders_is_the_test_part_whatever_lies_above_it(folder: Path) -> None:
    data = made(folder)["data"]
    expected = {"name": "image_folder", "title": "pictures", "folder": str(folder / "pictures"), "test": "."}
    # The first convolution takes grey images.
    assert data == {**expected, "mode": "L"}
    (folder / "pictures").rename(folder / "test")
    (folder / "pictures" / "train").mkdir(parents=True)
    (folder / "test").rename(folder / "pictures" / "test")
    assert made(folder)["data"]["folder"] == str(folder / "pictures" / "test")
    colour = made(folder, checkpoint=("colour.pt",), size=8, resize=10)["data"]
    assert "mode" not in colour
    assert (colour["size"], colour["resize"]) == (8, 10)


def test_parquet_files_have_as_many_classes_as_the_checkpoint_knows(folder: Path) -> None:
    (folder / "sets").mkdir()
    (folder / "sets" / "test-0.parquet").touch()
    for images, test in (
        ("sets/test-0.parquet", "test-0.parquet"),
        ("sets/test-*.parquet", "test-*.parquet"),
        ("sets", "*.parquet"),
    ):
        data = made(folder, images=images)["data"]
        assert (data["name"], data["test"], data["classes"]) == ("parquet", test, 3)
        assert data["folder"] == str(folder / "sets")
    assert made(folder, images="sets", classes=7)["data"]["classes"] == 7


def test_classes_and_channels_are_known_whatever_the_order_of_names(folder: Path) -> None:
    own = build_network("cifar_resnet8", classes=3, seed=0).state_dict()
    torch.save({f"module.{name[2:]}": own[name] for name in sorted(own)}, folder / "sorted.pt")
    np.savez(folder / "colour.npz", images=np.zeros((4, 32, 32, 3), np.uint8), labels=np.arange(4) % 2)
    data = made(folder, checkpoint=("sorted.pt",), model=("cifar_resnet8",), images="colour.npz")["data"]
    assert data["classes"] == 3
    depthwise = {"blocks.conv_dw.weight": torch.zeros(32, 1, 3, 3), "stem.weight": torch.zeros(32, 3, 3, 3)}
    torch.save(depthwise, folder / "depthwise.pt")
    options = {"checkpoint": ("depthwise.pt",), "size": 8, "mean": (0.5,), "std": (0.25,)}
    assert "mode" not in made(folder, **options)["data"]
    torch.save({"body.weight": torch.zeros(8, 4, 3, 3), "stem.weight": torch.zeros(4, 1, 3, 3)}, folder / "grey.pt")
    assert made(folder, checkpoint=("grey.pt",))["data"]["mode"] == "L"


FUNCTIONS = """
from torch import nn
def net(classes):
    return nn.ModuleDict({"fc": nn.Linear(4, classes), "layer": nn.Conv2d(1, 4, 3)})
def failing(classes):
    raise OSError("no weights here")
"""


@pytest.mark.parametrize(("function", "allowed"), [("net", True), ("net", False), ("failing", True)])
def test_the_classes_of_a_users_network_are_those_of_its_function_not_of_the_last_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, allowed: bool
) -> None:
    monkeypatch.setenv(CODE_FOLDERS, str(folder) if allowed else "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "functions_of_a_study.py").write_text(FUNCTIONS)
    parameters = {"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3), "layer.weight": torch.zeros(4, 1, 3, 3)}
    # In the order of names, as safetensors has them.
    torch.save({name: parameters[name] for name in sorted(parameters)}, folder / "own.pt")
    (folder / "test.parquet").touch()
    options = {"checkpoint": ("own.pt",), "model": (f"functions_of_a_study:{function}",), "images": "test.parquet"}
    if function == "net" and allowed:
        assert made(folder, **options)["data"]["classes"] == 3
        return
    # What has not run, or fails, leaves it open.
    with pytest.raises(StudyError, match=r"own\.pt does not say how many classes it knows; add --classes"):
        made(folder, **options)
    assert made(folder, **options, classes=3)["data"]["classes"] == 3
    # In an order of its own the last layer gives the logits.
    torch.save({name: parameters[name] for name in sorted(parameters, reverse=True)}, folder / "own.pt")
    assert made(folder, **options)["data"]["classes"] == 3


def test_of_parquet_files_with_a_training_part_the_others_are_certified(folder: Path) -> None:
    (folder / "sets").mkdir()
    for name, test in (("train-0", None), ("validation-0", "val*.parquet"), ("test-0", "test*.parquet")):
        (folder / "sets" / f"{name}.parquet").touch()
        if test is None:
            with pytest.raises(StudyError, match="a training part and none that begins with test or val; name those"):
                made(folder, images="sets")
        else:
            assert made(folder, images="sets")["data"]["test"] == test
    assert made(folder, images="sets/train-0.parquet")["data"]["test"] == "train-0.parquet"


def test_arrays_are_a_test_part_of_their_own(folder: Path) -> None:
    np.savez(folder / "some.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 3)
    expected = {"name": "tensors", "title": "some", "folder": str(folder), "test": "some.npz", "classes": 3}
    assert made(folder, images="some.npz")["data"] == expected


def test_a_data_set_may_be_given_by_name(folder: Path) -> None:
    assert made(folder, images="cifar10", data_folder="here")["data"] == {"name": "cifar10", "folder": "here"}
    assert made(folder, images="digits")["data"] == {"name": "digits"}
    cut = made(folder, images="imagenet", size=160, resize=180)["data"]
    assert cut == {"name": "imagenet", "folder": "data", "size": 160, "resize": 180}
    with pytest.raises(StudyError, match=r"--images cifar11: no such folder or file, .*; did you mean 'cifar10'"):
        made(folder, images="cifar11")


def test_every_checkpoint_is_a_model_with_a_name_of_its_own(folder: Path) -> None:
    models = made(folder, checkpoint=("Best-Model.pth.tar", "2nd.pt"), sigma=(0.25, 0.5))["models"]
    assert [(m["label"], m["seeds"], m["sigma"]) for m in models] == [
        ("best_model", [0], [0.25, 0.5]),
        ("model_2nd", [0], [0.25, 0.5]),
    ]
    assert [m["label"] for m in made(folder, checkpoint=("run_a/last.pt", "run_b/last.pt"))["models"]] == [
        "run_a",
        "run_b",
    ]
    several = made(folder, checkpoint=("2nd.pt", "Best-Model.pth.tar"), model=("digits_cnn", "digits_mlp"))["models"]
    assert [m["architecture"] for m in several] == ["digits_cnn", "digits_mlp"]


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (("resnet/best.pt", "vit/best.pt", "resnet/last.pt"), ["resnet_best", "vit_best", "last"]),
        (("net.ema.pt", "net.raw.pt", "other.pt"), ["net_ema", "net_raw", "other"]),
        (("2nd.pt", "2nd.pt", "2nd.pt"), ["model_2nd", "model_2nd_2", "model_2nd_3"]),
    ],
)
def test_checkpoints_are_no_seeds_of_one_method_for_their_names(files: tuple[str, ...], labels: list[str]) -> None:
    assert _labels(files) == labels


def test_mean_and_deviation_are_the_normalization(folder: Path) -> None:
    (model,) = made(folder, mean=(0.1307,), std=(0.3081,), parameters="ema")["models"]
    assert model["checkpoint"] == {"file": "2nd.pt", "normalization": [[0.1307], [0.3081]], "parameters": "ema"}
    assert made(folder)["models"][0]["checkpoint"]["normalization"] == "architecture"
    (model,) = made(folder, normalization="file")["models"]
    assert model["checkpoint"]["normalization"] == "file"


def test_an_ensemble_is_of_all_at_every_noise_level_with_images_held_out(folder: Path) -> None:
    study = made(
        folder, checkpoint=("Best-Model.pth.tar", "2nd.pt"), sigma=(0.25, 0.5), ensemble=("esbrs_ratio", "uniform")
    )
    assert [one["members"] for one in study["ensembles"]] == [
        [f"best_model-s{sigma}-seed0", f"model_2nd-s{sigma}-seed0"] for sigma in (0.25, 0.5)
    ]
    assert study["ensembles"][0]["weights"] == ["esbrs_ratio", "uniform"]
    # A fifth of twelve pictures.
    assert (study["data"]["calibration_from"], study["data"]["calibration"]) == ("test", 2)
    assert made(folder, checkpoint=("2nd.pt", "2nd.pt"), ensemble=("auto",), held_out=5)["data"]["calibration"] == 5
    assert study["ensembles"][0]["average"] == "probabilities"


@pytest.mark.parametrize(("sigma", "digits"), [(0.250980392, "0.250980392"), (1.0, "1")])
def test_members_are_named_with_every_digit_of_the_noise_level(folder: Path, sigma: float, digits: str) -> None:
    options = {**DEFAULTS, "checkpoint": ("2nd.pt", "run_a/last.pt"), "images": "pictures", "sigma": (sigma,)}
    text = checkpoint_study(CheckpointStudy(**{**options, "ensemble": ("uniform",)}), folder=folder)
    study = study_of_text(text, path=folder / "options")
    assert study.ensembles[0].members == (f"model_2nd-s{digits}-seed0", f"last-s{digits}-seed0")
    assert [spec.sigma for spec in study.ensemble_specs(study.model_specs)] == [sigma]


def test_calibration_images_of_the_digits_are_no_test_images_in_any_case(folder: Path) -> None:
    options = {"checkpoint": ("2nd.pt", "run_a/last.pt"), "images": "digits", "ensemble": ("uniform",)}
    # A fifth of 400 test images.
    assert made(folder, **options)["data"] == {"name": "digits", "calibration": 80}
    data = TypeAdapter(DataSpec).validate_python(made(folder, **options, held_out=7)["data"])
    loaded = load_dataset(data)
    assert (len(loaded.calibration), len(loaded.test)) == (7, 400)
    assert not {*loaded.calibration.index.tolist()} & {*loaded.test.index.tolist()}


def test_the_text_is_a_study_file_that_loads(folder: Path) -> None:
    options = {**DEFAULTS, "checkpoint": ("2nd.pt", "run_a/last.pt"), "images": "pictures", "sigma": (0.5,)}
    text = checkpoint_study(CheckpointStudy(**{**options, "ensemble": ("mme",), "rule": "radius_grid"}), folder=folder)
    study = study_of_text(text, path=folder / "options", overrides=["certify.images=3"])
    assert [spec.label for spec in study.model_specs] == ["model_2nd", "last"]
    assert len(study.ensemble_specs(study.model_specs)) == 1
    assert (study.certify.rule.name, study.certify.n, study.certify.images) == ("radius_grid", 200, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5,)}, "--mean and --std belong together"),
        ({"model": ()}, "--model names 0 architectures for 1 checkpoints; give one for all"),
        ({"model": ("a", "b")}, "--model names 2 architectures for 1 checkpoints"),
        ({"ensemble": ("uniform",)}, "--ensemble needs two checkpoints or more"),
        ({"images": "nowhere/"}, "--images nowhere/: no such folder or file, nor a data set by name"),
        ({"images": "cifar10", "size": 24}, "--size would have no effect: images of cifar10 are taken as they are"),
        ({"images": "digits", "resize": 24}, "--resize would have no effect: images of digits are taken"),
        ({"images": "imagenet", "classes": 10}, "--classes would have no effect: how many imagenet has is known"),
        ({"images": "some.npz", "size": 24}, "--size would have no effect: images of some.npz are taken as they are"),
        (
            {"mean": (0.5,), "std": (0.5,), "normalization": "none"},
            "--normalization would have no effect: --mean and --std are the normalization; leave it out",
        ),
        ({"held_out": 5}, "--held-out would have no effect: there is no --ensemble; leave it out"),
        ({"average": "logits"}, "--average would have no effect: there is no --ensemble; leave it out"),
        (
            {"checkpoint": ("2nd.pt", "2nd.pt"), "ensemble": ("uniform",), "held_out": 0},
            "--held-out must be at least 1, got 0",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as refusal:
        made(folder, **changes)
    assert "\n" not in str(refusal.value)


def test_onnx_files_say_their_architecture_themselves(folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"graph")
    (model,) = made(folder, checkpoint=("net.onnx",), model=(), classes=3)["models"]
    assert model["architecture"] == "onnx"


@pytest.mark.parametrize("architecture", ["onnx", "torchscript"])
def test_of_a_program_no_parameters_are_read(folder: Path, architecture: str) -> None:
    (folder / "net.graph").write_bytes(b"program")
    options = {"checkpoint": ("net.graph",), "model": (architecture,)}
    assert "mode" not in made(folder, **options)["data"]
    (folder / "test.parquet").touch()
    with pytest.raises(StudyError, match=r"net\.graph does not say how many classes it knows; add --classes"):
        made(folder, **options, images="test.parquet")

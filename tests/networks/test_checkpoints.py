"""Published checkpoints: formats, names, normalization, and what must not be loaded."""

import argparse
import datetime
import functools
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rspipe.errors import ModelError
from rspipe.networks.architectures import ARCHITECTURES, build_network
from rspipe.networks.checkpoint_files import read_checkpoint
from rspipe.networks.checkpoints import check_clean_accuracy, load_checkpoint, normalization_doubt
from rspipe.networks.normalization import CIFAR10, IMAGENET, Normalization, Normalize, normalization, set_normalization

Parameters = dict[str, Tensor]
CHOICES: tuple[Normalization, ...] = ("architecture", "none")


def trained(architecture: str, *, classes: int = 10, seed: int = 1) -> nn.Module:
    """A network in eval mode none of whose parameters and statistics is what it begins with."""
    network = build_network(architecture, classes=classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            for values in (module.weight, module.running_var):
                values.data.uniform_(0.5, 1.5, generator=generator)
            for values in (module.bias, module.running_mean):
                values.data.normal_(0, 0.1, generator=generator)
            module.num_batches_tracked += 7
    return network.eval()


@pytest.fixture(scope="module")
def resnet20() -> nn.Module:
    return trained("cifar_resnet20")


@pytest.fixture(scope="module")
def resnet8() -> nn.Module:
    return trained("cifar_resnet8")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def bare(network: nn.Module) -> Parameters:
    """The parameters by the names that they have in the network behind the normalization."""
    return {name.removeprefix("1."): value for name, value in network.state_dict().items()}


def named(parameters: Parameters, prefix: str) -> Parameters:
    return OrderedDict((prefix + name, value) for name, value in parameters.items())


def cohen(parameters: Parameters) -> dict[str, Any]:
    """The content of a file of Cohen, SmoothAdv, Consistency and SmoothMix."""
    weights = [nn.Parameter(value.clone()) for value in list(parameters.values())[:2]]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    functional.mse_loss(weights[0], torch.zeros_like(weights[0])).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {"epoch": 90, "arch": "cifar_resnet20", "state_dict": parameters, "optimizer": optimizer.state_dict()}


FORMATS: dict[str, Callable[[Parameters], Any]] = {
    "Cohen": lambda p: cohen(named(p, "1.")),
    "Cohen on several GPUs": lambda p: cohen(named(p, "1.module.")),
    "all on several GPUs": lambda p: cohen(named(p, "module.1.")),
    "MACER": lambda p: {"net": named(p, ""), "epoch": 440},
    "MACER on several GPUs": lambda p: {"net": named(p, "module."), "epoch": 440},
    "state dict": lambda p: named(p, ""),
    "state dict of ours": lambda p: named(p, "1."),
    "state dict on several GPUs": lambda p: named(p, "module."),
    "checkpoint of ours": lambda p: {"epoch": 3, "network": named(p, "1."), "history": [{"loss": 0.5}], "passes": 7},
    "compiled": lambda p: {"model": named(p, "_orig_mod.1.")},
    "double precision": lambda p: {"net": {name: v.double() if v.ndim else v for name, v in p.items()}},
    "parameters that need gradients": lambda p: {k: nn.Parameter(v) if v.ndim else v for k, v in p.items()},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_published_format_loads_with_the_same_logits_bit_for_bit(
    resnet8: nn.Module, images: Tensor, tmp_path: Path, name: str, zipped: bool
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(FORMATS[name](bare(resnet8)), path, _use_new_zipfile_serialization=zipped)
    network = load_checkpoint(path, architecture="cifar_resnet8", classes=10, normalization="architecture")
    assert not any(module.training for module in network.modules())
    loaded, saved = network.state_dict(), resnet8.state_dict()
    assert [(key, value.dtype) for key, value in loaded.items()] == [(key, value.dtype) for key, value in saved.items()]
    assert torch.equal(network(images), resnet8(images))


def test_an_imagenet_checkpoint_loads_with_the_same_logits_bit_for_bit(tmp_path: Path, images: Tensor) -> None:
    network, path = trained("resnet18", classes=6), tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "arch": "resnet18", "state_dict": named(bare(network), "1.module.")}, path)
    loaded = load_checkpoint(path, architecture="resnet18", classes=6, normalization="architecture")
    assert torch.equal(loaded(images), network(images))


def test_parameters_that_rspipe_saves_load_into_every_layout(tmp_path: Path) -> None:
    for architecture, shape in {"digits_cnn": (1, 8, 8), "lenet": (1, 28, 28)}.items():
        network, inputs = trained(architecture), torch.rand(2, *shape)
        torch.save(network.state_dict(), tmp_path / "weights.pt")
        for choice in CHOICES:
            set_normalization(network, choice)
            loaded = load_checkpoint(
                tmp_path / "weights.pt", architecture=architecture, classes=10, normalization=choice
            )
            assert torch.equal(loaded(inputs), network(inputs))


class PublishedLeNet(nn.Module):
    """The network of the MNIST experiments as MACER and Consistency lay it out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x).relu(), 2)
        x = functional.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
        logits: Tensor = self.fc2(self.fc1(x).relu())
        return logits


@pytest.mark.parametrize("name", ["Cohen", "MACER"])
def test_a_published_lenet_loads_under_our_names(tmp_path: Path, name: str) -> None:
    network, inputs, path = PublishedLeNet().eval(), torch.rand(3, 1, 28, 28), tmp_path / "checkpoint.pth.tar"
    torch.save(FORMATS[name](network.state_dict()), path)
    loaded = load_checkpoint(path, architecture="lenet", classes=10, normalization="none")
    assert list(loaded.state_dict()) == list(build_network("lenet", classes=10, seed=0).state_dict())
    assert torch.equal(loaded(inputs), network(inputs))


def test_the_normalization_is_the_one_that_was_asked_for(resnet20: nn.Module, images: Tensor, tmp_path: Path) -> None:
    assert isinstance(resnet20, nn.Sequential)
    body, path = resnet20[1], tmp_path / "checkpoint.pth.tar"
    torch.save(FORMATS["MACER"](bare(resnet20)), path)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    centre = torch.tensor(CIFAR10[0]).view(3, 1, 1)
    for choice, inputs, expected in (
        ("none", images, ((0.0,) * 3, (1.0,) * 3)),
        ("centre", images - centre, (CIFAR10[0], (1.0,) * 3)),
        (IMAGENET, (images - mean) / std, IMAGENET),
    ):
        network = load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization=choice)  # type: ignore[arg-type]
        assert torch.equal(network(images), body(inputs))
        assert normalization(network) == expected
        assert list(network.state_dict()) == list(resnet20.state_dict())


def test_counters_that_old_files_lack_are_all_that_may_be_missing(
    resnet20: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    path, old = tmp_path / "old.pth", {k: v for k, v in bare(resnet20).items() if "num_batches_tracked" not in k}
    torch.save(old, path)
    network = load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")
    assert torch.equal(network(images), resnet20(images))
    for name in ("bn1.running_var", "layer2.0.downsample.0.weight", "fc.bias"):
        torch.save({k: v for k, v in old.items() if k != name}, path)
        with pytest.raises(ModelError, match=f"it lacks 1.{name}; all else fits: the file is incomplete"):
            load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")


def test_a_safetensors_file_loads_with_the_same_logits_bit_for_bit(
    resnet20: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(dict(named(bare(resnet20), "module.")), path)
    network = load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")
    assert torch.equal(network(images), resnet20(images))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged, or no file of safetensors"):
        read_checkpoint(path)


def test_a_safetensors_file_without_the_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="needs the package safetensors; pip install safetensors"):
        read_checkpoint(tmp_path / "model.safetensors")


# --- checkpoints of something else ------------------------------------------------------------------------------------


def changed(parameters: Parameters, **changes: Tensor) -> Parameters:
    return {**parameters, **changes}


@pytest.mark.parametrize(
    ("architecture", "classes", "change", "problem"),
    [
        ("cifar_resnet110", 10, {}, r"it lacks 1\.layer1\.3\.conv1\.weight, .*, .* and \d+ more; the"),
        ("cifar_resnet20", 100, {}, r"in it 1\.fc\.weight is \[10, 64\] instead of \[100, 64\], 1\.fc\.bias is"),
        (
            "cifar_resnet20",
            10,
            {"layer4.0.conv1.weight": torch.zeros(2)},
            r"it has besides 1\.layer4\.0\.conv1\.weight;",
        ),
        ("cifar_resnet20", 10, {"fc.weight": torch.zeros(10, 64).to(torch.int8)}, r"torch\.int8 \[10, 64\] instead"),
        (
            "lenet",
            10,
            {},
            r"it lacks 0\.bias, 3\.bias, .* more; it has besides",
        ),
        ("resnet50", 10, {}, r"it lacks .* and \d+ more; .*in it 1\.conv1\.weight is"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_in_one_line(
    resnet20: nn.Module, tmp_path: Path, architecture: str, classes: int, change: Parameters, problem: str
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(cohen(named({**bare(resnet20), **change}, "1.")), path)
    with pytest.raises(
        ModelError, match=f"checkpoint.pth.tar: does not fit {architecture} with {classes} classes: "
    ) as refusal:
        load_checkpoint(path, architecture=architecture, classes=classes, normalization="architecture")
    assert refusal.match(problem)
    assert refusal.match("the checkpoint is of another architecture, depth or number of classes$")
    assert "\n" not in str(refusal.value)


def test_a_deeper_checkpoint_is_not_cut_to_fit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(cohen(build_network("cifar_resnet110", classes=10, seed=0).state_dict()), path)
    with pytest.raises(ModelError, match=r"with 10 classes: it has besides 1\.layer1\.3\.conv1\.weight, .* more; the"):
        load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")


def test_parameters_that_are_not_finite_are_refused(resnet20: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({**bare(resnet20), "fc.bias": torch.full((10,), float("nan"))}, path)
    with pytest.raises(ModelError, match=r"1\.fc\.bias hold NaN or infinity"):
        load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state_dict": {}}, "a dict of state_dict,"),
        ({"state_dict": {"a": 3}}, "a dict of state_dict,"),
        ({}, "a dict of "),
        ([torch.zeros(1)], "list"),
        (torch.zeros(1), "Tensor"),
    ],
)
def test_a_file_without_parameters_is_refused(tmp_path: Path, content: object, what: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=f"holds {what}"):
        load_checkpoint(tmp_path / "other.pth", architecture="lenet", classes=10, normalization="none")


# --- one rule for every place and prefix ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lenet() -> nn.Module:
    return trained("lenet")


def loaded_lenet(content: object, folder: Path, **options: Any) -> nn.Module:
    torch.save(content, folder / "c.pth")
    return load_checkpoint(
        str(folder / "c.pth"), **{"architecture": "lenet", "classes": 10, "normalization": "none", **options}
    )


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "net.", "_orig_mod.", "module.model.", "model.module.1.", "any.thing."],
)
@pytest.mark.parametrize("place", [(), ("state_dict",), ("model_state_dict",), ("checkpoint", "weights", "of_the_net")])
def test_parameters_are_found_at_any_place_behind_any_prefix(
    lenet: nn.Module, tmp_path: Path, prefix: str, place: tuple[str, ...]
) -> None:
    content: Any = named(lenet.state_dict(), prefix)
    for key in reversed(place):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded_lenet(content, tmp_path)(images), lenet(images))


def test_what_the_network_has_no_place_for_is_left_out_and_listed(
    lenet: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counters = {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1, dtype=torch.float64)}
    head = {"rotation_head.weight": torch.zeros(4, 500)}
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded_lenet({**lenet.state_dict(), **counters, **head}, tmp_path)(images), lenet(images))
    assert (
        "left out, for lenet with 10 classes has no such parameters: total_ops, 0.total_params, rotation_head"
        in caplog.text
    )


def test_a_published_googlenet_loads_without_its_auxiliary_heads(tmp_path: Path) -> None:
    from torchvision import models

    published, path = models.googlenet(weights=None, init_weights=False, num_classes=10).eval(), tmp_path / "g.pth"
    torch.save(published.state_dict(), path)
    network = load_checkpoint(path, architecture="googlenet", classes=10, normalization="none")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(images), published(images))
    # As torchvision's own parameters are used.
    published.transform_input = True
    network = load_checkpoint(path, architecture="googlenet", classes=10, normalization="architecture")
    mean, std = (torch.tensor(one)[:, None, None] for one in IMAGENET)
    torch.testing.assert_close(network(images), published((images - mean) / std))


def test_of_several_sets_of_parameters_one_has_to_be_named(lenet: nn.Module, tmp_path: Path) -> None:
    averaged, images = trained("lenet", seed=2), torch.rand(2, 1, 28, 28)
    separate = {"state_dict": lenet.state_dict(), "state_dict_ema": averaged.state_dict()}
    together = {"state_dict": {**named(lenet.state_dict(), "model."), **named(averaged.state_dict(), "ema_model.")}}
    for content in (separate, together):
        with pytest.raises(ModelError, match=r"holds 2 different sets of parameters that fit, .*; say which, e\.g\."):
            loaded_lenet(content, tmp_path)
        assert torch.equal(loaded_lenet(content, tmp_path, parameters="ema")(images), averaged(images))
    with pytest.raises(ModelError, match="parameters = 'swa' is in none of the places that fit, 'state_dict', 'state_"):
        loaded_lenet(separate, tmp_path, parameters="swa")
    same = {"state_dict": lenet.state_dict(), "model": named(lenet.state_dict(), "module.")}
    assert torch.equal(loaded_lenet(same, tmp_path)(images), lenet(images))


@pytest.mark.parametrize(
    ("first", "second"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema.net")]
)
@pytest.mark.parametrize("how", ["keys", "prefixes"])
def test_every_set_of_parameters_can_be_named_though_its_name_is_in_anothers(
    lenet: nn.Module, tmp_path: Path, first: str, second: str, how: str
) -> None:
    sets, images = {first: lenet, second: trained("lenet", seed=2)}, torch.rand(2, 1, 28, 28)
    content: dict[str, Any] = {name: network.state_dict() for name, network in sets.items()}
    if how == "prefixes":
        content = {f"{name}.{key}": value for name, own in content.items() for key, value in own.items()}
    for name, network in sets.items():
        assert torch.equal(loaded_lenet(content, tmp_path, parameters=name)(images), network(images))


# --- normalization beside the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("mean", "std"), ("normalizer.new_mean", "normalizer.new_std"), ("norm.mu", "norm.sigma")]
)
@pytest.mark.parametrize("unit", [1.0, 255.0])
def test_a_normalization_in_the_file_is_compared_and_may_be_taken(
    lenet: nn.Module, tmp_path: Path, names: tuple[str, str], unit: float
) -> None:
    buffers = {names[0]: torch.full((1, 1, 1), 0.1307 * unit), names[1]: torch.full((1, 1, 1), 0.3081 * unit)}
    content, images = {**named(lenet.state_dict(), "model."), **buffers}, torch.rand(2, 1, 28, 28)
    if unit > 1:
        # A grey deviation below 1 would not show the unit; this one does.
        assert 0.3081 * unit > 2
    expected = lenet((images - 0.1307) / 0.3081)
    for choice in ("file", ((0.1307,), (0.3081,)), ((0.131,), (0.308,))):
        network = loaded_lenet(content, tmp_path, normalization=choice)
        torch.testing.assert_close(network(images), expected, atol=0.02, rtol=0.0)
    with pytest.raises(
        ModelError, match=r"holds a normalization by mean \(0\.1307,\) .* chosen is none; .* = 'file' takes"
    ):
        loaded_lenet(content, tmp_path)


def test_a_mean_of_bytes_beside_a_deviation_of_one_is_for_bytes(lenet: nn.Module, tmp_path: Path) -> None:
    buffers = {"pixel_mean": torch.tensor([127.5]), "pixel_std": torch.tensor([1.0])}
    content, images = {**named(lenet.state_dict(), "model."), **buffers}, torch.rand(2, 1, 28, 28)
    network = loaded_lenet(content, tmp_path, normalization="file")
    torch.testing.assert_close(network(images), lenet(255 * images - 127.5), rtol=1e-3, atol=0.1)


def test_two_sets_of_the_same_parameters_may_differ_in_counters(resnet20: nn.Module, tmp_path: Path) -> None:
    own = resnet20.state_dict()
    path = tmp_path / "x.pt"
    without = {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": own, "ema": without}, path)
    load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="architecture")


def test_buffers_of_a_normalizer_before_the_network_show_no_other_network(resnet20: nn.Module, tmp_path: Path) -> None:
    buffers = {"0.mean": torch.full((3,), 0.5), "0.std": torch.full((3,), 0.25)}
    torch.save({**buffers, **named(bare(resnet20), "1.")}, tmp_path / "c.pth")
    network = load_checkpoint(tmp_path / "c.pth", architecture="cifar_resnet20", classes=10, normalization="file")
    assert normalization(network) == ((0.5,) * 3, (0.25,) * 3)
    for name, value in bare(network).items():
        assert torch.equal(value, bare(resnet20)[name])


def test_a_normalization_that_changes_nothing_is_none(lenet: nn.Module, tmp_path: Path) -> None:
    buffers = {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}
    images = torch.rand(2, 1, 28, 28)
    network = loaded_lenet({**named(lenet.state_dict(), "model."), **buffers}, tmp_path)
    assert torch.equal(network(images), lenet(images))
    with pytest.raises(ModelError, match="holds no mean and standard deviation beside the network; name the norm"):
        loaded_lenet(lenet.state_dict(), tmp_path, normalization="file")


def test_mean_and_deviation_go_before_a_network_that_has_no_normalization(lenet: nn.Module, tmp_path: Path) -> None:
    images = torch.rand(2, 1, 28, 28)
    network = loaded_lenet(lenet.state_dict(), tmp_path, normalization=((0.5,), (0.25,)))
    assert torch.equal(network(images), lenet((images - 0.5) / 0.25))
    assert normalization(network) == ((0.5,), (0.25,))


# --- a denoiser before the classifier ---------------------------------------------------------------------------------


def test_a_denoiser_and_a_classifier_load_from_one_file_or_two(tmp_path: Path) -> None:
    architecture = "dncnn + cifar_resnet20"
    network, images = trained(architecture), torch.rand(2, 3, 32, 32)
    torch.save(network.state_dict(), tmp_path / "both.pth")
    torch.save({"state_dict": named(network.denoiser.state_dict(), "module.")}, tmp_path / "d.pth")
    torch.save({"state_dict": named(bare(network.classifier), "1.")}, tmp_path / "c.pth")
    both = load_checkpoint(tmp_path / "both.pth", architecture=architecture, classes=10, normalization="architecture")
    apart = load_checkpoint(
        tmp_path / "c.pth",
        architecture=architecture,
        classes=10,
        normalization="architecture",
        denoiser=tmp_path / "d.pth",
    )
    for one in (both, apart):
        assert torch.equal(one(images), network(images))
    with pytest.raises(ModelError, match=r"'lenet' has no denoiser; name one, e\.g\. 'dncnn \+ lenet'"):
        load_checkpoint(
            tmp_path / "c.pth", architecture="lenet", classes=10, normalization="none", denoiser=tmp_path / "d.pth"
        )


# --- files that are dangerous, damaged or not there -------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def as_torch_does(content: object, path: Path) -> None:
    torch.save(content, path)


def as_torch_did(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_plain_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [as_torch_does, as_torch_did, as_plain_pickle])
def test_what_a_file_would_execute_does_not_run(tmp_path: Path, write: Callable[[object, Path], None]) -> None:
    path, made = tmp_path / "checkpoint.pth.tar", tmp_path / "made"
    write({"state_dict": {"fc.weight": torch.zeros(1)}, "optimizer": Bomb(made)}, path)
    with pytest.raises(ModelError, match=r"checkpoint\.pth\.tar: (refused|damaged)") as refusal:
        load_checkpoint(path, architecture="cifar_resnet20", classes=10, normalization="none")
    assert not made.exists()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("write", [as_torch_does, as_torch_did])
@pytest.mark.parametrize(
    ("extra", "name"),
    [(functools.partial(print, 1), "functools.partial"), (nn.Linear(2, 2), "torch.nn.modules.linear.Linear")],
)
def test_a_file_that_needs_unpickling_is_refused_with_a_way_out(
    tmp_path: Path, write: Callable[[object, Path], None], extra: object, name: str
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    write({"state_dict": {"fc.weight": torch.zeros(1)}, "args": extra}, path)
    with pytest.raises(
        ModelError, match=f"refused, for it holds more than tensors \\({name}\\) .*weights_only=False and"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("write", [as_torch_does, as_torch_did])
def test_harmless_values_beside_the_parameters_are_no_obstacle(
    lenet: nn.Module, tmp_path: Path, write: Callable[[object, Path], None]
) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs/a"), nested=argparse.Namespace(a=np.float32(1))),
        "more": types.SimpleNamespace(a=1),
        "best": [np.float64(93.0), np.int64(3), np.bool_(True)],
        "losses": np.arange(3.0),
        "when": datetime.datetime(2026, 11, 29),
    }
    path, images, known = tmp_path / "c.pth", torch.rand(2, 1, 28, 28), torch.serialization.get_safe_globals()
    write({"state_dict": lenet.state_dict(), **beside}, path)
    network = load_checkpoint(path, architecture="lenet", classes=10, normalization="none")
    assert torch.equal(network(images), lenet(images))
    assert set(torch.serialization.get_safe_globals()) == set(known)


@pytest.mark.parametrize("write", [as_torch_does, as_torch_did])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    resnet20: nn.Module, tmp_path: Path, write: Callable[[object, Path], None], share: float
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    write(cohen(resnet20.state_dict()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"damaged, or no file of torch\.save .*; download it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"hello", b"<!DOCTYPE html>", b"\x89PNG\r\n", b"PK\x03\x04 and no more", bytes(range(256))]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "readme.txt").write_bytes(content)
    with pytest.raises(ModelError, match=r"readme\.txt: damaged, or no file of torch\.save") as refusal:
        read_checkpoint(tmp_path / "readme.txt")
    assert "\n" not in str(refusal.value)


def test_an_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "text")
    with pytest.raises(ModelError, match=r"damaged, or no file of torch\.save"):
        read_checkpoint(tmp_path / "other.zip")


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(ModelError, match=f"{path}: no such checkpoint file"):
            read_checkpoint(path)


# --- clean accuracy ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.images / 16).float().unsqueeze(1), torch.from_numpy(bunch.target)


def dark_cnn(classes: int) -> nn.Module:
    """The digits network, whose normalization cannot be mistaken."""
    network = build_network("digits_cnn", classes=classes, seed=0)
    assert isinstance(network, nn.Sequential)
    network[0] = Normalize((0.9,), (0.1,))
    return network


@pytest.fixture(scope="module")
def fitted(digits: tuple[Tensor, Tensor]) -> Iterator[nn.Module]:
    """A network that classifies digits with its architecture's normalization."""
    network = dark_cnn(10)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(network(digits[0]), digits[1]))
        optimizer.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "dark_cnn", dark_cnn)
        yield network


def accuracy(network: nn.Module, digits: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((network(digits[0]).argmax(1) == digits[1]).double().mean())


def test_the_published_accuracy_is_confirmed(fitted: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    expected = accuracy(fitted, digits)
    assert expected > 0.9
    for batch_size in (1, 100, 5000):
        few = slice(0, 200) if batch_size == 1 else slice(None)
        images, labels = digits[0][few], digits[1][few]
        measured = check_clean_accuracy(fitted, images, labels, expected=0.95, tolerance=0.05, batch_size=batch_size)
        assert measured == accuracy(fitted, (images, labels))
    assert check_clean_accuracy(fitted, *digits, expected=expected, tolerance=0) == expected


def test_a_network_that_squeezes_its_output_is_judged_on_a_last_image_alone_too(
    fitted: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    class Squeezing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fitted(x).squeeze()  # type: ignore[no-any-return]

    images, labels = digits[0][:101], digits[1][:101]
    measured = check_clean_accuracy(Squeezing(), images, labels, expected=0.95, tolerance=0.05)
    assert measured == accuracy(fitted, (images, labels))


@pytest.mark.parametrize("wrong", ["none", "centre", ((0.1,), (2.0,))])
def test_a_wrong_normalization_is_caught_and_the_right_one_is_named(
    fitted: nn.Module, digits: tuple[Tensor, Tensor], tmp_path: Path, wrong: Any
) -> None:
    torch.save(fitted.state_dict(), tmp_path / "weights.pt")
    expected = accuracy(fitted, digits)
    network = load_checkpoint(tmp_path / "weights.pt", architecture="dark_cnn", classes=10, normalization=wrong)
    measured, tolerance = accuracy(network, digits), 0.01
    assert abs(measured - expected) > tolerance
    with pytest.raises(
        ModelError,
        match=rf"on 1797 images is {measured:.3f}, expected {expected:.3f} ± 0\.010; the wrong normalization is the "
        rf"usual cause: normalization='architecture' gives {expected:.3f}$",
    ):
        check_clean_accuracy(network, *digits, expected=expected, tolerance=tolerance)
    assert accuracy(network, digits) == measured


def test_an_accuracy_that_no_normalization_explains_is_refused(
    fitted: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(
        ModelError, match="usual cause: none of the usual ones helps, check checkpoint, images and order"
    ):
        check_clean_accuracy(fitted, digits[0], digits[1].roll(1), expected=0.95, tolerance=0.02)
    lenet = build_network("lenet", classes=10, seed=0)
    with pytest.raises(ModelError, match="none of the usual ones helps"):
        check_clean_accuracy(lenet, torch.rand(20, 1, 28, 28), torch.arange(20) % 10, expected=0.99, tolerance=0.02)


def test_the_normalizations_of_other_data_sets_are_tried_too() -> None:
    body = nn.Linear(3, 2)
    with torch.no_grad():
        body.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        body.bias.zero_()
    network = nn.Sequential(Normalize(*CIFAR10), nn.Flatten(), body)
    images = torch.rand(1000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    centred = images.flatten(1) - torch.tensor(IMAGENET[0])
    labels = (centred.sum(1) > 0).long()
    with pytest.raises(ModelError) as refusal:
        check_clean_accuracy(network, images, labels, expected=1, tolerance=0.001)
    assert refusal.match(r".* cause: normalization=\(\(0\.485, 0\.456, 0\.406\), \(1\.0, 1\.0, 1\.0\)\) gives 1\.000$")
    set_normalization(network, (IMAGENET[0], (1.0, 1.0, 1.0)))
    assert check_clean_accuracy(network, images, labels, expected=1, tolerance=0.001) == 1


def test_the_network_stays_in_the_mode_it_was_in(resnet20: nn.Module, images: Tensor) -> None:
    network = trained("cifar_resnet20").train()
    before = [value.clone() for value in network.state_dict().values()]
    with torch.no_grad():
        labels = resnet20(images).argmax(1)
    check_clean_accuracy(network, images, labels, expected=1, tolerance=0)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


def test_an_accuracy_in_per_cent_and_images_without_labels_are_refused(fitted: nn.Module) -> None:
    with pytest.raises(ValueError, match="must be fractions from 0 to 1, got 95 and 1"):
        check_clean_accuracy(fitted, torch.zeros(2, 1, 8, 8), torch.zeros(2), expected=95, tolerance=1)
    for images in (3, 0):
        with pytest.raises(ValueError, match="must be of one length above 0"):
            check_clean_accuracy(fitted, torch.zeros(images, 1, 8, 8), torch.zeros(0), expected=0.9, tolerance=0)


def test_a_column_of_labels_is_refused(fitted: nn.Module) -> None:
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"labels have shape \[2, 1\]; give one whole number an image"):
        check_clean_accuracy(fitted, images, torch.zeros(2, 1, dtype=torch.int64), expected=0.9, tolerance=0.1)


def test_a_wrong_normalization_is_noticed_without_being_asked(
    fitted: nn.Module, digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    torch.save(fitted.state_dict(), tmp_path / "weights.pt")
    right, images, labels = accuracy(fitted, digits), *digits
    for choice in ("none", ((0.1,), (2.0,))):
        network = load_checkpoint(tmp_path / "weights.pt", architecture="dark_cnn", classes=10, normalization=choice)  # type: ignore[arg-type]
        wrong = accuracy(network, digits)
        doubt = normalization_doubt(network, images, labels)
        if wrong < 0.95:
            assert f"is {wrong:.3f}, and would be {right:.3f} with normalization = 'architecture'; the one" in doubt
        else:
            assert doubt == ""
    assert normalization_doubt(fitted, images, labels) == ""
    # Where nothing is right, nothing is clearly better.
    assert (
        normalization_doubt(
            build_network("lenet", classes=10, seed=0), torch.rand(50, 1, 28, 28), torch.arange(50) % 10
        )
        == ""
    )


def test_a_network_without_a_normalization_of_its_own_is_doubted_too(digits: tuple[Tensor, Tensor]) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.tensor([[-1.0] * 64, [1.0] * 64]))  # type: ignore[operator, union-attr]
        body[1].bias.zero_()  # type: ignore[operator, union-attr]
    images, labels = digits[0][:200].clone(), torch.arange(200) % 2
    images[labels == 0] = 0.05
    assert "with normalization = ((0.1307,), (0.3081,))" in normalization_doubt(body, images, labels)

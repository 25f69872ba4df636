"""Classifiers of every kind that people bring: what they return, how they are wrapped, what they are made of."""

import copy
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rspipe.errors import MissingPackageError, ModelError, StudyError
from rspipe.networks.answers import answers_of
from rspipe.networks.architectures import build_network, check_input, code_in, find_architecture
from rspipe.networks.checkpoints import check_clean_accuracy, load_checkpoint
from rspipe.networks.denoising import Denoised
from rspipe.networks.deployment import deploy
from rspipe.networks.exported import file_parameters
from rspipe.networks.modes import bare, copied
from rspipe.networks.normalization import IMAGENET, normalization, set_normalization
from rspipe.networks.outputs import logits_of
from rspipe.smoothing.certify import certify, predict
from rspipe.smoothing.ensemble import Ensemble

SAMPLING = {"sigma": 0.25, "n0": 20, "n": 200}


def linear(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))


class Output(OrderedDict[str, Tensor]):
    """As Hugging Face's: a dict whose items are attributes, too."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class Heads(NamedTuple):
    """As torchvision's networks with auxiliary heads return them."""

    logits: Tensor
    aux_logits: Tensor


class Wrapping(nn.Module):
    """A network whose output is what a function makes of logits."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.wrap = linear(), wrap

    def forward(self, batch: Tensor) -> Any:
        return self.wrap(self.net(batch))


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: z.numpy(),
        lambda z: Output(loss=z.sum(), logits=z),
        lambda z: Heads(z, 2 * z),
        lambda z: types.SimpleNamespace(logits=z),
        lambda z: (z,),
        lambda z: [z.numpy()],
        lambda z: z.log_softmax(1),
        lambda z: z.double(),
    ],
)
def test_the_logits_are_the_same_however_they_are_wrapped(wrap: Callable[[Tensor], Any], image: Tensor) -> None:
    torch.manual_seed(0)
    expected = certify(linear(), image, **SAMPLING).estimation.tolist()
    network = Wrapping(wrap)
    for classifier in (network, deploy(network, precision="float32"), network.forward):
        assert certify(classifier, image, **SAMPLING).estimation.tolist() == expected
    check_input(network, (1, 4, 4), architecture="mine", classes=4)


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda z: (z, z), "a tuple of 2 items"),
        (lambda z: [z, z], "a list of 2 items"),
        (lambda z: {"logits": z, "features": z}, "a dict of 'logits', 'features'"),
        (lambda _: {}, "an empty dict"),
        (lambda _: None, "a NoneType"),
        (lambda _: "cat", "a str"),
    ],
)
def test_an_output_that_leaves_the_logits_open_is_refused_in_one_line(
    wrap: Callable[[Tensor], Any], kind: str, image: Tensor
) -> None:
    network = Wrapping(wrap)
    for classifier in (network, deploy(network, precision="float32")):
        with pytest.raises(
            ModelError, match=f"^the base classifier returned {kind}; return the logits .* as one tensor$"
        ):
            certify(classifier, image, **SAMPLING)
    with pytest.raises(ModelError, match=f"^architecture 'mine' returned {kind}; "):
        check_input(network, (1, 4, 4), architecture="mine", classes=4)


def test_an_excluded_class_never_wins_and_takes_nothing_from_the_others(image: Tensor) -> None:
    excluded = torch.tensor([False, True, False, True])
    network = Wrapping(lambda z: z.masked_fill(excluded, -torch.inf))
    lowered = Wrapping(lambda z: z.masked_fill(excluded, -1e9))
    counts = certify(network, image, **SAMPLING).estimation
    assert counts[excluded.numpy()].sum() == 0
    assert counts.tolist() == certify(lowered, image, **SAMPLING).estimation.tolist()
    with pytest.raises(ModelError, match="returned -inf for every class"):
        certify(Wrapping(lambda z: torch.full_like(z, -torch.inf)), image, **SAMPLING)


# --- networks with a forward pass or weights of their own kind --------------------------------------------------------


class Purifying(nn.Module):
    """Takes a step along a gradient of its own before it classifies."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()
        self.net = linear()

    def forward(self, batch: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = batch.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(self.norm(moved)).logsumexp(1).sum(), moved)
        return self.net(self.norm((moved - 0.5 * gradient).detach()))


@pytest.mark.parametrize("norm", [False, True])
def test_a_forward_pass_may_take_gradients(norm: bool, image: Tensor) -> None:
    network, batch = Purifying(norm=norm).eval(), torch.rand(5, 1, 4, 4)
    with torch.no_grad():
        expected = network(batch)
    for precision in ("float32", "bfloat16"):
        deployed = deploy(network, precision=precision)  # type: ignore[arg-type]
        assert (deployed(batch) - expected).abs().max() < (1e-6 if precision == "float32" else 0.1)
        assert certify(deployed, image, **SAMPLING).n == 200
    assert certify(network, image, **SAMPLING).n == 200


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(16, 4)))  # type: ignore[no-untyped-call]


def spectral_norm() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(16, 4)))
    # After a step of training the weight is the result of an operation.
    network(torch.rand(2, 1, 4, 4))
    return network


def new_weight_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 4)))


@pytest.mark.parametrize("build", [old_weight_norm, spectral_norm, new_weight_norm])
def test_weights_that_each_pass_computes_are_taken_as_built(build: Callable[[], nn.Module], image: Tensor) -> None:
    network, batch = build(), torch.rand(5, 1, 4, 4)
    check_input(network, (1, 4, 4), architecture="mine", classes=4)
    twin = copied(network.eval())
    for one in (twin, deploy(network, precision="float32")):
        assert torch.equal(one(batch), network(batch))
    assert (deploy(network, precision="bfloat16")(batch) - network(batch)).abs().max() < 0.05
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert network(batch).abs().max() > 0
    assert certify(network, image, **SAMPLING).n == 200


# --- wrappers ---------------------------------------------------------------------------------------------------------


def test_what_torch_wraps_around_a_network_is_deployed_as_the_network(image: Tensor) -> None:
    torch.manual_seed(0)
    network, batch = linear(), torch.rand(5, 1, 4, 4)
    for wrapped in (torch.compile(network, backend="eager"), nn.DataParallel(network)):
        assert isinstance(wrapped, nn.Module)
        assert bare(nn.DataParallel(wrapped)) is network
        assert torch.equal(deploy(wrapped, precision="float32")(batch), network(batch))
        expected = certify(network, image, **SAMPLING).estimation.tolist()
        assert certify(wrapped, image, **SAMPLING).estimation.tolist() == expected


def test_a_torchscript_program_is_certified_and_deployed(image: Tensor) -> None:
    network, batch = linear(), torch.rand(5, 1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(network)
    check_input(program, (1, 4, 4), architecture="mine", classes=4)
    assert torch.equal(deploy(program, precision="float32")(batch), network(batch))
    assert certify(program, image, **SAMPLING).n == 200


def frozen_program(folder: Path, kind: str) -> nn.Module:
    """A small TorchScript program without modes, as it was frozen or as it is loaded again."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(network)
        if kind == "optimized":
            return torch.jit.optimize_for_inference(program)
        frozen = torch.jit.freeze(program)
        frozen.save(folder / "frozen.pt")
        return frozen if kind == "frozen" else torch.jit.load(folder / "frozen.pt")


@pytest.mark.parametrize("kind", ["frozen", "optimized", "loaded"])
def test_a_frozen_torchscript_program_is_a_base_classifier_like_others(
    kind: str, image: Tensor, tmp_path: Path
) -> None:
    program = frozen_program(tmp_path, kind)
    expected = certify(program.forward, image, **SAMPLING).estimation.tolist()
    behind = nn.Sequential(nn.Dropout(0.9), program)
    for classifier in (program, behind, deploy(program), Ensemble([program, program])):
        assert certify(classifier, image, **SAMPLING).estimation.tolist() == expected
    # What has modes is put back.
    assert behind.training
    assert behind[0].training
    assert predict(program, image, sigma=0.25, n=200) in range(-1, 4)
    assert check_clean_accuracy(program, image[None], torch.tensor([1]), expected=0.5, tolerance=0.5) in (0, 1)


def test_a_torchscript_program_says_last_why_it_failed(image: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(nn.Sequential(nn.Conv2d(1, 4, 3).half(), nn.Flatten()))
        with pytest.raises(ModelError, match=r"\(RuntimeError: Input type .*[hH]alf.* should be the same\)$"):
            certify(program, image, **SAMPLING)
        with pytest.raises(ModelError, match=r"\(RuntimeError: Input type .*\); give it in float32, as images are"):
            check_input(program, (1, 4, 4), architecture="torchscript", classes=16)


class Casting(nn.Module):
    """Computes in a dtype of its own, or in that of its parameters, whatever it gets."""

    def __init__(self, dtype: torch.dtype, *, to_parameters: bool) -> None:
        super().__init__()
        self.net, self.dtype, self.to_parameters = linear().to(dtype), dtype, to_parameters

    def forward(self, x: Tensor) -> Tensor:
        parameter = next(self.net.parameters())
        return self.net(x.to(parameter.dtype if self.to_parameters else self.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_that_casts_by_itself_is_deployed_where_it_casts_to_its_parameters(
    dtype: torch.dtype, image: Tensor
) -> None:
    network = Casting(dtype, to_parameters=False).eval()
    expected = certify(network, image, **SAMPLING).estimation.tolist()
    for precision in ("float32", "bfloat16"):
        with pytest.raises(ModelError, match=r"fails with its parameters in float32 \(.*\); where it casts to a dtype"):
            certify(deploy(network, precision=precision), image, **SAMPLING)  # type: ignore[arg-type]
    if dtype != torch.float64:
        # Who asks before training deploys it, too.
        with pytest.raises(ModelError, match="give it in float32, as images are, and let it cast to no dtype but that"):
            check_input(network, (1, 4, 4), architecture="mine", classes=4)
    # The remedies that are named.
    assert certify(deploy(network.eval().forward), image, **SAMPLING).estimation.tolist() == expected
    casting = Casting(dtype, to_parameters=True).eval()
    check_input(casting, (1, 4, 4), architecture="mine", classes=4)
    assert certify(deploy(casting, precision="float32"), image, **SAMPLING).n == 200


def test_a_function_is_a_base_classifier_in_its_own_precision(image: Tensor) -> None:
    network = linear()

    def function(batch: Tensor) -> "np.ndarray[Any, Any]":
        assert not batch.requires_grad
        return np.asarray(network(batch).detach())

    deployed = deploy(function, precision="float32")
    assert (
        certify(deployed, image, **SAMPLING).estimation.tolist()
        == certify(network, image, **SAMPLING).estimation.tolist()
    )
    with pytest.raises(ModelError, match="bfloat16 rounds parameters, and the classifier has none; use float32"):
        deploy(function, precision="bfloat16")


def test_what_is_deployed_stays_as_it_is() -> None:
    deployed = deploy(linear(), precision="float32")
    assert deploy(deployed, precision="float32") is deployed
    with pytest.raises(ModelError, match="is deployed in float32; deploy the network it was made from"):
        deploy(deployed, precision="bfloat16")


def test_the_logits_of_a_users_own_network_are_found_when_it_trains_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs_of_others.py").write_text(
        "import types\nfrom torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, classes): super().__init__(16, classes)\n"
        "    def forward(self, x): return types.SimpleNamespace(logits=super().forward(x.flatten(1)))\n"
        "def compiled(classes):\n"
        "    import torch\n"
        "    return torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(16, classes)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network("outputs_of_others:Net", classes=3, seed=0)
    logits = network.train()(torch.rand(2, 1, 4, 4))
    assert logits.shape == (2, 3)
    assert logits.requires_grad
    assert sorted(network.state_dict()) == ["bias", "weight"]
    assert copy.deepcopy(network)(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    compiled = build_network("outputs_of_others:compiled", classes=3, seed=0)
    assert sorted(compiled.state_dict()) == ["1.bias", "1.weight"]


# --- by name ----------------------------------------------------------------------------------------------------------


class FakeTimm(types.ModuleType):
    """The part of timm that is used."""

    def list_models(self) -> list[str]:
        return ["resnet18", "vit_tiny"]

    def is_model(self, name: str) -> bool:
        return name in self.list_models()

    def create_model(self, name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        assert self.is_model(name)
        assert not pretrained
        network = nn.Sequential(nn.Flatten(), nn.Linear(27, num_classes))
        network.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}  # type: ignore[assignment]
        return network


def test_a_classifier_of_timm_is_an_architecture_with_its_own_normalization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm("timm"))
    network = build_network("timm/resnet18", classes=7, seed=0)
    assert normalization(network) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    check_input(network, (3, 3, 3), architecture="timm/resnet18", classes=7)
    with pytest.raises(StudyError, match="timm has no 'resnet19'; did you mean 'resnet18'"):
        find_architecture("timm/resnet19")


def test_the_real_timm_builds_a_classifier_by_name() -> None:
    pytest.importorskip("timm")
    network = build_network("timm/resnet18.a1_in1k", classes=7, seed=0)
    assert normalization(network) == IMAGENET
    check_input(network, (3, 32, 32), architecture="timm/resnet18.a1_in1k", classes=7)


@pytest.mark.parametrize(("name", "package"), [("timm/resnet18", "timm"), ("onnx", "onnxruntime")])
def test_a_package_of_an_extra_that_is_missing_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs {package}, which is not installed; pip install 'rspipe\["):
        build_network(name, classes=3, seed=0)(torch.zeros(1, 1, 2, 2))


def test_a_torchscript_file_is_an_architecture_that_runs_code(image: Tensor, tmp_path: Path) -> None:
    network, path = linear(), tmp_path / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(path)
    loaded = build_network("torchscript", classes=4, seed=0)
    loaded.load_state_dict(file_parameters(path.read_bytes()))
    check_input(loaded, (1, 4, 4), architecture="torchscript", classes=4)
    again = build_network("torchscript", classes=4, seed=0)
    again.load_state_dict(loaded.state_dict())
    batch = torch.rand(3, 1, 4, 4)
    for one in (loaded, again, copy.deepcopy(loaded), deploy(loaded, precision="float32")):
        assert torch.equal(one(batch), network(batch))
    assert code_in("torchscript") == "the TorchScript file"
    assert code_in("dncnn + mynets.small:build") == "module 'mynets.small'"
    assert code_in("dncnn + resnet50") is None


def onnx_linear(weight: "np.ndarray[Any, Any]", *, batch: int | None, output: str = "logits") -> bytes:
    """An ONNX graph that flattens images and multiplies them by a matrix [pixel, class], whose dtype it takes."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], [output]),
    ]
    size = batch or "batch"
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", numbers, [size, 1, 4, 4])],
        [helper.make_tensor_value_info(output, numbers, [size, weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_an_onnx_graph_is_a_network_whatever_batches_it_was_exported_for(batch: int | None) -> None:
    pytest.importorskip("onnxruntime")
    weight = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    network = build_network("onnx", classes=4, seed=0)
    network.load_state_dict(file_parameters(onnx_linear(weight, batch=batch)))
    images = torch.rand(7, 1, 4, 4)
    for one in (network, copy.deepcopy(network), deploy(network, precision="float32")):
        torch.testing.assert_close(one(images), images.flatten(1) @ torch.from_numpy(weight))
    check_input(network, (1, 4, 4), architecture="onnx", classes=4)
    behind = set_normalization(network, ((0.5,), (0.25,)))
    torch.testing.assert_close(behind(images), ((images - 0.5) / 0.25).flatten(1) @ torch.from_numpy(weight))
    with pytest.raises(ModelError, match="bfloat16 rounds parameters, and the classifier has none"):
        deploy(network, precision="bfloat16")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_an_onnx_graph_gets_images_in_the_dtype_that_it_takes(dtype: type, image: Tensor) -> None:
    pytest.importorskip("onnxruntime")
    weight = np.random.default_rng(0).normal(size=(16, 4)).astype(dtype)
    network = build_network("onnx", classes=4, seed=0)
    network.load_state_dict(file_parameters(onnx_linear(weight, batch=None)))
    check_input(network, (1, 4, 4), architecture="onnx", classes=4)
    expected = image.flatten()[None] @ torch.from_numpy(weight).float()
    # Half precision keeps eleven bits of each of 16 products, none of them above 4.
    torch.testing.assert_close(deploy(network)(image[None]), expected, rtol=0, atol=16 * 4 * 2**-11)
    assert certify(network, image, **SAMPLING).n == 200
    # Another machine may round its logits otherwise, further than the noted answers tolerate.
    assert (answers_of(network, (1, 4, 4)) is None) == (dtype is np.float16)


def test_an_onnx_graph_of_whole_numbers_is_refused_in_one_line() -> None:
    pytest.importorskip("onnxruntime")
    network = build_network("onnx", classes=4, seed=0)
    network.load_state_dict(file_parameters(onnx_linear(np.zeros((16, 4), np.int32), batch=None)))
    with pytest.raises(ModelError, match=r"^the ONNX graph takes tensor\(int32\); export it for float images$"):
        network(torch.zeros(1, 1, 4, 4))


def test_the_weights_of_another_onnx_graph_in_the_working_directory_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    for number, name in enumerate(("mine", "other")):
        content = onnx_linear(np.full((16, 4), number, np.float32), batch=None)
        (tmp_path / name).mkdir()
        onnx.save(
            onnx.load_from_string(content),
            tmp_path / name / "model.onnx",
            save_as_external_data=True,
            location="model.onnx.data",
            size_threshold=0,
        )
        assert (tmp_path / name / "model.onnx.data").is_file()
    for folder in ("other", "mine", "."):
        monkeypatch.chdir(tmp_path / folder)
        network = load_checkpoint(
            tmp_path / "mine" / "model.onnx", architecture="onnx", classes=4, normalization="none"
        )
        with pytest.raises(
            ModelError, match=r"^the weights of the ONNX graph lie in another file .*external_data=False\)"
        ):
            network(torch.zeros(1, 1, 4, 4))
    # The remedy that is named.
    onnx.save(onnx.load(tmp_path / "mine" / "model.onnx"), tmp_path / "one.onnx")
    network = load_checkpoint(tmp_path / "one.onnx", architecture="onnx", classes=4, normalization="none")
    assert network(torch.ones(1, 1, 4, 4)).tolist() == [[0.0] * 4]


def test_a_file_that_is_no_onnx_graph_is_refused_in_one_line() -> None:
    pytest.importorskip("onnxruntime")
    network = build_network("onnx", classes=4, seed=0)
    network.load_state_dict(file_parameters(b"no graph"))
    with pytest.raises(ModelError, match="is no ONNX graph that onnxruntime can run") as refusal:
        network(torch.zeros(1, 1, 4, 4))
    assert "\n" not in str(refusal.value)


# --- denoised smoothing -----------------------------------------------------------------------------------------------


def test_a_denoiser_in_front_of_a_classifier_is_an_architecture() -> None:
    network = build_network("dncnn + cifar_resnet20", classes=5, seed=0)
    assert isinstance(network, Denoised)
    images = torch.rand(2, 3, 32, 32)
    network.eval()
    assert torch.equal(network(images), network.classifier(network.denoiser(images)))
    check_input(network, (3, 32, 32), architecture="dncnn + cifar_resnet20", classes=5)
    # Published denoisers: 17 convolutions, the first with a bias, all but the outer ones with batch normalization.
    convolutions = [module for module in network.denoiser.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 17
    assert [module.bias is not None for module in convolutions] == [True] + 16 * [False]


def test_the_classifier_behind_a_denoiser_is_normalized_and_the_denoiser_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_denoisers.py").write_text("from torch import nn\ndef blur():\n    return nn.AvgPool2d(3, 1, 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network("own_denoisers:blur + lenet", classes=5, seed=0).eval()
    assert isinstance(network, Denoised)
    classifier, images = network.classifier, torch.rand(2, 1, 28, 28)
    network = set_normalization(network, ((0.5,), (0.25,)))
    blurred = nn.AvgPool2d(3, 1, 1)(images)
    assert torch.equal(network(images), classifier((blurred - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dncn + lenet", "'dncn' is no denoiser; did you mean 'dncnn'"),
        ("dncnn + lenett", "unknown architecture 'lenett'; did you mean 'lenet'"),
        ("dncnn + lenet + lenet", "is not of the form 'denoiser \\+ classifier'"),
    ],
)
def test_a_wrong_name_on_either_side_is_named(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        find_architecture(name)


def test_logits_are_taken_as_they_are() -> None:
    logits = torch.rand(2, 3)
    assert logits_of(logits) is logits

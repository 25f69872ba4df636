"""Base classifiers by name: shapes, normalization, initialization."""

import copy
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from rspipe.data.spec import DigitsData
from rspipe.errors import MissingPackageError, ModelError, StudyError
from rspipe.networks.architectures import ARCHITECTURES, build_network, check_input, find_architecture
from rspipe.networks.normalization import CIFAR10, IMAGENET, MeanStd, Normalize, normalization, set_normalization
from rspipe.networks.spec import of_study_file
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.spec import ModelSpec, TrainingSpec

INPUTS = {
    "digits_cnn": (1, 8, 8),
    "digits_mlp": (1, 8, 8),
    "lenet": (1, 28, 28),
    "cifar_resnet8": (3, 32, 32),
    "cifar_resnet20": (3, 32, 32),
    "cifar_resnet110": (3, 32, 32),
    "resnet50": (3, 64, 64),
}
FILES = {"onnx", "torchscript"}


@cache
def _built(name: str) -> nn.Module:
    return build_network(name, classes=10, seed=0)


def built(name: str) -> nn.Module:
    """A network of ten classes and seed 0: a copy, since drawing the parameters of ResNet-50 takes long."""
    return copy.deepcopy(_built(name))


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def spec(architecture: object) -> ModelSpec:
    """Return the spec of a study file that names an architecture, whose user allows its code."""
    content = {
        "label": "a",
        "data": DigitsData(),
        "architecture": architecture,
        "method": Gaussian(name="gaussian"),
        "training": TrainingSpec(),
        "train_sigma": 0.5,
        "seed": 0,
    }
    return ModelSpec.model_validate(content, context=of_study_file(allow_code=True))


def test_every_architecture_has_an_input_size_here() -> None:
    assert set(INPUTS) == set(ARCHITECTURES) - FILES


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_network_returns_one_logit_per_class(name: str, classes: int) -> None:
    network = built(name) if classes == 10 else build_network(name, classes=classes, seed=0)
    logits = network(torch.randn(3, *INPUTS[name]))
    assert logits.shape == (3, classes)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_image_is_classified_alike_alone_and_in_a_batch(name: str) -> None:
    network, images = built(name).eval(), torch.rand(4, *INPUTS[name])
    torch.testing.assert_close(network(images)[2:3], network(images[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_network_leaves_its_input_as_it_was(name: str) -> None:
    images = torch.rand(2, *INPUTS[name])
    before = images.clone()
    built(name)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_gradient_reaches_the_input(name: str) -> None:
    images = torch.rand(2, *INPUTS[name], requires_grad=True)
    (gradient,) = torch.autograd.grad(built(name)(images)[:, 0].sum(), images)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_the_initialization_depends_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = flat(build_network(name, classes=10, seed=5))
    torch.manual_seed(2)
    assert torch.equal(flat(build_network(name, classes=10, seed=5)), first)
    assert not torch.equal(flat(_built(name)), first)


def test_building_a_network_leaves_the_global_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    build_network("lenet", classes=10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_normalization_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel() -> None:
    images = torch.ones(2, 2, 3, 3, dtype=torch.float64)
    normalized = Normalize((0.5, 0.25), (0.25, 3.0)).double()(images)
    assert torch.equal(normalized[:, 0], torch.full((2, 3, 3), 2.0, dtype=torch.float64))
    assert torch.equal(normalized[:, 1], torch.full((2, 3, 3), 0.25, dtype=torch.float64))


def test_normalization_has_nothing_to_train_or_to_store() -> None:
    layer = Normalize((0.5,), (0.5,))
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


def test_the_digits_network_maps_grey_levels_to_minus_one_to_one_first() -> None:
    network = build_network("digits_cnn", classes=10, seed=0)
    assert isinstance(network, nn.Sequential)
    levels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    assert network[0](levels).flatten().tolist() == [-1.0, 0.0, 1.0]


def test_lenet_has_no_normalization() -> None:
    assert not any(isinstance(layer, Normalize) for layer in build_network("lenet", classes=10, seed=0).modules())


@pytest.mark.parametrize(("name", "blocks"), [("cifar_resnet8", 1), ("cifar_resnet20", 3), ("cifar_resnet110", 18)])
def test_a_cifar_network_has_the_size_of_the_literature(name: str, blocks: int) -> None:
    network = build_network(name, classes=10, seed=0).eval()
    # 3x3 convolutions with two parameters of normalization per channel; a 1x1 convolution where the width changes.
    widths = {16: 16, 32: 16, 64: 32}
    first = 9 * 3 * 16 + 2 * 16 + 64 * 10 + 10
    stages = sum(9 * (before + (2 * blocks - 1) * w) * w + 4 * blocks * w for w, before in widths.items())
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert flat(network).numel() == first + stages + shortcuts
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, 3, 32, 32))
    sides = {16: 32, 32: 16, 64: 8}
    stages = sum(9 * (before + (2 * blocks - 1) * w) * w * sides[w] ** 2 for w, before in widths.items())
    shortcuts = 16 * 32 * 16**2 + 32 * 64 * 8**2
    assert counter.get_total_flops() == 2 * (9 * 3 * 16 * 32**2 + stages + shortcuts + 640)


def test_a_cifar_network_begins_with_variance_kept_from_output_to_input() -> None:
    for name, module in build_network("cifar_resnet20", classes=10, seed=0).named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            # The standard deviation of n normal numbers has a relative standard error of 1 / sqrt(2 n).
            error = 5 / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=error), name
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())


def test_a_cifar_network_takes_the_parameters_of_published_checkpoints_by_name() -> None:
    names = set(build_network("cifar_resnet110", classes=10, seed=0).state_dict())
    assert {"1.conv1.weight", "1.bn1.running_var", "1.layer1.17.conv2.weight", "1.fc.bias"} <= names
    assert {name for name in names if "downsample" in name and "weight" in name} == {
        f"1.layer{stage}.0.downsample.{layer}.weight" for stage in (2, 3) for layer in (0, 1)
    }


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("cifar_resnet20", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar_resnet110", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("resnet50", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_colour_networks_begin_with_the_normalization_of_their_data(
    name: str, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> None:
    network = built(name)
    assert isinstance(network, nn.Sequential)
    channels = torch.tensor(mean) + 2 * torch.tensor(deviation)
    torch.testing.assert_close(network[0](channels.view(3, 1, 1)), torch.full((3, 1, 1), 2.0))


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_network_can_be_traced(name: str) -> None:
    network, images = built(name).eval(), torch.rand(2, *INPUTS[name])
    assert torch.equal(fx.symbolic_trace(network)(images), network(images))


def test_an_unknown_architecture_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="unknown architecture 'lenett'; did you mean 'lenet'\\?"):
        spec("lenett")


def test_an_architecture_unlike_any_is_refused_with_all_names() -> None:
    with pytest.raises(
        ValidationError, match=f"unknown architecture 'xyz'; valid names: {', '.join(sorted(ARCHITECTURES))}"
    ):
        spec("xyz")


@pytest.mark.parametrize("value", [5, ["lenet"], None])
def test_an_architecture_that_is_no_name_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="should be a valid string"):
        spec(value)


# --- torchvision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "own"),
    [
        ("resnet18", 32, IMAGENET),
        ("squeezenet1_1", 32, IMAGENET),
        ("mobilenet_v3_small", 32, IMAGENET),
        ("googlenet", 32, ((0.5,) * 3, (0.5,) * 3)),
        ("inception_v3", 75, ((0.5,) * 3, (0.5,) * 3)),
        ("efficientnet_v2_l", 32, ((0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_a_torchvision_classifier_returns_one_logit_per_class_in_training_and_after(
    name: str, side: int, own: MeanStd
) -> None:
    network = build_network(name, classes=7, seed=0)
    assert normalization(network) == own
    for training in (True, False):
        logits = network.train(training)(torch.rand(2, 3, side, side))
        assert logits.shape == (2, 7)


def test_every_classifier_of_torchvision_is_offered_and_nothing_else_is() -> None:
    from torchvision import models

    classifiers = models.list_models(module=models)
    assert {"resnet18", "wide_resnet50_2", "densenet121", "vit_b_16"} <= set(classifiers)
    for name in classifiers:
        assert spec(name).architecture == name
    for name in set(models.list_models()) - set(classifiers):
        with pytest.raises(StudyError, match=f"torchvision's '{name}' .* is not among its classifiers of images"):
            find_architecture(name)


def test_the_initialization_of_a_torchvision_classifier_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = flat(build_network("squeezenet1_1", classes=10, seed=5))
    torch.manual_seed(2)
    assert torch.equal(flat(build_network("squeezenet1_1", classes=10, seed=5)), first)


def test_an_unknown_architecture_is_compared_with_the_names_of_torchvision_too() -> None:
    with pytest.raises(ValidationError, match="unknown architecture 'ResNet18'; did you mean 'resnet18'\\?"):
        spec("ResNet18")


def test_a_torchvision_classifier_that_takes_no_number_of_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    def stubborn(name: str, *, weights: object = None) -> nn.Module:
        return nn.Identity()

    monkeypatch.setattr(models, "get_model", stubborn)
    with pytest.raises(
        ModelError, match=r"architecture 'resnet18' cannot be built for 10 classes \(TypeError: .*num_cl"
    ):
        build_network("resnet18", classes=10, seed=0)


def test_without_torchvision_only_names_that_need_it_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert spec("lenet").architecture == "lenet"
    needs = r"needs torchvision, which is not installed; pip install 'rspipe\[pipeline\]'"
    with pytest.raises(MissingPackageError, match=rf"architecture 'resnet18', none of .*lenet.*, {needs}"):
        find_architecture("resnet18")
    with pytest.raises(MissingPackageError, match=rf"architecture 'resnet50' {needs}"):
        build_network("resnet50", classes=10, seed=0)


def test_a_torchvision_that_cannot_be_imported_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "torchvision" / "__init__.py"
    package.parent.mkdir()
    package.write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StudyError, match=r"'resnet18' is none of .*RuntimeError: operator torchvision::nms"):
        find_architecture("resnet18")


# --- the user's own ---------------------------------------------------------------------------------------------------

OWN = """
from torch import nn
from rspipe.networks.normalization import Normalize

limit = 3

def build(classes):
    return nn.Sequential(Normalize((0.5,), (0.25,)), nn.Flatten(), nn.Linear(64, classes))

def nothing(classes):
    return {"classes": classes}

def two(classes, depth):
    return nn.Linear(depth, classes)

def lazy(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

class Net(nn.Linear):
    def __init__(self, classes):
        super().__init__(64, classes)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with builders."""
    package = tmp_path / "own_nets"
    package.mkdir()
    (package / "small.py").write_text(OWN)
    (package / "broken.py").write_text("import no_such_package_anywhere")
    (package / "typo.py").write_text("def build(classes)\n    return None")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("own_nets")]:
        monkeypatch.delitem(sys.modules, name)
    return "own_nets.small"


def test_a_function_of_the_users_own_is_an_architecture_by_its_name(own: str) -> None:
    name = f"{own}:build"
    assert spec(name).architecture == name
    first = build_network(name, classes=3, seed=5)
    torch.manual_seed(1)
    assert torch.equal(flat(build_network(name, classes=3, seed=5)), flat(first))
    assert not torch.equal(flat(build_network(name, classes=3, seed=6)), flat(first))
    assert first(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert normalization(first) == ((0.5,), (0.25,))


def test_a_class_of_the_users_own_is_an_architecture_too(own: str) -> None:
    assert build_network(f"{own}:Net", classes=3, seed=5)(torch.zeros(2, 64)).shape == (2, 3)


@pytest.mark.parametrize("name", ["own_nets.small:", ":build", "own_nets/small.py:build", "a:b:c", "a..b:c"])
def test_a_name_with_a_colon_has_the_form_module_and_function(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is not of the form 'module:function', e.g. 'mynets.small:bu"):
        spec(name)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("no_nets_here", "ModuleNotFoundError: No module named 'no_nets_here'"),
        ("own_nets.large", "ModuleNotFoundError: No module named 'own_nets.large'"),
        ("own_nets.broken", "ModuleNotFoundError: No module named 'no_such_package_anywhere'"),
        ("own_nets.typo", "SyntaxError: .*typo.py, line 1"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_reason(own: str, module: str, reason: str) -> None:
    with pytest.raises(
        ValidationError, match=f"module '{module}' cannot be imported \\({reason}.*put it beside the study"
    ):
        spec(f"{module}:build")


def test_a_function_that_is_missing_is_compared_with_those_of_the_module(own: str) -> None:
    with pytest.raises(
        ValidationError, match=r"module 'own_nets.small' has no function 'bild'; did you mean 'build'\?"
    ):
        spec(f"{own}:bild")
    with pytest.raises(ValidationError, match="no function 'xyzzy'; valid names: Net, build, lazy, nothing, two"):
        spec(f"{own}:xyzzy")


def test_what_is_no_function_is_no_architecture(own: str) -> None:
    with pytest.raises(
        ValidationError, match=r"'own_nets.small:limit' is of type int; name a function from the number of"
    ):
        spec(f"{own}:limit")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("nothing", "'own_nets.small:nothing' returned a dict; it must return a torch.nn.Module"),
        ("two", "'own_nets.small:two' cannot be built for 3 classes \\(TypeError: .*'depth'"),
        ("lazy", "'own_nets.small:lazy' has lazy layers"),
    ],
)
def test_a_builder_that_makes_no_network_is_refused_in_one_line(own: str, function: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem) as refusal:
        build_network(f"{own}:{function}", classes=3, seed=0)
    assert "\n" not in str(refusal.value)


# --- normalization ----------------------------------------------------------------------------------------------------


def test_the_normalization_of_a_network_is_told_in_the_decimals_it_was_given() -> None:
    assert normalization(build_network("cifar_resnet20", classes=10, seed=0)) == CIFAR10
    assert normalization(build_network("cifar_resnet20", classes=10, seed=0).double()) == CIFAR10
    assert normalization(build_network("digits_cnn", classes=10, seed=0)) == ((0.5,), (0.5,))
    assert normalization(build_network("lenet", classes=10, seed=0)) is None


def test_a_network_without_normalization_gets_bitwise_what_it_gets_without_the_layer() -> None:
    network, images = build_network("cifar_resnet20", classes=10, seed=0).eval(), torch.rand(4, 3, 32, 32)
    assert isinstance(network, nn.Sequential)
    names, body = list(network.state_dict()), network[1]
    set_normalization(network, "none")
    assert normalization(network) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert torch.equal(network(images), body(images))
    set_normalization(network, "centre")
    assert torch.equal(network(images), body(images - torch.tensor(CIFAR10[0]).view(3, 1, 1)))
    set_normalization(network, IMAGENET)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    assert torch.equal(network(images), body((images - mean) / std))
    set_normalization(network, "architecture")
    assert normalization(network) == CIFAR10
    assert list(network.state_dict()) == names


def test_a_network_without_the_layer_gets_one_before_it() -> None:
    network, images = build_network("lenet", classes=10, seed=0).eval(), torch.rand(2, 1, 28, 28)
    assert set_normalization(network, "none") is network
    assert set_normalization(network, "architecture") is network
    behind = set_normalization(network, ((0.1307,), (0.3081,)))
    assert normalization(behind) == ((0.1307,), (0.3081,))
    assert torch.equal(behind(images), network((images - 0.1307) / 0.3081))
    with pytest.raises(ModelError, match=r"has 0 Normalize layers, .* be set to 'centre'; name mean and standard"):
        set_normalization(network, "centre")
    with pytest.raises(ModelError, match=r"has 2 Normalize layers, .*; leave one, at its beginning"):
        set_normalization(nn.Sequential(Normalize((0.5,), (0.5,)), behind), "none")


def test_a_normalization_is_the_same_after_it_was_in_a_record() -> None:
    network, images = build_network("cifar_resnet20", classes=10, seed=0).eval(), torch.rand(2, 3, 32, 32)
    set_normalization(network, IMAGENET)
    rebuilt = build_network("cifar_resnet20", classes=10, seed=0).eval()
    set_normalization(rebuilt, json.loads(json.dumps(normalization(network))))
    assert normalization(rebuilt) == IMAGENET
    assert torch.equal(rebuilt(images), network(images))


def test_a_normalization_that_does_not_exist_or_fit_is_refused() -> None:
    network = build_network("cifar_resnet20", classes=10, seed=0)
    with pytest.raises(ValueError, match=r"normalization must be one of .*'centre'.*, got 'center'"):
        set_normalization(network, "center")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="normalization must have 3 channels"):
        set_normalization(network, ((0.5,), (0.5,)))
    for mean, std in [((0.5,), (0.0,)), ((0.5,), (0.5, 0.5)), ((), ()), ((float("nan"),), (1.0,))]:
        with pytest.raises(ValueError, match="one finite number per channel, std above 0"):
            Normalize(mean, std)


# --- images that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_architecture_takes_the_images_it_is_made_for(name: str) -> None:
    check_input(built(name), INPUTS[name], architecture=name, classes=10)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("digits_cnn", (1, 28, 28), "does not take images of 1x28x28 \\(RuntimeError: "),
        ("lenet", (1, 8, 8), "does not take images of 1x8x8 \\(RuntimeError: "),
        ("cifar_resnet20", (3, 16, 16), "does not take images of 3x16x16 \\(RuntimeError: "),
        ("cifar_resnet20", (3, 64, 64), "does not take images of 3x64x64 \\(RuntimeError: "),
        ("alexnet", (3, 32, 32), "does not take images of 3x32x32 \\(RuntimeError: "),
        # torchvision asserts.
        ("vit_b_32", (3, 32, 32), "does not take images of 3x32x32 \\(AssertionError: Wrong image height"),
        ("resnet18", (1, 28, 28), "takes 3 channels but images are 1x28x28; "),
        ("lenet", (3, 28, 28), "does not take images of 3x28x28 \\(RuntimeError: "),
    ],
)
def test_images_of_another_size_are_refused_in_one_line(name: str, shape: tuple[int, ...], problem: str) -> None:
    with torch.device("meta"):
        network = build_network(name, classes=10, seed=0)
    with pytest.raises(ModelError, match=f"architecture '{name}' {problem}") as refusal:
        check_input(network, shape, architecture=name, classes=10)
    assert "\n" not in str(refusal.value)


class Returns(nn.Module):
    """A network with a state that returns what a function makes of its images."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.norm, self.make, self.calls = nn.BatchNorm2d(1), make, 0
        self.dropout = nn.Dropout().eval()

    def forward(self, images: Tensor) -> object:
        self.calls += 1
        return self.make(self.norm(images))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda x: (x.flatten(1), x), "returned a tuple of 2 items; return the logits"),
        (lambda x: x.flatten(1)[:, :4], "returns \\[2, 4\\] for 2 images of 1x8x8, not \\[2, 5\\]"),
        (lambda x: x, "returns \\[2, 1, 8, 8\\] for 2 images"),
        (lambda x: x.flatten(1).mean(0)[:5], "returns \\[5\\] for 2 images"),
    ],
)
def test_what_is_not_one_logit_per_class_is_refused(make: Callable[[Tensor], object], problem: str) -> None:
    with pytest.raises(ModelError, match=f"architecture 'mine' {problem}"):
        check_input(Returns(make), (1, 8, 8), architecture="mine", classes=5)


def test_trying_a_network_leaves_it_and_the_random_state_as_they_were() -> None:
    network = Returns(lambda x: x.flatten(1)[:, :5])
    modes = [module.training for module in network.modules()]
    state, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    check_input(network, (1, 8, 8), architecture="mine", classes=5)
    assert network.calls == 0
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)

"""Base classifiers by name: shapes, normalization, initialization."""

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from rspipe.architectures import ARCHITECTURES, Normalize, build_network
from rspipe.methods import Gaussian
from rspipe.spec import DigitsData, TrainingSpec
from rspipe.study import ModelSpec

INPUTS = {
    "digits_cnn": (1, 8, 8),
    "lenet": (1, 28, 28),
    "cifar_resnet20": (3, 32, 32),
    "cifar_resnet110": (3, 32, 32),
    "resnet50": (3, 64, 64),
}


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def spec(architecture: object) -> ModelSpec:
    return ModelSpec(
        label="a",
        data=DigitsData(),
        architecture=architecture,  # type: ignore[arg-type]
        method=Gaussian(name="gaussian"),
        training=TrainingSpec(),
        train_sigma=0.5,
        seed=0,
    )


def test_every_architecture_has_an_input_size_here() -> None:
    assert set(INPUTS) == set(ARCHITECTURES)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_network_returns_one_logit_per_class(name: str, classes: int) -> None:
    network = build_network(name, classes=classes, seed=0)
    logits = network(torch.randn(3, *INPUTS[name]))
    assert logits.shape == (3, classes)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_image_is_classified_alike_alone_and_in_a_batch(name: str) -> None:
    network, images = build_network(name, classes=10, seed=0).eval(), torch.rand(4, *INPUTS[name])
    torch.testing.assert_close(network(images)[2:3], network(images[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_network_leaves_its_input_as_it_was(name: str) -> None:
    images = torch.rand(2, *INPUTS[name])
    before = images.clone()
    build_network(name, classes=10, seed=0)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_gradient_reaches_the_input(name: str) -> None:
    images = torch.rand(2, *INPUTS[name], requires_grad=True)
    (gradient,) = torch.autograd.grad(build_network(name, classes=10, seed=0)(images)[:, 0].sum(), images)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_the_initialization_depends_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = flat(build_network(name, classes=10, seed=5))
    torch.manual_seed(2)
    assert torch.equal(flat(build_network(name, classes=10, seed=5)), first)
    assert not torch.equal(flat(build_network(name, classes=10, seed=6)), first)


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


@pytest.mark.parametrize(("name", "blocks"), [("cifar_resnet20", 3), ("cifar_resnet110", 18)])
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
    network = build_network(name, classes=10, seed=0)
    assert isinstance(network, nn.Sequential)
    channels = torch.tensor(mean) + 2 * torch.tensor(deviation)
    torch.testing.assert_close(network[0](channels.view(3, 1, 1)), torch.full((3, 1, 1), 2.0))


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_network_can_be_traced(name: str) -> None:
    network, images = build_network(name, classes=10, seed=0).eval(), torch.rand(2, *INPUTS[name])
    assert torch.equal(fx.symbolic_trace(network)(images), network(images))


def test_torchvision_is_imported_only_where_it_is_used() -> None:
    code = "import sys, rspipe.architectures; sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_architecture_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="unknown architecture 'lenett'; did you mean 'lenet'\\?"):
        spec("lenett")


def test_an_architecture_unlike_any_is_refused_with_all_names() -> None:
    with pytest.raises(ValidationError, match=f"unknown architecture 'xyz'; valid names: {', '.join(sorted(INPUTS))}"):
        spec("xyz")


@pytest.mark.parametrize("value", [5, ["lenet"], None])
def test_an_architecture_that_is_no_name_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="should be a valid string"):
        spec(value)

"""The deployed form of a network: the same function, at the precision asked for.

Where small integers make every product and sum exact in bfloat16 too, the deployed form must return the same bits.
"""

import copy
import math
import operator
import pickle
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import convnext, densenet, mobilenetv2, resnet, vgg, vision_transformer

from rspipe.errors import ModelError
from rspipe.networks import deployment, fusion
from rspipe.networks import precision as precisions
from rspipe.networks.architectures import build_network
from rspipe.networks.deployment import deploy
from rspipe.networks.modes import evaluating, out_of_memory
from rspipe.networks.normalization import Normalize
from rspipe.networks.precision import SLOW, Precision, fastest_precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
INPUTS = {"digits_cnn": (1, 8, 8), "lenet": (1, 28, 28), "cifar_resnet20": (3, 32, 32)}
Rule = Callable[["Net", Tensor], Tensor]


def settled(network: nn.Module, images: Tensor) -> nn.Module:
    """Return the network in eval mode, its batch normalization calibrated on the images as training would."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def integers(network: nn.Module) -> nn.Module:
    """Return the network in eval mode with parameters -1, 0 and 1, and normalization by powers of two."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            tensors = (
                {"running_mean": 1.0, "running_var": 4.0, "weight": 4.0} if module.affine else {"running_var": 0.25}
            )
            for name, value in tensors.items():
                nn.init.constant_(getattr(module, name), value)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            for parameter in module.parameters():
                parameter.data = torch.randint(-1, 2, parameter.shape) * torch.bernoulli(
                    0.4 * torch.ones_like(parameter)
                )
    return network.eval()


class Net(nn.Module):
    """Two convolutions and what else a rule needs; the rule says how they are joined."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.point, self.lift, self.grouped = nn.Conv2d(4, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2)
        self.relu, self.relu_ = nn.ReLU(), nn.ReLU(inplace=True)
        self.norm, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x).flatten(1)


def sum_in_place(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    y += x
    return functional.relu(y)


def sum_into_what_is_seen_later(net: Net, x: Tensor) -> Tensor:
    h = net.b(x)
    return functional.relu(h.add_(net.a(h))) - h


def relu_in_place_of_what_is_seen_later(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return functional.relu(y, inplace=True) - 2 * y


def input_changed_before_the_sum(net: Net, x: Tensor) -> Tensor:
    h = net.b(x)
    y = net.a(h)
    h.relu_()
    return functional.relu(y + h)


def input_changed_by_a_layer_before_the_sum(net: Net, x: Tensor) -> Tensor:
    h = net.b(x)
    y = net.a(h)
    return functional.relu(y + net.relu_(h))


def seen_convolution(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return torch.relu(y) - 2 * y


def seen_sum(net: Net, x: Tensor) -> Tensor:
    y = net.a(x) + x
    return torch.relu(y) - 2 * y


def block(net: Net, h: Tensor) -> Tensor:
    return torch.relu(net.point(torch.relu(net.a(h))) + h)


def term_seen_later(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.b(x))
    return block(net, h) - 2 * h


def term_seen_through_a_view(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.b(x))
    view = h[:, :2]
    return block(net, h)[:, :2] - 2 * view


def term_read_again_by_a_convolution(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.b(x))
    return block(net, h) - net.a(h)


def term_of_two_sums(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.b(x))
    first = block(net, h)
    return first - torch.relu(net.a(first) + h)


def seen_convolution_before_norm(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.norm(y) - 3 * y


RULES: dict[str, Rule] = {
    "relu layer": lambda net, x: net.relu(net.a(x)),
    "relu layer in place": lambda net, x: net.relu_(net.a(x)),
    "functional relu": lambda net, x: functional.relu(input=net.b(x), inplace=True),
    "relu methods": lambda net, x: net.b(net.a(x).relu()).relu_(),
    "residual": lambda net, x: torch.relu(net.b(torch.relu(net.a(x))) + x),
    "residual of a block": lambda net, x: block(net, torch.relu(net.b(x))),
    "residual of a convolution's own input": lambda net, x: torch.relu(net.a(h := torch.relu(net.b(x))) + h),
    "residual of a sum in place": lambda net, x: block(net, torch.relu(net.b(h := torch.relu(net.lift(x[:, :1]))) + h)),
    "residual, input first": lambda net, x: torch.relu_(x + net.a(x)),
    "residual of two convolutions": lambda net, x: net.relu(torch.add(net.a(x), net.b(x))),
    "residual by method": lambda net, x: net.a(x).add(x).relu(),
    "residual with norms": lambda net, x: net.relu_(net.norm2(net.b(net.relu_(net.norm(net.a(x))))).add_(x)),
    "scaled sum": lambda net, x: torch.relu(torch.add(net.a(x), x, alpha=2)),
    "sum with a number": lambda net, x: torch.relu(net.a(x) + 1),
    "sum with itself": lambda net, x: torch.relu(operator.add(*[net.a(x)] * 2)),
    "sum that broadcasts over the image": lambda net, x: torch.relu(net.a(x) + net.b(x).amax((2, 3), keepdim=True)),
    "sum that broadcasts over the batch": lambda net, x: torch.relu(net.a(x) + x[:1]),
    "sum that repeats the convolution": lambda net, x: torch.relu(net.a(x[:1]) + x),
    "sum with one channel": lambda net, x: torch.relu(net.a(x) + x[:, :1]),
    "residual of a grouped convolution": lambda net, x: torch.relu(net.grouped(x) + x),
    "residual of one channel": lambda net, x: torch.relu(net.lift(x[:, :1].contiguous()) + x),
    "sum of two memory orders": lambda net, x: torch.relu(net.a(x) + x.clone(memory_format=torch.contiguous_format)),
    "sum with a repeated term": lambda net, x: torch.relu(net.a(x) + x[:, :1].expand(-1, 4, -1, -1)),
    "input in another memory order": lambda net, x: torch.relu(net.a(x.contiguous()) + x),
    "images of one pixel": lambda net, x: torch.relu(net.point(x[:, :, :1, :1]) + x[:, :, :1, :1]),
    "one convolution twice": lambda net, x: torch.relu(net.a(torch.relu(net.a(x)))),
    "one convolution, two norms": lambda net, x: net.norm(net.a(x)) + net.norm2(net.a(x)),
    "norm without convolution": lambda net, x: net.relu(net.norm(x) + 3),
    "view": lambda net, x: net.a(x).view(x.shape[0], -1, 6),
    "no parameters": lambda _, x: torch.relu(x),
    **{
        rule.__name__.replace("_", " "): rule
        for rule in (
            sum_in_place,
            sum_into_what_is_seen_later,
            relu_in_place_of_what_is_seen_later,
            input_changed_before_the_sum,
            input_changed_by_a_layer_before_the_sum,
            seen_convolution,
            seen_sum,
            seen_convolution_before_norm,
            term_seen_later,
            term_seen_through_a_view,
            term_read_again_by_a_convolution,
            term_of_two_sums,
        )
    },
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", RULES)
def test_a_deployed_network_is_the_same_function(name: str, precision: Precision) -> None:
    torch.manual_seed(0)
    network, images = integers(Net(RULES[name])), torch.randint(-2, 3, (5, 4, 6, 6)).float()
    expected = network(images.clone())
    assert torch.equal(deploy(network, precision=precision)(images.clone()), expected)
    assert len(expected.unique()) > 2


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, (3, 5), padding="same"),
        nn.Conv2d(4, 4, 3, padding="valid"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding=(1, 0)),
        nn.ConvTranspose2d(4, 4, 3, padding=1),
    ],
    ids=str,
)
def test_every_kind_of_convolution_keeps_its_function(conv: nn.Module, precision: Precision) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    )
    network, images = integers(layers), torch.randint(-2, 3, (5, 4, 6, 6)).float()
    if isinstance(conv, nn.ConvTranspose2d):
        conv.weight.data.sign_()
        conv.bias.data.zero_()  # type: ignore[union-attr]
        conv.weight.data[:, :, 1:] = 0
    assert torch.equal(deploy(network, precision=precision)(images), network(images))


def test_a_layer_with_a_hook_is_left_alone() -> None:
    torch.manual_seed(0)
    network, images = integers(Net(RULES["residual with norms"])), torch.randint(-2, 3, (5, 4, 6, 6)).float()
    assert isinstance(network, Net)
    network.a.register_forward_hook(lambda _layer, _inputs, output: 2 * output)
    network.b.register_forward_pre_hook(lambda _layer, inputs: (-inputs[0],))
    for precision in PRECISIONS:
        assert torch.equal(deploy(network, precision=precision)(images), network(images))


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_float32_differs_from_the_network_by_the_order_of_sums_only(name: str) -> None:
    images = torch.rand(16, *INPUTS[name])
    network = settled(build_network(name, classes=10, seed=0), images)
    # Sums of up to 1,600 products err by about sqrt(1600) units in the last place, 40 * 2^-24; layers add up.
    torch.testing.assert_close(deploy(network, precision="float32")(images), network(images), rtol=1e-4, atol=1e-4)


BLOCKS = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 1)]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: build_network(name, classes=10, seed=0) for name in INPUTS},  # type: ignore[misc]
    "resnet of basic blocks": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    "resnet of bottlenecks": lambda: resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=10),
    "mobilenet_v2": lambda: mobilenetv2.MobileNetV2(num_classes=10, width_mult=0.25),
    "densenet": lambda: densenet.DenseNet(8, (2, 2), 16, num_classes=10),
    "vgg": lambda: nn.Sequential(
        vgg.make_layers([16, "M", 32, "M"], batch_norm=True), nn.Flatten(), nn.Linear(2048, 10)
    ),
    "convnext": lambda: convnext.ConvNeXt(BLOCKS, num_classes=10),
    "vision transformer": lambda: vision_transformer.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_is_as_accurate_as_rounding_every_layer(name: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(64, *INPUTS.get(name, (3, 32, 32)))
    network = settled(NETWORKS[name](), images)
    # Without instructions for bfloat16 each takes long.
    images = images[:16]
    with torch.no_grad():
        exact = network(images)
        rounded = copy.deepcopy(network).to(torch.bfloat16)(images.to(torch.bfloat16)).float()
    error = (deploy(network, precision="bfloat16")(images) - exact).square().mean().sqrt()
    # Folding rounds different weights, so that the two errors are two draws from about one distribution.
    assert float(error) < 1.5 * float((rounded - exact).square().mean().sqrt())
    assert float(error) > 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", sorted(INPUTS))
def test_the_same_batch_gets_the_same_logits_again(name: str, precision: Precision) -> None:
    images = torch.rand(16, *INPUTS[name])
    classifier = deploy(build_network(name, classes=10, seed=0), precision=precision)
    assert torch.equal(classifier(images), classifier(images.clone()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_deployed_network_is_in_eval_mode_and_returns_float32_without_gradient(precision: Precision) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    classifier, images = deploy(network.train(), precision=precision), torch.rand(4, 1, 8, 8, requires_grad=True)
    logits = classifier(images)
    assert (logits.dtype, logits.shape, logits.requires_grad) == (torch.float32, (4, 3), False)
    assert torch.equal(classifier(images), logits)
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_deploying_leaves_the_network_as_it_was(precision: Precision) -> None:
    network = build_network("cifar_resnet20", classes=10, seed=0)
    before, images = copy.deepcopy(network), torch.rand(2, 3, 32, 32)
    random_state = torch.get_rng_state()
    fusion.has_fused_convolutions.cache_clear()
    deploy(network, precision=precision)(images)
    for (name, tensor), old in zip(network.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(tensor, old), name
        assert (tensor.dtype, tensor.stride()) == (old.dtype, old.stride())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_deployed_network_survives_pickling(precision: Precision) -> None:
    images = torch.rand(4, 3, 32, 32)
    classifier = deploy(build_network("cifar_resnet8", classes=10, seed=0), precision=precision)
    assert torch.equal(pickle.loads(pickle.dumps(classifier))(images), classifier(images))  # noqa: S301


def test_in_bfloat16_noise_is_not_rounded_before_normalization() -> None:
    network = nn.Sequential(Normalize((0.5,), (1.0,)), nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(1, 2))
    integers(network)
    network[1].weight.data.fill_(1)
    network[3].weight.data = torch.tensor([[1.0], [-1.0]])
    network[3].bias.data.zero_()
    # Next to 0.5 bfloat16 has no number but 0.5 +- 2^-8 or 2^-9.
    images = 0.5 + torch.tensor([2.0**-12, -(2.0**-20)]).view(2, 1, 1, 1)
    expected = torch.tensor([[2.0**-12, -(2.0**-12)], [-(2.0**-20), 2.0**-20]])
    assert torch.equal(deploy(network, precision="bfloat16")(images), expected)


def test_in_bfloat16_logits_are_not_rounded() -> None:
    logits = deploy(build_network("digits_cnn", classes=10, seed=0), precision="bfloat16")(torch.rand(64, 1, 8, 8))
    assert bool((logits != logits.to(torch.bfloat16)).any())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_linear_classifier_of_flat_inputs_is_exact(precision: Precision) -> None:
    network, inputs = nn.Linear(7, 3), torch.randn(5, 7)
    assert torch.equal(deploy(network, precision=precision)(inputs), network(inputs))


def test_inputs_need_not_be_images() -> None:
    network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4)).eval()
    inputs = torch.randn(5, 2, 8)
    logits = [deploy(network, precision=precision)(inputs) for precision in PRECISIONS]
    torch.testing.assert_close(logits[0], network(inputs))
    torch.testing.assert_close(logits[1], network(inputs), rtol=0.05, atol=0.05)


class Sided(nn.Module):
    """A network that torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = -x if bool(self.fc.weight.sum() > 0) else x
        logits: Tensor = self.fc(x.view(x.shape[0], 36))
        return logits


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_that_cannot_be_traced_is_deployed_too(
    precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    network, images = integers(Sided()), torch.randint(-2, 3, (5, 4, 3, 3)).float()
    classifier = deploy(network, precision=precision)
    assert "Sided is deployed layer by layer" in caplog.text
    for sign in (1, -1):
        assert torch.equal(classifier(sign * images), network(sign * images))


def test_parameters_that_are_no_floats_are_refused_in_bfloat16() -> None:
    network = nn.Linear(2, 2)
    network.register_parameter("steps", nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False))
    with pytest.raises(ModelError, match=r"precision bfloat16 cannot hold steps, which is torch\.int64"):
        deploy(network, precision="bfloat16")
    deploy(network, precision="float32")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_deployed_network_does_not_hide_broken_parameters(value: float, precision: Precision) -> None:
    network = build_network("lenet", classes=10, seed=0)
    next(network.parameters()).data[0, 0, 0, 0] = value
    assert not bool(deploy(network, precision=precision)(torch.randn(8, 1, 28, 28)).isfinite().all())


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision must be one of .*, got 'float16'"):
        deploy(nn.Linear(2, 2), precision="float16")  # type: ignore[arg-type]


class Spectral(nn.Module):
    """A network with an operation that has no bfloat16 form."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).abs().flatten(1)


def test_an_operation_without_bfloat16_is_named() -> None:
    classifier = deploy(nn.Sequential(nn.Conv2d(1, 1, 1), Spectral()), precision="bfloat16")
    with pytest.raises(ModelError, match=r"precision bfloat16 fails in this network .*; use float32"):
        classifier(torch.rand(2, 1, 6, 6))


def test_errors_of_the_network_itself_pass_through() -> None:
    classifier = deploy(build_network("lenet", classes=10, seed=0), precision="bfloat16")
    with pytest.raises(RuntimeError, match=r"shape|size|channels"):
        classifier(torch.rand(2, 3, 28, 28))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_relu_of_the_residual_network_runs_inside_a_convolution(precision: Precision) -> None:
    if not fusion.has_fused_convolutions(getattr(torch, precision)):
        pytest.skip(f"this CPU has no fused {precision} convolutions")
    classifier = deploy(build_network("cifar_resnet20", classes=10, seed=0), precision=precision)
    fused = [module for module in classifier.modules() if isinstance(module, fusion.ConvReLU)]
    convolutions = [module for module in classifier.modules() if isinstance(module, nn.Conv2d)]
    # Two stages begin with a convolution on either side of the sum; only one of the two can take it in.
    assert (len(fused), len(convolutions)) == (19, 21)
    # All sums are over what nobody reads any more.
    assert sum(module.in_place for module in fused) == 9
    assert not any(isinstance(module, nn.BatchNorm2d) for module in classifier.modules())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_fused_convolutions_the_layers_run_one_by_one(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "has_fused_convolutions", lambda _: False)
    torch.manual_seed(0)
    network, images = integers(Net(RULES["residual with norms"])), torch.randint(-2, 3, (5, 4, 6, 6)).float()
    classifier = deploy(network, precision=precision)
    assert not any(isinstance(module, fusion.ConvReLU) for module in classifier.modules())
    assert torch.equal(classifier(images), network(images))


@pytest.mark.parametrize("error", [AttributeError("no such operator"), RuntimeError("no such kernel"), None])
def test_a_fused_convolution_that_is_missing_or_wrong_is_not_used(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(_layer: nn.Module, x: Tensor, _other: Tensor | None = None) -> Tensor:
        if error is not None:
            raise error
        return x

    monkeypatch.setattr(fusion.ConvReLU, "forward", forward)
    assert not fusion.has_fused_convolutions.__wrapped__(torch.float32)


def test_auto_takes_the_precision_that_is_fast_here_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("digits_cnn", classes=10, seed=0)
    for kind in PRECISIONS:
        monkeypatch.setattr(deployment, "fastest_precision", lambda _, fast=kind: fast)
        classifier, images = deploy(network), torch.rand(4, 1, 8, 8)
        assert classifier.precision == kind
        assert torch.equal(classifier(images), deploy(network, precision=kind)(images))
        assert deploy(classifier) is classifier


def test_auto_takes_float32_where_bfloat16_is_impossible_or_would_round_the_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deployment, "fastest_precision", lambda _: "bfloat16")
    assert deploy(lambda x: x.flatten(1)).precision == "float32"
    assert deploy(Sided()).precision == "float32"


def test_bfloat16_is_fast_where_the_processor_has_instructions_that_torch_may_use_and_that_are_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for capability, bf16, amx, speedup, expected in (
        ("AVX512", True, False, 1.8, "bfloat16"),
        ("AVX512", False, True, 1.8, "bfloat16"),
        # Intel's without AMX.
        ("AVX512", True, False, 0.7, "float32"),
        ("AVX512", False, False, 1.8, "float32"),
        ("AVX2", True, True, 1.8, "float32"),
        ("DEFAULT", False, False, 1.8, "float32"),
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda value=capability: value)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda value=bf16: value)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda value=amx: value)
        monkeypatch.setattr(precisions, "_speedup", lambda value=speedup: value)
        assert fastest_precision(torch.device("cpu")) == expected


def test_the_speed_of_bfloat16_is_measured_in_turns_by_the_fastest_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of every call in bfloat16 two seconds, in float32 three; one of each is interrupted.
    now = 0.0
    calls: list[torch.dtype] = []

    def convolved(x: Tensor, *_: object, **__: object) -> None:
        nonlocal now
        calls.append(x.dtype)
        now += (2 if x.dtype == torch.bfloat16 else 3) + (50 if len(calls) in (1, 4) else 0)

    threads = torch.get_num_threads()
    monkeypatch.setattr(precisions.torch, "conv2d", convolved)
    monkeypatch.setattr(precisions.time, "thread_time", lambda: now)
    assert precisions._speedup.__wrapped__() == 1.5
    assert torch.get_num_threads() == threads
    assert calls == 6 * [torch.float32, torch.bfloat16]


def test_bfloat16_that_is_slow_here_is_warned_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deployment, "fastest_precision", lambda _: "float32")
    deploy(build_network("digits_cnn", classes=10, seed=0), precision="float32")
    assert not caplog.messages
    deploy(build_network("digits_cnn", classes=10, seed=0), precision="bfloat16")
    (message,) = caplog.messages
    assert "bfloat16 is no faster than float32 on this CPU" in message
    assert "\n" not in message


def test_a_network_whose_samples_depend_on_each_other_is_refused() -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    for network in (nn.Sequential(nn.Linear(3, 3), norm), norm):
        with pytest.raises(ModelError, match=r"^(1|BatchNorm1d) normalizes by the batch \(track_running_stats=False\)"):
            deploy(network)
    # These look at one sample alone.
    assert deploy(nn.Sequential(nn.InstanceNorm1d(3), nn.Flatten()))(torch.rand(2, 3, 4)).shape == (2, 12)


@pytest.mark.parametrize("size", [2, 7, 8])
def test_pools_of_two_by_two_have_torchs_maxima_and_pass_on_what_is_no_number(size: int) -> None:
    x = torch.randn(5, 3, size, 9, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0], x[1, 0, 1, 1] = math.nan, math.inf
    for order in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=order)
        got = fusion.MaxPool2x2()(given)
        torch.testing.assert_close(got, nn.functional.max_pool2d(x, 2), rtol=0, atol=0, equal_nan=True)
        if order is torch.channels_last:
            assert got.is_contiguous(memory_format=order)


@pytest.mark.parametrize(
    ("pool", "split"),
    [
        (nn.MaxPool2d(2), True),
        (nn.MaxPool2d((2, 2), stride=(2, 2)), True),
        (nn.MaxPool2d(3), False),
        (nn.MaxPool2d(2, stride=1), False),
        (nn.MaxPool2d(2, padding=1), False),
        (nn.MaxPool2d(2, dilation=2), False),
        (nn.MaxPool2d(2, ceil_mode=True), False),
        (nn.MaxPool2d((2, 1), stride=2), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_pools_of_two_by_two_without_overlap_are_split(pool: nn.Module, split: bool, precision: Precision) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Flatten(), nn.LazyLinear(10))
    x = torch.rand(5, 3, 11, 11)
    network(x)
    classifier = deploy(network, precision=precision)
    assert any(isinstance(module, fusion.MaxPool2x2) for module in classifier.modules()) == split
    exact = network.eval()(x).detach()
    torch.testing.assert_close(classifier(x), exact, **({} if precision == "float32" else {"rtol": 0.02, "atol": 0.02}))


class Normalizing(nn.Module):
    """Normalizes tensors, which torch.fx's stand-ins are none of."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            x = (x - 0.5) / 0.05
        logits: Tensor = self.network(x)
        return logits


class Drawing(Normalizing):
    """Draws at random, once where it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 3 * torch.randn(3, 8, 8))
        return logits


class Sharing(nn.Module):
    """Writes through one shape of a tensor and reads another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.head = how, nn.Conv2d(3, 4, 1), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.how == "written":
            y.view(-1, 256).relu_()
            y = y.flatten(1)
        elif self.how == "written on":
            y.view(-1, 256)[:, :200].relu_()
            y = y.flatten(1)
        elif self.how == "as_strided":
            y = y.as_strided((x.shape[0], 256), (256, 1))
        elif self.how == "view_as":
            y = y.view_as(x.new_zeros(x.shape[0], 256))
        else:
            y = y.view(size=(-1, 256))
        logits: Tensor = self.head(y)
        return logits


@pytest.mark.parametrize(
    ("kind", "precision"), [(Normalizing, "float32"), (Normalizing, "bfloat16"), (Drawing, "float32")]
)
def test_a_network_of_which_the_trace_is_another_function_is_deployed_as_it_is(
    kind: type[nn.Module], precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    network, x = kind().eval(), torch.rand(20, 3, 8, 8)
    deployed = deploy(network, precision=precision)
    torch.manual_seed(1)
    deployed(x)
    torch.manual_seed(1)
    got = deployed(x)
    assert sum("what torch.fx traces of it is another function" in text for text in caplog.messages) == 1
    torch.manual_seed(1)
    rough = {"rtol": 0.1, "atol": 0.1} if precision == "bfloat16" else {}
    torch.testing.assert_close(got, network(x).detach(), **rough)


class Flattening(Normalizing):
    """Its trace fails, or has logits of another shape."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.early, self.head = early, nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.early:
            if isinstance(x, Tensor):
                x = x.flatten(1)
            return self.head(x)  # type: ignore[no-any-return]
        logits: Tensor = self.network(x)
        return logits[:, :5] if isinstance(logits, Tensor) else logits


@pytest.mark.parametrize("early", [True, False])
def test_a_trace_that_fails_or_has_other_logits_is_another_function(
    early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    network, x = Flattening(early).eval(), torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(deploy(network, precision="float32")(x), network(x).detach())
    assert "what torch.fx traces of it is another function" in caplog.text


def test_a_copy_finds_out_as_well() -> None:
    network, x = Normalizing().eval(), torch.rand(3, 3, 8, 8)
    deployed = deploy(network, precision="float32")
    for again in (copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed))):  # noqa: S301 - written here
        torch.testing.assert_close(again(x), network(x).detach())


def test_autocast_within_float32_is_left_as_it_is() -> None:
    class Casting(Normalizing):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits: Tensor = self.network(x)
            return logits

    network, x = Casting().eval(), torch.rand(3, 3, 8, 8)
    rough = {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(deploy(network, precision="float32")(x), network(x).detach().float(), **rough)


@pytest.mark.parametrize("how", ["written", "written on", "as_strided", "view_as", "size"])
def test_memory_order_changes_no_function(how: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network, x = Sharing(how).eval(), torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(deploy(network, precision="float32")(x), network(x).detach())
    rough = deploy(network, precision="bfloat16")(x)
    torch.testing.assert_close(rough, network(x).detach(), rtol=0.05, atol=0.05)
    # That bfloat16 is slow here may be said; not that the trace is another function.
    assert set(caplog.messages) <= {f"warning: {SLOW}"}


def test_a_network_that_keeps_its_activations_in_a_list_is_deployed() -> None:
    class Keeping(Normalizing):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.kept.append(self.network[0](x))
            logits: Tensor = self.network(x)
            return logits

    network, x = Keeping().eval(), torch.rand(2, 3, 8, 8)
    exact = network(x).detach()
    torch.testing.assert_close(deploy(network, precision="float32")(x), exact)


def test_an_exported_program_is_deployed_and_certified() -> None:
    torch.manual_seed(0)
    network, x = Sharing("size").eval(), torch.rand(5, 3, 8, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    exact = network(x).detach()
    torch.testing.assert_close(deploy(program, precision="float32")(x), exact)
    parts = nn.Sequential(program, nn.Dropout())
    with evaluating(parts):
        torch.testing.assert_close(parts(x), exact)


class Pooled(nn.Module):
    """Its images lose their channel before they are pooled, and then both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.pool(x[:, 0]).flatten(1))
        return logits


def test_pooling_without_channels_is_deployed() -> None:
    torch.manual_seed(0)
    network, x = Pooled().eval(), torch.rand(5, 3, 9, 8)
    torch.testing.assert_close(deploy(network, precision="float32")(x), network(x).detach())


def by_the_batch(how: str) -> nn.Module:
    """Return a program that normalizes by the batch, which its modules no longer show."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=how != "scripted"), nn.ReLU())
    network = nn.Sequential(network, nn.Flatten(), nn.Linear(4 * 36, 3))
    x, batch = torch.rand(6, 3, 8, 8), torch.export.Dim("batch")
    if how == "exported":
        return torch.export.export(network.train(), (x,), dynamic_shapes=({0: batch},)).module()
    return torch.jit.script(network) if how == "scripted" else torch.jit.trace(network.train(), x, check_trace=False)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["scripted", "traced", "exported"])
def test_a_program_whose_samples_depend_on_each_other_is_refused_at_its_first_batch(how: str) -> None:
    torch.manual_seed(0)
    deployed = deploy(by_the_batch(how), precision="float32")
    x = torch.rand(10, 3, 8, 8)
    # A sample alone does not show it.
    deployed(x[:1])
    with pytest.raises(ModelError, match="a sample's class depends on the samples beside it"):
        deployed(x)


def test_a_network_that_draws_at_random_is_not_taken_for_one_that_mixes_samples() -> None:
    class Drawing(Normalizing):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x + torch.randn_like(x))
            return logits

    torch.manual_seed(0)
    assert deploy(Drawing().eval(), precision="float32")(torch.rand(8, 3, 8, 8)).shape == (8, 10)


def test_a_network_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    network = Normalizing()
    network.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"Normalizing cannot be copied, .*lock"):
        deploy(network)


def test_inputs_elsewhere_are_refused_and_what_is_deployed_for_a_cpu_stays_there() -> None:
    deployed = deploy(build_network("digits_cnn", classes=10, seed=0), precision="float32")
    with pytest.raises(ModelError, match=r"inputs are on meta, and the classifier is on cpu; give x.to\('cpu'\)"):
        deployed(torch.rand(2, 1, 8, 8, device="meta"))
    with pytest.raises(ModelError, match="deployed for a CPU; deploy the network where it is to run"):
        deployed.to("meta")
    assert deployed.to("cpu")(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_tensor_float_is_off_for_as_long_as_anybody_needs_it() -> None:
    def allowed() -> bool:
        return bool(torch.backends.cudnn.allow_tf32)

    before = allowed()
    first, second = precisions.tensor_float_off(), precisions.tensor_float_off()
    with ExitStack() as outer:
        outer.enter_context(first)
        inner = ExitStack()
        inner.enter_context(second)
        assert not allowed()
        # As of two threads, the first of which is done first.
        outer.close()
        assert not allowed()
        inner.close()
    assert allowed() == before


@pytest.mark.parametrize(
    "text", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"]
)
def test_a_gpu_without_memory_is_told_by_its_words(text: str) -> None:
    assert out_of_memory(RuntimeError(text))
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


@pytest.mark.parametrize("allowed", [True, False])
def test_tensor_float_is_off_though_it_was_set_by_torchs_later_interface(allowed: bool) -> None:
    convolutions, before = torch.backends.cudnn.conv, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        for setting in ("ieee", "tf32"):
            convolutions.fp32_precision = setting
            with precisions.tensor_float_off():
                assert convolutions.fp32_precision != "tf32"
            assert convolutions.fp32_precision == setting
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("first", ["dark", "bright"])
def test_a_network_that_normalizes_by_the_batch_itself_is_refused_whatever_comes_first(first: str) -> None:
    class Standardizing(Normalizing):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network((x - x.mean()) / x.std())
            return logits

    torch.manual_seed(0)
    x = (0.2 if first == "dark" else 0.7) + 0.05 * torch.randn(1, 3, 8, 8) + 0.25 * torch.randn(16, 3, 8, 8)
    with pytest.raises(ModelError, match="depends on the samples beside it"):
        deploy(Standardizing().eval(), precision="float32")(x)


def test_a_little_randomness_is_not_taken_for_mixed_samples() -> None:
    class Trembling(Normalizing):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x + 0.02 * torch.randn_like(x))
            return logits

    for seed in range(30):
        torch.manual_seed(seed)
        assert deploy(Trembling().eval(), precision="float32")(torch.rand(8, 3, 8, 8)).shape == (8, 10)


def test_copies_of_an_image_do_not_show_that_samples_are_apart() -> None:
    class Centring(Normalizing):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x - x.mean(0))
            return logits

    torch.manual_seed(0)
    deployed = deploy(Centring().eval(), precision="float32")
    # Grey of a half is its own negative.
    deployed(torch.full((2, 3, 8, 8), 0.5))
    with pytest.raises(ModelError, match="depends on the samples beside it"):
        deployed(torch.rand(8, 3, 8, 8))

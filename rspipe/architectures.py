"""Base classifiers by name. Inputs are images in [0, 1] plus noise; normalization is the network's first layer.

A name is one of `ARCHITECTURES`, a classifier of torchvision ("resnet18"), or "module:function" of the user's own.
"""

import copy
import difflib
import importlib
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from rspipe.errors import ModelError, StudyError
from rspipe.spec import nearest

Builder = Callable[[int], nn.Module]
"""From the number of classes to a network."""
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""
NormalizationName = Literal["architecture", "none", "centre"]
Normalization = NormalizationName | MeanStd
"""What the architecture was built with, nothing, its mean alone, or other values."""

CIFAR10: MeanStd = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalize(nn.Module):
    """Per-channel (x - mean) / std, inside the network so that radii stay in pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if not len(mean) == len(std) > 0 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"mean and std must have one finite number per channel, std above 0, got {mean} and {std}")
        self.built_with: MeanStd = tuple(mean), tuple(std)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized images [batch, channel, height, width]."""
        return (images - self.mean) / self.std


def _decimals(values: Tensor) -> tuple[float, ...]:
    """Return the shortest decimals that round to the values in float32: 0.4914, not 0.4914000034."""
    return tuple(float(str(value)) for value in values.detach().flatten().to("cpu", torch.float32).numpy())


def _normalize_layers(network: nn.Module) -> list[Normalize]:
    return [module for module in network.modules() if isinstance(module, Normalize)]


def normalization(network: nn.Module) -> MeanStd | None:
    """Return what a network normalizes its input with; None unless it has exactly one `Normalize` layer."""
    layers = _normalize_layers(network)
    return (_decimals(layers[0].mean), _decimals(layers[0].std)) if len(layers) == 1 else None


def set_normalization(network: nn.Module, to: Normalization) -> None:
    """Let a network normalize otherwise, in place: the names of its parameters stay, "none" is mean 0 and std 1.

    A state dict does not hold the normalization: whoever stores parameters stores it beside them, and sets it again.

    Raises:
        ModelError: The network has no `Normalize` layer to change, or several.
    """
    layers = _normalize_layers(network)
    if not layers and to in ("architecture", "none"):
        return
    if len(layers) != 1:
        raise ModelError(
            f"the network has {len(layers)} Normalize layers, so its normalization cannot be set to {to!r}; "
            "begin it with one rspipe.architectures.Normalize"
        )
    (layer,) = layers
    mean, std = _mean_std(layer, to)
    layer.mean = layer.mean.new_tensor(mean).view(-1, 1, 1)
    layer.std = layer.std.new_tensor(std).view(-1, 1, 1)


def _mean_std(layer: Normalize, to: Normalization) -> MeanStd:
    mean, std = layer.built_with
    if to == "architecture":
        return mean, std
    if to == "centre":
        return mean, (1.0,) * len(mean)
    if to == "none":
        return (0.0,) * len(mean), (1.0,) * len(mean)
    if isinstance(to, str):
        raise ValueError(f"normalization must be one of {get_args(NormalizationName)} or (mean, std), got {to!r}")
    other = Normalize(*to).built_with
    if len(other[0]) != len(mean):
        raise ValueError(f"normalization must have {len(mean)} channels, as the network's own, got {to}")
    return other


def digits_cnn(classes: int) -> nn.Module:
    """Return a small convolutional network for 8x8 grey images (81 k multiply-adds)."""
    return nn.Sequential(
        Normalize((0.5,), (0.5,)),
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


def lenet(classes: int) -> nn.Module:
    """Return the LeNet of the MNIST experiments in the literature for 28x28 grey images, without normalization."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, classes),
    )


class _BasicBlock(nn.Module):
    """relu(x + two 3x3 convolutions of x); where the shape changes, a 1x1 convolution takes the place of x."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)), inplace=True)))
        return functional.relu(residual + self.downsample(x), inplace=True)


class _CifarResNet(nn.Module):
    """The residual network of He et al. (2016), section 4.2, with the layer names of the published checkpoints."""

    def __init__(self, *, depth: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, blocks=blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks=blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks=blocks, stride=2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
        following = (_BasicBlock(width, width, stride=1) for _ in range(blocks - 1))
        return nn.Sequential(_BasicBlock(channels, width, stride=stride), *following)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(functional.avg_pool2d(x, 8).flatten(1))
        return logits


def _cifar_resnet(*, depth: int, classes: int) -> nn.Module:
    return nn.Sequential(Normalize(*CIFAR10), _CifarResNet(depth=depth, classes=classes))


def cifar_resnet20(classes: int) -> nn.Module:
    """Return the 20-layer residual network for 32x32 colour images (41 M multiply-adds, 0.27 M parameters)."""
    return _cifar_resnet(depth=20, classes=classes)


def cifar_resnet110(classes: int) -> nn.Module:
    """Return the CIFAR-10 network of the smoothing literature (253 M multiply-adds, 1.7 M parameters)."""
    return _cifar_resnet(depth=110, classes=classes)


def resnet50(classes: int) -> nn.Module:
    """Return torchvision's ResNet-50 for 224x224 colour images (4.1 G multiply-adds), untrained."""
    return _torchvision_network("resnet50", classes)


ARCHITECTURES: dict[str, Builder] = {
    "digits_cnn": digits_cnn,
    "lenet": lenet,
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet110": cifar_resnet110,
    "resnet50": resnet50,
}


def _torchvision_network(name: str, classes: int) -> nn.Module:
    from torchvision import models

    # These two return auxiliary logits in training unless told not to, and warn unless told how to initialize.
    settings = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=classes, **settings)
    return nn.Sequential(Normalize(*IMAGENET), network)


def _find_in_torchvision(name: str) -> Builder:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise StudyError(
            f"architecture {name!r} is none of {', '.join(sorted(ARCHITECTURES))}, and torchvision cannot be imported "
            f"to look further ({_reason(error)}); install the torchvision that belongs to this torch"
        ) from error
    classifiers = models.list_models(module=models)
    if name in classifiers:
        return lambda classes: _torchvision_network(name, classes)
    if name in models.list_models():
        home = models.get_model_builder(name).__module__
        raise StudyError(
            f"torchvision's {name!r} ({home}) is not among its classifiers of images; choose one, e.g. 'resnet18'"
        )
    known = sorted({*ARCHITECTURES, *classifiers})
    if difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        raise StudyError(f"unknown architecture {name!r}{nearest(name, known)}")
    raise StudyError(
        f"unknown architecture {name!r}; valid names: {', '.join(sorted(ARCHITECTURES))}, "
        "any classifier of torchvision.models, or 'module:function' of your own"
    )


def _find_own(name: str) -> Builder:
    module_name, _, function = name.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise StudyError(f"architecture {name!r} is not of the form 'module:function', e.g. 'mynets.small:build'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise StudyError(
            f"module {module_name!r} cannot be imported ({_reason(error)}); "
            "install it or put its folder on PYTHONPATH, here and on every worker"
        ) from error
    build: Any = getattr(module, function, None)
    if build is None:
        found = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise StudyError(f"module {module_name!r} has no function {function!r}{nearest(function, found)}")
    if not callable(build):
        raise StudyError(
            f"{name!r} is of type {type(build).__name__}; name a function from the number of classes to a network"
        )
    return build  # type: ignore[no-any-return]


def find_architecture(name: str) -> Builder:
    """Return the builder of an architecture. Only names that are not of `ARCHITECTURES` import anything.

    Raises:
        StudyError: There is no architecture of that name, or its module cannot be imported.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    return _find_own(name) if ":" in name else _find_in_torchvision(name)


def _reason(error: Exception) -> str:
    """Return an exception in a few words of one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:160].removesuffix(": ")


def build_network(architecture: str, *, classes: int, seed: int) -> nn.Module:
    """Return a freshly initialized network; the initialization depends on the seed alone.

    (Of an architecture of the user's own: if it draws from torch's global random stream.)

    Raises:
        StudyError: There is no architecture of that name, or its module cannot be imported.
        ModelError: Its builder failed, or returned no network.
    """
    build = find_architecture(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network: object = build(classes)
        except Exception as error:
            raise ModelError(
                f"architecture {architecture!r} cannot be built for {classes} classes ({_reason(error)}); "
                "mend its builder, which gets the number of classes alone"
            ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"architecture {architecture!r} returned a {type(network).__name__}; it must return a torch.nn.Module"
        )
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in network.parameters()):
        raise ModelError(
            f"architecture {architecture!r} has lazy layers, whose initialization the seed does not determine; "
            "give them their sizes"
        )
    return network


def check_input(network: nn.Module, shape: tuple[int, ...], *, architecture: str, classes: int) -> None:
    """Raise ModelError unless a network maps images to one logit per class; the network stays as it is.

    It is tried in eval mode, with two black images, on its own device.

    Args:
        network: Any.
        shape: Of an image: channel, height, width.
        architecture: What the error calls it.
        classes: Of the data.
    """
    size = "x".join(map(str, shape))
    channels = [len(layer.mean) for layer in _normalize_layers(network)]
    if channels and channels[0] not in (1, shape[0]):
        # Broadcasting would make the missing channels up.
        raise ModelError(
            f"architecture {architecture!r} takes {channels[0]} channels but images are {size}; "
            "read them with as many channels, or choose another architecture"
        )
    place = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            logits: object = copy.deepcopy(network).eval()(torch.zeros(2, *shape, device=place))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ModelError(
            f"architecture {architecture!r} does not take images of {size} ({_reason(error)}); "
            "use images of the size it is made for, or another architecture"
        ) from error
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"architecture {architecture!r} returns a {type(logits).__name__}; it must return logits alone"
        )
    if logits.shape != (2, classes):
        raise ModelError(
            f"architecture {architecture!r} returns {list(logits.shape)} for 2 images of {size}, not [2, {classes}]; "
            "use images of the size it is made for, or build it for the data's classes"
        )

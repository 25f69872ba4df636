"""Base classifiers by name. Inputs are images in [0, 1] plus noise; normalization is the network's first layer.

A name is one of `ARCHITECTURES`, a classifier of torchvision ("resnet18") or timm ("timm/resnet18"), or
"module:function" of the user's own. "dncnn + resnet50" is a denoiser in front of a classifier.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rspipe.errors import MissingPackageError, ModelError, RspipeError, StudyError, first_line, nearest, needs_extra
from rspipe.networks.denoising import Denoised, dncnn
from rspipe.networks.exported import onnx, torchscript
from rspipe.networks.modes import bare, copied, device_of, of_other_dtype
from rspipe.networks.normalization import IMAGENET, Normalize, normalize_layers
from rspipe.networks.outputs import logits_of
from rspipe.networks.small_images import cifar_resnet8, cifar_resnet20, cifar_resnet110, digits_cnn, digits_mlp, lenet

Builder = Callable[[int], nn.Module]
"""From the number of classes to a network."""


def resnet50(classes: int) -> nn.Module:
    """Return torchvision's ResNet-50 for 224x224 colour images (4.1 G multiply-adds), untrained."""
    return _torchvision_network("resnet50", classes)


ARCHITECTURES: dict[str, Builder] = {
    "digits_cnn": digits_cnn,
    "digits_mlp": digits_mlp,
    "lenet": lenet,
    "cifar_resnet8": cifar_resnet8,
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet110": cifar_resnet110,
    "resnet50": resnet50,
    "onnx": onnx,
    "torchscript": torchscript,
}

PROGRAMS = ("onnx", "torchscript")
"""Networks that are files of their own, see `rspipe.networks.exported`."""

RUNS_CODE = ("torchscript",)
"""Architectures whose checkpoints are programs."""

_HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

DENOISERS: dict[str, Callable[[], nn.Module]] = {"dncnn": dncnn}

_TIMM = "timm/"


def _torchvision_network(name: str, classes: int) -> nn.Module:
    with needs_extra(f"architecture {name!r}"):
        from torchvision import models

    of_google = name in ("googlenet", "inception_v3")
    # These two return auxiliary logits in training unless told not to, and warn unless told how to initialize.
    settings = {"aux_logits": False, "init_weights": True} if of_google else {}
    network = models.get_model(name, weights=None, num_classes=classes, **settings)
    # Published parameters of those two come with a layer that turns ImageNet's normalization into the other
    # (transform_input); this third was trained with the other.
    halves = of_google or name == "efficientnet_v2_l"
    return nn.Sequential(Normalize(*(_HALVES if halves else IMAGENET)), network)


def _find_in_torchvision(name: str) -> Builder:
    own = ", ".join(sorted(ARCHITECTURES))
    try:
        with needs_extra(f"architecture {name!r}, none of {own},"):
            from torchvision import models
    except MissingPackageError:
        raise
    except (ImportError, RuntimeError) as error:
        raise StudyError(
            f"architecture {name!r} is none of {own}, and torchvision cannot be imported "
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
    known = sorted({*ARCHITECTURES, *classifiers, *DENOISERS})
    if difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        raise StudyError(f"unknown architecture {name!r}{nearest(name, known)}")
    raise StudyError(
        f"unknown architecture {name!r}; valid names: {own}, "
        "any classifier of torchvision.models, 'timm/name' of timm, or 'module:function' of your own"
    )


def _find_in_timm(name: str) -> Builder:
    with needs_extra(f"architecture {name!r}", extra="timm"):
        import timm

    inner = name.removeprefix(_TIMM)
    if not timm.is_model(inner):
        raise StudyError(f"timm has no {inner!r}{nearest(inner, timm.list_models())}")

    def build(classes: int) -> nn.Module:
        network = timm.create_model(inner, pretrained=False, num_classes=classes)
        settings = network.pretrained_cfg
        return nn.Sequential(Normalize(tuple(settings["mean"]), tuple(settings["std"])), network)

    return build


def _find_denoised(name: str) -> Builder:
    first, *others = (part.strip() for part in name.split("+"))
    if len(others) != 1:
        raise StudyError(f"architecture {name!r} is not of the form 'denoiser + classifier', e.g. 'dncnn + resnet50'")
    if first not in DENOISERS and ":" not in first:
        raise StudyError(
            f"{first!r} is no denoiser{nearest(first, DENOISERS)}; or name a function without arguments of your own, "
            "'module:function'"
        )
    build_denoiser: Callable[[], nn.Module] = DENOISERS[first] if first in DENOISERS else _find_own(first)  # type: ignore[assignment]
    build_classifier = find_architecture(others[0])
    return lambda classes: Denoised(build_denoiser(), build_classifier(classes))


CODE_FOLDERS = "RSPIPE_CODE"
"""Environment variable of the folders that the user's own modules may be imported from, here and on every worker."""


def allow_code_in(folder: Path) -> None:
    """Let architectures be imported from modules in a folder, by this process and the workers that it starts."""
    folders = [known for known in os.environ.get(CODE_FOLDERS, "").split(os.pathsep) if known]
    os.environ[CODE_FOLDERS] = os.pathsep.join(dict.fromkeys([*folders, str(folder.resolve())]))


def code_is_allowed() -> bool:
    """Return whether the user of this process, or of the one that started it, allowed architectures to be code."""
    return bool(os.environ.get(CODE_FOLDERS))


def _find_own(name: str) -> Builder:
    module_name, _, function = name.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise StudyError(f"architecture {name!r} is not of the form 'module:function', e.g. 'mynets.small:build'")
    for folder in os.environ.get(CODE_FOLDERS, "").split(os.pathsep):
        # Last: a file beside a study takes the place of no installed module.
        if folder and folder not in sys.path:
            sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise StudyError(
            f"module {module_name!r} cannot be imported ({_reason(error)}); "
            "put it beside the study file, or in the working directory where there is none; install it; or name its "
            f"folder, which all workers see, in {CODE_FOLDERS}"
        ) from error
    build: Any = getattr(module, function, None)
    if build is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise StudyError(f"module {module_name!r} has no function {function!r}{nearest(function, own)}")
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
    if "+" in name:
        return _find_denoised(name)
    if name.startswith(_TIMM):
        return _find_in_timm(name)
    return _find_own(name) if ":" in name else _find_in_torchvision(name)


def code_in(architecture: str) -> str | None:
    """Return whose code an architecture runs, where it is neither this package's nor a known library's; else None."""
    for part in (part.strip() for part in architecture.split("+")):
        if ":" in part:
            return f"module '{part.partition(':')[0]}'"
        if part in RUNS_CODE:
            return "the TorchScript file"
    return None


def _reason(error: Exception) -> str:
    """Return an exception in a few words of one line."""
    kind, first = type(error).__name__, first_line(error)
    return kind if first == kind else f"{kind}: {first}"[:160]


def build_network(architecture: str, *, classes: int, seed: int) -> nn.Module:
    """Return a freshly initialized network; the initialization depends on the seed alone.

    (Of an architecture of the user's own: if it draws from torch's global random stream.) Of what the user's own
    network returns the logits are taken, as `rspipe.networks.outputs.logits_of` finds them.

    Raises:
        StudyError: There is no architecture of that name, or its module cannot be imported.
        ModelError: Its builder failed, or returned no network.
        MissingPackageError: It is torchvision's or timm's, which is not installed.
    """
    build = find_architecture(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network: object = build(classes)
        except MissingPackageError:
            raise
        except Exception as error:
            raise ModelError(
                f"architecture {architecture!r} cannot be built for {classes} classes ({_reason(error)}); "
                "correct its builder, which gets the number of classes alone"
            ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"architecture {architecture!r} returned a {type(network).__name__}; it must return a torch.nn.Module"
        )
    network = bare(network)
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in network.parameters()):
        raise ModelError(
            f"architecture {architecture!r} has lazy layers, whose initialization the seed does not determine; "
            "give them their sizes"
        )
    if code_in(architecture) is not None and not isinstance(network, torch.jit.ScriptModule):
        network.register_forward_hook(partial(_logits_alone, name=f"architecture {architecture!r}"))
    return network


def _logits_alone(network: nn.Module, inputs: object, output: object, *, name: str) -> object:  # noqa: ARG001
    return logits_of(output, name=name)


def check_input(network: nn.Module, shape: tuple[int, ...], *, architecture: str, classes: int) -> None:
    """Raise ModelError unless a network maps images to one logit per class; the network stays as it is.

    It is tried in eval mode, with two black images, on its own device; where it is in half precision, also in float32.

    Args:
        network: Any.
        shape: Of an image: channel, height, width.
        architecture: Its name in the error.
        classes: Of the data.
    """
    size = "x".join(map(str, shape))
    channels = [len(layer.mean) for layer in normalize_layers(network)]
    if channels and channels[0] not in (1, shape[0]):
        # Broadcasting would make the missing channels up.
        raise ModelError(
            f"architecture {architecture!r} takes {channels[0]} channels but images are {size}; "
            "read them with as many channels, or choose another architecture"
        )
    black = torch.zeros(2, *shape, device=device_of(network))
    try:
        with torch.no_grad():
            output: object = (tried := copied(network).eval())(black)
            if any(one.dtype in (torch.float16, torch.bfloat16) for one in tried.parameters()):
                # As it is deployed.
                tried.float()(black)
    except (torch.OutOfMemoryError, RspipeError):
        raise
    except Exception as error:
        remedy = "use images of the size it is made for, or another architecture"
        if of_other_dtype(error):
            remedy = "give it in float32, as images are, and let it cast to no dtype but that of its parameters"
        raise ModelError(
            f"architecture {architecture!r} does not take images of {size} ({_reason(error)}); {remedy}"
        ) from error
    logits = logits_of(output, name=f"architecture {architecture!r}")
    if logits.shape != (2, classes):
        raise ModelError(
            f"architecture {architecture!r} returns {list(logits.shape)} for 2 images of {size}, not [2, {classes}]; "
            "use images of the size it is made for, or build it for the data's classes"
        )

"""How networks are run: evaluation, frozen parameters, device, and the memory order of images; copies of them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rspipe.errors import ModelError


def channels_last(inputs: Tensor) -> Tensor:
    """Return images [batch, channel, height, width] in channels-last memory order, any other inputs as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """Return a copy of a network that shares nothing with it.

    Weights that hooks compute anew in each pass (`weight_norm`, `spectral_norm`), and activations that a network keeps,
    are results of operations, which torch refuses to copy; the copy has their values.
    """
    kept = (value for module in network.modules() for value in vars(module).values())
    tensors = (one for value in kept for one in _parts(value) if isinstance(one, Tensor))
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in tensors if not value.is_leaf})


def _parts(value: object) -> Iterator[object]:
    """Yield a value, or what lists, tuples and dictionaries hold at any depth."""
    if isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _parts(one)
    else:
        yield value


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was short, on any device."""
    # On a CPU torch's allocator, oneDNN and C++ each raise a plain RuntimeError in words of their own.
    # CUDA's libraries do, too, and a context or a kernel that finds none.
    words = [
        *("DefaultCPUAllocator", "not enough memory", "could not create a primitive", "bad_alloc"),
        *("CUDA error: out of memory", "STATUS_ALLOC_FAILED"),
    ]
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def of_other_dtype(error: BaseException) -> bool:
    """Return whether an error says that what a network computes with and its parameters are of different dtypes."""
    words = ("Half", "BFloat16", "Double", "type (double)", "mixed dtype")
    return isinstance(error, RuntimeError | TypeError) and any(word in str(error) for word in words)


def check_samples_are_apart(network: object) -> None:
    """Raise ModelError where a layer of a network mixes the samples of a batch: they would not be independent."""
    for name, layer in network.named_modules() if isinstance(network, nn.Module) else ():
        if isinstance(layer, _BatchNorm) and layer.running_mean is None:
            raise ModelError(
                f"{name or type(layer).__name__} normalizes by the batch (track_running_stats=False): a sample's class "
                "depends on those beside it, and nothing can be certified; give it running statistics"
            )


def bare(network: nn.Module) -> nn.Module:
    """Return the network within torch's wrappers that change how it runs, not what: compilation, data parallelism."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def device_of(*networks: nn.Module) -> torch.device | None:
    """Return the device of the first parameter of networks, else of their first buffer; None where there is neither."""
    parameters = chain.from_iterable(network.parameters() for network in networks)
    buffers = chain.from_iterable(network.buffers() for network in networks)
    return next((tensor.device for tensor in chain(parameters, buffers)), None)


@contextmanager
def frozen(*models: object) -> Iterator[None]:
    """Put those of the models that are modules in eval mode with parameter gradients off, and back."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    # A TorchScript program that was frozen has no modes.
    training = [part for module in modules for part in module.modules() if getattr(part, "training", False)]
    needed = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for module in modules:
        try:
            module.eval()
        except NotImplementedError:
            # An exported program has one mode, and says so; what stands beside it has two.
            for part in module.modules():
                part.training = False
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Put those of the models that are modules in eval mode, with no gradients of anything, and back.

    A forward pass may still ask for gradients of its own (`torch.enable_grad`): purification does, and energy models.
    """
    with frozen(*models), torch.no_grad():
        yield

"""Modes that networks are run in: evaluation, frozen parameters, and the memory order of images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def channels_last(inputs: Tensor) -> Tensor:
    """Return images [batch, channel, height, width] in channels-last memory order, any other inputs as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


@contextmanager
def frozen(*models: object) -> Iterator[None]:
    """Put those of the models that are modules in eval mode with parameter gradients off, and back."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    training = [part for module in modules for part in module.modules() if part.training]
    needed = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for module in modules:
        module.eval()
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
    """Put those of the models that are modules in eval mode, with no gradients of anything, and back."""
    with frozen(*models), torch.inference_mode():
        yield

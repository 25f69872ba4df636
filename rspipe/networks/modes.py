"""Modes that networks are run in: evaluation, and frozen parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Put modules in eval mode without gradients, and back."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Put the network in eval mode with parameter gradients off, and back."""
    training = [module for module in network.modules() if module.training]
    needed = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True

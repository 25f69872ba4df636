"""Labels as a user gives them: whole numbers, each of them one of the classifier's classes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rspipe.arrays import IntArray
from rspipe.networks.modes import evaluating
from rspipe.smoothing.certify import checked_logits


def label_array(labels: Any) -> IntArray:
    """Return labels, or a single one, as an array of the same shape.

    Raises:
        ValueError: They are no whole numbers.
    """
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"labels must be whole numbers, got {given.dtype}")
    return given


def check_labels(labels: Iterable[int], *, classes: int, first: int = 0) -> None:
    """Raise ValueError unless every label is a class; `first` is the number of the first image in the error."""
    for image, label in enumerate(labels, first):
        if not 0 <= label < classes:
            raise ValueError(f"label {label} of image {image} is none of the classifier's {classes} classes")


def number_of_classes(network: nn.Module, x: Tensor) -> int:
    """Return how many logits a network has for an input, of which it gets two copies: one alone many squeeze.

    Raises:
        ModelError: It failed, or returned no logits, NaN, +inf or a wrong shape.
    """
    with evaluating(network):
        return checked_logits(network, torch.stack([x, x])).shape[1]

"""Labels as a user gives them: whole numbers, each of them one of the classifier's classes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from rspipe.arrays import IntArray
from rspipe.errors import ModelError
from rspipe.networks.modes import evaluating
from rspipe.networks.outputs import logits_of


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
    """Return how many logits a network has for one input.

    Raises:
        ModelError: It returned no logits, or a wrong shape.
    """
    with evaluating(network):
        logits = logits_of(network(x[None]))
    if logits.ndim != 2:
        raise ModelError(f"the base classifier returned shape {list(logits.shape)} for one input; expected [1, class]")
    return logits.shape[1]

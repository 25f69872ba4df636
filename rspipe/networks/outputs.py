"""Logits in what classifiers of every kind return: a tensor, or what other libraries wrap around it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from rspipe.errors import ModelError

_FEW = 6


def logits_of(output: Any, *, name: str = "the base classifier") -> Tensor:
    """Return the logits that a classifier returned, in whatever form.

    A tensor or a NumPy array is taken as it is; of an object with an attribute `logits` (Hugging Face's outputs,
    torchvision's of networks with auxiliary heads) that is taken, and of a tuple or list the only item.

    Args:
        output: What a classifier returned for a batch.
        name: Of the classifier, in the error.

    Raises:
        ModelError: It is something else, or leaves open which of several tensors the logits are.
    """
    if isinstance(output, Tensor | fx.Proxy):
        return output  # type: ignore[return-value]
    if isinstance(output, np.ndarray):
        return torch.from_numpy(output)
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor | np.ndarray | fx.Proxy):
        return logits_of(logits, name=name)
    if isinstance(output, tuple | list) and len(output) == 1:
        return logits_of(output[0], name=name)
    raise ModelError(f"{name} returned {_described(output)}; return the logits [batch, class] alone, as one tensor")


def largest_logit(logits: Tensor) -> float:
    """Return the largest absolute value of logits; NaN and infinity count as 0."""
    return float(logits.abs().nan_to_num(0.0, 0.0, 0.0).max()) if logits.numel() else 0.0


def close_logits(a: Tensor, b: Tensor, most: float) -> bool:
    """Return whether logits of two passes have one shape and differ by so much at most."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=most, equal_nan=True)


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, dict):
        keys = ", ".join(repr(key) for key in list(output)[:_FEW])
        return f"a {kind} of {keys}" if output else f"an empty {kind}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {len(output)} items"
    return f"a {kind}"

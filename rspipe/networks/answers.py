"""What a network answers to fixed inputs, noted when it is trained: it tells when its code has changed since."""

import math

import torch
from torch import Tensor, nn

from rspipe.networks.modes import device_of, evaluating
from rspipe.networks.outputs import close_logits, largest_logit, logits_of
from rspipe.networks.precision import tensor_float_off

_CPU = torch.device("cpu")
_INPUTS, _LOGITS, _GOLDEN = 2, 10, (math.sqrt(5) - 1) / 2
_HALVES = (torch.float16, torch.bfloat16)
_ROUNDINGS = 1e-3
"""More than float32's roundings make of the largest logit on any device, and less than another layer does."""

Answers = tuple[tuple[float, ...], ...]


def answers_of(network: nn.Module, shape: tuple[int, ...]) -> Answers | None:
    """Return the first ten logits of a network, in eval mode, for two inputs that are always the same.

    None where they would not be the same elsewhere: of a network that draws at random, computes in half precision, or
    returns NaN or infinity.

    Args:
        network: On any device.
        shape: Of an input.
    """
    if any(one.dtype in _HALVES for one in network.state_dict().values()):
        return None
    first, again = _logits(network, shape, times=2)
    if first.dtype in _HALVES:
        return None
    first, again = first.float(), again.float()
    if not bool(first.isfinite().all()) or not _same(again, first):
        return None
    return tuple(map(tuple, first.tolist()))


def answers_as_before(network: nn.Module, shape: tuple[int, ...], answers: Answers | None) -> bool:
    """Return whether a network answers as noted, but for roundings; True where nothing was noted."""
    if answers is None:
        return True
    before, (now,) = torch.tensor(answers), _logits(network, shape)
    return _same(now.float(), before)


def _logits(network: nn.Module, shape: tuple[int, ...], *, times: int = 1) -> list[Tensor]:
    """Return logits [input, class], so many times.

    The inputs have an even spread of values from -2 to 3, as noise makes them, the same on every machine.
    """
    multiples = torch.arange(1, _INPUTS * math.prod(shape) + 1, dtype=torch.float64) * _GOLDEN
    inputs = (multiples % 1 * 5 - 2).to(torch.float32).view(_INPUTS, *shape).to(device := device_of(network) or _CPU)
    # A network that draws at random goes on with its training as if it had not been asked.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), tensor_float_off(), evaluating(network):
        found = [logits_of(network(inputs.clone())) for _ in range(times)]
    return [logits[:, :_LOGITS].cpu() for logits in found]


def _same(logits: Tensor, before: Tensor) -> bool:
    return close_logits(logits, before, _ROUNDINGS * largest_logit(before) + 1e-6)

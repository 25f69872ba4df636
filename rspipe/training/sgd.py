"""Stochastic gradient descent with momentum, by torch's own function.

`torch.optim.SGD` does the same, bit for bit, and brings in the compiler: 900 modules, one to two seconds of CPU in each
process that trains.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class SGD:
    """The optimizer of one training."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, momentum: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._momentum, self._weight_decay = momentum, weight_decay
        self._buffers: list[Tensor | None] = [None] * len(self._parameters)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, *, lr: float) -> None:
        """Update the parameters that have a gradient."""
        places = [place for place, parameter in enumerate(self._parameters) if parameter.grad is not None]
        buffers = [self._buffers[place] for place in places]
        sgd(
            [self._parameters[place] for place in places],
            [gradient for place in places if (gradient := self._parameters[place].grad) is not None],
            buffers,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for place, buffer in zip(places, buffers, strict=True):
            self._buffers[place] = buffer

    @property
    def momenta(self) -> list[Tensor | None]:
        """The momentum of each parameter, which the next step changes; None before its first."""
        return list(self._buffers)

    def restore(self, momenta: Sequence[Tensor | None]) -> None:
        """Go on from the momenta of another training of the same parameters, which stay as they are."""
        self._buffers = [
            None if momentum is None else momentum.to(parameter, copy=True)
            for momentum, parameter in zip(momenta, self._parameters, strict=True)
        ]

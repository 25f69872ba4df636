"""What every training method returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """A training loss and the parts it is made of (detached scalars, for the learning curve)."""

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor
    """[images, noise, class], detached, of the noisy copies that the loss was evaluated on."""

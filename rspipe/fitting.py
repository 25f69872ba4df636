"""Training of one base classifier in one process: steps, epochs, and a state from which training goes on exactly."""

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rspipe.architectures import build_network
from rspipe.datasets import Dataset, Split, crop_flip
from rspipe.records import Status
from rspipe.study import ModelSpec

State = dict[str, Any]
"""What an interrupted training goes on from: epoch, network, optimizer, history, seconds, passes. Plain."""


@dataclass(frozen=True)
class Fit:
    """A trained network and how it came about."""

    network: nn.Module
    status: Status
    message: str
    history: tuple[dict[str, float], ...]
    seconds: float
    passes: int


def epoch_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Return the generator of all randomness of one epoch, so that an epoch can be repeated on its own."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def _train_epoch(
    spec: ModelSpec, network: nn.Module, optimizer: torch.optim.Optimizer, data: Dataset, *, epoch: int
) -> tuple[dict[str, float], int]:
    """Train one epoch; return the means of loss, parts and noisy accuracy, and the images seen."""
    images, labels = data.train.images, data.train.labels
    generator = epoch_generator(spec.seed, epoch, images.device)
    order = torch.randperm(len(images), generator=generator, device=images.device)
    step = spec.method.images_per_step(spec.training.batch_size)
    # As in the references, a remainder smaller than a step is dropped, unless it is all there is.
    steps = max(1, len(order) // step)
    totals: dict[str, Tensor] = {}
    network.train()
    for chosen in torch.split(order[: steps * step], step):
        batch = images[chosen]
        if data.augment == "crop_flip":
            batch = crop_flip(batch, generator=generator)
        terms = spec.method.loss(
            network, batch, labels[chosen], sigma=spec.train_sigma, epoch=epoch, generator=generator
        )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms.loss)
        if spec.training.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), spec.training.grad_clip)
        optimizer.step()
        right = (terms.logits.argmax(-1) == labels[chosen].unsqueeze(1)).float().mean()
        for name, value in {"loss": terms.loss.detach(), **terms.parts, "noisy_accuracy": right}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value
    return {name: float(total / steps) for name, total in totals.items()}, min(len(order), steps * step)


def fit(
    spec: ModelSpec, data: Dataset, *, state: State | None = None, on_epoch: Callable[[State], None] | None = None
) -> Fit:
    """Train a base classifier.

    The result depends on the spec, the data, the device and the software alone: training that goes on from a state
    ends with the same parameters, bit for bit on a CPU, as training that was never interrupted.

    Args:
        spec: What to train.
        data: Its tensors say the device.
        state: Where to go on, as last passed to `on_epoch`; from the start when None.
        on_epoch: Called after each epoch with the state, whose tensors change in the next epoch.
    """
    training, device = spec.training, data.train.images.device
    network = build_network(spec.architecture, classes=data.classes, seed=spec.seed).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    history: list[dict[str, float]] = []
    seconds, passes, start = 0.0, 0, 0
    if state is not None:
        network.load_state_dict(state["network"])
        # The optimizer keeps what it loads; a copy leaves the caller's state alone.
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        history, seconds = list(state["history"]), float(state["seconds"])
        passes, start = int(state["passes"]), int(state["epoch"])
    for epoch in range(start, training.epochs):
        began = time.monotonic()
        lr = training.lr * training.lr_decay ** (epoch // training.lr_step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        means, images = _train_epoch(spec, network, optimizer, data, epoch=epoch)
        spent = time.monotonic() - began
        seconds, passes = seconds + spent, passes + images * spec.method.passes_per_image
        history.append({"epoch": epoch + 1, "lr": lr, "seconds": spent, **means})
        finite = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
        if not finite or not math.isfinite(means["loss"]):
            message = (
                f"loss or parameters became NaN or infinite in epoch {epoch + 1}; lower lr or lbd, or defer lambda"
            )
            return Fit(network.eval(), "diverged", message, tuple(history), seconds, passes)
        if on_epoch is not None:
            on_epoch(
                {
                    "epoch": epoch + 1,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": list(history),
                    "seconds": seconds,
                    "passes": passes,
                }
            )
    return Fit(network.eval(), "finished", "", tuple(history), seconds, passes)


@dataclass(frozen=True)
class Evaluation:
    """How a base classifier does on held-out images."""

    clean_accuracy: float
    noisy_accuracy: float
    """With one draw of N(0, sigma^2) noise per image."""
    collapsed: bool
    """True when it predicts a single class on noisy images of several classes."""


def evaluate(network: nn.Module, split: Split, *, sigma: float, seed: int) -> Evaluation:
    """Evaluate a network in eval mode on a split."""
    generator = epoch_generator(seed, -1, split.images.device)
    noise = torch.randn(split.images.shape, generator=generator, device=split.images.device)
    with torch.inference_mode():
        clean = network(split.images).argmax(1)
        noisy = network(split.images + sigma * noise).argmax(1)
    several = bool((split.labels != split.labels[0]).any())
    return Evaluation(
        clean_accuracy=float((clean == split.labels).double().mean()),
        noisy_accuracy=float((noisy == split.labels).double().mean()),
        collapsed=several and bool((noisy == noisy[0]).all()),
    )

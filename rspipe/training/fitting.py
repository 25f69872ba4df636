"""Training of one base classifier in one process: steps, epochs, and a state from which training goes on exactly."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rspipe.data.files import FileSplit, PixelSource, as_images, decoded_here
from rspipe.data.splits import Dataset
from rspipe.networks.architectures import build_network, check_input
from rspipe.records import Status
from rspipe.smoothing.noise import derived_seed
from rspipe.training.data_parallel import Group, from_first, is_first, shared, sum_gradients
from rspipe.training.methods.method import noisy_batch
from rspipe.training.randomness import Draws, augmented, epoch_generator
from rspipe.training.spec import ModelSpec, TrainingSpec
from rspipe.training.validation import WATCHED_IMAGES, collapsed_since, watch

State = dict[str, Any]
"""What an interrupted training goes on from: epoch, network, optimizer, history, seconds, passes. Plain."""

_CURVE_POINTS = 30
"""Times that a training is looked at on the validation split, about."""


@dataclass(frozen=True)
class Fit:
    """A trained network and how it came about."""

    network: nn.Module
    status: Status
    message: str
    history: tuple[dict[str, float], ...]
    seconds: float
    passes: int


class _InBfloat16(nn.Module):
    """A network whose convolutions and products run in bfloat16 and channels last; logits come back in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = self.network(images)
        return logits.float()


@dataclass(frozen=True)
class Means:
    """By what a training runs: who decodes its images, and with whom it shares the work."""

    pixels: PixelSource = decoded_here
    """Decodes the images of data sets that are files, ahead of the steps that need them."""
    group: Group | None = None
    """Processes that train the model together, each on a part of every batch; this one alone when None."""


ALONE = Means()
"""One process that does everything."""


def _as_trained(network: nn.Module, training: TrainingSpec, group: Group | None) -> nn.Module:
    """Return the network as training runs it: in its precision, compiled, shared. The parameters are the network's."""
    trained = network if training.precision == "float32" else _InBfloat16(network)
    if training.compiled:
        trained = cast(nn.Module, torch.compile(trained))
    return trained if group is None else shared(trained, group)


def _train_epoch(
    spec: ModelSpec,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    *,
    epoch: int,
    means: Means,
) -> tuple[dict[str, float], int]:
    """Train one epoch; return the means of loss, parts and noisy accuracy, and the images seen."""
    labels = data.train.labels
    generator = epoch_generator(spec.seed, epoch, labels.device)
    order = torch.randperm(len(labels), generator=generator, device=labels.device)
    step = spec.method.images_per_step(spec.training.batch_size)
    # As in the references, a remainder smaller than a step is dropped, unless it is all there is.
    steps = max(1, len(order) // step)
    batches = torch.split(order[: steps * step], step)
    # Dropout and its like draw from torch's global stream; where several processes train, each from its own.
    own = generator.initial_seed() + (0 if means.group is None else torch.distributed.get_rank(means.group))
    with torch.random.fork_rng([labels.device] if labels.device.type == "cuda" else []):
        torch.manual_seed(own)
        totals = _train_steps(
            spec, network, optimizer, data, batches=batches, epoch=epoch, generator=generator, means=means
        )
    return {name: float(total / steps) for name, total in totals.items()}, min(len(order), steps * step)


def _train_steps(
    spec: ModelSpec,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    *,
    batches: Sequence[Tensor],
    epoch: int,
    generator: torch.Generator,
    means: Means,
) -> dict[str, Tensor]:
    """Take one optimizer step per batch of positions; return the sums of loss, parts and noisy accuracy."""
    labels, totals = data.train.labels, dict[str, Tensor]()
    network.train()
    seeds = [derived_seed(spec.seed, epoch, step) for step in range(len(batches))]
    for chosen, images in zip(batches, _images(data, batches, seeds=seeds, means=means), strict=True):
        batch = noisy_batch(
            augmented(data, images, generator=generator),
            labels[chosen],
            copies=spec.method.copies,
            sigma=spec.train_sigma,
            epoch=epoch,
            draws=Draws(generator, generator),
        )
        terms = spec.method.loss(network, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms.loss)
        if means.group is not None:
            sum_gradients(network, means.group)
        if spec.training.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), spec.training.grad_clip)
        optimizer.step()
        right = (terms.logits.argmax(-1) == labels[chosen].unsqueeze(1)).float().mean()
        for name, value in {"loss": terms.loss.detach(), **terms.parts, "noisy_accuracy": right}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value
    return totals


def _images(data: Dataset, batches: Sequence[Tensor], *, seeds: Sequence[int], means: Means) -> Iterator[Tensor]:
    """Yield the images of every step, on the device of the labels."""
    train = data.train
    if not isinstance(train, FileSplit):
        yield from map(train.batch, batches)
        return
    # Decoding is what these data cost: where processes share the work, the first has it done for all.
    first = is_first(means.group)
    decoded = means.pixels(train, list(zip(batches, seeds, strict=True))) if first else itertools.repeat(None)
    for chosen, pixels in zip(batches, decoded, strict=first):
        if means.group is not None:
            shape = (len(chosen), *train.files.shape)
            yield as_images(from_first(pixels, shape=shape, like=train.labels, group=means.group))
        elif pixels is not None:
            yield as_images(pixels.to(train.labels.device))


def fit(
    spec: ModelSpec,
    data: Dataset,
    *,
    state: State | None = None,
    on_epoch: Callable[[State], None] | None = None,
    means: Means = ALONE,
) -> Fit:
    """Train a base classifier.

    The result depends on the spec, the data, the device and the software alone: training that goes on from a state
    ends with the same parameters, bit for bit on a CPU, as training that was never interrupted.

    About thirty times the network is looked at on validation images (`watch`), apart from `seconds`; a network that
    knows a single class for a fifth of all epochs, ten at least, has collapsed, and its training ends.

    Args:
        spec: What to train.
        data: Its tensors say the device.
        state: Where to go on, as last passed to `on_epoch`; from the start when None.
        on_epoch: Called after each epoch with the state, whose tensors change in the next epoch.
        means: By what the training runs. Who decodes changes nothing; several processes give what one does, up to
            rounding. All of them call this with the same arguments and return the same.

    Raises:
        ModelError: The architecture does not fit the images or the classes.
    """
    training, device = spec.training, data.train.labels.device
    network = build_network(spec.architecture, classes=data.classes, seed=spec.seed).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    check_input(network, data.sample_shape, architecture=spec.architecture, classes=data.classes)
    trained = _as_trained(network, training, means.group)
    watched = data.validation.evenly_spaced(min(WATCHED_IMAGES, len(data.validation)))
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
        averages, images = _train_epoch(spec, trained, optimizer, data, epoch=epoch, means=means)
        spent, made = time.monotonic() - began, images * spec.method.passes_per_image
        seconds, passes = seconds + spent, passes + made
        history.append({"epoch": epoch + 1, "lr": lr, "seconds": spent, "samples_per_second": made / spent, **averages})
        finite = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
        if not finite or not math.isfinite(averages["loss"]):
            message = (
                f"loss or parameters became NaN or infinite in epoch {epoch + 1}; lower lr or lbd, or defer lambda"
            )
            return Fit(network.eval(), "diverged", message, tuple(history), seconds, passes)
        if (epoch + 1) % max(1, training.epochs // _CURVE_POINTS) == 0 or epoch + 1 == training.epochs:
            history[-1] |= watch(network, watched, sigma=spec.train_sigma, seed=spec.seed)
            if (since := collapsed_since(history, epochs=training.epochs)) is not None:
                message = (
                    f"has known a single class on noisy validation images since epoch {since}; "
                    "lower eps, lbd or lr, or defer them"
                )
                return Fit(network.eval(), "collapsed", message, tuple(history), seconds, passes)
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

"""Training of one base classifier: steps, epochs, and a state from which training goes on exactly."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rspipe.data.files import FileSplit, PixelSource, as_images, decoded_here
from rspipe.data.splits import Dataset, Split
from rspipe.errors import ModelError
from rspipe.networks.answers import answers_as_before, answers_of
from rspipe.networks.architectures import build_network, check_input
from rspipe.records import Status
from rspipe.smoothing.noise import derived_seed
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.method import Surroundings, Terms, noisy_batch
from rspipe.training.process_group import (
    Group,
    agreed,
    from_first,
    is_first,
    mean_over,
    own_rows,
    rank_in,
    share_buffers,
    size_of,
)
from rspipe.training.randomness import Draws, augmented, epoch_generator, process_generator
from rspipe.training.sgd import SGD
from rspipe.training.spec import ModelSpec
from rspipe.training.step_loss import step_loss
from rspipe.training.validation import VALIDATION_IMAGES, collapsed_since, validation_metrics

State = dict[str, Any]
"""From which training goes on: epoch, network, its answers, momenta, history, seconds, passes, survey, teacher's state.
Plain."""

_CURVE_POINTS = 30
"""Times that a network in training is validated, about."""


@dataclass(frozen=True)
class Survey:
    """What a method has learned of the training images before an epoch, and what that took, a teacher included."""

    epoch: int
    result: Tensor
    seconds: float
    passes: int


@dataclass(frozen=True)
class Fit:
    """A trained network and how it came about."""

    network: nn.Module
    status: Status
    message: str
    history: tuple[dict[str, float], ...]
    seconds: float
    passes: int


def _steps(spec: ModelSpec, images: int) -> tuple[int, int]:
    """Return how many steps an epoch has and how many images each of them has."""
    size = min(images, spec.method.images_per_step(spec.training.batch_size))
    # As in the references, a remainder smaller than a step is dropped, unless it is all there is.
    return images // size, size


def _train_epoch(
    spec: ModelSpec,
    loss: nn.Module,
    optimizer: SGD,
    data: Dataset,
    *,
    lr: float,
    epoch: int,
    survey: Tensor | None,
    pixels: PixelSource,
    group: Group | None,
) -> dict[str, float]:
    """Train one epoch; return the means of loss, parts and noisy accuracy over its images."""
    labels = data.train.labels
    generator = epoch_generator(spec.training_seed, epoch, labels.device)
    chances = spec.method.chances(survey)
    if chances is None:
        order = torch.randperm(len(labels), generator=generator, device=labels.device)
    else:
        order = torch.multinomial(chances, len(labels), replacement=True, generator=generator)
    steps, size = _steps(spec, len(labels))
    rows = own_rows(size, group)
    own = generator if group is None else process_generator(spec.training_seed, epoch, rank_in(group), labels.device)
    draws = Draws(generator, own, before=rows.start, after=size - rows.stop)
    batches = torch.split(order[: steps * size], size)
    with torch.random.fork_rng([labels.device] if labels.device.type == "cuda" else []):
        # Dropout and its like draw from torch's global stream, in each process from another one.
        torch.manual_seed(own.initial_seed())
        totals = _train_steps(
            spec,
            loss,
            optimizer,
            data,
            batches=batches,
            lr=lr,
            epoch=epoch,
            draws=draws,
            survey=survey,
            pixels=pixels,
            group=group,
        )
    share_buffers(loss, group)
    return {name: float(mean_over(total / steps, group)) for name, total in totals.items()}


def _train_steps(
    spec: ModelSpec,
    loss: nn.Module,
    optimizer: SGD,
    data: Dataset,
    *,
    batches: Sequence[Tensor],
    lr: float,
    epoch: int,
    draws: Draws,
    survey: Tensor | None,
    pixels: PixelSource,
    group: Group | None,
) -> dict[str, Tensor]:
    """Take one optimizer step per batch of positions; return the sums of loss, parts and noisy accuracy.

    The means of these sums, and of gradients, over processes are those over images: what a process adds is weighted by
    how many of the images it has.
    """
    totals = dict[str, Tensor]()
    rows = own_rows(len(batches[0]), group)
    weight = (rows.stop - rows.start) * size_of(group) / len(batches[0])
    loss.train()
    seeds = [derived_seed(spec.training_seed, epoch, step) for step in range(len(batches))]
    whole = _images(data, batches, seeds=seeds, pixels=pixels, group=group)
    for chosen, images in zip(batches, whole, strict=True):
        batch = noisy_batch(
            augmented(data, images, generator=draws.generator)[rows],
            data.train.labels[chosen[rows]],
            copies=spec.method.copies,
            sigma=spec.train_sigma,
            epoch=epoch,
            draws=draws,
            survey=None if survey is None else survey[chosen[rows]],
        )
        terms: Terms = loss(batch)
        optimizer.zero_grad()
        torch.autograd.backward(weight * terms.loss)
        if spec.training.grad_clip is not None:
            nn.utils.clip_grad_norm_(loss.parameters(), spec.training.grad_clip)
        optimizer.step(lr=lr)
        right = (terms.logits.argmax(-1) == batch.labels.unsqueeze(1)).float().mean()
        for name, value in {"loss": terms.loss.detach(), **terms.parts, "noisy_accuracy": right}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + weight * value
    return totals


def _images(
    data: Dataset, batches: Sequence[Tensor], *, seeds: Sequence[int], pixels: PixelSource, group: Group | None
) -> Iterator[Tensor]:
    """Yield the images of every step, on the device of the labels."""
    train = data.train
    if not isinstance(train, FileSplit):
        yield from map(train.batch, batches)
        return
    # Decoding is what these data cost: where processes share the work, the first has it done for all.
    first = is_first(group)
    decoded = pixels(train, list(zip(batches, seeds, strict=True))) if first else itertools.repeat(None)
    for chosen, values in zip(batches, decoded, strict=first):
        if group is not None:
            shape = (len(chosen), *train.files.shape)
            yield as_images(from_first(values, shape=shape, like=train.labels, group=group))
        elif values is not None:
            yield as_images(values.to(train.labels.device))


def _restored(state: State | None, network: nn.Module, optimizer: SGD, spec: ModelSpec, shape: tuple[int, ...]) -> Fit:
    """Take parameters and momentum from a state; return how far training has come."""
    if state is None:
        return Fit(network, "finished", "", (), 0.0, 0)
    try:
        network.load_state_dict(state["network"])
        same = answers_as_before(network, shape, state.get("answers"))
    except RuntimeError:
        same = False
    if not same:
        raise ModelError(
            f"the training of {spec.id} was interrupted, and {spec.architecture} is another function than then: its "
            "code, or a library's that it uses, has changed; bring that back, or take another run directory"
        )
    optimizer.restore(state["momenta"])
    return Fit(network, "finished", "", tuple(state["history"]), float(state["seconds"]), int(state["passes"]))


def _teacher(
    spec: ModelSpec,
    data: Dataset,
    *,
    state: State | None,
    on_epoch: Callable[[State], None] | None,
    pixels: PixelSource,
    group: Group | None,
) -> Fit | None:
    """Train the network that a method's surveys ask; None where they ask the one in training."""
    if (sigma := spec.method.teacher) is None:
        return None
    taught = {"method": Gaussian(name="gaussian"), "train_sigma": sigma, "label": f"{spec.label}_teacher"}
    return fit(spec.model_copy(update=taught), data, state=state, on_epoch=on_epoch, pixels=pixels, group=group)


def check_surveys(method: MethodSpec, epochs: int, data: Dataset) -> None:
    """Raise ModelError where a method looks at all training images and these are files."""
    if isinstance(data.train, FileSplit) and any(map(method.surveys, range(epochs))):
        raise ModelError(
            f"{method.name} looks at all training images between epochs; it needs them in memory, and those of "
            f"{data.name} are files"
        )


def _survey(
    spec: ModelSpec,
    data: Dataset,
    network: nn.Module,
    before: Survey | None,
    *,
    teacher: Fit | None,
    epoch: int,
    group: Group | None,
) -> Survey:
    """Return what the method learns of the training images before an epoch."""
    began, train = time.monotonic(), data.train
    device = train.labels.device
    generator = torch.Generator(device).manual_seed(derived_seed(spec.training_seed, "survey", epoch))
    asked = network if teacher is None else teacher.network
    last = None if before is None else before.result
    around = Surroundings(asked, train.images, train.labels, data.classes, spec.train_sigma, generator, last)
    result = agreed(spec.method.survey(around), group, device)
    seconds, passes = (0.0, 0) if teacher is None else (teacher.seconds, teacher.passes)
    return Survey(epoch, result, seconds + time.monotonic() - began, passes)


def _state(
    done: Fit, optimizer: SGD, survey: Survey | None, *, shape: tuple[int, ...], teacher: State | None = None
) -> State:
    return {
        "epoch": len(done.history),
        "network": done.network.state_dict(),
        "answers": answers_of(done.network, shape),
        "momenta": optimizer.momenta,
        "history": list(done.history),
        "seconds": done.seconds,
        "passes": done.passes,
        "survey": None if survey is None else dict(vars(survey)),
        "teacher": teacher,
    }


def _judged(
    spec: ModelSpec, network: nn.Module, split: Split, history: Sequence[dict[str, float]]
) -> tuple[dict[str, float], Status, str]:
    """Return the last entry of the history, with validation metrics where they are due, and how the training stands."""
    epochs, (*_, entry) = spec.training.epochs, history
    epoch = int(entry["epoch"])
    finite = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    if not finite or not math.isfinite(entry["loss"]):
        message = f"loss or parameters became NaN or infinite in epoch {epoch}; lower lr or lbd, or defer lambda"
        return entry, "diverged", message
    if epoch % max(1, epochs // _CURVE_POINTS) and epoch != epochs:
        return entry, "finished", ""
    entry = entry | validation_metrics(network, split, sigma=spec.train_sigma, seed=spec.seed)
    since = collapsed_since([*history[:-1], entry], epochs=epochs)
    if since is None:
        return entry, "finished", ""
    message = (
        f"has known a single class on noisy validation images since epoch {since}; lower eps, lbd or lr, or defer them"
    )
    return entry, "collapsed", message


def fit(
    spec: ModelSpec,
    data: Dataset,
    *,
    state: State | None = None,
    on_epoch: Callable[[State], None] | None = None,
    on_survey: Callable[[State], None] | None = None,
    pixels: PixelSource = decoded_here,
    group: Group | None = None,
) -> Fit:
    """Train a base classifier.

    The result depends on the spec, the data, the device and the software alone: training that goes on from a state
    ends with the same parameters, bit for bit on a CPU, as training that was never interrupted.

    Thirty times or some more, after each epoch where there are fewer than sixty, the network is validated
    (`validation_metrics`), apart from `seconds`; a network that knows a single class for a fifth of all epochs, ten at
    least, has collapsed, and its training ends.

    Args:
        spec: The model to train.
        data: Its tensors say the device.
        state: Where to go on, as last passed to `on_epoch` or `on_survey`; from the start when None.
        on_epoch: Called after each epoch with the state, whose tensors change in the next epoch.
        on_survey: Called with the state before an epoch: after each epoch of a teacher, and after a survey.
        pixels: Decodes the images of data sets that are files, ahead of the steps that need them; changes nothing.
        group: Processes that train the model together, each on a part of every batch; all call this with the same
            arguments and return the same. Gradients are those of one process, up to rounding, but where the network
            has layers that mix the images of a batch or draw random numbers: batch normalization takes the statistics
            of a process' own part on a CPU, and those of the batch on GPUs (SyncBatchNorm).

    Raises:
        ModelError: The architecture does not fit the images or the classes, or is another function than that of the
            state; or the method surveys training images that are files.
    """
    check_surveys(spec.method, spec.epochs, data)
    training, device, shape = spec.training, data.train.labels.device, data.sample_shape
    network = build_network(spec.architecture, classes=data.classes, seed=spec.training_seed).to(device)
    check_input(network, shape, architecture=spec.architecture, classes=data.classes)
    optimizer = SGD(network.parameters(), momentum=training.momentum, weight_decay=training.weight_decay)
    loss = step_loss(network, spec, group, shape=shape)
    validation = data.validation.evenly_spaced(min(VALIDATION_IMAGES, len(data.validation)))
    done = _restored(state, network, optimizer, spec, shape)
    survey, taught = None, None
    if state is not None:
        taught = state["teacher"]
        if (learned := state["survey"]) is not None:
            survey = Survey(**learned | {"result": learned["result"].to(device)})

    def now(*, teacher: State | None = None) -> State:
        return _state(done, optimizer, survey, shape=shape, teacher=teacher)

    for epoch in range(len(done.history), training.epochs):
        spent, made = 0.0, math.prod(_steps(spec, len(data.train))) * spec.method.passes_in(epoch)
        if spec.method.surveys(epoch):
            if survey is None or survey.epoch != epoch:
                on_taught = on_survey and (lambda its: on_survey(now(teacher=its)))
                teacher = _teacher(spec, data, state=taught, on_epoch=on_taught, pixels=pixels, group=group)
                if teacher is not None and teacher.status != "finished":
                    done = replace(done, status=teacher.status, message=f"its teacher {teacher.message}")
                    break
                survey = _survey(spec, data, network, survey, teacher=teacher, epoch=epoch, group=group)
                if on_survey is not None:
                    on_survey(now())
            spent, made = spent + survey.seconds, made + survey.passes
            if (chances := spec.method.chances(survey.result)) is not None and not chances.any():
                message = f"has no training image left in epoch {epoch + 1}; discard fewer of them, or later"
                done = replace(done, status="collapsed", message=message)
                break
        began = time.monotonic()
        lr = training.lr * training.lr_decay ** (epoch // training.lr_step)
        averages = _train_epoch(
            spec,
            loss,
            optimizer,
            data,
            lr=lr,
            epoch=epoch,
            survey=None if survey is None else survey.result,
            pixels=pixels,
            group=group,
        )
        spent += time.monotonic() - began
        entry = {"epoch": epoch + 1, "lr": lr, "seconds": spent, "samples_per_second": made / spent, **averages}
        judged = _judged(spec, network, validation, (*done.history, entry))
        entry, status, message = agreed(judged, group, device)
        done = Fit(
            network, status, message, (*done.history, entry), done.seconds + entry["seconds"], done.passes + made
        )
        if status != "finished":
            break
        if on_epoch is not None:
            on_epoch(now())
    network.eval()
    return done

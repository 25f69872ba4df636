"""Training on Ray Train: many small models share groups of workers, each worker takes the next model."""

import platform
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from rspipe.data.files import PixelSource, decoded_here
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DataSpec
from rspipe.data.splits import Dataset
from rspipe.errors import ClusterError, RspipeError
from rspipe.execution.board import OnProgress, Progress, after, make_board, sealed, unsealed, watch
from rspipe.execution.groups import run_groups
from rspipe.execution.hanging import Held
from rspipe.execution.resources import Cluster
from rspipe.execution.worker import device_text, keep_freed_memory, set_deterministic, worker_device
from rspipe.networks.answers import answers_of
from rspipe.networks.normalization import normalization
from rspipe.records import TrainedModel
from rspipe.stages.checkpoints import checkpointing
from rspipe.stages.decoding import streamed
from rspipe.stages.memory import memory_for
from rspipe.storage.files import checksum
from rspipe.storage.store import Store
from rspipe.training.fitting import State, fit
from rspipe.training.process_group import Group, agreed, is_first
from rspipe.training.published import load_published_model
from rspipe.training.spec import AnyModelSpec, LoadedModelSpec
from rspipe.training.validation import evaluate

_TEST_IMAGES = 200
"""That a model is looked at on, where no others are left."""


@cache
def dataset_on(spec: DataSpec, device: torch.device) -> Dataset:
    """Return a data set with all splits on a device, kept for the life of the worker."""
    data = load_dataset(spec)
    return replace(
        data,
        train=data.train.to(device),
        validation=data.validation.to(device),
        calibration=data.calibration.to(device),
        test=data.test.to(device),
    )


def train_one(
    store: Store,
    spec: AnyModelSpec,
    data: Dataset,
    *,
    on_epoch: Callable[[int], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    pixels: PixelSource = decoded_here,
    group: Group | None = None,
) -> TrainedModel:
    """Train a model, or go on with its checkpoint, and store it. A finished model is returned as it is.

    Where several processes share the model, all call this, and the first reads and writes. Callbacks get the number of
    epochs: after each of them, and of a checkpoint before the first.
    """
    first, device = is_first(group), data.train.labels.device
    finished = agreed(store.trained_model(spec.id) if first else None, group, device)
    if finished is not None:
        return finished
    checkpoint = checkpointing(partial(store.save_checkpoint, spec.id))

    def after_epoch(state: State) -> None:
        if on_epoch is not None:
            on_epoch(state["epoch"])
        checkpoint(state)

    state = agreed(store.checkpoint(spec.id) if first else None, group, device)
    if first and state is not None and on_resume is not None:
        on_resume(state["epoch"])
    if isinstance(spec, LoadedModelSpec):
        result = load_published_model(spec, data)
    else:
        on_survey = checkpoint if first else None
        result = fit(
            spec,
            data,
            state=state,
            on_epoch=after_epoch if first else None,
            on_survey=on_survey,
            pixels=pixels,
            group=group,
        )
    # A published model may come without a training part to hold images out of. Nothing is chosen by what it does here.
    few = data.test.evenly_spaced(min(_TEST_IMAGES, len(data.test)))
    seen = next(part for part in (data.validation, data.calibration, few) if len(part))
    held_out = evaluate(result.network, seen, sigma=spec.train_sigma, seed=spec.seed)
    record = TrainedModel(
        id=spec.id,
        label=spec.label,
        source=spec.source,
        train_sigma=spec.train_sigma,
        seed=spec.seed,
        spec=spec.model_dump(mode="json"),
        status=result.status,
        message=result.message,
        collapsed=held_out.collapsed,
        history=result.history,
        clean_accuracy=held_out.clean_accuracy,
        noisy_accuracy=held_out.noisy_accuracy,
        seconds=result.seconds,
        passes=result.passes,
        parameters=sum(parameter.numel() for parameter in result.network.parameters()),
        device=str(data.train.labels.device),
        precision=spec.precision,
        checksum=checksum(result.network.state_dict()),
        normalization=normalization(result.network),
        input_shape=data.sample_shape,
        answers=answers_of(result.network, data.sample_shape),
    )
    if first:
        store.save_model(record, result.network.state_dict())
    return record


def train_loop(config: dict[str, Any]) -> None:
    """Run on each worker of a group: take models from the board until none is left."""
    import ray

    from rspipe.execution.trainer import world_rank

    set_deterministic()
    keep_freed_memory()
    board, group, resources = config["board"], config["group"], config["resources"]
    rank = world_rank()
    ray.get(board.join.remote(group, rank, sealed(ray.get_runtime_context().current_actor)))
    sharing = _own_group(config["together"], gpus=resources.gpus)
    try:
        device = worker_device(resources.gpus, allow_cpu=resources.allow_cpu)
        _work_off(config, Store(config["run_dir"]), device, sharing)
    except RspipeError as error:
        ray.get(board.leave.remote(group, rank))
        ray.get(board.fail.remote(error))


def held_by_this_worker(spec: AnyModelSpec, *, name: str = "", reads_data: bool) -> Held:
    """Return how a model is held by the Ray actor that calls this: a step is an epoch, and the last one the end."""
    import ray

    costs = [1.0]
    if not isinstance(spec, LoadedModelSpec):
        # Passes are most of the time. Those of a survey are forward alone, and cost as much at most.
        passes = [spec.method.passes_in(epoch) + spec.method.survey_draws(epoch) for epoch in range(spec.epochs)]
        costs = [*map(float, passes), 1.0]
        # A teacher learns before the first epoch.
        costs[0] += 0 if spec.method.teacher is None else spec.epochs
    return Held(
        name=name or spec.id,
        node=platform.node(),
        worker=sealed(ray.get_runtime_context().current_actor),
        reads_data=reads_data,
        kind=f"{spec.architecture} {spec.data!r}",
        costs=tuple(costs),
    )


def _own_group(together: int, *, gpus: float) -> Group | None:
    """Return the group of workers that this one shares models with: `together` neighbours."""
    if together == 1:
        return None
    # NCCL wants a GPU for each process.
    backend = "nccl" if gpus >= 1 and torch.cuda.is_available() else "gloo"
    ranks = range(torch.distributed.get_world_size())
    # Every process has to name every group.
    groups = [torch.distributed.new_group(ranks[at : at + together], backend=backend) for at in ranks[::together]]
    own = groups[torch.distributed.get_rank() // together]
    assert isinstance(own, Group)
    return own


def _work_off(config: dict[str, Any], store: Store, device: torch.device, sharing: Group | None) -> None:
    import ray

    board, specs, group = config["board"], config["specs"], config["group"]
    store.check_shared()
    kind = device_text(device)
    if (others := agreed(kind, sharing, device)) != kind:
        raise ClusterError(
            f"workers that share a model draw the same numbers on GPUs of one kind alone, and have {others} and "
            f"{kind}; give the study nodes of one kind, or --resources.workers-per-model 1"
        )
    first, pixels = is_first(sharing), partial(streamed, decoders=config["decoders"])
    while (piece := agreed(ray.get(board.take.remote(group)) if first else None, sharing, device)) is not None:
        spec = specs[piece]

        if first:
            reads_data = dataset_on.cache_info().currsize == 0
            board.begin.remote(piece, held_by_this_worker(spec, reads_data=reads_data))

        def on_epoch(epoch: int, piece: int = piece, spec: AnyModelSpec = spec) -> None:
            board.update.remote(piece, epoch / (spec.epochs + 1), spec.id)

        def on_resume(epoch: int, piece: int = piece, spec: AnyModelSpec = spec) -> None:
            board.resume.remote(piece, epoch / (spec.epochs + 1))

        with memory_for(spec.id, lower="training.batch_size"):
            data = dataset_on(spec.data, device)
            train_one(store, spec, data, on_epoch=on_epoch, on_resume=on_resume, pixels=pixels, group=sharing)
        board.update.remote(piece, 1.0, spec.id)


def _check_steps(specs: Sequence[AnyModelSpec], *, together: int) -> None:
    """Raise ClusterError where a step has no image for each of the workers that share a model."""
    for spec in specs:
        if isinstance(spec, LoadedModelSpec):
            continue
        images = spec.method.images_per_step(spec.training.batch_size)
        if images < together:
            raise ClusterError(
                f"'{spec.label}': a step has {images} images for --resources.workers-per-model = {together}; "
                "lower it or raise training.batch_size"
            )


def train_models(
    store: Store, specs: Sequence[AnyModelSpec], *, cluster: Cluster, on_progress: OnProgress
) -> tuple[TrainedModel, ...]:
    """Train every model that is not finished yet; return the records of all, in the order of `specs`.

    Raises:
        ClusterError: The resources are not there or too many for a step, or workers kept failing.
        RspipeError: What a worker ran into, e.g. missing data.
    """
    import ray

    todo = [spec for spec in specs if store.trained_model(spec.id) is None]
    todo.sort(key=lambda spec: spec.passes_per_image, reverse=True)
    # The costly ones first, so that no worker ends with a long one; before them the cheapest, for a model to see soon.
    todo = [*todo[-1:], *todo[:-1]]
    on_progress = after(len(specs) - len(todo), on_progress)
    on_progress(Progress("train", 0, len(todo), "models"))
    _check_steps(todo, together=cluster.resources.workers_per_model)
    if todo:
        board, stopped = make_board(len(todo)), threading.Event()

        def run() -> None:
            config = {"specs": todo, "run_dir": str(store.run_dir)}
            scratch = store.run_dir.local_part / ".ray"
            run_groups(train_loop, config, board=board, cluster=cluster, scratch=scratch, stopped=stopped)

        def stop() -> None:
            stopped.set()
            # Whoever comes after them finds nothing to do.
            with suppress(ray.exceptions.RayError):
                for worker in ray.get(board.close.remote()):
                    ray.kill(unsealed(worker))

        watch(run, board, stop=stop, stage="train", work=len(todo), unit="models", on_progress=on_progress)
    return tuple(store.existing_model(spec.id) for spec in specs)

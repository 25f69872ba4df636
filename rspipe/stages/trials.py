"""A trial where it runs: on a worker that Tune hands its hyper-parameters."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from pydantic import ValidationError

from rspipe.data.files import PixelSource, decoded_here
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DataSpec
from rspipe.data.splits import Dataset
from rspipe.errors import RspipeError
from rspipe.execution.resources import Resources
from rspipe.execution.worker import keep_freed_memory, set_deterministic, worker_device
from rspipe.records import Trial
from rspipe.search.space import Parameters
from rspipe.search.spec import SearchSpec
from rspipe.search.trials import WATCHED, OnEpoch, judged_trial, trial_spec
from rspipe.stages.checkpoints import checkpointing
from rspipe.stages.decoding import streamed
from rspipe.stages.memory import memory_for
from rspipe.stages.train import held_by_this_worker
from rspipe.storage.store import Store
from rspipe.training.fitting import State


@dataclass(frozen=True)
class Work:
    """One trial to run, as it travels in Tune's config."""

    which: int
    """Position of its search."""
    index: int
    piece: int
    """Position on the board."""
    parameters: Parameters


def open_trials(store: Store, search: SearchSpec) -> tuple[int, ...]:
    """Return the indices of the trials that a search still needs."""
    if store.search_result(search.id, trials=search.trials) is not None:
        return ()
    done = {trial.index for trial in store.trials(search.id)}
    return tuple(index for index in range(search.trials) if index not in done)


def run_trial(
    store: Store,
    search: SearchSpec,
    index: int,
    parameters: Parameters,
    *,
    device: torch.device,
    on_epoch: OnEpoch | None = None,
    pixels: PixelSource = decoded_here,
) -> Trial:
    """Return how a trial does, as it is stored or else trained and judged here, from its checkpoint if it has one.

    Neither the test nor the calibration split is touched. The record is not stored: of stopped trials the driver alone
    knows, so it keeps the records of all.
    """
    finished = store.trial(search.id, index)
    if finished is not None:
        return finished
    data = searched_data(search.data, device)
    checkpoint = checkpointing(partial(store.save_trial_checkpoint, search.id, parameters))

    def after_epoch(state: State) -> None:
        if on_epoch is not None:
            on_epoch(state)
        checkpoint(state)

    state = store.trial_checkpoint(search.id, parameters)
    if state is not None and on_epoch is not None:
        # Who may stop the trial knows nothing of it.
        for past in _past_states(state):
            on_epoch(past)
    return judged_trial(
        search, index, parameters, data, state=state, on_epoch=after_epoch, on_survey=checkpoint, pixels=pixels
    )


def _past_states(state: State) -> Iterator[State]:
    """Yield the states after each epoch of an interrupted training, without networks."""
    for epoch in range(1, state["epoch"] + 1):
        entries = state["history"][:epoch]
        passes = sum(round(entry["seconds"] * entry["samples_per_second"]) for entry in entries)
        seconds = sum(entry["seconds"] for entry in entries)
        yield {"epoch": epoch, "history": entries, "passes": passes, "seconds": seconds}


@cache
def searched_data(spec: DataSpec, device: torch.device) -> Dataset:
    """Return a data set with what a search sees on a device, kept for the life of the worker."""
    data = load_dataset(spec)
    return replace(data, train=data.train.to(device), validation=data.validation.to(device))


def run_in_tune(
    config: dict[str, Any],
    *,
    searches: Sequence[SearchSpec],
    run_dir: str,
    resources: Resources,
    decoders: int,
    board: Any,
) -> None:
    """Run the trial `config["work"]` inside Tune, which hears how training goes where it may stop it."""
    import ray
    import ray.tune

    set_deterministic()
    keep_freed_memory()
    work: Work = config["work"]
    search, store = searches[work.which], Store(run_dir)
    name = f"{search.id} trial {work.index}"

    def on_epoch(state: State) -> None:
        fraction = state["epoch"] / (search.training.epochs + 1)
        if "network" in state:
            board.update.remote(work.piece, fraction, name)
        else:
            board.resume.remote(work.piece, fraction)
        look = state["history"][-1]
        if search.early_stopping is not None and WATCHED in look and state["epoch"] < search.training.epochs:
            # Where ASHA stops the trial, this does not return.
            progress = {name: state[name] for name in ("epoch", "history", "passes", "seconds")}
            ray.tune.report({"ended": False, WATCHED: look[WATCHED], **progress})

    try:
        store.check_shared()
        reads_data = searched_data.cache_info().currsize == 0
        # Hyper-parameters that do not fit together are found again below, and make the trial invalid.
        with suppress(ValidationError):
            held = held_by_this_worker(trial_spec(search, work.parameters), name=name, reads_data=reads_data)
            board.begin.remote(work.piece, held)
        pixels = partial(streamed, decoders=decoders)
        device = worker_device(resources.gpus, allow_cpu=resources.allow_cpu)
        with memory_for(name, lower="training.batch_size"):
            trial = run_trial(
                store, search, work.index, work.parameters, device=device, on_epoch=on_epoch, pixels=pixels
            )
    except RspipeError as error:
        ray.get(board.fail.remote(error))
        # A trial that ends without a word would be tried again.
        ray.tune.report({"ended": True, "record": ""})
        return
    # As text: Tune flattens dictionaries.
    ray.tune.report({"ended": True, "record": json.dumps(trial.to_json())})

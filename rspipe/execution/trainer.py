"""Ray Train's trainer with half of the processes, as probed with Ray 2.60: each takes one to two seconds of CPU.

Ray's own starts an actor that deals out data sets, of which there are none here, and one that gives back what a dead
controller holds, by asking a dashboard that may not be there. It also sets environment variables for what it starts, so
that the workers that wait ready are of no use, and new ones are started twice: to set the variables, and to work.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rspipe.execution.board import beside_driver, sealed

_CONTROLLER = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A process of its own.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Settings that a controller reads when it starts; those of the user's environment go before."""


def world_rank() -> int:
    """Return the number of this worker in its group; `ray.train.get_context` takes half a second to import Ray Tune."""
    return int(get_train_context().get_world_rank())


class Reservation(WorkerGroupCallback):  # type: ignore[misc]
    """Tells a board what its group of workers reserves: nobody gives that back where the controller dies."""

    def __init__(self, board: Any, group: int) -> None:
        self._board, self._group = board, group

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Note the placement group of workers that have started."""
        reserved = worker_group.get_worker_group_state().placement_group_handle.placement_group
        ray.get(self._board.reserve.remote(self._group, sealed(reserved)))


class _NoDatasets(DatasetsCallback):  # type: ignore[misc]
    """Hands Ray Data's settings to the workers, and starts no actor that deals out data sets."""

    def before_init_train_context(self, _: Any) -> dict[str, list[Any]]:
        return {}


@contextmanager
def _meanwhile(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables of this process that are not set."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class Controller(TrainController):  # type: ignore[misc]
    """Ray's controller, which is told its settings instead of started with them."""

    def __init__(self, *, environment: dict[str, str], **what: Any) -> None:
        os.environ.update(environment)
        # What stays set would be set for the workers.
        with _meanwhile(_CONTROLLER):
            super().__init__(**what)


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray's trainer of functions that get no data sets."""

    def _create_default_callbacks(self) -> list[Any]:
        usual = [
            one for one in super()._create_default_callbacks() if not isinstance(one, PlacementGroupCleanerCallback)
        ]
        settings = _NoDatasets(train_run_context=self.train_run_context, datasets={})
        return [settings if isinstance(one, DatasetsCallback) else one for one in usual]

    def _initialize_and_run_controller(self, **what: Any) -> Any:
        controller = beside_driver(Controller).remote(environment=get_env_vars_to_propagate(), **what)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())

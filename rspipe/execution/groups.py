"""Groups of training workers that take models from one board.

A group is one Ray Train run. Where it loses a worker, another group takes over what it had not finished, as large as
the nodes allow that are there then; where nodes join while models wait, another group starts beside those that run.
"""

import logging
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rspipe.errors import ClusterError
from rspipe.execution.board import sealed, unsealed
from rspipe.execution.failures import passing, root_cause
from rspipe.execution.resources import Cluster, Patience

_log = logging.getLogger(__name__)


_POLL_SECONDS = 0.25

# Each of them may have waited a minute for resources that somebody else took just before.
_FRUITLESS_GROUPS = 5

_STAGE = "training"


Loop = Callable[[dict[str, Any]], None]


class _Group:
    """A group at work in a thread; a daemon, so that an interrupt from the keyboard does not wait for the cluster."""

    def __init__(self, workers: int, train: Callable[[], None]) -> None:
        self.workers = workers
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(train,), daemon=True)
        self._thread.start()

    def _run(self, train: Callable[[], None]) -> None:
        try:
            train()
        except BaseException as error:  # noqa: BLE001 looked at by who waits for the group
            self.error = error

    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()


def run_groups(
    loop: Loop, config: dict[str, Any], *, board: Any, cluster: Cluster, scratch: Path, stopped: threading.Event
) -> None:
    """Run groups until the board has nothing left, or until they are stopped.

    Args:
        loop: Run by each worker with `config` and its `board`, `group`, `together`, `resources` and `decoders`.
        config: What all groups get.
        board: Hands out the work; what a group has not finished goes back to it.
        cluster: Looked up again whenever work waits.
        scratch: Where Ray Train keeps what is thrown away.
        stopped: Once it is set Ray is not called: it may be left by then, and would end this process.

    Raises:
        ClusterError: The resources are not there, or groups kept failing before they got any further.
        RspipeError: What a worker ran into.
    """
    import ray
    from ray.util import remove_placement_group

    together = cluster.resources.workers_per_model
    live: dict[int, _Group] = {}
    started = fruitless = 0
    furthest, patience = 0.0, Patience(cluster, stage=_STAGE)
    while not stopped.is_set():
        for number in [number for number, group in live.items() if group.has_ended()]:
            failure = live.pop(number).error
            for reserved in ray.get(board.release.remote(number)):
                # Where its controller has died, too.
                remove_placement_group(unsealed(reserved))
            _, unfinished = ray.get(board.left.remote())
            if failure is not None and unfinished:
                done, *_ = ray.get(board.read.remote())
                furthest, fruitless = max(done, furthest), 0 if done > furthest else fruitless + 1
                error = root_cause(failure)
                if not isinstance(error, ClusterError) or fruitless == _FRUITLESS_GROUPS:
                    raise error from failure
                _log.warning("warning: %s; going on with those that are left", passing(error))
        patience.watch(at_work=not live or ray.get(board.size.remote()) > 0)
        waiting, unfinished = ray.get(board.left.remote())
        if not live and not waiting:
            return
        running = sum(group.workers for group in live.values())
        if waiting and (more := _more(cluster, running=running, models=unfinished)):
            own = {
                "board": board,
                "group": started,
                "together": together,
                "resources": cluster.resources,
                "decoders": cluster.now().decoders(running + more),
            }
            live[started] = _Group(more, _trainer(loop, {**config, **own}, more, cluster=cluster, scratch=scratch))
            started += 1
        stopped.wait(_POLL_SECONDS)
    for group in live.values():
        group.wait()


def _unsealed_loop(config: dict[str, bytes]) -> None:
    """Run on each worker: the controller of a group, which starts before them, hands on what it need not read."""
    loop, own = unsealed(config["sealed"])
    loop(own)


def _more(cluster: Cluster, *, running: int, models: int) -> int:
    """Return how many workers to start beside those that run, for so many models in all, where others leave room."""
    together = cluster.resources.workers_per_model
    try:
        more = cluster.now().trainers(models) - running
        if more <= 0:
            return 0
        # Only who has nobody at work waits for others.
        least, most = (0, 0) if running else (together, more)
        free = cluster.free(least, at_best=most, stage=_STAGE)
        return min(more, free - free % together)
    except ClusterError:
        if not running:
            raise
        # Nodes are gone; those who ran on them are about to fail.
        return 0


def _trainer(
    loop: Loop, config: dict[str, Any], workers: int, *, cluster: Cluster, scratch: Path
) -> Callable[[], None]:
    """Return what runs one group to its end."""
    import ray.train
    from ray.train.torch import TorchConfig

    from rspipe.execution.trainer import Reservation, Trainer

    resources, name = cluster.resources, f"train-{uuid.uuid4().hex[:8]}"
    trainer = Trainer(
        _unsealed_loop,
        train_loop_config={"sealed": sealed((loop, config))},
        # Torch's rendezvous listens on every address of a node and knows no token: only where workers need each other.
        backend_config=TorchConfig(backend="gloo") if resources.workers_per_model > 1 else None,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": resources.gpus} if resources.gpus > 0 else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(scratch),
            callbacks=[Reservation(config["board"], config["group"])],
            # Ray would start as many workers again, and wait for the resources of nodes that are gone.
            failure_config=ray.train.FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
        ),
    )

    def train() -> None:
        try:
            trainer.fit()
        finally:
            shutil.rmtree(scratch / name, ignore_errors=True)

    return train

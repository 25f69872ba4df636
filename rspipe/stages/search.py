"""Search on Ray Tune: the trials of all searches side by side, each trained by the training stage's own loop."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rspipe.errors import ModelError, RspipeError
from rspipe.fitting import evaluate, fit
from rspipe.records import SearchResult, Trial
from rspipe.searching import trial_parameters, trial_spec, validation_acr
from rspipe.stages.progress import OnProgress, Progress, make_board, root_cause, watch
from rspipe.stages.runtime import Cluster, keep_freed_memory, set_deterministic, worker_device
from rspipe.stages.store import Store
from rspipe.stages.train import dataset_on
from rspipe.study import SearchSpec


def run_trial(store: Store, search: SearchSpec, index: int, *, gpus: float, on_epoch: Any = None) -> Trial:
    """Train and judge one trial, and store it. Neither the test nor the calibration split is touched."""
    finished = store.trial(search.id, index)
    if finished is not None:
        return finished
    parameters = trial_parameters(search)[index]
    spec = trial_spec(search, parameters)
    data = dataset_on(search.data, worker_device(gpus))
    result = fit(spec, data, on_epoch=on_epoch)
    trained = result.status == "finished"
    trial = Trial(
        search=search.id,
        index=index,
        parameters=parameters,
        objective=validation_acr(result.network, data.validation, search) if trained else 0.0,
        noisy_accuracy=evaluate(result.network, data.validation, sigma=search.sigma, seed=search.seed).noisy_accuracy,
        status=result.status,
        message=result.message,
        seconds=result.seconds,
        passes=result.passes,
    )
    store.save_trial(trial)
    return trial


def _trainable(
    config: dict[str, Any], *, searches: Sequence[SearchSpec], run_dir: str, gpus: float, board: Any
) -> None:
    """Run one trial inside Tune."""
    import ray
    import ray.tune

    set_deterministic()
    keep_freed_memory()
    which, index, piece = config["work"]
    search, store = searches[which], Store(Path(run_dir))

    def on_epoch(state: dict[str, Any]) -> None:
        board.update.remote(piece, state["epoch"] / (search.training.epochs + 1), f"{search.id} trial {index}")

    try:
        store.check_shared()
        trial = run_trial(store, search, index, gpus=gpus, on_epoch=on_epoch)
    except RspipeError as error:
        ray.get(board.fail.remote(error))
        return
    board.update.remote(piece, 1.0, f"{search.id} trial {index}")
    ray.tune.report({"objective": trial.objective, "noisy_accuracy": trial.noisy_accuracy})


def run_searches(
    store: Store, searches: Sequence[SearchSpec], *, cluster: Cluster, on_progress: OnProgress
) -> tuple[SearchResult, ...]:
    """Run every search that is not finished; return the results of all, in order.

    Raises:
        ClusterError: The resources are not there, or a trial failed.
        ModelError: All trials of a search diverged.
    """
    open_trials = [
        (which, index)
        for which, search in enumerate(searches)
        if store.search_result(search.id) is None
        for index in range(search.trials)
        if store.trial(search.id, index) is None
    ]
    on_progress(Progress("search", 0, len(open_trials), "trials"))
    if open_trials:
        _run_trials(store, searches, open_trials, cluster=cluster, on_progress=on_progress)
    return tuple(store.search_result(search.id) or _conclude(store, search) for search in searches)


def _run_trials(
    store: Store,
    searches: Sequence[SearchSpec],
    trials: Sequence[tuple[int, int]],
    *,
    cluster: Cluster,
    on_progress: OnProgress,
) -> None:
    from ray import tune

    asked = cluster.resources
    board = make_board(len(trials))
    bound = tune.with_parameters(
        _trainable, searches=list(searches), run_dir=str(store.run_dir), gpus=asked.gpus_per_worker, board=board
    )
    scratch, name = store.run_dir / ".ray", f"search-{uuid.uuid4().hex[:8]}"
    tuner = tune.Tuner(
        tune.with_resources(bound, {"cpu": asked.cpus_per_worker, "gpu": asked.gpus_per_worker}),
        param_space={"work": tune.grid_search([(*trial, piece) for piece, trial in enumerate(trials)])},
        tune_config=tune.TuneConfig(
            metric="objective", mode="max", reuse_actors=True, max_concurrent_trials=cluster.workers(len(trials))
        ),
        run_config=tune.RunConfig(
            name=name, storage_path=str(scratch), verbose=0, failure_config=tune.FailureConfig(max_failures=2)
        ),
    )
    try:
        grid = watch(tuner.fit, board, stage="search", work=len(trials), unit="trials", on_progress=on_progress)
        for error in grid.errors:
            raise root_cause(error) from error
    finally:
        shutil.rmtree(scratch / name, ignore_errors=True)


def _conclude(store: Store, search: SearchSpec) -> SearchResult:
    trials = [store.existing_trial(search.id, index) for index in range(search.trials)]
    # The first of equals, so that the settings in the study file win a tie.
    best = max(trials, key=lambda trial: (trial.objective, -trial.index))
    if best.status != "finished":
        raise ModelError(
            f"search {search.id}: every trial diverged or collapsed; lower training.lr or narrow the space"
        )
    result = SearchResult(
        id=search.id,
        label=search.label,
        sigma=search.sigma,
        best=best.parameters,
        best_index=best.index,
        objective=best.objective,
        default_objective=trials[0].objective,
        trials=len(trials),
    )
    store.save_search_result(result)
    return result

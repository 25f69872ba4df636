"""Search on Ray Tune: the trials of all searches side by side, each trained by the training stage's own loop."""

import shutil
import uuid
from collections import Counter
from collections.abc import Sequence

from rspipe.errors import ModelError
from rspipe.execution.board import OnProgress, Progress, after, make_board, watch
from rspipe.execution.failures import root_cause
from rspipe.execution.ray_internals import credentials_stay
from rspipe.execution.resources import Cluster, Patience
from rspipe.records import SearchResult
from rspipe.search.spec import SearchSpec
from rspipe.stages.trials import open_trials, run_in_tune
from rspipe.storage.store import Store

_STAGE = "the search"


def run_searches(
    store: Store, searches: Sequence[SearchSpec], *, cluster: Cluster, on_progress: OnProgress
) -> tuple[SearchResult, ...]:
    """Run every search that is not finished; return the results of all, in order.

    Raises:
        ClusterError: The resources are not there, or a trial failed.
        ModelError: No trial of a search certified anything.
    """
    count = sum(len(open_trials(store, search)) for search in searches)
    on_progress = after(sum(search.trials for search in searches) - count, on_progress)
    on_progress(Progress("search", 0, count, "trials"))
    if count:
        _run_trials(store, searches, count, cluster=cluster, on_progress=on_progress)
    return tuple(
        store.search_result(search.id, trials=search.trials) or _conclude(store, search) for search in searches
    )


def _run_trials(
    store: Store, searches: Sequence[SearchSpec], count: int, *, cluster: Cluster, on_progress: OnProgress
) -> None:
    from ray import tune

    from rspipe.stages.tune import GivenUp, Proposals, Started, Stopper

    resources = cluster.resources
    workers = cluster.now().workers(count)
    cluster.free(1, at_best=workers, stage=_STAGE)
    board = make_board(count)
    scratch, name = store.run_dir.local_part / ".ray", f"search-{uuid.uuid4().hex[:8]}"
    bound = tune.with_parameters(
        run_in_tune,
        searches=list(searches),
        run_dir=str(store.run_dir),
        resources=resources,
        decoders=cluster.decoders(workers),
        board=board,
    )
    # Tune finds the function of an experiment by its name whenever it starts a worker.
    bound.__name__ = name
    end, started, patience = GivenUp(), Started(), Patience(cluster, stage=_STAGE)

    def on_end(piece: int, what: str) -> None:
        board.update.remote(piece, 1.0, what)

    def look() -> None:
        patience.watch(at_work=started.some)

    def room() -> int:
        return max(1, cluster.now().fits)

    tuner = tune.Tuner(
        tune.with_resources(bound, {"cpu": resources.cpus_per_worker, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=Proposals(store, searches, on_end=on_end, room=room),
            scheduler=Stopper(store, searches),
            num_samples=count,
            reuse_actors=True,
            # `room` is called, too: as many as may be wanted, and as many as there is room for.
            max_concurrent_trials=resources.workers or count,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch),
            verbose=0,
            stop=end,
            callbacks=[started],
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    try:
        with credentials_stay():
            grid = watch(
                tuner.fit,
                board,
                stop=end.give_up,
                stage="search",
                work=count,
                unit="trials",
                on_progress=on_progress,
                look=look,
            )
        for error in grid.errors:
            raise root_cause(error) from error
    finally:
        shutil.rmtree(scratch / name, ignore_errors=True)


def _conclude(store: Store, search: SearchSpec) -> SearchResult:
    for index in range(search.trials):
        store.existing_trial(search.id, index)
    trials = store.trials(search.id)
    # The first of equals, so that the settings in the study file win a tie.
    best = max(trials, key=lambda trial: (trial.status == "finished", trial.objective, -trial.index))
    if best.status != "finished" or best.objective <= 0:
        ends = ", ".join(f"{count} {what}" for what, count in Counter(trial.status for trial in trials).items())
        raise ModelError(
            f"search {search.id}: no trial certified a single validation image ({ends}); "
            "lower training.lr, narrow the space, train longer or raise n"
        )
    result = SearchResult(
        id=search.id,
        label=search.label,
        sigma=search.sigma,
        best=best.parameters,
        best_index=best.index,
        objective=best.objective,
        default_objective=trials[0].objective if trials[0].status == "finished" else None,
        trials=len(trials),
    )
    store.save_search_result(result)
    return result

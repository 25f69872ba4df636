"""Answers to Tune while it searches: which trial comes next, and which one is to be stopped.

The searches of a study run side by side in one Tune experiment; each has a sampler and an ASHA of its own. Both are
rebuilt from the trials in the store, so Tune's own snapshots are not needed.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper as ExperimentStopper

from rspipe.records import Trial
from rspipe.search.sampler import contains_own, objective_values, open_study, suggest
from rspipe.search.space import Parameters, own_point
from rspipe.search.spec import LEARNING, MAXIMIZED, SearchSpec
from rspipe.search.trials import WATCHED, stopped_trial, trial_parameters
from rspipe.stages.trials import Work, open_trials
from rspipe.storage.store import Store


class _Source(Protocol):
    """Proposes the trials of one search."""

    def suggest(self, trial_id: str) -> tuple[int, Parameters]:
        """Return index and hyper-parameters of the next trial."""

    def watched(self, trial_id: str, epoch: int, value: float) -> None:
        """Note how a trial does."""

    def ended(self, trial_id: str, trial: Trial | None) -> None:
        """Note how a trial ended."""


class _Fixed:
    """Proposes the trials of a sequence that are not in the store."""

    def __init__(self, search: SearchSpec, trials: Sequence[Trial]) -> None:
        done = {trial.index for trial in trials}
        self._points = iter([pair for pair in enumerate(trial_parameters(search)) if pair[0] not in done])

    def suggest(self, _: str) -> tuple[int, Parameters]:
        return next(self._points)

    def watched(self, *_: object) -> None:
        pass

    def ended(self, *_: object) -> None:
        pass


class _Learning:
    """Proposes trials by Tune's OptunaSearch, which knows those in the store."""

    def __init__(self, search: SearchSpec, trials: Sequence[Trial]) -> None:
        storage = optuna.storages.InMemoryStorage()
        _, sampler = open_study(search, trials, storage=storage)
        self._search, self._outside = search, set[str]()
        # The study file's own settings come first, also where the sampler cannot learn from them.
        self._own_is_open = not contains_own(search) and all(trial.index for trial in trials)
        several = len(search.objectives) > 1
        modes = ["max" if MAXIMIZED[name] else "min" for name in search.objectives]

        def space(trial: Any) -> dict[str, Any]:
            return {"index": sampler.index(trial.number), "parameters": suggest(search, trial)}

        self._optuna = OptunaSearch(
            space,
            metric=list(search.objectives) if several else search.objectives[0],
            mode=modes if several else modes[0],
            sampler=sampler,
            study_name=search.id,
            storage=storage,
        )

    def suggest(self, trial_id: str) -> tuple[int, Parameters]:
        search = self._search
        if self._own_is_open:
            self._own_is_open = False
            self._outside.add(trial_id)
            return 0, own_point(search.space, search.method, search.training)
        proposed = self._optuna.suggest(trial_id)
        return proposed["index"], proposed["parameters"]

    def watched(self, trial_id: str, epoch: int, value: float) -> None:
        if trial_id not in self._outside:
            self._optuna.on_trial_result(trial_id, {self._search.objectives[0]: value, "training_iteration": epoch})

    def ended(self, trial_id: str, trial: Trial | None) -> None:
        if trial_id in self._outside:
            return
        values = None
        if trial is not None and trial.status == "finished":
            values = dict(zip(self._search.objectives, objective_values(self._search, trial), strict=True))
        # Without a result it counts as pruned.
        self._optuna.on_trial_complete(trial_id, values)


class Proposals(Searcher):  # type: ignore[misc]
    """Tune's searcher for all searches of a study."""

    def __init__(
        self,
        store: Store,
        searches: Sequence[SearchSpec],
        *,
        on_end: Callable[[int, str], None],
        room: Callable[[], int],
    ) -> None:
        """Learn what the store holds.

        Args:
            store: Where trials come from and where stopped ones go.
            searches: Those to run, done or not.
            on_end: Called with the piece of work and its name when a trial has ended.
            room: Returns how many trials may run at a time: nodes come and go.
        """
        super().__init__()
        self._store, self._searches, self._on_end = store, searches, on_end
        self._room = room
        known = [store.trials(search.id) for search in searches]
        self._sources: list[_Source] = [
            _Learning(search, trials) if search.algorithm.name in LEARNING else _Fixed(search, trials)
            for search, trials in zip(searches, known, strict=True)
        ]
        self._open = [len(open_trials(store, search)) for search in searches]
        self._running: dict[str, Work] = {}
        self._told: dict[str, set[int]] = {}
        self._pieces: Iterator[int] = iter(range(sum(self._open)))

    def suggest(self, trial_id: str) -> Any:
        """Return the work of a new trial, of the first search of those with the fewest running; None for later."""
        running = Counter(work.which for work in self._running.values())
        waiting = [which for which, count in enumerate(self._open) if count]
        if not waiting:
            return Searcher.FINISHED
        if len(self._running) >= self._room():
            return None
        which = min(waiting, key=lambda one: (running[one], one))
        self._open[which] -= 1
        index, parameters = self._sources[which].suggest(trial_id)
        work = Work(which=which, index=index, piece=next(self._pieces), parameters=parameters)
        self._running[trial_id], self._told[trial_id] = work, set()
        return {"work": work}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note how a trial does while it trains, and keep its record when it has ended."""
        work = self._running.get(trial_id)
        if work is None:
            return
        if result["ended"]:
            self._keep(Trial.from_json(json.loads(result["record"])) if result["record"] else None)
            return
        # A trial whose worker died tells everything again.
        if result["epoch"] in self._told[trial_id]:
            return
        self._told[trial_id].add(result["epoch"])
        self._sources[work.which].watched(trial_id, result["epoch"], result[WATCHED])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how a trial ended; one that has no record and no error was stopped, which is recorded here."""
        work = self._running.get(trial_id)
        if work is None:
            return
        if result is not None:
            self.on_trial_result(trial_id, result)
        del self._running[trial_id]
        search = self._searches[work.which]
        trial = self._store.trial(search.id, work.index)
        if trial is None and result is not None and not error and not result["ended"]:
            trial = self._keep(stopped_trial(search, work.index, work.parameters, result))
        self._sources[work.which].ended(trial_id, trial)
        self._on_end(work.piece, f"{search.id} trial {work.index}")

    def _keep(self, trial: Trial | None) -> Trial | None:
        """Store the record of a trial, once."""
        if trial is not None and self._store.trial(trial.search, trial.index) is None:
            self._store.save_trial(trial)
        return trial

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune's snapshots are thrown away, and all there is to know is in the store."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, as above."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def open_asha(search: SearchSpec, trials: Sequence[Trial]) -> ASHAScheduler | None:
    """Return Tune's ASHA of a search as the trials in the store have left it; None without early stopping."""
    if search.early_stopping is None:
        return None
    asha = ASHAScheduler(
        time_attr="epoch",
        metric=WATCHED,
        mode="max",
        # The last epoch is nothing to stop at: after it comes the objective.
        max_t=search.training.epochs,
        grace_period=search.early_stopping.first_rung(search.training.epochs),
        reduction_factor=search.early_stopping.reduction,
    )
    for trial in trials:
        known = SimpleNamespace(trial_id=f"stored {trial.index}")
        asha.on_trial_add(None, known)
        for epoch, value in trial.watched.items():
            if int(epoch) < search.training.epochs:
                asha.on_trial_result(None, known, {"epoch": int(epoch), WATCHED: value})
    return asha


class Stopper(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler for all searches of a study: trials run in the order of their proposal, stopped by ASHA."""

    def __init__(self, store: Store, searches: Sequence[SearchSpec]) -> None:
        super().__init__()
        self._ashas = [open_asha(search, store.trials(search.id)) for search in searches]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial in its search's ASHA."""
        if asha := self._ashas[trial.config["work"].which]:
            asha.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on; trial 0, which the winner is compared with, always does."""
        work = trial.config["work"]
        asha = self._ashas[work.which]
        if asha is None or result["ended"]:
            return str(TrialScheduler.CONTINUE)
        decision = str(asha.on_trial_result(tune_controller, trial, result))
        return decision if work.index else str(TrialScheduler.CONTINUE)


class Started(Callback):  # type: ignore[misc]
    """Knows whether some trial runs, or all of them wait for workers."""

    some = False

    def on_step_begin(self, iteration: int, trials: Sequence[Any], **_: object) -> None:
        """Look at the trials before a step of Tune's."""
        del iteration
        self.some = any(trial.status == "RUNNING" for trial in trials)


class GivenUp(ExperimentStopper):  # type: ignore[misc]
    """Tells Tune when to end an experiment, and every trial of it."""

    _given_up = False

    def give_up(self) -> None:
        """End the experiment."""
        self._given_up = True

    def __call__(self, *_: object) -> bool:
        """Return whether a trial is to be stopped by its result: that is the scheduler's matter."""
        return False

    def stop_all(self) -> bool:
        """Return whether the experiment is over."""
        return self._given_up

    def __deepcopy__(self, _: object) -> "GivenUp":
        """Return this very one: a copy would not hear of the end."""
        return self

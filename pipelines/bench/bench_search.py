"""Does searching well pay? TPE with ASHA against random search without early stopping, at the same budget in passes.

Both run in this process, without a cluster, with the study's own proposals, stopping rule, training and objective.
The budget counts forward-and-backward passes of training, those of stopped trials among them, but no sampling: every
finished trial is certified alike on the validation split. Nothing here sees a test image.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import tyro

from rspipe.commands.options import Overrides
from rspipe.data.sources import load_dataset
from rspipe.data.splits import Dataset
from rspipe.execution.worker import keep_freed_memory, set_deterministic
from rspipe.records import Trial
from rspipe.search.sampler import contains_own, open_study, suggest, tell
from rspipe.search.space import Parameters, own_point
from rspipe.search.spec import LEARNING, TPE, EarlyStopping, Random, SearchSpec
from rspipe.search.trials import WATCHED, judged_trial, stopped_trial, trial_parameters
from rspipe.smoothing.inference import contrast
from rspipe.smoothing.metrics import mean_interval
from rspipe.stages.tune import open_asha
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.training.fitting import State

DIGITS = Path(__file__).parents[1] / "studies" / "digits.toml"
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the budget, at which the searches are compared."""
_MOST = 10_000


class StoppedError(Exception):
    """ASHA stopped a trial."""


def trials_here(search: SearchSpec, data: Dataset) -> Iterator[Trial]:
    """Yield the trials of a search that runs in this process, one after the other, without end unless it has one."""
    asha = open_asha(search, ())
    if search.algorithm.name not in LEARNING:
        for index, parameters in enumerate(trial_parameters(search)):
            yield _trial(search, index, parameters, data, asha)
        return
    if not contains_own(search):
        yield _trial(search, 0, own_point(search.space, search.method, search.training), data, asha)
    study, sampler = open_study(search, (), storage=optuna.storages.InMemoryStorage())
    while True:
        proposal = study.ask()
        parameters = suggest(search, proposal)
        trial = _trial(search, sampler.index(proposal.number), parameters, data, asha)
        tell(search, study, proposal, trial)
        yield trial


def _trial(search: SearchSpec, index: int, parameters: Parameters, data: Dataset, asha: Any) -> Trial:
    """Return how a trial ends that ASHA may stop, as Tune would."""
    known, states = SimpleNamespace(trial_id=str(index)), list[State]()
    if asha is not None:
        asha.on_trial_add(None, known)

    def on_epoch(state: State) -> None:
        states[:] = [state]
        look = state["history"][-1]
        if asha is None or WATCHED not in look or state["epoch"] == search.training.epochs:
            return
        decision = asha.on_trial_result(None, known, {"epoch": state["epoch"], WATCHED: look[WATCHED]})
        if decision == "STOP" and index:
            raise StoppedError

    try:
        return judged_trial(search, index, parameters, data, on_epoch=on_epoch)
    except StoppedError:
        return stopped_trial(search, index, parameters, states[0])


@dataclass(frozen=True)
class Course:
    """A search that ran, and what it had spent after each trial, in passes."""

    trials: tuple[Trial, ...]
    spent: tuple[int, ...]

    def best(self, budget: float) -> float:
        """Return the best objective of the trials that had finished within a budget."""
        within = zip(self.trials, self.spent, strict=True)
        return max((t.objective for t, cost in within if cost <= budget and t.status == "finished"), default=0.0)


def run_course(search: SearchSpec, data: Dataset, *, budget: float) -> Course:
    """Return the course of a search that begins no trial once the budget is spent."""
    trials, spent = list[Trial](), list[int]()
    for trial in trials_here(search, data):
        trials.append(trial)
        spent.append(trial.passes + (spent[-1] if spent else 0))
        if spent[-1] >= budget:
            break
    return Course(tuple(trials), tuple(spent))


def competitors(study: StudyConfig, *, seed: int, startup: int, stopping: EarlyStopping) -> dict[str, SearchSpec]:
    """Return the two searches of one seed, in the space of the study's first search."""
    base = study.search_specs[0].model_copy(update={"seed": seed, "trials": _MOST})
    learning = {"algorithm": TPE(name="tpe", startup=startup), "early_stopping": stopping}
    return {
        "random": base.model_copy(update={"algorithm": Random(name="random"), "early_stopping": None}),
        "TPE + ASHA": base.model_copy(update=learning),
    }


def comparison(courses: dict[str, list[Course]], *, budget: float) -> list[str]:
    """Return a Markdown table: the best validation ACR by share of the budget, and the paired difference over seeds."""
    names = list(courses)
    head = ["passes spent", *names, "difference"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['--:'] * len(head))} |"]
    for share in SHARES:
        best = {name: [course.best(share * budget) for course in courses[name]] for name in names}
        gained = [b - a for a, b in zip(best[names[0]], best[names[1]], strict=True)]
        # The searches of a seed are the unit here, not images.
        intervals = [*(mean_interval(best[name]) for name in names), contrast(gained, ()).models]
        signs = [*([""] * len(names)), "+"]
        cells = [
            f"{one.estimate:{sign}.4f} ± {(one.high - one.low) / 2:.4f}"
            for one, sign in zip(intervals, signs, strict=True)
        ]
        lines.append(f"| {share * budget:,.0f} | {' | '.join(cells)} |")
    return lines


def main(
    *,
    study: Path = DIGITS,
    override: Overrides = (),
    seeds: int = 5,
    budget: float = 8.0,
    startup: int = 5,
    reduction: int = 3,
    grace: int | None = None,
    out: Path | None = None,
) -> None:
    """Run both searches with several seeds and print the best validation ACR against cost.

    Args:
        study: A study file, whose first search is run.
        override: Changes of the study file, e.g. search.0.n=500.
        seeds: How often; a seed is that of proposals, training and noise.
        budget: Of each search, in trainings with the study file's own settings.
        startup: Trials that TPE draws at random first.
        reduction: Of ASHA.
        grace: Of ASHA, in epochs; a ninth of all by default.
        out: File that gets all trials, as JSON.
    """
    set_deterministic()
    keep_freed_memory()
    config = load_study(study, overrides=override)
    data, stopping = load_dataset(config.data), EarlyStopping(grace=grace, reduction=reduction)
    first = config.search_specs[0]
    steps = first.method.images_per_step(first.training.batch_size)
    images = len(data.train) // steps * steps
    passes = budget * images * first.method.passes_per_image * first.training.epochs
    courses: dict[str, list[Course]] = {}
    for seed in range(seeds):
        for name, search in competitors(config, seed=seed, startup=startup, stopping=stopping).items():
            course = run_course(search, data, budget=passes)
            courses.setdefault(name, []).append(course)
            ends = [trial.status for trial in course.trials]
            stopped = f"{ends.count('stopped')} stopped" if search.early_stopping else "none stopped"
            print(f"seed {seed}, {name}: {len(ends)} trials, {stopped}, best {course.best(passes):.4f}", flush=True)
    print(f"\n{first.label}, σ = {first.sigma:g}, {seeds} seeds; mean ± 95 % (Student) of the best validation ACR\n")
    print("\n".join(comparison(courses, budget=passes)))
    if out is not None:
        content = {name: [[trial.to_json() for trial in course.trials] for course in courses[name]] for name in courses}
        out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""The sampler of a search that learns from its trials: Optuna's, rebuilt from the trials that have ended."""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rspipe.records import Trial
from rspipe.search.domains import Choice, Domain, Value
from rspipe.search.space import Parameters, choose, is_whole, own_point, own_values
from rspipe.search.spec import MAXIMIZED, Objective, SearchSpec


class Suggests(Protocol):
    """The part of Optuna's trial that is used here."""

    @property
    def number(self) -> int:
        """Position among the trials that the sampler knows of."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a value between two others."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return a whole number between two others."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Any:
        """Return one of the choices."""


def objective_values(search: SearchSpec, trial: Trial) -> tuple[float, ...]:
    """Return the objectives of a finished trial, in the order of the search."""
    values: dict[Objective, float] = {"acr": trial.objective, "accuracy": trial.accuracy, "passes": trial.passes}
    return tuple(values[name] for name in search.objectives)


def managed_indices(search: SearchSpec, taken: Iterable[int]) -> Iterator[int]:
    """Yield the index of each trial that the sampler learns from: those taken first, then those that are free.

    The study file's own settings, trial 0, are none of them where they lie outside of the space.
    """
    first = 0 if contains_own(search) else 1
    known = sorted(index for index in taken if index >= first)
    return itertools.chain(known, (index for index in itertools.count(first) if index not in known))


def _distribution(search: SearchSpec, name: str) -> BaseDistribution:
    domain = search.space[name]
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.choices)
    if is_whole(name, search.method, search.training):
        return IntDistribution(round(domain.low), round(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def distributions(search: SearchSpec) -> dict[str, BaseDistribution]:
    """Return Optuna's name for the domain of each hyper-parameter."""
    return {name: _distribution(search, name) for name in search.space}


def contains_own(search: SearchSpec) -> bool:
    """Return whether the study file's own settings lie in the space."""
    own = own_point(search.space, search.method, search.training)
    active = choose(
        search.space, own_values(search.space, search.method, search.training), lambda name: own.get(name, 0)
    )
    return set(own) == set(active) and all(search.space[name].holds(value) for name, value in own.items())


def suggest(search: SearchSpec, trial: Suggests) -> Parameters:
    """Return the hyper-parameters that a trial of Optuna's proposes, inactive ones left out."""

    def value(name: str) -> Value:
        domain: Domain = search.space[name]
        if isinstance(domain, Choice):
            chosen: Value = trial.suggest_categorical(name, domain.choices)
            return chosen
        if is_whole(name, search.method, search.training):
            return trial.suggest_int(name, round(domain.low), round(domain.high), log=domain.log)
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)

    return choose(search.space, own_values(search.space, search.method, search.training), value)


class SeededByTrial(BaseSampler):
    """A sampler whose draws depend on the seed, the trial's index and the trials before: an interrupted search goes on
    as it would have."""

    def __init__(self, search: SearchSpec, indices: Iterator[int]) -> None:
        self._search, self._indices = search, indices
        self._known: list[int] = []
        self._inner: BaseSampler = self._sampler(0)

    def index(self, number: int) -> int:
        """Return the index in the search of Optuna's trial of a number."""
        while len(self._known) <= number:
            self._known.append(next(self._indices))
        return self._known[number]

    def _sampler(self, index: int) -> BaseSampler:
        digest = hashlib.blake2b(f"{self._search.seed}/{index}".encode(), digest_size=4).digest()
        seed, algorithm = int.from_bytes(digest, "little"), self._search.algorithm
        if algorithm.name == "nsga2":
            return NSGAIISampler(population_size=algorithm.population, seed=seed)
        if algorithm.name == "tpe":
            return TPESampler(n_startup_trials=algorithm.startup, multivariate=True, constant_liar=True, seed=seed)
        raise ValueError(f"{algorithm.name} learns nothing from trials; see trial_parameters")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the random stream of a trial."""
        self._inner = self._sampler(self.index(trial.number))
        self._inner.before_trial(study, trial)
        if isinstance(self._inner, NSGAIISampler):
            # Otherwise only of trials that it draws itself: those that are told again would be of no generation.
            self._inner.get_parent_population(study, self._inner.get_trial_generation(study, trial))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the hyper-parameters that are drawn together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw hyper-parameters together."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one hyper-parameter."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on that a trial ended."""
        self._inner.after_trial(study, trial, state, values)


def open_study(
    search: SearchSpec, trials: Iterable[Trial], *, storage: optuna.storages.BaseStorage
) -> tuple[Study, SeededByTrial]:
    """Return Optuna's study of a search, as if it had proposed the trials that have ended, and its sampler.

    Every trial is asked for and told again in the order of its index, so that generations come about as they did.
    """
    # Told of every trial that is put in line, on the terminal.
    optuna.logging.get_logger("optuna").setLevel(logging.WARNING)
    known = {trial.index: trial for trial in trials}
    sampler = SeededByTrial(search, managed_indices(search, known))
    study = optuna.create_study(
        study_name=search.id,
        storage=storage,
        sampler=sampler,
        pruner=optuna.pruners.NopPruner(),
        directions=["maximize" if MAXIMIZED[name] else "minimize" for name in search.objectives],
    )
    for number in itertools.count():
        index = sampler.index(number)
        if index not in known:
            break
        study.enqueue_trial(known[index].parameters)
        replayed = study.ask()
        suggest(search, replayed)
        tell(search, study, replayed, known[index])
    # The next trial is the first that has not ended: 0, if that has not, whichever others have.
    if contains_own(search) and 0 not in known:
        study.enqueue_trial(own_point(search.space, search.method, search.training))
    return study, sampler


def tell(search: SearchSpec, study: Study, proposal: optuna.Trial, trial: Trial) -> None:
    """Tell Optuna how a trial ended: one that did not finish counts as pruned, whatever the reason."""
    if len(search.objectives) == 1:
        for epoch, value in trial.watched.items():
            proposal.report(value, int(epoch))
    if trial.status == "finished":
        study.tell(proposal, objective_values(search, trial))
    else:
        study.tell(proposal, state=TrialState.PRUNED)

"""Sensitivity of a search's trials to its hyper-parameters: which matter, how the ACR responds, what searching cost."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import optuna

from rspipe.arrays import FloatArray
from rspipe.data.spec import DigitsData
from rspipe.records import Trial
from rspipe.search.domains import Choice, Range
from rspipe.search.sampler import distributions, objective_values
from rspipe.search.space import Parameters, is_whole, own_values, value_at
from rspipe.search.spec import MAXIMIZED, SearchSpec

LEAST_TRIALS = 8
"""Finished trials below which nothing is said of hyper-parameters."""

_POINTS = 128

_GRID = 33

_TREES = 64


@dataclass(frozen=True)
class Response:
    """The ACR against one hyper-parameter, averaged over the rest of the space."""

    name: str
    values: FloatArray
    """[value] of the hyper-parameter, ascending."""
    mean: FloatArray
    """[value] by a Gaussian process that is fitted to the trials."""
    low: FloatArray
    high: FloatArray
    """[value] ends of pointwise 95 % intervals, for the averaged function: without the noise of single trials. They
    take the fitted length scales as known, so with few trials they are too narrow (15 trials: nearer to 87 %)."""
    log: bool
    """Whether the search varies it on a log scale."""

    @property
    def best(self) -> float:
        """The value of the largest mean."""
        return float(self.values[self.mean.argmax()])

    @property
    def swing(self) -> float:
        """The largest mean minus the smallest."""
        return float(self.mean.max() - self.mean.min())


def finished(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have an objective, by index."""
    return sorted((trial for trial in trials if trial.status == "finished"), key=lambda trial: trial.index)


def best_so_far(trials: Sequence[Trial]) -> tuple[FloatArray, FloatArray]:
    """Return [trial] the passes spent up to each trial, by index, and the best objective known then.

    Trials that ran side by side count one after the other; stopped and diverged ones cost, too.
    """
    ordered = sorted(trials, key=lambda trial: trial.index)
    spent = np.cumsum([float(trial.passes) for trial in ordered])
    known = [trial.objective if trial.status == "finished" else 0.0 for trial in ordered]
    return spent, np.maximum.accumulate(np.array(known)) if ordered else np.zeros(0)


def front(search: SearchSpec, trials: Sequence[Trial]) -> tuple[int, ...]:
    """Return the indices of the finished trials that no other beats: as good everywhere, and better in an objective."""
    done = finished(trials)
    signs = np.array([1.0 if MAXIMIZED[name] else -1.0 for name in search.objectives])
    values = np.array([objective_values(search, trial) for trial in done]).reshape(len(done), len(signs)) * signs
    beaten = [bool(np.any(np.all(values >= own, axis=1) & np.any(values > own, axis=1))) for own in values]
    return tuple(trial.index for trial, lost in zip(done, beaten, strict=True) if not lost)


def _completed(search: SearchSpec, trial: Trial) -> Parameters:
    """Return all hyper-parameters of a trial: those that were not varied have the study file's values."""
    return {**own_values(search.space, search.method, search.training), **trial.parameters}


def importance(search: SearchSpec, trials: Sequence[Trial], *, seed: int = 0) -> dict[str, float]:
    """Return the share of the variance of the ACR over the space that each hyper-parameter explains alone, by fANOVA.

    Functional ANOVA of a random forest (Hutter et al. 2014), as Optuna computes it, from the finished trials inside the
    space. What is missing to 1 are interactions. Empty where there are too few, or all have one ACR.
    """
    inside = []
    for trial in finished(trials):
        values = _completed(search, trial)
        if all(name in values and domain.holds(values[name]) for name, domain in search.space.items()):
            inside.append((trial.objective, {name: values[name] for name in sorted(search.space)}))
    if len(inside) < LEAST_TRIALS or len({objective for objective, _ in inside}) == 1:
        return {}
    # It would tell the terminal of every study that it makes.
    optuna.logging.get_logger("optuna").setLevel(logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    known = distributions(search)
    study.add_trials(
        optuna.trial.create_trial(value=objective, params=dict(values), distributions=known)
        for objective, values in inside
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
    shares = evaluator.evaluate(study)
    return {name: float(shares[name]) for name in sorted(shares, key=lambda name: -shares[name])}


def _position(search: SearchSpec, name: str, values: FloatArray) -> FloatArray:
    """Return where values lie in their domain: 0 and 1 are its ends, choices are evenly spaced by size."""
    domain = search.space[name]
    if isinstance(domain, Choice):
        choices = sorted(set(domain.choices))
        return np.interp(values, choices, np.linspace(0.0, 1.0, len(choices)) if len(choices) > 1 else [0.5])
    if domain.log:
        return np.asarray(np.log(values / domain.low) / np.log(domain.high / domain.low))
    return (values - domain.low) / (domain.high - domain.low)


def _has_place(search: SearchSpec, trial: Trial) -> bool:
    """Return whether all hyper-parameters of a trial have values that `_position` is finite for."""
    values = _completed(search, trial)
    return all(
        name in values and (values[name] > 0 or not (isinstance(domain, Range) and domain.log))
        for name, domain in search.space.items()
    )


def _fitted(x: FloatArray, y: FloatArray, *, seed: int) -> Callable[[FloatArray], tuple[float, float]]:
    """Return a function of points that gives mean and variance of a fitted process's average over them."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    smooth = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(x.shape[1]), (0.1, 1e2), nu=2.5)
    process = GaussianProcessRegressor(
        smooth + WhiteKernel(0.1, (1e-4, 1.0)), normalize_y=True, n_restarts_optimizer=3, random_state=seed
    )
    with warnings.catch_warnings():
        # A length scale at its upper bound is that of a hyper-parameter without influence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(x, y)
    noise = float(process.kernel_.k2.noise_level) * float(y.std()) ** 2

    def average(points: FloatArray) -> tuple[float, float]:
        mean, covariance = process.predict(points, return_cov=True)
        # The covariance is that of new trials; the function itself has none of their noise.
        return float(mean.mean()), float(covariance.mean()) - noise / len(points)

    return average


def _grid(search: SearchSpec, name: str) -> FloatArray:
    """Return the values at which a response is shown, ascending."""
    domain = search.space[name]
    if isinstance(domain, Choice):
        return np.array(sorted(set(domain.choices)), dtype=np.float64)
    whole = is_whole(name, search.method, search.training)
    values = {float(value_at(domain, position, whole=whole)) for position in np.linspace(0.0, 1.0, _GRID)}
    return np.array(sorted(values))


def responses(search: SearchSpec, trials: Sequence[Trial], *, seed: int = 0) -> tuple[Response, ...]:
    """Return how the ACR responds to each hyper-parameter, by name; nothing where trials are too few or all alike.

    A Gaussian process (Matern 5/2, a length scale per hyper-parameter, noise of the trials estimated) is fitted to the
    finished trials, also outside the space, but not at 0 on a log scale; a response is its average over 128 points that
    fill the rest of the space, with the standard deviation of that average under the process.
    """
    done = [trial for trial in finished(trials) if _has_place(search, trial)]
    y = np.array([trial.objective for trial in done])
    if len(done) < LEAST_TRIALS or np.ptp(y) == 0:
        return ()
    names = sorted(search.space)
    values = np.array([[float(_completed(search, trial)[name]) for name in names] for trial in done])
    x = np.column_stack([_position(search, name, values[:, k]) for k, name in enumerate(names)])
    predict = _fitted(x, y, seed=seed)
    exponent = (_POINTS - 1).bit_length()
    from scipy.stats import qmc

    rest = qmc.Sobol(len(names), rng=np.random.default_rng(seed)).random_base2(exponent)
    curves = []
    for column, name in enumerate(names):
        grid, mean, deviation = _grid(search, name), [], []
        for position in _position(search, name, grid):
            points = rest.copy()
            points[:, column] = position
            average, variance = predict(points)
            mean.append(average)
            deviation.append(np.sqrt(max(variance, 0.0)))
        domain, half = search.space[name], 1.96 * np.array(deviation)
        centre = np.array(mean)
        log = isinstance(domain, Range) and domain.log
        curves.append(Response(name, grid, centre, centre - half, centre + half, log))
    return tuple(curves)


@dataclass(frozen=True)
class Sensitivity:
    """Importance of, and response to, every hyper-parameter; empty where trials are too few."""

    shares: Mapping[str, float]
    """See `importance`."""
    responses: tuple[Response, ...]


def sensitivity(search: SearchSpec, trials: Sequence[Trial]) -> Sensitivity:
    """Return `importance` and `responses` of a search, kept for those who ask again: a report does several times."""
    texts = json.dumps([trial.to_json() for trial in trials], sort_keys=True)
    # Where the images are is not written, and does not matter here.
    return _sensitivity(search.model_copy(update={"data": DigitsData()}).model_dump_json(), texts)


@lru_cache(maxsize=64)
def _sensitivity(search: str, trials: str) -> Sensitivity:
    spec, known = SearchSpec.model_validate_json(search), [Trial.from_json(values) for values in json.loads(trials)]
    return Sensitivity(importance(spec, known), responses(spec, known))

"""A search's points and its objective: both depend on the search's spec alone, never on timing."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from rspipe.arrays import FloatArray, IntArray
from rspipe.data.files import PixelSource, decoded_here
from rspipe.data.splits import Dataset, Split
from rspipe.records import Trial
from rspipe.search.domains import Choice, Domain, Value
from rspipe.search.space import Parameters, applied, choose, grid_points, is_whole, own_point, own_values, value_at
from rspipe.search.spec import SearchSpec
from rspipe.smoothing.certificates import certify_counts
from rspipe.smoothing.certify import class_counts
from rspipe.smoothing.metrics import credited_radius, standard_error
from rspipe.smoothing.noise import Noise, Stream
from rspipe.spec import reason
from rspipe.training.fitting import State, fit
from rspipe.training.spec import ModelSpec
from rspipe.training.validation import evaluate

OnEpoch = Callable[[State], None]


_SELECTION_SAMPLES = 100


def _at(domain: Domain, position: float, *, whole: bool) -> Value:
    """Return the value at a position in [0, 1) of a domain."""
    if isinstance(domain, Choice):
        return domain.choices[int(position * len(domain.choices))]
    if whole and not domain.log:
        return math.floor(domain.low + position * (domain.high - domain.low + 1))
    return value_at(domain, position, whole=whole)


def _at_point(search: SearchSpec, point: FloatArray) -> Parameters:
    """Return the hyper-parameters at a point of the unit cube, whose axes are the names of the space, sorted."""
    space, names = search.space, sorted(search.space)
    position = dict(zip(names, point, strict=True))

    def value(name: str) -> Value:
        whole = is_whole(name, search.method, search.training)
        return _at(space[name], float(position[name]), whole=whole)

    return choose(space, own_values(space, search.method, search.training), value)


def trial_parameters(search: SearchSpec) -> tuple[Parameters, ...]:
    """Return the hyper-parameters of each trial of a search whose trials do not depend on each other.

    The method's own come first. A fixed sequence, unlike one that adapts to what finished first, gives the same winner
    after any interruption and for any number of trials side by side; a longer one begins with a shorter one.
    """
    from scipy.stats import qmc

    size, count = len(search.space), search.trials - 1
    own = own_point(search.space, search.method, search.training)
    if search.algorithm.name == "grid":
        points = grid_points(search.space, search.algorithm.levels, search.method, search.training)
        return (own, *points)[: search.trials]
    if search.algorithm.name == "random":
        draws = [np.random.default_rng([search.seed, index]).random(size) for index in range(1, search.trials)]
        return (own, *(_at_point(search, draw) for draw in draws))
    if search.algorithm.name != "sobol":
        raise ValueError(f"the trials of {search.algorithm.name} depend on those before; open_study proposes them")
    exponent = max(1, math.ceil(math.log2(max(2, search.trials))))
    sequence = qmc.Sobol(size, rng=np.random.default_rng(search.seed)).random_base2(exponent)
    return (own, *(_at_point(search, point) for point in sequence[:count]))


def trial_spec(search: SearchSpec, parameters: Parameters) -> ModelSpec:
    """Return the model that a trial trains: of a label of its own.

    No model of the winner draws what the trials drew, by which the winner was chosen.

    Raises:
        ValidationError: The hyper-parameters do not fit together.
    """
    method, training = applied(parameters, search.method, search.training)
    return ModelSpec(
        label=f"{search.label}_trial",
        data=search.data,
        architecture=search.architecture,
        method=method,
        training=training.model_copy(update={"common_seeds": False}),
        train_sigma=search.sigma,
        seed=search.seed,
    )


def validation_credit(network: nn.Module, split: Split, search: SearchSpec) -> FloatArray:
    """Return [image] the radius that CERTIFY gives, 0 where it is wrong or abstains, from streams of the search's own.

    All trials of a search see the same noise.
    """
    selections, estimations = list[IntArray](), list[IntArray]()
    for position, example in enumerate(split.index.tolist()):
        # One by one: the images of a split may be files.
        (image,) = split.batch(torch.tensor([position]))
        count = partial(class_counts, network, image, Noise(search.seed, example), sigma=search.sigma)
        selections.append(count(Stream.SEARCH_SELECTION, n=_SELECTION_SAMPLES, apart=bool(selections)))
        estimations.append(count(Stream.SEARCH_ESTIMATION, n=search.n, apart=True))
    result = certify_counts(np.stack(selections), np.stack(estimations), sigma=search.sigma, alpha=search.alpha)
    return credited_radius(result.radius, result.prediction == split.labels.cpu().numpy())


WATCHED = "validation_acr"
"""The estimate that trials are compared by while they train (`rspipe.training.validation.validation_metrics`)."""


def _watched(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the looks at a training by epoch."""
    return {str(int(entry["epoch"])): entry[WATCHED] for entry in history if WATCHED in entry}


def judged_trial(
    search: SearchSpec,
    index: int,
    parameters: Parameters,
    data: Dataset,
    *,
    state: State | None = None,
    on_epoch: OnEpoch | None = None,
    on_survey: OnEpoch | None = None,
    pixels: PixelSource = decoded_here,
) -> Trial:
    """Return how a trial does: trained as the study trains, and certified on the validation split.

    Args:
        search: The search.
        index: Position in the search.
        parameters: Of the trial; those that do not fit together make it invalid.
        data: Its train and validation splits are used, and no other.
        state: Where training goes on, as last passed to `on_epoch` or `on_survey`; from the start when None.
        on_epoch: Called after each epoch, as by `fit`.
        on_survey: Called before epochs with surveys, as by `fit`.
        pixels: Decodes the images of data sets that are files, as for `fit`.
    """
    try:
        spec = trial_spec(search, parameters)
    except ValidationError as error:
        return Trial(
            search=search.id,
            index=index,
            parameters=parameters,
            objective=0.0,
            noisy_accuracy=0.0,
            status="invalid",
            message=reason(error),
            seconds=0.0,
            passes=0,
            error=None,
            accuracy=0.0,
            epochs=0,
            watched={},
        )
    result = fit(spec, data, state=state, on_epoch=on_epoch, on_survey=on_survey, pixels=pixels)
    credit = np.zeros(len(data.validation))
    if result.status == "finished":
        credit = validation_credit(result.network, data.validation, search)
    held_out = evaluate(result.network, data.validation, sigma=search.sigma, seed=search.seed)
    return Trial(
        search=search.id,
        index=index,
        parameters=parameters,
        objective=float(credit.mean()),
        noisy_accuracy=held_out.noisy_accuracy,
        status=result.status,
        message=result.message,
        seconds=result.seconds,
        passes=result.passes,
        error=standard_error(credit) if result.status == "finished" else None,
        accuracy=float(np.mean(credit > 0)),
        epochs=len(result.history),
        watched=_watched(result.history),
    )


def stopped_trial(search: SearchSpec, index: int, parameters: Parameters, state: State) -> Trial:
    """Return the record of a trial that early stopping ended after the epoch of a training state."""
    history = state["history"]
    return Trial(
        search=search.id,
        index=index,
        parameters=parameters,
        objective=0.0,
        noisy_accuracy=history[-1]["validation_noisy_accuracy"],
        status="stopped",
        message=f"behind others after epoch {state['epoch']}",
        seconds=state["seconds"],
        passes=state["passes"],
        error=None,
        accuracy=0.0,
        epochs=state["epoch"],
        watched=_watched(history),
    )


def search_warnings(search: str, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield a line on the trials that diverged, and one on those that collapsed, each with the first of them."""
    for status in ("diverged", "collapsed"):
        lost = [trial for trial in trials if trial.status == status]
        if lost:
            values = ", ".join(f"{name} = {value:.4g}" for name, value in sorted(lost[0].parameters.items()))
            first = f"trial {lost[0].index} ({values}): {lost[0].message}"
            yield f"{search}: {len(lost)} of {len(trials)} trials {status}, the first of them {first}"

"""A search's points and its objective: both depend on the search's spec alone, never on timing."""

import math
from functools import partial

import numpy as np
from torch import nn

from rspipe.certificates import certify_counts
from rspipe.datasets import Split
from rspipe.metrics import average_certified_radius
from rspipe.smoothing import Stream, class_counts
from rspipe.study import Choice, ModelSpec, Range, SearchSpec

_SELECTION_SAMPLES = 100
_BLOCK = 1000


def _at(domain: Range | Choice, position: float, *, whole: bool) -> float | int:
    """Return the value at a position in [0, 1) of a domain."""
    if isinstance(domain, Choice):
        return domain.choices[int(position * len(domain.choices))]
    if whole and not domain.log:
        return math.floor(domain.low + position * (domain.high - domain.low + 1))
    if domain.log:
        value = domain.low * (domain.high / domain.low) ** position
    else:
        value = domain.low + position * (domain.high - domain.low)
    # Four digits read well in a study file but may lie just outside a narrow range.
    return round(value) if whole else min(max(float(f"{value:.4g}"), domain.low), domain.high)


def trial_parameters(search: SearchSpec) -> tuple[dict[str, float | int], ...]:
    """Return the hyper-parameters of each trial: the method's own first, then a scrambled Sobol sequence.

    A fixed sequence, unlike one that adapts to what finished first, gives the same winner after any interruption and
    for any number of trials side by side.
    """
    from scipy.stats import qmc

    names = sorted(search.space)
    own = {name: getattr(search.method, name) for name in names}
    whole = {name: isinstance(value, int) for name, value in own.items()}
    exponent = max(1, math.ceil(math.log2(max(2, search.trials))))
    points = qmc.Sobol(len(names), rng=np.random.default_rng(search.seed)).random_base2(exponent)
    drawn = [
        {name: _at(search.space[name], float(u), whole=whole[name]) for name, u in zip(names, point, strict=True)}
        for point in points[: search.trials - 1]
    ]
    return (own, *drawn)


def trial_spec(search: SearchSpec, parameters: dict[str, float | int]) -> ModelSpec:
    """Return the model that a trial trains."""
    return ModelSpec(
        label=search.label,
        data=search.data,
        architecture=search.architecture,
        method=type(search.method).model_validate({**search.method.model_dump(), **parameters}),
        training=search.training,
        train_sigma=search.sigma,
        seed=search.seed,
    )


def validation_acr(network: nn.Module, split: Split, search: SearchSpec) -> float:
    """Return the ACR that CERTIFY gives on the images of a split, from noise streams of the search's own.

    All trials of a search see the same noise.
    """
    selections, estimations = [], []
    for image, example in zip(split.images, split.index.tolist(), strict=True):
        count = partial(class_counts, network, image, sigma=search.sigma, seed=search.seed, example=example)
        selections.append(count(n=_SELECTION_SAMPLES, stream=Stream.SEARCH_SELECTION, block_size=_BLOCK))
        estimations.append(count(n=search.n, stream=Stream.SEARCH_ESTIMATION, block_size=_BLOCK))
    result = certify_counts(np.stack(selections), np.stack(estimations), sigma=search.sigma, alpha=search.alpha)
    return average_certified_radius(result.radius, result.prediction == split.labels.cpu().numpy())

"""Weights of the ensembles: one Ray Data pass over the calibration split per noise level, then convex programs."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rspipe.datasets import Split, load_dataset
from rspipe.ensembles import COMBINATIONS
from rspipe.errors import SolverError
from rspipe.moments import MarginPairs, all_pairs, runner_up_pairs
from rspipe.records import EnsembleWeights
from rspipe.spec import content_id
from rspipe.stages.progress import OnProgress, Progress
from rspipe.stages.runtime import Cluster
from rspipe.stages.sampling import MomentPass, Visit, Work, visit
from rspipe.stages.store import Store
from rspipe.study import EnsembleSpec, StudyConfig
from rspipe.weights import Method, WeightSolution, solve_weights

FloatArray = NDArray[np.float64]

logger = logging.getLogger(__name__)


def _moments_id(store: Store, moments: MomentPass) -> str:
    members = [(member, store.existing_model(member).checksum) for member in moments.members]
    content = [members, moments.average, moments.weigh.model_dump(mode="json"), moments.precision]
    return f"{moments.average}-s{moments.sigma:g}-{content_id(content)}"


def _needed(store: Store, study: StudyConfig, ensembles: Sequence[EnsembleSpec]) -> list[MomentPass]:
    """Return the passes that the ensembles without weights need: all members of a noise level at once."""
    groups: dict[tuple[float, str], list[EnsembleSpec]] = {}
    for ensemble in ensembles:
        groups.setdefault((ensemble.sigma, ensemble.average), []).append(ensemble)
    return [
        MomentPass(
            sigma=sigma,
            members=tuple(sorted({member for ensemble in group for member in ensemble.members})),
            average=average,
            weigh=group[0].weigh,
            precision=study.certify.precision,
        )
        for (sigma, average), group in sorted(groups.items())
        if any(store.ensemble_weights(ensemble.id) is None for ensemble in group)
    ]


def weigh_ensembles(
    store: Store,
    study: StudyConfig,
    ensembles: Sequence[EnsembleSpec],
    *,
    cluster: Cluster,
    on_progress: OnProgress,
) -> tuple[EnsembleWeights, ...]:
    """Solve the weights of every ensemble that has none; return the records of all, in order.

    The weights see the calibration split and the noise stream of the weights only.
    """
    passes = _needed(store, study, ensembles)
    data = load_dataset(study.data)
    split = data.calibration.evenly_spaced(study.weigh.images)
    _estimate(store, passes, split, classes=data.classes, cluster=cluster, on_progress=on_progress)
    for moments in passes:
        arrays = store.moments(_moments_id(store, moments))
        assert arrays is not None
        for ensemble in ensembles:
            if (ensemble.sigma, ensemble.average) != (moments.sigma, moments.average):
                continue
            if store.ensemble_weights(ensemble.id) is None:
                columns = [moments.members.index(member) for member in ensemble.members]
                mean = arrays["mean"][..., columns]
                covariance = arrays["covariance"][..., columns, :][..., columns]
                store.save_ensemble_weights(
                    _record(store, ensemble, solve_ensemble(ensemble, mean, covariance), images=len(split))
                )
    records = [store.ensemble_weights(ensemble.id) for ensemble in ensembles]
    return tuple(record for record in records if record is not None)


def _estimate(
    store: Store,
    passes: Sequence[MomentPass],
    split: Split,
    *,
    classes: int,
    cluster: Cluster,
    on_progress: OnProgress,
) -> None:
    """Run the passes whose moments are not in the store, all in one stream."""
    todo = [moments for moments in passes if store.moments(_moments_id(store, moments)) is None]
    found: list[dict[int, Visit]] = [{} for _ in todo]
    total = len(split) * len(todo)
    on_progress(Progress("weigh", 0, total, "images"))

    def on_block(visits: list[Visit]) -> None:
        for one in visits:
            found[one.work][one.example] = one
            if len(found[one.work]) == len(split):
                ordered = [found[one.work][example] for example in split.index.tolist()]
                store.save_moments(
                    _moments_id(store, todo[one.work]),
                    {
                        "example": split.index.numpy(),
                        "label": split.labels.numpy(),
                        "mean": np.stack([row.arrays["mean"] for row in ordered]),
                        "covariance": np.stack([row.arrays["covariance"] for row in ordered]),
                    },
                )
        on_progress(Progress("weigh", sum(map(len, found)), total, "images"))

    visit(store, [Work(moments, split) for moments in todo], classes=classes, cluster=cluster, on_block=on_block)


def solve_ensemble(ensemble: EnsembleSpec, mean: FloatArray, covariance: FloatArray) -> WeightSolution:
    """Return an ensemble's weights from its members' moments, mean [image, class - 1, k].

    `esbrs_paper` sums over all competitors, as the paper's objective does; the ratio pools each image's strongest
    competitor. Where the moments allow no solution the weights are uniform, and the status says why.
    """
    pairs: MarginPairs = (all_pairs if ensemble.weights == "esbrs_paper" else runner_up_pairs)(mean, covariance)
    k = len(ensemble.members)
    if ensemble.weights in COMBINATIONS:
        return WeightSolution(np.full(k, 1 / k), float("nan"), float("nan"), "no weights", "none", 0.0)
    try:
        if len(pairs.mean) == 0:
            raise ValueError("the uniform ensemble gets no calibration image right")
        method: Method = ensemble.weights  # type: ignore[assignment]
        return solve_weights(pairs.mean, pairs.covariance, method=method)
    except (ValueError, SolverError) as error:
        logger.warning("ensemble %s falls back to uniform weights: %s", ensemble.id, error)
        return WeightSolution(np.full(k, 1 / k), float("nan"), float("nan"), f"uniform, since {error}", "none", 0.0)


def _record(store: Store, ensemble: EnsembleSpec, solution: WeightSolution, *, images: int) -> EnsembleWeights:
    return EnsembleWeights(
        id=ensemble.id,
        label=ensemble.label,
        sigma=ensemble.sigma,
        members=ensemble.members,
        method=ensemble.weights,
        average=ensemble.average,
        weights=tuple(float(weight) for weight in solution.weights),
        objective=solution.objective,
        uniform_objective=solution.uniform_objective,
        status=solution.status,
        solver=solution.solver,
        gap=solution.gap,
        images=images,
        draws=ensemble.weigh.draws,
        checksums=tuple(store.existing_model(member).checksum for member in ensemble.members),
        first=ensemble.first,
    )

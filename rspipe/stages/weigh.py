"""Weights of the ensembles: one Ray Data pass over the calibration split per noise level, then convex programs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from rspipe.data.sources import load_dataset
from rspipe.data.splits import Split
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.choice import choose_weights
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.spec import EnsembleSpec
from rspipe.ensembles.weights import WeightSolution
from rspipe.errors import SolverError
from rspipe.execution.board import OnProgress, Progress
from rspipe.execution.resources import Cluster
from rspipe.records import EnsembleWeights
from rspipe.smoothing.certificates import radius_cap
from rspipe.spec import content_id
from rspipe.stages.passes import MARGIN_ARRAYS, MomentPass, Visit, Work, array_name, visit
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig

logger = logging.getLogger(__name__)


def _moments_id(store: Store, moments: MomentPass, average: str) -> str:
    members = [(member, store.existing_model(member).checksum) for member in moments.members]
    content = [members, average, moments.weigh.model_dump(mode="json"), moments.precision]
    return f"{average}-s{moments.sigma:g}-{content_id(content)}"


def _passes(study: StudyConfig, ensembles: Sequence[EnsembleSpec]) -> dict[MomentPass, list[EnsembleSpec]]:
    """Return the pass of every noise level, over all members and all that ensembles average, with the ensembles."""
    groups: dict[float, list[EnsembleSpec]] = {}
    for ensemble in ensembles:
        groups.setdefault(ensemble.sigma, []).append(ensemble)
    return {
        MomentPass(
            sigma=sigma,
            members=tuple(sorted({member for ensemble in group for member in ensemble.members})),
            averages=tuple(sorted({ensemble.average for ensemble in group})),
            weigh=group[0].weigh,
            precision=study.certify.precision,
        ): group
        for sigma, group in sorted(groups.items())
    }


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
    passes = {
        moments: lacking
        for moments, group in _passes(study, ensembles).items()
        if (lacking := [ensemble for ensemble in group if store.ensemble_weights(ensemble.id) is None])
    }
    data = load_dataset(study.data)
    split = data.calibration.evenly_spaced(study.weigh.images)
    _estimate(store, list(passes), split, classes=data.classes, cluster=cluster, on_progress=on_progress)
    for moments, lacking in passes.items():
        found = {margins.average: margins for margins in _margins(store, study, moments)}
        for ensemble in lacking:
            solution = solve_ensemble(ensemble, found[ensemble.average].of(ensemble.members))
            store.save_ensemble_weights(_record(store, ensemble, solution, images=len(split)))
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
    todo = [
        replace(moments, averages=lacking)
        for moments in passes
        if (lacking := tuple(a for a in moments.averages if store.moments(_moments_id(store, moments, a)) is None))
    ]
    found: list[dict[int, Visit | None]] = [{} for _ in todo]
    total = len(split) * len(todo)
    on_progress(Progress("weigh", 0, total, "images"))

    def on_block(visits: list[Visit]) -> None:
        for one in visits:
            found[one.work][one.example] = one
            if len(found[one.work]) == len(split):
                ordered = [row for example in split.index.tolist() if (row := found[one.work][example]) is not None]
                _save(store, todo[one.work], split, ordered)
                # A hundred members have a megabyte per image.
                found[one.work] = dict.fromkeys(found[one.work])
        on_progress(Progress("weigh", sum(map(len, found)), total, "images"))

    visit(store, [Work(moments, split) for moments in todo], classes=classes, cluster=cluster, on_block=on_block)


def _save(store: Store, moments: MomentPass, split: Split, visits: Sequence[Visit]) -> None:
    """Store what a pass found at the images of a split, in their order."""
    for average in moments.averages:
        arrays = {name: np.stack([one.arrays[array_name(average, name)] for one in visits]) for name in MARGIN_ARRAYS}
        images = {"example": split.index.numpy(), "label": split.labels.numpy()}
        store.save_moments(_moments_id(store, moments, average), {**images, **arrays})


def _margins(store: Store, study: StudyConfig, moments: MomentPass) -> Iterator[MemberMargins]:
    """Yield what a pass found, by what is averaged, as far as it has run."""
    for average in moments.averages:
        arrays = store.moments(_moments_id(store, moments, average))
        if arrays is None:
            continue
        calibration = Calibration(
            mean=arrays["mean"],
            covariance=arrays["covariance"],
            draws=moments.weigh.draws,
            cap=radius_cap(sigma=1.0, n=study.certify.n, alpha=study.certify.alpha),
            label_probability=arrays["label_probability"],
            margins=arrays["margins"],
        )
        yield MemberMargins(moments.sigma, average, moments.members, calibration)


def member_margins(store: Store, study: StudyConfig, ensembles: Sequence[EnsembleSpec]) -> tuple[MemberMargins, ...]:
    """Return what the finished passes found of the members of ensembles."""
    return tuple(margins for moments in _passes(study, ensembles) for margins in _margins(store, study, moments))


def solve_ensemble(ensemble: EnsembleSpec, found: Calibration) -> WeightSolution:
    """Return an ensemble's weights from what is known of its members.

    Where the moments allow no solution the weights are uniform, and the status says why.
    """
    try:
        return choose_weights(ensemble.weights, found)
    except (ValueError, SolverError) as error:
        logger.warning("ensemble %s falls back to uniform weights: %s", ensemble.id, error)
        k = len(ensemble.members)
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
        consensus_size=ensemble.consensus_size,
    )

"""Weights of the ensembles: one Ray Data pass over the calibration split per noise level, then convex programs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from rspipe.data.sources import load_dataset
from rspipe.data.splits import Split
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.choice import choose_weights
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.spec import EnsembleSpec
from rspipe.ensembles.weights import WeightSolution
from rspipe.errors import BrokenModelError, SolverError
from rspipe.execution.board import OnProgress, Progress, after
from rspipe.execution.resources import Cluster
from rspipe.records import EnsembleWeights
from rspipe.smoothing.certificates import radius_cap
from rspipe.spec import content_id
from rspipe.stages.passes import MomentPass, Work, images_unit, set_failed_aside, visit, visited
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.training.spec import AnyModelSpec

logger = logging.getLogger(__name__)


def _moments_id(store: Store, moments: MomentPass, average: str) -> str:
    members = [(member, store.existing_model(member).checksum) for member in moments.members]
    content = [members, average, moments.weigh.model_dump(mode="json"), moments.precision]
    return f"{average}-s{moments.sigma:g}-{content_id(content)}"


def _passes(
    study: StudyConfig, ensembles: Sequence[EnsembleSpec], alone: Sequence[AnyModelSpec] = ()
) -> dict[MomentPass, list[EnsembleSpec]]:
    """Return the pass of every noise level, over all members and all that ensembles average, with the ensembles.

    Models that cascades choose from `alone` are members of it, too.
    """
    groups: dict[float, list[EnsembleSpec]] = {model.train_sigma: [] for model in alone}
    for ensemble in ensembles:
        groups.setdefault(ensemble.sigma, []).append(ensemble)
    return {
        MomentPass(
            sigma=sigma,
            members=tuple(
                sorted(
                    {member for ensemble in group for member in ensemble.members}
                    | {model.id for model in alone if model.train_sigma == sigma}
                )
            ),
            averages=tuple(sorted({ensemble.average for ensemble in group})) or ("probabilities",),
            weigh=study.weigh,
            precision=study.certify.precision,
        ): group
        for sigma, group in sorted(groups.items())
    }


def weigh_ensembles(
    store: Store,
    study: StudyConfig,
    ensembles: Sequence[EnsembleSpec],
    *,
    alone: Sequence[AnyModelSpec] = (),
    cluster: Cluster,
    on_progress: OnProgress,
) -> tuple[EnsembleWeights, ...]:
    """Solve the weights of every ensemble that has none; return the records of all, in order.

    The weights see the calibration split and the noise stream of the weights only. So do the votes of models that
    cascades choose from, `alone`. Moments that were lost are estimated again. A model that returns no class scores at
    some image is left out, with its ensembles and a warning.
    """
    levels = _passes(study, ensembles, alone)
    if not levels:
        return ()
    passes = {
        moments: lacking
        for moments, group in levels.items()
        if (lacking := [ensemble for ensemble in group if store.ensemble_weights(ensemble.id) is None])
        or _lacking(store, moments)
    }
    data = load_dataset(study.data)
    split = data.calibration.evenly_spaced(study.weigh.images)
    todo = [replace(moments, averages=averages) for moments in passes if (averages := _lacking(store, moments))]
    progress = after(len(split) * (len(levels) - len(todo)), on_progress)
    try:
        _estimate(store, todo, split, len(levels), classes=data.classes, cluster=cluster, on_progress=progress)
    except BrokenModelError as error:
        left_out = set_failed_aside(store, error).id
        others = [ensemble for ensemble in ensembles if left_out not in ensemble.members]
        rest = [model for model in alone if model.id != left_out]
        return weigh_ensembles(store, study, others, alone=rest, cluster=cluster, on_progress=on_progress)
    for moments, lacking in passes.items():
        by_average = {margins.average: margins for margins in _margins(store, study, moments)}
        for ensemble in lacking:
            solution = solve_ensemble(ensemble, by_average[ensemble.average].of(ensemble.members))
            store.save_ensemble_weights(_record(store, ensemble, solution, images=len(split)))
    records = [store.ensemble_weights(ensemble.id) for ensemble in ensembles]
    return tuple(record for record in records if record is not None)


def _lacking(store: Store, moments: MomentPass) -> tuple[str, ...]:
    """Return the averages of a pass whose moments are not in the store."""
    return tuple(one for one in moments.averages if not store.has_moments(_moments_id(store, moments, one)))


def _estimate(
    store: Store,
    passes: Sequence[MomentPass],
    split: Split,
    levels: int,
    *,
    classes: int,
    cluster: Cluster,
    on_progress: OnProgress,
) -> None:
    """Run passes over a split, all in one stream, and store their moments; a whole study has `levels` of them."""
    # The row of each image, by example and average.
    rows: list[dict[tuple[int, str], pa.Table]] = [{} for _ in passes]
    done, total, unit = 0, len(split) * len(passes), images_unit(levels)
    on_progress(Progress("weigh", 0, total, unit))

    def on_block(block: pa.Table) -> None:
        nonlocal done
        places = zip(*(block[name].to_pylist() for name in ("work", "example", "average")), strict=True)
        for at, (work, example, average) in enumerate(places):
            rows[work][example, average] = block.slice(at, 1)
        done += len(visited(block))
        for moments, of_work in zip(passes, rows, strict=True):
            if len(of_work) == len(split) * len(moments.averages):
                _save(store, moments, split, of_work)
                # A hundred members have a megabyte per image.
                of_work.clear()
        on_progress(Progress("weigh", done, total, unit))

    visit(store, [Work(moments, split) for moments in passes], classes=classes, cluster=cluster, on_block=on_block)


def _save(store: Store, moments: MomentPass, split: Split, rows: dict[tuple[int, str], pa.Table]) -> None:
    """Store the arrays of a pass over the images of a split, in their order."""
    k = len(moments.members)
    shapes = {
        "mean": (-1, k),
        "covariance": (-1, k, k),
        "label_probability": (moments.weigh.draws, k),
        "margins": (moments.weigh.draws, -1, k),
    }
    images = {"example": split.index.numpy(), "label": split.labels.numpy()}
    for average in moments.averages:
        ordered = [rows[example, average] for example in split.index.tolist()]
        arrays = {
            name: np.stack([row[name][0].values.to_numpy().reshape(shape) for row in ordered])
            for name, shape in shapes.items()
        }
        store.save_moments(_moments_id(store, moments, average), {**images, **arrays})


def _margins(store: Store, study: StudyConfig, moments: MomentPass) -> Iterator[MemberMargins]:
    """Yield the members' margins by what is averaged, as far as the pass has run."""
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


def member_margins(
    store: Store, study: StudyConfig, ensembles: Sequence[EnsembleSpec], alone: Sequence[AnyModelSpec] = ()
) -> tuple[MemberMargins, ...]:
    """Return the margins of models that the finished passes have estimated, see `weigh_ensembles`."""
    return tuple(margins for moments in _passes(study, ensembles, alone) for margins in _margins(store, study, moments))


def solve_ensemble(ensemble: EnsembleSpec, calibration: Calibration) -> WeightSolution:
    """Return an ensemble's weights from what is known of its members.

    Where the moments allow no solution the weights are uniform, and the status says why.
    """
    try:
        return choose_weights(ensemble.weights, calibration)
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
        pairs=solution.pairs,
        effective_pairs=solution.effective_pairs,
        spread=() if solution.spread is None else tuple(float(one) for one in solution.spread),
        images=images,
        draws=ensemble.weigh.draws,
        checksums=tuple(store.existing_model(member).checksum for member in ensemble.members),
        consensus_size=ensemble.consensus_size,
    )

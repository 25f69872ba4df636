"""The levels of cascades that are to be chosen: from the votes of the passes over the calibration images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from rspipe.arrays import IntArray
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.levels import CRITERIA, expected_credits
from rspipe.records import CascadeChoice, EnsembleWeights
from rspipe.report.summaries import entry_name
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.stages.report import cascade_choices, finished_candidates, finished_ensembles, known_models
from rspipe.stages.weigh import member_margins
from rspipe.storage.store import Store
from rspipe.study.cascade_groups import CascadeGroup, Levels, seeded_levels
from rspipe.study.config import StudyConfig
from rspipe.training.spec import AnyModelSpec


def choose_cascades(store: Store, study: StudyConfig) -> tuple[CascadeChoice, ...]:
    """Choose the levels of every cascade that asks for it and has none yet; return the records of all.

    They see the calibration split and the noise stream of the weights only. Nothing is chosen before all models are
    trained, so that it does not depend on how far a study has come. A cascade of which no candidate has all its levels
    has no record.
    """
    groups = {group.name(study.sigmas): group for group in study.cascades if group.choose is not None}
    chosen = cascade_choices(store, study)
    lacking = {name: group for name, group in groups.items() if name not in chosen}
    if lacking and _all_trained(store, study):
        models, specs = finished_candidates(store, study), finished_ensembles(store, study)
        wanted = {entry for group in lacking.values() for entry in group.classifiers}
        known = (store.ensemble_weights(spec.id) for spec in specs)
        weights = [record for record in known if record is not None and entry_name(record) in wanted]
        margins = member_margins(store, study, specs, models)
        members = sorted({model.id for model in models}.union(*(one.members for one in weights)))
        # Before the passes have run there is nothing to choose by.
        if members and {one.sigma for one in margins} >= {one.train_sigma for one in models}:
            voted = _voted(models, weights, margins)
            for name, group in lacking.items():
                if values := _values(group, study.sigmas, voted):
                    store.save_cascade_choice(_record(store, name, values, voted, members))
    return tuple(cascade_choices(store, study).values())


def _all_trained(store: Store, study: StudyConfig) -> bool:
    searched = (store.search_result(search.id, trials=search.trials) for search in study.search_specs)
    trained = (store.trained_model(model.id) for model in known_models(store, study))
    return None not in (*searched, *trained)


@dataclass
class _Voted:
    """What candidates return on the calibration images."""

    ids: dict[tuple[float, str], dict[int | None, str]] = field(default_factory=dict)
    """By sigma and entry, and by seed or, of an ensemble, None."""
    votes: dict[str, IntArray] = field(default_factory=dict)
    """Draws [image, class] that return each class, by id."""
    cap: float = 0.0
    draws: int = 0


def _voted(
    models: Sequence[AnyModelSpec], ensembles: Sequence[EnsembleWeights], margins: Sequence[MemberMargins]
) -> _Voted:
    # A model returns the same class by its probabilities and by its logits.
    of_models = {one.sigma: one for one in reversed(margins)}
    of_ensembles = {(one.sigma, one.average): one for one in margins}
    voted = _Voted(cap=margins[0].calibration.cap, draws=margins[0].calibration.draws)
    for model in models:
        voted.ids.setdefault((model.train_sigma, model.label), {})[model.seed] = model.id
        voted.votes[model.id] = of_models[model.train_sigma].of([model.id]).votes(np.ones(1))
    for one in ensembles:
        # Of several choices of seeds the first, as in tables.
        place = voted.ids.setdefault((one.sigma, entry_name(one)), {})
        if one.method not in COMBINATIONS and not place:
            place[None] = one.id
            counted = of_ensembles[one.sigma, one.average].of(one.members)
            voted.votes[one.id] = counted.votes(np.asarray(one.weights))
    return voted


def _values(group: CascadeGroup, sigmas: tuple[float, ...], voted: _Voted) -> dict[Levels, float]:
    """Return the value of each candidate that has all its levels, averaged over seeds."""
    assert group.choose is not None
    criterion, values = CRITERIA[group.choose], dict[Levels, float]()
    for levels in group.candidates(sigmas):
        of_seeds = [
            criterion(
                expected_credits(
                    [(sigma, voted.votes[id_]) for (sigma, _), id_ in zip(levels, ids, strict=True)],
                    cap=voted.cap,
                    two_sided=group.two_sided,
                )
            )
            for _, ids in seeded_levels([voted.ids.get(level, {}) for level in levels])
        ]
        if of_seeds:
            values[levels] = fmean(of_seeds)
    return values


def _record(
    store: Store, name: str, values: Mapping[Levels, float], voted: _Voted, members: Sequence[str]
) -> CascadeChoice:
    """Return the record of the best candidate; of several with the same value the first."""
    levels = max(values, key=lambda one: values[one])
    others = [value for one, value in values.items() if one != levels]
    return CascadeChoice(
        name=name,
        sigmas=tuple(sigma for sigma, _ in levels),
        entries=tuple(entry for _, entry in levels),
        value=values[levels],
        next_value=max(others, default=float("nan")),
        candidates=len(values),
        images=len(next(iter(voted.votes.values()))),
        draws=voted.draws,
        members=tuple(members),
        checksums=tuple(store.existing_model(member).checksum for member in members),
    )

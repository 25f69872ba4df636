"""Certification: every base model and every ensemble of a noise level, from one pass of shared noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rspipe.certificates import certify_counts
from rspipe.datasets import Split, load_dataset
from rspipe.ensembles import Classifier
from rspipe.records import EnsembleWeights, TrainedModel
from rspipe.spec import content_id
from rspipe.stages.progress import OnProgress, Progress
from rspipe.stages.runtime import Cluster
from rspipe.stages.sampling import CountPass, Visit, Work, visit
from rspipe.stages.store import Store
from rspipe.study import StudyConfig


@dataclass(frozen=True)
class _Candidate:
    """A classifier to certify, its members by id."""

    id: str
    kind: str
    sigma: float
    members: tuple[str, ...]
    weights: tuple[float, ...]
    average: str
    checksums: tuple[str, ...]


def _candidates(models: Sequence[TrainedModel], ensembles: Sequence[EnsembleWeights]) -> list[_Candidate]:
    base = [
        _Candidate(model.id, "model", model.train_sigma, (model.id,), (1.0,), "logits", (model.checksum,))
        for model in models
        if model.status == "finished"
    ]
    mixed = [
        _Candidate(one.id, "ensemble", one.sigma, one.members, one.weights, one.average, one.checksums)
        for one in ensembles
    ]
    return base + mixed


def certification_keys(
    study: StudyConfig, models: Sequence[TrainedModel], ensembles: Sequence[EnsembleWeights]
) -> dict[str, str]:
    """Return the identity of what determines the counts of each classifier, beside the example."""
    rule = study.certify.model_dump(mode="json", exclude={"images"})
    shared = [rule, study.data.model_dump(mode="json"), "float32"]
    return {
        one.id: content_id([*shared, one.sigma, one.checksums, one.weights, one.average])
        for one in _candidates(models, ensembles)
    }


def _works(
    candidates: Sequence[_Candidate],
    split: Split,
    done: set[tuple[str, str, int]],
    study: StudyConfig,
    *,
    keys: dict[str, str],
) -> list[Work]:
    """Return passes over the examples that lack counts; examples that lack the same classifiers share a pass."""
    works = []
    for sigma in sorted({candidate.sigma for candidate in candidates}):
        here = [candidate for candidate in candidates if candidate.sigma == sigma]
        lacking: dict[tuple[str, ...], list[int]] = {}
        for position, example in enumerate(split.index.tolist()):
            missing = tuple(
                candidate.id for candidate in here if (candidate.id, keys[candidate.id], example) not in done
            )
            if missing:
                lacking.setdefault(missing, []).append(position)
        for missing, positions in lacking.items():
            wanted = [candidate for candidate in here if candidate.id in set(missing)]
            members = tuple(dict.fromkeys(member for candidate in wanted for member in candidate.members))
            classifiers = tuple(
                Classifier(
                    id=candidate.id,
                    members=tuple(members.index(member) for member in candidate.members),
                    weights=candidate.weights,
                    average="probabilities" if candidate.average == "probabilities" else "logits",
                )
                for candidate in wanted
            )
            chosen = Split(split.images[positions], split.labels[positions], split.index[positions])
            works.append(Work(CountPass(sigma, members, classifiers, study.certify), chosen))
    return works


def certify_classifiers(
    store: Store,
    study: StudyConfig,
    models: Sequence[TrainedModel],
    ensembles: Sequence[EnsembleWeights],
    *,
    cluster: Cluster,
    on_progress: OnProgress,
) -> None:
    """Certify every classifier on every chosen test image that has no counts yet. Models that diverged are left out.

    The counts of an image are stored as soon as its block arrives, each exactly once.
    """
    data = load_dataset(study.data)
    split = data.test.evenly_spaced(study.certify.images)
    keys = certification_keys(study, models, ensembles)
    candidates = _candidates(models, ensembles)
    kinds = {candidate.id: candidate.kind for candidate in candidates}
    works = _works(candidates, split, store.counted(), study, keys=keys)
    total = sum(len(work.split) for work in works)
    visited = 0
    on_progress(Progress("certify", 0, total, "images"))

    def on_block(visits: list[Visit]) -> None:
        nonlocal visited
        store.save_counts(pa.concat_tables(_table(works[one.work].sampling, one, kinds, keys) for one in visits))
        visited += len(visits)
        on_progress(Progress("certify", visited, total, "images"))

    visit(store, works, classes=data.classes, cluster=cluster, on_block=on_block)


def _table(sampling: object, one: Visit, kinds: dict[str, str], keys: dict[str, str]) -> pa.Table:
    """Return one row per classifier: the counts, all that they depend on, and what follows from them."""
    assert isinstance(sampling, CountPass)
    spec, classifiers = sampling.certify, sampling.classifiers
    selection, estimation = one.arrays["selection"], one.arrays["estimation"]
    result = certify_counts(selection, estimation, sigma=sampling.sigma, alpha=spec.alpha)
    rows = len(classifiers)
    noise = "numpy Philox" if one.device == "cpu" else "torch CUDA Philox"
    return pa.table(
        {
            "example": np.full(rows, one.example),
            "label": np.full(rows, one.label),
            "classifier": [classifier.id for classifier in classifiers],
            "kind": [kinds[classifier.id] for classifier in classifiers],
            "sigma": np.full(rows, sampling.sigma),
            "prediction": result.prediction,
            "radius": result.radius,
            "p_a_lower": result.p_a_lower,
            "n_a": result.n_a,
            "selection": list(selection),
            "estimation": list(estimation),
            "rule": [spec.rule] * rows,
            "n0": np.full(rows, spec.n0),
            "n": np.full(rows, spec.n),
            "alpha": np.full(rows, spec.alpha),
            "seed": np.full(rows, spec.seed),
            "block_size": np.full(rows, spec.block_size),
            "noise": [noise] * rows,
            "precision": ["float32"] * rows,
            "device": [one.device] * rows,
            # Of the pass over this image, which all these classifiers share.
            "seconds": np.full(rows, one.seconds),
            "key": [keys[classifier.id] for classifier in classifiers],
        }
    )

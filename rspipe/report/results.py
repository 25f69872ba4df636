"""Everything a study has produced, and how it is looked up."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.spec import ensemble_name
from rspipe.records import BoundaryCheck, EnsembleWeights, SearchResult, TrainedModel, Trial
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.study.config import StudyConfig


@dataclass(frozen=True)
class Results:
    """Everything a study has produced so far, read back from its run directory."""

    study: StudyConfig
    environment: dict[str, str]
    """Commit, package versions, device, precision, machine."""
    models: tuple[TrainedModel, ...]
    searches: tuple[SearchResult, ...]
    trials: tuple[Trial, ...]
    ensembles: tuple[EnsembleWeights, ...]
    certified: tuple[CertifiedClassifier, ...]
    margins: tuple[MemberMargins, ...] = ()
    """Of the members of ensembles on the calibration images, where they were read."""
    attacks: tuple[BoundaryCheck, ...] = ()


def display_name(record: TrainedModel | EnsembleWeights) -> str:
    """Return a classifier's name in tables and figures: short, and unique at its noise level."""
    if isinstance(record, EnsembleWeights):
        return ensemble_name(record.label, record.method, record.average)
    return f"{record.label}, seed {record.seed}"


def certified_models(results: Results, *, sigma: float) -> dict[str, list[CertifiedClassifier]]:
    """Return the certified models at a noise level by label, one per seed, in the order of the study."""
    certified = {c.id: c for c in results.certified if c.kind == "model" and c.sigma == sigma}
    models: dict[str, list[CertifiedClassifier]] = {}
    for record in results.models:
        if record.id in certified:
            models.setdefault(record.label, []).append(certified[record.id])
    return models


def certified_ensembles(results: Results, *, sigma: float) -> list[tuple[EnsembleWeights, CertifiedClassifier]]:
    """Return the certified ensembles at a noise level, in the order of the study."""
    certified = {c.id: c for c in results.certified if c.kind == "ensemble" and c.sigma == sigma}
    return [(record, certified[record.id]) for record in results.ensembles if record.id in certified]


def baseline_label(study: StudyConfig) -> str:
    """Return the label that every other is compared with."""
    return study.baseline or study.models[0].label


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the mean credited radius of some classifiers."""

    id: str
    label: str
    classifiers: Sequence[CertifiedClassifier]

    @classmethod
    def of_label(cls, label: str, classifiers: Sequence[CertifiedClassifier]) -> "Side":
        seeds = len(classifiers)
        return cls(label, f"{label} (mean of {seeds} seeds)" if seeds > 1 else f"{label} (1 seed)", classifiers)

    @classmethod
    def of_ensemble(cls, record: EnsembleWeights, classifier: CertifiedClassifier) -> "Side":
        return cls(record.id, display_name(record), (classifier,))

    def examples(self) -> IntArray:
        """Return the examples that all of the classifiers were certified on, ascending."""
        return reduce(np.intersect1d, [c.example for c in self.classifiers])

    def credit(self, examples: IntArray) -> FloatArray:
        """Return [example] the mean credited radius."""
        rows = [c.credited_radius[np.searchsorted(c.example, examples)] for c in self.classifiers]
        return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


def sides(results: Results, *, sigma: float) -> dict[str, Side]:
    """Return every label and every ensemble at a noise level by its name in tables."""
    models = {label: Side.of_label(label, found) for label, found in certified_models(results, sigma=sigma).items()}
    ensembles = [Side.of_ensemble(*pair) for pair in certified_ensembles(results, sigma=sigma)]
    return models | {side.label: side for side in ensembles}

"""The numbers reported of one certified classifier, and of the seeds of a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.ensembles.members import named_model
from rspipe.ensembles.spec import ensemble_name
from rspipe.records import Cascade, EnsembleWeights, Interval, Record, TrainedModel
from rspipe.report.differences import Group, judge_group
from rspipe.report.names import short_name
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import acr_by_rule, certified_accuracy


def entry_name(record: EnsembleWeights) -> str:
    """Return what an ensemble is called in a study file: unique at its noise level, whatever its weights are."""
    return ensemble_name(record.label, record.method, record.average, consensus_size=record.consensus_size)


def file_name(record: TrainedModel | EnsembleWeights) -> str:
    """Return what a classifier is called in a study file; of a model it is the label."""
    return record.label if isinstance(record, TrainedModel) else entry_name(record)


def display_name(record: TrainedModel | EnsembleWeights | Cascade) -> str:
    """Return a classifier's name in tables and figures: short, and unique at its noise level.

    An ensemble that one member has all the weight of is named as what it is: "advmacer ×2 · auto = advmacer, seed 1".
    """
    if isinstance(record, TrainedModel):
        return _model_name(record.label, record.seed)
    if isinstance(record, Cascade):
        name = short_name(record.name)
        return name if record.seed is None else _model_name(name, record.seed)
    name = short_name(entry_name(record))
    if record.sole_member is None:
        return name
    model = named_model(record.sole_member)
    alone = record.sole_member if model is None else _model_name(model.label, model.seed)
    return f"{name} = {alone}"


def _model_name(label: str, seed: int) -> str:
    return f"{label}, seed {seed}"


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """The numbers of one certified classifier: a base model, an ensemble, or a cascade."""

    id: str
    name: str
    """In tables and figures: short, and unique at its noise level."""
    label: str
    kind: Literal["model", "ensemble", "cascade"]
    sigma: float
    """Of a cascade, that of its first level."""
    images: int
    acr: Interval
    """NaN by rule decide, which gives none."""
    accuracy: float
    """Certified accuracy at radius 0: predicted correctly and not abstained. NaN where a rule asks for others alone."""
    abstained: float
    """Share of images; those given up as wrong after the selection are not among them. NaN by rule decide, where what
    is not proven is no answer."""
    radii: tuple[float, ...]
    certified_accuracy: tuple[float, ...]
    """At each of `radii`."""
    training_seconds: float
    """Of all members together."""
    passes: int
    samples: float
    """Noise samples per image, on average, of selection, pilot and estimation."""
    rule: str
    """Name of the rule that said how many samples an image gets."""
    acr_two_sided: float
    """ACR by certificates that bound the runner-up, too: not to be compared with published ones."""
    saturated: float
    """Share of images whose n estimation samples all fell on one class: n alone limits their radius. NaN by rule
    decide."""
    seed: int | None = None
    """Of a model's training, or of those of a cascade's models."""
    members: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    weighting: str = ""
    average: str = ""


def summarize(
    classifier: CertifiedClassifier,
    record: TrainedModel | EnsembleWeights | Cascade,
    *,
    trained: Sequence[TrainedModel],
    radii: Sequence[float],
    population: int | None = None,
) -> Summary:
    """Return the summary of a certified classifier.

    Args:
        classifier: Its certificates.
        record: The model, ensemble or cascade that was certified.
        trained: The models that it is made of, whose training is its cost.
        radii: Where certified accuracy is reported.
        population: The number of its images where they alone are meant, so that their ACR is known; None for others.
    """
    acr = acr_by_rule(classifier.radius, classifier.correct, rule=classifier.rule)
    accuracy = certified_accuracy(classifier.radius, classifier.correct, [0.0, *radii])
    decided = classifier.rule == "decide"
    ensemble = record if isinstance(record, EnsembleWeights) else None
    return Summary(
        id=classifier.id,
        name=display_name(record),
        label=record.label,
        kind=classifier.kind,
        sigma=classifier.sigma,
        images=classifier.example.size,
        acr=acr if population is None else Interval(estimate=acr.estimate, low=acr.estimate, high=acr.estimate),
        accuracy=float("nan") if decided and 0 not in radii else float(accuracy[0]),
        abstained=float("nan") if decided else float(np.mean((classifier.prediction < 0) & ~classifier.stopped)),
        radii=tuple(radii),
        certified_accuracy=tuple(accuracy[1:].tolist()),
        training_seconds=sum(model.seconds for model in trained),
        passes=sum(model.passes for model in trained),
        samples=float(classifier.samples.mean()),
        rule=classifier.rule,
        acr_two_sided=classifier.two_sided,
        saturated=float("nan") if decided else float(classifier.saturated.mean()),
        seed=None if isinstance(record, EnsembleWeights) else record.seed,
        members=ensemble.members if ensemble else record.classifiers if isinstance(record, Cascade) else (),
        weights=ensemble.weights if ensemble else (),
        weighting=ensemble.method if ensemble else "",
        average=ensemble.average if ensemble else "",
    )


@dataclass(frozen=True, kw_only=True)
class SeedAverage(Record):
    """The numbers of one label at one noise level: of the models that differ in their seed alone."""

    label: str
    sigma: float
    seeds: int
    models: Interval
    """Mean ACR over seeds; the interval is for these models on other images."""
    procedures: Interval | None
    """The same for training again with other seeds, too; None with one seed."""
    lowest: float
    highest: float
    """ACR of single seeds."""
    training_seconds: float
    """Mean of one model."""
    passes: float


def average_over_seeds(
    group: Group,
    *,
    sigma: float,
    trained: Sequence[TrainedModel],
    population: int | None = None,
) -> SeedAverage | None:
    """Return the ACR of a label's certified models, averaged over seeds; None where they share no image.

    Args:
        group: The models of the label.
        sigma: Of the noise.
        trained: Their records.
        population: As in `rspipe.smoothing.inference.contrast`.
    """
    if group.examples.size == 0:
        return None
    acr = judge_group(group, population=population)
    of_seeds = group.credits.mean(1)
    return SeedAverage(
        label=group.id,
        sigma=sigma,
        seeds=len(group.credits),
        models=acr.models,
        procedures=acr.procedures,
        lowest=float(of_seeds.min()),
        highest=float(of_seeds.max()),
        training_seconds=float(np.mean([model.seconds for model in trained])),
        passes=float(np.mean([model.passes for model in trained])),
    )

"""From the records of a study to what is reported of it: summaries and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rspipe.ensembles.spec import ensemble_name
from rspipe.records import Interval, Record, TrainedModel
from rspipe.report.results import Results, Side, certified_ensembles, certified_models
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import acr_interval, average_certified_radius, bootstrap_interval, certified_accuracy


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """What is known of one certified classifier (base model or ensemble)."""

    id: str
    label: str
    kind: Literal["model", "ensemble"]
    sigma: float
    images: int
    acr: Interval
    accuracy: float
    """Certified accuracy at radius 0: predicted correctly and not abstained."""
    abstained: float
    """Share of images; those given up as wrong after the selection are not among them."""
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
    saturated: float = 0.0
    """Share of images whose n estimation samples all fell on one class: n alone limits their radius."""
    seed: int | None = None
    """Of a model's training."""
    members: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    weighting: str = ""
    average: str = ""

    @property
    def name(self) -> str:
        """The classifier's name in tables and figures: short, and unique at its noise level."""
        if self.kind == "ensemble":
            return ensemble_name(self.label, self.weighting, self.average)
        return f"{self.label}, seed {self.seed}"


def _summary(
    classifier: CertifiedClassifier,
    results: Results,
    *,
    label: str,
    members: Sequence[str],
    trained: Mapping[str, TrainedModel],
) -> Summary:
    known = [trained[member] for member in members if member in trained]
    accuracy = certified_accuracy(classifier.radius, classifier.correct, [0.0, *results.study.radii])
    return Summary(
        id=classifier.id,
        label=label,
        kind=classifier.kind,
        sigma=classifier.sigma,
        images=classifier.example.size,
        acr=acr_interval(classifier.radius, classifier.correct),
        accuracy=float(accuracy[0]),
        abstained=float(np.mean((classifier.prediction < 0) & ~classifier.stopped)),
        radii=results.study.radii,
        certified_accuracy=tuple(accuracy[1:].tolist()),
        training_seconds=sum(model.seconds for model in known),
        passes=sum(model.passes for model in known),
        samples=float(classifier.samples.mean()),
        saturated=float(classifier.saturated.mean()),
        rule=classifier.rule,
        acr_two_sided=classifier.two_sided,
    )


def summarize(results: Results) -> tuple[Summary, ...]:
    """Return one summary per certified classifier: by noise level, models before ensembles, in the study's order.

    A classifier that no record names (its training or weighing is not finished) is left out.
    """
    summaries = []
    trained = {model.id: model for model in results.models}
    for sigma in sorted({c.sigma for c in results.certified}):
        for label, classifiers in certified_models(results, sigma=sigma).items():
            for classifier in classifiers:
                summary = _summary(classifier, results, label=label, members=(classifier.id,), trained=trained)
                summaries.append(replace(summary, seed=trained[classifier.id].seed))
        for record, classifier in certified_ensembles(results, sigma=sigma):
            summary = _summary(classifier, results, label=record.label, members=record.members, trained=trained)
            chosen = replace(summary, members=record.members, weights=record.weights)
            summaries.append(replace(chosen, weighting=record.method, average=record.average))
    return tuple(summaries)


@dataclass(frozen=True, kw_only=True)
class SeedAverage(Record):
    """What is known of one label at one noise level: the models that differ in their seed alone."""

    label: str
    sigma: float
    seeds: int
    acr: Interval
    """Mean over seeds; the interval is for the choice of images."""
    lowest: float
    highest: float
    """ACR of single seeds."""
    training_seconds: float
    """Mean of one model."""
    passes: float


def average_over_seeds(results: Results) -> tuple[SeedAverage, ...]:
    """Return the ACR of every label at every noise level, averaged over the seeds that are certified."""
    trained = {model.id: model for model in results.models}
    averages = []
    for sigma in sorted({c.sigma for c in results.certified}):
        for label, classifiers in certified_models(results, sigma=sigma).items():
            side = Side.of_label(label, classifiers)
            examples = side.examples()
            if examples.size == 0:
                continue
            acr = [average_certified_radius(c.radius, c.correct) for c in classifiers]
            averages.append(
                SeedAverage(
                    label=label,
                    sigma=sigma,
                    seeds=len(classifiers),
                    acr=bootstrap_interval(side.credit(examples)),
                    lowest=min(acr),
                    highest=max(acr),
                    training_seconds=float(np.mean([trained[c.id].seconds for c in classifiers])),
                    passes=float(np.mean([trained[c.id].passes for c in classifiers])),
                )
            )
    return tuple(averages)

"""From the records of a study to what is reported of it: summaries and paired differences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rspipe.derivation import ClassifierCounts, derive
from rspipe.diagnostics import MemberMargins
from rspipe.ensembles import COMBINATIONS
from rspipe.membership import names_seeds
from rspipe.metrics import (
    acr_interval,
    average_certified_radius,
    bootstrap_interval,
    certified_accuracy,
    paired_difference,
)
from rspipe.records import (
    BoundaryCheck,
    Difference,
    EnsembleWeights,
    Interval,
    SearchResult,
    SeedAverage,
    Summary,
    TrainedModel,
    Trial,
)
from rspipe.resolved import ensemble_name
from rspipe.study_config import StudyConfig

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CertifiedClassifier:
    """The certificates of one classifier (a base model or an ensemble), ordered by example."""

    id: str
    kind: Literal["model", "ensemble"]
    sigma: float
    example: IntArray
    """[example], position in the test part of the data set."""
    label: IntArray
    """[example]."""
    prediction: IntArray
    """[example], ABSTAIN = -1."""
    radius: FloatArray
    """[example], pixel units, 0 where abstained."""
    n_a: IntArray
    """[example], estimation samples of the selected class."""
    p_a_lower: FloatArray
    """[example]."""
    n: IntArray
    """[example], estimation samples."""
    samples: IntArray
    """[example], samples in all, of selection, pilot and estimation."""
    stopped: NDArray[np.bool_]
    """[example], whether the selection missed the label and nothing more was drawn: wrong, whatever would follow."""
    rule: str
    """Name of the rule that said how many samples there are."""
    two_sided: float
    """ACR by two-sided certificates, which bound the runner-up too; NaN where the rule has none."""
    seconds: float
    """Time of the passes it was certified in, shared with all other classifiers of the pass."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[example], whether the prediction is the label."""
        return np.equal(self.prediction, self.label)


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


def certified_classifier(counts: ClassifierCounts) -> CertifiedClassifier:
    """Return the certificates of a classifier by its rule, and its ACR by two-sided ones."""
    own = derive(counts)
    two_sided = float("nan")
    if counts.rule.name != "radius_grid":
        both = derive(counts, kind="two_sided")
        two_sided = average_certified_radius(both.radius, both.prediction == counts.label)
    return CertifiedClassifier(
        id=counts.id,
        kind=counts.kind,
        sigma=counts.sigma,
        example=counts.example,
        label=counts.label,
        prediction=own.prediction,
        radius=own.radius,
        n_a=own.n_a,
        p_a_lower=own.p_a_lower,
        n=counts.drawn,
        samples=counts.samples,
        stopped=counts.stop == "label",
        rule=counts.rule.name,
        two_sided=two_sided,
        seconds=counts.seconds,
    )


METHOD = "Does the training method change the ACR? Each method against the baseline"
SEARCH = "Does the search pay? Searched hyper-parameters against the study file's"
AVERAGING = "Does averaging help? Uniform ensembles against the mean of their members"
BEST_MEMBER = "Does an ensemble beat its best member? The member that was best on the validation images"
WEIGHTS = "Do solved weights help? Against uniform weights of the same members"
COMBINING = "Does another combination help? MME and consensus against the uniform average of the same members"
MIXING = "Does mixing methods help? Uniform ensembles of several methods against as many models of one of them"

QUESTIONS = (METHOD, SEARCH, AVERAGING, BEST_MEMBER, WEIGHTS, COMBINING, MIXING)
"""In the order of the report."""


def display_name(record: Summary | TrainedModel | EnsembleWeights) -> str:
    """Return a classifier's name in tables and figures: short, and unique at its noise level."""
    if isinstance(record, EnsembleWeights):
        return ensemble_name(record.label, record.method, record.average)
    if isinstance(record, Summary) and record.kind == "ensemble":
        return ensemble_name(record.label, record.weighting, record.average)
    return f"{record.label}, seed {record.seed}"


def credited_radius(classifier: CertifiedClassifier) -> FloatArray:
    """Return [example] the radius where the prediction is correct, else 0: what the ACR is the mean of."""
    return np.where(classifier.correct, classifier.radius, 0.0)


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
        saturated=float(np.mean((classifier.n_a == classifier.n) & (classifier.n > 0))),
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


def verdict(interval: Interval) -> Literal["higher", "lower", "not significant"]:
    """Return what an interval of a difference says of its sign."""
    if interval.low > 0:
        return "higher"
    return "lower" if interval.high < 0 else "not significant"


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
        rows = [credited_radius(c)[np.searchsorted(c.example, examples)] for c in self.classifiers]
        return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


def sides(results: Results, *, sigma: float) -> dict[str, Side]:
    """Return every label and every ensemble at a noise level by its name in tables."""
    models = {label: Side.of_label(label, found) for label, found in certified_models(results, sigma=sigma).items()}
    ensembles = [Side.of_ensemble(*pair) for pair in certified_ensembles(results, sigma=sigma)]
    return models | {side.label: side for side in ensembles}


def acr_difference(first: Side, second: Side) -> tuple[Interval, int] | None:
    """Return the paired difference of ACR on the images that all classifiers share, and their number; None without."""
    examples = np.intersect1d(first.examples(), second.examples())
    if examples.size == 0:
        return None
    everywhere = np.ones(examples.size, dtype=bool)
    interval = paired_difference(first.credit(examples), everywhere, second.credit(examples), everywhere)
    return interval, int(examples.size)


def differences(question: str, sigma: float, pairs: Iterable[tuple[Side, Side]]) -> Iterator[Difference]:
    """Yield the paired difference of each pair, on the images that all its classifiers share."""
    for first, second in pairs:
        found = acr_difference(first, second)
        if found is None:
            continue
        interval, images = found
        yield Difference(
            sigma=sigma,
            first=first.id,
            second=second.id,
            first_label=first.label,
            second_label=second.label,
            question=question,
            difference=interval,
            verdict=verdict(interval),
            images=images,
        )


def _method_pairs(results: Results, sigma: float) -> dict[str, list[tuple[Side, Side]]]:
    """Labels against the baseline, and searched against set hyper-parameters; no pair twice."""
    models = certified_models(results, sigma=sigma)
    by_label = {label: Side.of_label(label, classifiers) for label, classifiers in models.items()}
    # A label may have an entry per noise level; each pair counts once.
    searched = dict.fromkeys(
        (search.label, group.label)
        for search, group in product(results.study.search, (*results.study.models, *results.study.default_groups))
        if search.method.name == group.method.name and search.label in by_label and group.label in by_label
    )
    baseline = baseline_label(results.study)
    against = [(label, baseline) for label in by_label if baseline in by_label and label != baseline]
    return {
        METHOD: [(by_label[a], by_label[b]) for a, b in against if not {(a, b), (b, a)} & {*searched}],
        SEARCH: [(by_label[a], by_label[b]) for a, b in searched],
    }


def _ensemble_pairs(results: Results, sigma: float) -> dict[str, list[tuple[Side, Side]]]:
    """Ensembles against their members, against other weights, and mixed against intra-model ones."""
    pairs: dict[str, list[tuple[Side, Side]]] = {
        question: [] for question in (AVERAGING, BEST_MEMBER, WEIGHTS, COMBINING, MIXING)
    }
    trained = {model.id: model for model in results.models}
    certified = {c.id: c for c in results.certified if c.sigma == sigma}
    ensembles = certified_ensembles(results, sigma=sigma)
    uniform = [(record, c) for record, c in ensembles if record.method == "uniform"]
    for record, classifier in uniform:
        side = Side.of_ensemble(record, classifier)
        if any(member not in certified or member not in trained for member in record.members):
            continue
        members = [certified[member] for member in record.members]
        pairs[AVERAGING].append((side, Side(f"members of {record.id}", "the mean of its members", members)))
        best = max((trained[member] for member in record.members), key=lambda model: model.noisy_accuracy)
        pairs[BEST_MEMBER].append((side, Side(best.id, display_name(best), (certified[best.id],))))
        # On test images the best of several is best partly by luck; hence the choice on validation images.
    for (a, of_a), (b, of_b) in product(ensembles, uniform):
        if a.method != "uniform" and (a.members, a.average) == (b.members, b.average):
            question = COMBINING if a.method in COMBINATIONS else WEIGHTS
            pairs[question].append((Side.of_ensemble(a, of_a), Side.of_ensemble(b, of_b)))
    for (a, of_a), (b, of_b) in product(uniform, uniform):
        mixed, intra = ({trained[m].label for m in r.members if m in trained} for r in (a, b))
        # Of the subsets of one size, one is compared: the first models of each label.
        alike = len(a.members) == len(b.members) and a.average == b.average
        alike = alike and not (names_seeds(a.label) or names_seeds(b.label))
        if alike and len(mixed) > 1 and len(intra) == 1 and intra < mixed:
            pairs[MIXING].append((Side.of_ensemble(a, of_a), Side.of_ensemble(b, of_b)))
    return pairs


def compare(results: Results) -> tuple[Difference, ...]:
    """Return the paired differences of ACR that answer `QUESTIONS`, by question and noise level.

    Where several classifiers stand on one side (the seeds of a label, the members of an ensemble), their credited
    radii are averaged per image first. Every pair is compared on the images that all of its classifiers share.
    The intervals are over images; they know nothing of how another training would have come out.
    """
    found: dict[str, list[Difference]] = {question: [] for question in QUESTIONS}
    for sigma in sorted({c.sigma for c in results.certified}):
        for question, pairs in {**_method_pairs(results, sigma), **_ensemble_pairs(results, sigma)}.items():
            found[question] += differences(question, sigma, pairs)
    return tuple(difference for question in QUESTIONS for difference in found[question])

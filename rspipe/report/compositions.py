"""Ensembles that differ in the seeds of their members alone: verdicts on their procedure are taken over all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rspipe.ensembles.members import names_seeds
from rspipe.ensembles.spec import ensemble_name
from rspipe.records import EnsembleWeights, TrainedModel
from rspipe.report.differences import Group
from rspipe.report.names import short_name
from rspipe.report.summaries import display_name
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.jackknife import Member


@dataclass(frozen=True)
class Composition:
    """The certified ensembles of one combination and of as many models of each label."""

    records: tuple[EnsembleWeights, ...]
    classifiers: tuple[CertifiedClassifier, ...]
    """[ensemble]."""
    labels: tuple[str, ...]
    """Of the members, sorted, each as often as it has models."""
    members: tuple[frozenset[Member], ...]
    """[ensemble] label and seed of the models of each; empty where labels have seeds in common, for then there are no
    independent models to leave out."""

    @property
    def method(self) -> str:
        """How the members are combined."""
        return self.records[0].method

    @property
    def average(self) -> str:
        """The kind of output that is averaged."""
        return self.records[0].average

    @property
    def words(self) -> str:
        """Its members in the paper's words, as a study file has them where it does."""
        of_labels = " + ".join(f"{label} x{count}" for label, count in Counter(self.labels).items())
        return next((record.label for record in self.records if not names_seeds(record.label)), of_labels)

    @property
    def name(self) -> str:
        """In a study file."""
        return ensemble_name(self.words, self.method, self.average, consensus_size=self.records[0].consensus_size)

    @property
    def label(self) -> str:
        """In tables; where it stands for several ensembles, with how many of them are one member alone."""
        if len(self.records) == 1:
            return display_name(self.records[0])
        alone = sum(record.sole_member is not None for record in self.records)
        note = f" ({alone} of {len(self.records)} are one member alone)" if alone else ""
        return f"{short_name(self.name)}{note}"

    @property
    def no_ensemble(self) -> bool:
        """Whether every one of its ensembles gives all weight to one member."""
        return all(record.sole_member is not None for record in self.records)

    @property
    def group(self) -> Group:
        """Its ensembles, one per row."""
        group = Group.of(self.classifiers, id_=self.records[0].id, label=self.label)
        return replace(group, members=self.members)

    def of(self, records: Sequence[EnsembleWeights]) -> "Composition":
        """Return the same without the ensembles that are not among some."""
        ids = {record.id for record in records}
        kept = [at for at, record in enumerate(self.records) if record.id in ids]
        return replace(
            self,
            records=tuple(self.records[at] for at in kept),
            classifiers=tuple(self.classifiers[at] for at in kept),
            members=tuple(self.members[at] for at in kept) if self.members else (),
        )


def same_members(a: Composition, b: Composition) -> tuple[Composition, Composition] | None:
    """Return two compositions without the ensembles whose members the other has none of; None where none are left."""
    of_a, of_b = ({frozenset(record.members): record for record in one.records} for one in (a, b))
    shared = [members for members in of_a if members in of_b]
    if not shared:
        return None
    return a.of([of_a[members] for members in shared]), b.of([of_b[members] for members in shared])


def compositions(
    ensembles: Sequence[tuple[EnsembleWeights, CertifiedClassifier]], models: Mapping[str, TrainedModel]
) -> tuple[Composition, ...]:
    """Return the compositions of certified ensembles of one noise level, in the order in which they come first.

    Args:
        ensembles: Records and certificates.
        models: By id. Ensembles of a member that is not there are left out.
    """
    alike: dict[tuple[object, ...], list[tuple[EnsembleWeights, CertifiedClassifier]]] = {}
    for record, classifier in ensembles:
        if models.keys() >= {*record.members}:
            alike.setdefault(_kind(record, models), []).append((record, classifier))
    return tuple(_composition(pairs, models) for pairs in alike.values())


def other_choices(records: Sequence[EnsembleWeights], models: Mapping[str, TrainedModel]) -> frozenset[str]:
    """Return the ids of ensembles of other seeds than the first, where that of the first is among the records, too.

    What tables leave out that list ensembles one by one.
    """
    of_first = {_kind(record, models) for record in records if not names_seeds(record.label)}
    named = (record for record in records if names_seeds(record.label))
    return frozenset(record.id for record in named if _kind(record, models) in of_first)


def _kind(record: EnsembleWeights, models: Mapping[str, TrainedModel]) -> tuple[object, ...]:
    """Return what the ensembles of a composition have in common."""
    labels = tuple(sorted(models[member].label if member in models else member for member in record.members))
    return labels, record.sigma, record.method, record.average, record.consensus_size


def independent_members(of_each: Sequence[Sequence[TrainedModel]]) -> tuple[frozenset[Member], ...]:
    """Return label and seed of the models of each classifier.

    None where one is made of several labels with common seeds: its models share what they drew.
    """
    for models in of_each:
        if len({model.label for model in models if model.common_seed is not None}) > 1:
            return ()
    return tuple(frozenset((model.label, model.seed) for model in models) for models in of_each)


def _composition(
    pairs: Sequence[tuple[EnsembleWeights, CertifiedClassifier]], models: Mapping[str, TrainedModel]
) -> Composition:
    members = [[models[member] for member in record.members] for record, _ in pairs]
    return Composition(
        records=tuple(record for record, _ in pairs),
        classifiers=tuple(classifier for _, classifier in pairs),
        labels=tuple(sorted(model.label for model in members[0])),
        members=independent_members(members),
    )

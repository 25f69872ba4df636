"""Everything a study has produced, and how it is looked up: by id and by noise level."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby

import numpy as np

from rspipe.ensembles.diagnostics import MemberMargins
from rspipe.ensembles.members import names_seeds
from rspipe.records import BoundaryCheck, Cascade, CascadeChoice, EnsembleWeights, SearchResult, TrainedModel, Trial
from rspipe.report.compositions import Composition, compositions, independent_members, other_choices
from rspipe.report.differences import Comparison, Group, compare
from rspipe.report.logged import LoggedCertificates
from rspipe.report.names import short_name
from rspipe.report.summaries import SeedAverage, Summary, average_over_seeds, display_name, entry_name, summarize
from rspipe.search.spec import SearchSpec
from rspipe.smoothing.cascades import CertifiedCascade
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.jackknife import Member
from rspipe.smoothing.sampling import tabulated_radii
from rspipe.spec import number_chosen, samples_all
from rspipe.study.cascade_groups import CascadeGroup, Levels, seeded_levels
from rspipe.study.config import StudyConfig


@dataclass(frozen=True)
class Results:
    """Everything a study has produced so far, read back from its run directory."""

    study: StudyConfig
    environment: dict[str, str]
    """Commit, package versions, and machine of the driver, of all sessions that differed in them."""
    models: tuple[TrainedModel, ...]
    searches: tuple[SearchResult, ...]
    trials: tuple[Trial, ...]
    ensembles: tuple[EnsembleWeights, ...]
    certified: tuple[CertifiedClassifier, ...]
    margins: tuple[MemberMargins, ...] = ()
    """Of the members of ensembles on the calibration images, where they were read."""
    attacks: tuple[BoundaryCheck, ...] = ()
    logs: Mapping[str, LoggedCertificates] = field(default_factory=dict)
    """The published logs that the study names, by the name there, where they were read."""
    cascades: tuple[CertifiedCascade, ...] = ()
    choices: Mapping[str, CascadeChoice] = field(default_factory=dict)
    """The levels that were chosen, by the name of the cascade."""
    images_to_certify: int | None = None
    """How many test images the study certifies in the end; None where nothing says it."""

    @cached_property
    def _models(self) -> dict[str, TrainedModel]:
        return {model.id: model for model in self.models}

    @cached_property
    def _certified(self) -> dict[str, CertifiedClassifier]:
        return {classifier.id: classifier for classifier in (*self.certified, *(c.classifier for c in self.cascades))}

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the study and of what is certified, ascending."""
        return tuple(sorted({*self.study.sigmas, *(c.sigma for c in self.certified)}))

    @property
    def decided(self) -> bool:
        """Whether the rule asks for given radii alone, so that there is no ACR."""
        return self.study.certify.rule.name == "decide"

    @property
    def noise(self) -> dict[str, int]:
        """Images by how their noise was drawn: "grid 1/255" or "float", see `rspipe.smoothing.counts.CountTable`."""
        drawn = {pair for c in self.certified for pair in zip(c.noise.tolist(), c.example.tolist(), strict=True)}
        return dict(sorted(Counter(name for name, _ in drawn).items(), reverse=True))

    @property
    def radii(self) -> tuple[float, ...]:
        """Where certified accuracy is tabulated: the study's radii, or those that its rule asks for."""
        return tuple(tabulated_radii(self.study.certify.rule, self.study.radii))

    @property
    def baseline(self) -> str:
        """The label that every other is compared with."""
        return self.study.baseline or self.study.models[0].label

    @property
    def records(self) -> tuple[TrainedModel | EnsembleWeights, ...]:
        """Models, then ensembles, in the order of the study."""
        return (*self.models, *self.ensembles)

    def model(self, id_: str) -> TrainedModel | None:
        """Return the record of a model, or None."""
        return self._models.get(id_)

    def member(self, id_: str) -> Member:
        """Return label and seed of a model, which is what is independent of other models.

        Where labels have common seeds it is the seed alone, and without a record of the model, its id.
        """
        model = self.model(id_)
        if model is None:
            return id_, 0
        return ("", model.seed) if model.common_seed is not None else (model.label, model.seed)

    def certificates(self, id_: str) -> CertifiedClassifier | None:
        """Return the certificates of a model or an ensemble, or None."""
        return self._certified.get(id_)

    def model_label(self, id_: str) -> str:
        """Return the label of a model, or the id where there is no record of it."""
        model = self.model(id_)
        return id_ if model is None else model.label

    def model_name(self, id_: str) -> str:
        """Return the name of a model in tables, or the id where there is no record of it."""
        model = self.model(id_)
        return id_ if model is None else display_name(model)

    def models_at(self, sigma: float) -> dict[str, list[CertifiedClassifier]]:
        """Return the certified models at a noise level by label, one per seed, in the order of the study."""
        models: dict[str, list[CertifiedClassifier]] = {}
        for record in self.models:
            classifier = self.certificates(record.id)
            if classifier is not None and classifier.kind == "model" and classifier.sigma == sigma:
                models.setdefault(record.label, []).append(classifier)
        return models

    def ensembles_at(self, sigma: float) -> list[tuple[EnsembleWeights, CertifiedClassifier]]:
        """Return the certified ensembles at a noise level, in the order of the study."""
        pairs = [(record, self.certificates(record.id)) for record in self.ensembles]
        return [(record, c) for record, c in pairs if c is not None and c.kind == "ensemble" and c.sigma == sigma]

    def certified_members(self, record: EnsembleWeights) -> list[CertifiedClassifier]:
        """Return the certificates of an ensemble's members, or nothing unless all are trained and certified."""
        classifiers = [c for member in record.members if (c := self.certificates(member)) and self.model(member)]
        return classifiers if len(classifiers) == len(record.members) else []

    def with_certified_members(self, composition: Composition) -> Composition | None:
        """Return a composition without the ensembles of which a member is not certified; None where none is left."""
        whole = [record for record in composition.records if self.certified_members(record)]
        return composition.of(whole) if whole else None

    def groups(self, sigma: float) -> dict[str, Group]:
        """Return every label and every ensemble that is certified at a noise level by the name in a study file.

        They are compared by their ACR, so by rule decide, which gives none, there are none.
        """
        return {} if self.decided else self._groups.get(sigma, {})

    @cached_property
    def _groups(self) -> dict[float, dict[str, Group]]:
        return {sigma: self._groups_at(sigma) for sigma in self.sigmas}

    def _groups_at(self, sigma: float) -> dict[str, Group]:
        groups = {label: self.label_group(label, classifiers) for label, classifiers in self.models_at(sigma).items()}
        groups |= {name: composition.group for name, composition in self.ensembles_by_name(sigma).items()}
        return groups | {name: self.cascade_group(cascades) for name, cascades in self.cascades_at(sigma).items()}

    def ensembles_by_name(self, sigma: float) -> dict[str, Composition]:
        """Return the certified ensembles at a noise level by the name in a study file.

        One in the paper's words stands for all of the same composition; one that names seeds is that one alone.
        """
        return {
            entry_name(record): composition.of([record]) if names_seeds(record.label) else composition
            for composition in self.compositions(sigma)
            for record in composition.records
        }

    def label_group(self, label: str, classifiers: Sequence[CertifiedClassifier]) -> Group:
        """Return the group of a label's models."""
        group = Group.of(classifiers, id_=label, label=seeds_label(label, len(classifiers)))
        ids = tuple(classifier.id for classifier in classifiers)
        return replace(group, seeds=ids, members=tuple(frozenset({(label, self._models[id_].seed)}) for id_ in ids))

    def cascade_records(self) -> tuple[Cascade, ...]:
        """Return the cascades of the study whose levels are certified: of labels one per seed that all levels have."""
        records = list[Cascade]()
        for group in self.study.cascades:
            name, levels = group.name(self.study.sigmas), self._levels_of(group)
            of_level: list[dict[int | None, str]] = []
            for sigma, entry in levels:
                models = self.models_at(sigma).get(entry, ())
                at: dict[int | None, str] = {self._models[one.id].seed: one.id for one in models}
                named = [record.id for record, _ in self.ensembles_at(sigma) if entry_name(record) == entry]
                of_level.append(at or ({None: named[0]} if named else {}))
            sigmas = tuple(sigma for sigma, _ in levels)
            records += [
                Cascade(name=name, sigmas=sigmas, classifiers=ids, seed=seed, two_sided=group.two_sided)
                for seed, ids in seeded_levels(of_level)
            ]
        return tuple(records)

    def _levels_of(self, group: CascadeGroup) -> Levels:
        """Return the levels of a group of cascades; none where they are still to be chosen."""
        if group.choose is None:
            return group.levels(self.study.sigmas)
        choice = self.choices.get(group.name(self.study.sigmas))
        return () if choice is None else tuple(zip(choice.sigmas, choice.entries, strict=True))

    def cascades_at(self, sigma: float) -> dict[str, list[CertifiedCascade]]:
        """Return the cascades that begin at a noise level by name, one per seed, in the order of the study."""
        cascades: dict[str, list[CertifiedCascade]] = {}
        for one in self.cascades:
            if one.record.sigma == sigma:
                cascades.setdefault(one.record.name, []).append(one)
        return cascades

    def cascade_group(self, cascades: Sequence[CertifiedCascade]) -> Group:
        """Return the group of cascades that differ in the seed of their models alone."""
        name = cascades[0].record.name
        label = cascades_label(cascades)
        group = Group.of([one.classifier for one in cascades], id_=name, label=label)
        members = independent_members(
            [[self._models[id_] for id_ in self.models_of(one.record.id)] for one in cascades]
        )
        return replace(group, members=members if len({*members}) == len(members) else ())

    def models_of(self, id_: str) -> tuple[str, ...]:
        """Return the ids of the models that a classifier is made of: of a cascade, of all its levels."""
        for one in self.cascades:
            if one.record.id == id_:
                return tuple(dict.fromkeys(chain.from_iterable(map(self.models_of, one.record.classifiers))))
        return next((record.members for record in self.ensembles if record.id == id_), (id_,))

    def compositions(self, sigma: float) -> tuple[Composition, ...]:
        """Return the certified ensembles at a noise level by what they are made of, in the order of the study."""
        return compositions(self.ensembles_at(sigma), self._models)

    def population(self, images: int) -> int | None:
        """Return the number of images where they alone can be meant, and None where they are a sample of the test set.

        The first images are easier or harder than the others. They are certified where the study asks for them, and,
        since certification goes through the test set in order, as long as it is not at the end.
        """
        choice = self.study.certify.images
        if not samples_all(choice):
            return images
        if self.study.data.name == "digits":
            # Its test images are in random order.
            return None
        done = max((c.example.size for c in self.certified), default=0)
        return images if images < max(done, number_chosen(choice) or 0, self.images_to_certify or 0) else None

    @cached_property
    def images_meant(self) -> str:
        """The images that intervals and verdicts are about, in words."""
        alone: dict[float, bool] = {}
        for one in self.certified:
            alone[one.sigma] = alone.get(one.sigma, False) or self.population(one.example.size) is not None
        if len({*alone.values()}) < 2:
            return "these test images alone" if any(alone.values()) else "other test images"
        those = ", ".join(f"{sigma:g}" for sigma, one in sorted(alone.items()) if one)
        return f"other test images (at σ = {those} on these alone)"

    def compare(self, first: Group, second: Group, *, sigma: float, question: str = "") -> Comparison | None:
        """Return the comparison of two groups at a noise level; None where they share no image."""
        same = np.array_equal(first.examples, second.examples)
        shared = first.examples if same else np.intersect1d(first.examples, second.examples)
        population = self.population(shared.size) if shared.size else None
        return compare(first, second, sigma=sigma, question=question, population=population)

    def margins_at(self, sigma: float) -> list[MemberMargins]:
        """Return the margins of members that were read at a noise level."""
        return [margins for margins in self.margins if margins.sigma == sigma]

    def trials_of(self, search: SearchResult) -> list[Trial]:
        """Return the trials of a search."""
        return [trial for trial in self.trials if trial.search == search.id]

    def spec_of(self, search: SearchResult) -> SearchSpec | None:
        """Return the spec that a search ran, or None where the study has changed since."""
        specs = self.study.search_specs
        return next((one for one in specs if (one.label, one.sigma) == (search.label, search.sigma)), None)

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """One per certified classifier: by noise level, models, ensembles, cascades, in the study's order.

        A classifier that no record names (its training or weighing is not finished) is left out.
        """
        summaries = []
        for sigma in self.sigmas:
            certified = (c for classifiers in self.models_at(sigma).values() for c in classifiers)
            records: list[TrainedModel | EnsembleWeights | Cascade] = [self._models[c.id] for c in certified]
            records += [record for record, _ in self.ensembles_at(sigma)]
            records += [one.record for cascades in self.cascades_at(sigma).values() for one in cascades]
            for record in records:
                trained = [model for member in self.models_of(record.id) if (model := self.model(member)) is not None]
                classifier = self._certified[record.id]
                population = self.population(classifier.example.size)
                summaries.append(
                    summarize(classifier, record, trained=trained, radii=self.radii, population=population)
                )
        return tuple(summaries)

    @cached_property
    def other_choices(self) -> frozenset[str]:
        """Ids of the ensembles of other seeds than the first, for which that of the first stands in tables."""
        return other_choices(self.ensembles, self._models)

    @property
    def listed(self) -> tuple[Summary, ...]:
        """The summaries that tables list one by one: all, but of ensembles those of the first seeds alone."""
        return tuple(summary for summary in self.summaries if summary.id not in self.other_choices)

    def listed_at(self, sigma: float) -> list[Summary]:
        """Return the summaries of a noise level that tables list."""
        return [summary for summary in self.listed if summary.sigma == sigma]

    def summaries_at(self, sigma: float) -> list[Summary]:
        """Return the summaries of a noise level."""
        return [summary for summary in self.summaries if summary.sigma == sigma]

    @cached_property
    def seed_averages(self) -> tuple[SeedAverage, ...]:
        """The ACR of every label at every noise level, averaged over the seeds that are certified."""
        averages = [
            average_over_seeds(
                group := self.label_group(label, classifiers),
                sigma=sigma,
                trained=[self._models[c.id] for c in classifiers],
                population=self.population(group.examples.size),
            )
            for sigma in self.sigmas
            for label, classifiers in self.models_at(sigma).items()
        ]
        return tuple(average for average in averages if average is not None and not self.decided)


def cascades_label(cascades: Sequence[CertifiedCascade]) -> str:
    """Return the name of cascades that differ in their seed, and say so where there is one seed."""
    record = cascades[0].record
    name = short_name(record.name)
    return name if record.seed is None else seeds_label(name, len(cascades))


def seeds_label(label: str, seeds: int) -> str:
    """Return a label, which stands for the mean of its seeds; it says so where there is one."""
    return label if seeds > 1 else f"{label} (1 seed)"


def members_text(results: Results, members: Sequence[str]) -> str:
    """Return models in their order, consecutive seeds of a label together."""
    names: list[str] = []
    for label, alike in groupby(members, key=results.model_label):
        seeds = [str(model.seed) for member in alike if (model := results.model(member)) is not None]
        names.append(f"{label}{', seeds ' if len(seeds) > 1 else ', seed ' if seeds else ''}{', '.join(seeds)}")
    return "; ".join(names)

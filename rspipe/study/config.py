"""A validated study: its entries fit together, and become models, searches and ensembles."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.data.spec import DataSpec, DigitsData
from rspipe.ensembles.members import Member
from rspipe.ensembles.spec import EnsembleSpec, WeighSpec, ensemble_name
from rspipe.errors import nearest
from rspipe.networks.spec import NO_FILE
from rspipe.search.space import Parameters, applied
from rspipe.search.spec import SearchSpec, without_trials
from rspipe.smoothing.cascades import check_cascade_rule
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.smoothing.spec import CertifySpec
from rspipe.spec import NonNegativeFloat, Spec, content_id, refusals, refuse
from rspipe.study.cascade_groups import CascadeGroup, seeded_levels
from rspipe.study.claims import Claim, PublishedResult
from rspipe.study.ensemble_groups import EnsembleGroup
from rspipe.study.groups import AnyModelGroup, CheckpointGroup, ModelGroup, SearchGroup
from rspipe.study.references import absent_entries, check_members, unknown_entries, unknown_sigmas
from rspipe.training.spec import AnyModelSpec, ModelSpec

SHARED = ("architecture", "training")
"""Keys that groups which train models inherit from the top of the file."""


class StudyConfig(Spec):
    """A validated study file."""

    also_written: ClassVar[tuple[str, ...]] = SHARED
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    title: str = ""
    data: DataSpec = DigitsData()
    models: Annotated[tuple[AnyModelGroup, ...], Field(min_length=1)]
    search: tuple[SearchGroup, ...] = ()
    ensembles: tuple[EnsembleGroup, ...] = ()
    # Part of the identity, although they need no samples: who could add one to a finished run could choose the best.
    cascades: tuple[CascadeGroup, ...] = ()
    weigh: WeighSpec = WeighSpec()
    certify: CertifySpec = CertifySpec()
    radii: tuple[NonNegativeFloat, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    """Radii at which certified accuracy is tabulated, in pixel units."""
    baseline: str | None = None
    """Label that the report compares every model with; the first model by default."""
    published: tuple[PublishedResult, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def id(self) -> str:
        """Readable, and unique for `identity`."""
        return f"{self.name}-{content_id(self.identity)}"

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the numbers, JSON-like, but for how many trials a search has.

        More can be added to a finished run (not of `sobol`); one that has more than are asked for keeps the winner of
        all. What is only reported of the numbers is no part of it.
        """
        content = self.model_dump(mode="json", exclude={"title", "radii", "baseline", "published", "claims"})
        return {**content, "search": [without_trials(search) for search in content["search"]]}

    @cached_property
    def default_groups(self) -> tuple[ModelGroup, ...]:
        """The settings that searches start from, where no entry trains them: what a winner is compared with.

        Not of `sobol`, whose studies say themselves what they compare.
        """
        groups = []
        for group in (search for search in self.search if search.algorithm.name != "sobol"):
            start = (group.method, group.training, group.architecture)
            trained = (g for g in self.models if isinstance(g, ModelGroup))
            there = {s for g in trained if (g.method, g.training, g.architecture) == start for s in g.sigma}
            if missing := tuple(sigma for sigma in group.sigma if sigma not in there):
                groups.append(
                    ModelGroup(
                        label=f"{group.label}_default",
                        architecture=group.architecture,
                        method=group.method,
                        training=group.training,
                        sigma=missing,
                        seeds=group.seeds,
                    )
                )
        return tuple(groups)

    @property
    def groups(self) -> tuple["AnyModelGroup | SearchGroup", ...]:
        """Every entry that models come from."""
        return (*self.models, *self.default_groups, *self.search)

    @cached_property
    def model_specs(self) -> tuple[AnyModelSpec, ...]:
        """Every base classifier whose settings the file itself names."""
        groups = (*self.models, *self.default_groups)
        return tuple(itertools.chain.from_iterable(group.model_specs(self.data) for group in groups))

    @cached_property
    def search_specs(self) -> tuple[SearchSpec, ...]:
        """One search per `[[search]]` and noise level."""
        return tuple(
            SearchSpec(
                label=group.label,
                data=self.data,
                architecture=group.architecture,
                method=group.method,
                # Common seeds would make a model of the winner the trial that won.
                training=group.training.model_copy(
                    update={"epochs": group.trial_epochs or group.training.epochs, "common_seeds": False}
                ),
                sigma=sigma,
                space=group.space,
                trials=group.possible_trials,
                seed=group.seed,
                n=group.n,
                alpha=group.alpha,
                algorithm=group.algorithm,
                objectives=group.objectives,
                early_stopping=group.early_stopping,
            )
            for group in self.search
            for sigma in group.sigma
        )

    def winner_specs(self, search: SearchSpec, best: Parameters) -> tuple[ModelSpec, ...]:
        """Return the models to train with the hyper-parameters `best` that a search found."""
        group = next(g for g in self.search if g.label == search.label and search.sigma in g.sigma)
        method, training = applied(best, group.method, group.training)
        winners = ModelGroup(
            label=group.label,
            architecture=group.architecture,
            method=method,
            training=training,
            sigma=(search.sigma,),
            seeds=group.seeds,
        )
        return tuple(winners.model_specs(self.data))

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """All noise levels, ascending."""
        return tuple(sorted({s for group in self.groups for s in group.sigma}))

    def ensemble_specs(self, models: Iterable[AnyModelSpec]) -> tuple[EnsembleSpec, ...]:
        """Return the ensembles of the given models; those that name other models are left out."""
        return self._ensembles((model.train_sigma, model.label, model.seed, model.id) for model in models)

    def _ensembles(self, models: Iterable[tuple[float, str, int, str]]) -> tuple[EnsembleSpec, ...]:
        """Return the ensembles of models (sigma, label, seed, id)."""
        at: dict[float, list[Member]] = {}
        alike: Counter[tuple[float, str]] = Counter()
        for sigma, label, seed, name in models:
            at.setdefault(sigma, []).append(Member(name, label, seed, alike[sigma, label]))
            alike[sigma, label] += 1
        # The same ensemble may be named by several entries.
        specs: dict[tuple[Any, ...], EnsembleSpec] = {}
        for group in self.ensembles:
            for sigma in group.sigmas(self.sigmas):
                for members in group.formed(at.get(sigma, [])):
                    for spec in self._weighted(group, sigma, members):
                        same = spec.members if spec.consensus_size else tuple(sorted(spec.members))
                        specs.setdefault((sigma, same, spec.weights, spec.average, spec.consensus_size), spec)
        return tuple(specs.values())

    def _weighted(self, group: EnsembleGroup, sigma: float, members: tuple[Member, ...]) -> Iterable[EnsembleSpec]:
        """Yield an ensemble with each of its entry's weightings."""
        for weights in group.weights:
            if weights == "consensus" and group.consensus >= len(members):
                continue
            yield EnsembleSpec(
                label=group.label(members),
                sigma=sigma,
                members=tuple(member.id for member in members),
                weights=weights,
                average=group.average,
                weigh=self.weigh,
                consensus_size=group.consensus if weights == "consensus" else 0,
            )

    def _twice(self) -> Iterator[PydanticCustomError]:
        """Yield what is named twice: two models would have one name, or one would count as two seeds."""
        trained: dict[tuple[str, float], set[int]] = {}
        loaded: dict[tuple[str, float], set[tuple[str | None, ...]]] = {}
        for group in self.groups:
            if len(set(group.seeds)) < len(group.seeds):
                yield PydanticCustomError(
                    "seed_twice",
                    "'{label}' lists a seed twice in seeds = {seeds}; remove one",
                    {"label": group.label, "seeds": str(list(group.seeds))},
                )
            if len(set(group.sigma)) < len(group.sigma):
                yield PydanticCustomError(
                    "sigma_twice",
                    "'{label}' lists a noise level twice in sigma = {sigma}; remove one",
                    {"label": group.label, "sigma": str(list(group.sigma))},
                )
            for sigma in dict.fromkeys(group.sigma):
                others = trained.setdefault((group.label, sigma), set())
                files = loaded.setdefault((group.label, sigma), set())
                # Several checkpoints of one label are its seeds.
                alike = bool(files) and isinstance(group, CheckpointGroup)
                if others and not (alike and others.isdisjoint(group.seeds)):
                    yield PydanticCustomError(
                        "label_twice",
                        "two entries are labelled '{label}' at sigma {sigma}; give one another label",
                        {"label": group.label, "sigma": sigma},
                    )
                elif isinstance(group, CheckpointGroup):
                    content = group.checkpoint.sha256, group.checkpoint.denoiser_sha256, group.checkpoint.parameters
                    if content in files and group.checkpoint.sha256 != NO_FILE:
                        yield PydanticCustomError(
                            "checkpoint_twice",
                            "'{label}' at sigma {sigma} names the checkpoint '{file}' twice, as if it were two seeds; "
                            "remove one entry",
                            {"label": group.label, "sigma": sigma, "file": group.checkpoint.file},
                        )
                    files.add(content)
                others.update(group.seeds)

    def _seeds(self) -> dict[tuple[str, float], list[int]]:
        """Return the seeds of models by label and noise level."""
        seeds: dict[tuple[str, float], list[int]] = {}
        for group in self.groups:
            for sigma in group.sigma:
                seeds.setdefault((group.label, sigma), []).extend(group.seeds)
        return seeds

    def _unknown(self) -> Iterator[ValueError]:
        """Yield references to models that the study does not have."""
        seeds = self._seeds()
        yield from refusals(
            *(
                partial(check_members, ensemble, seeds, place=f"ensembles[{index}]")
                for index, ensemble in enumerate(self.ensembles)
            )
        )
        labels = [group.label for group in self.groups]
        if self.baseline is not None and self.baseline not in labels:
            yield PydanticCustomError(
                "unknown_baseline",
                "baseline: no model is labelled '{label}'{hint}",
                {"label": self.baseline, "hint": nearest(self.baseline, labels)},
            )

    def _named_ensembles(self) -> tuple[EnsembleSpec, ...]:
        """Return the ensembles, before any model is trained."""
        return self._ensembles(
            (sigma, group.label, seed, f"{group.label}-s{sigma:g}-seed{seed}")
            for group in self.groups
            for sigma in group.sigma
            for seed in group.seeds
        )

    def _certified_at(self, ensembles: Iterable[EnsembleSpec]) -> dict[float, set[str]]:
        """Return the names of models, and of ensembles, by noise level."""
        at: dict[float, set[str]] = {}
        for label, sigma in self._seeds():
            at.setdefault(sigma, set()).add(label)
        for spec in ensembles:
            at.setdefault(spec.sigma, set()).add(_name(spec))
        return at

    def _unfit_cascades(self) -> Iterator[PydanticCustomError]:
        """Yield why cascades cannot be made of what the study certifies."""
        if not self.cascades:
            return
        try:
            check_cascade_rule(self.certify.rule)
        except ValueError as error:
            yield PydanticCustomError("cascade_rule", "cascades: {error}", {"error": str(error)})
        ensembles = self._named_ensembles()
        at = self._certified_at(ensembles)
        combined = {_name(spec) for spec in ensembles if spec.weights in COMBINATIONS}
        names = set[str]()
        for index, cascade in enumerate(self.cascades):
            try:
                name = cascade.name(self.sigmas)
            except PydanticCustomError as error:
                yield error
                continue
            if name in names:
                yield PydanticCustomError("cascade_twice", "two cascades are '{name}'; remove one", {"name": name})
            names.add(name)
            if strange := [*unknown_sigmas([(f"cascades[{index}].sigma", cascade.sigma or ())], self.sigmas)]:
                yield from strange
                continue
            yield from self._without_seeds(index, cascade)
            for sigma, entry in sorted(cascade.entries(self.sigmas), reverse=True):
                place = f"cascades[{index}].classifiers at sigma {sigma:g}"
                # Of what is to be chosen from, a level need not have everything.
                there = at.get(sigma, ()) if cascade.choose is None else set().union(*at.values())
                yield from unknown_entries([(place, entry)], there)
                if cascade.choose is not None and entry in combined:
                    yield PydanticCustomError(
                        "cascade_votes",
                        "{place}: '{entry}' is no average, and its votes on the calibration images are not known; name "
                        "the levels instead of choose, or another classifier",
                        {"place": place, "entry": entry},
                    )

    def _without_seeds(self, index: int, cascade: CascadeGroup) -> Iterator[PydanticCustomError]:
        """Yield why no cascade comes of an entry: its labels have no seed in common."""
        if cascade.choose is not None:
            return
        seeds, levels = self._seeds(), cascade.levels(self.sigmas)
        # An entry that is no label is an ensemble, of which there is one.
        at = [dict.fromkeys(seeds.get((entry, sigma), [None]), "") for sigma, entry in levels]
        if not [*seeded_levels(at)]:
            those = "; ".join(
                f"{entry} at sigma {sigma:g} has seeds {', '.join(map(str, seeds[entry, sigma]))}"
                for sigma, entry in levels
                if (entry, sigma) in seeds
            )
            yield PydanticCustomError(
                "cascade_seeds",
                "cascades[{index}]: its levels have no seed in common ({those}); give them one",
                {"index": index, "those": those},
            )

    def _unknown_entries(self) -> Iterator[PydanticCustomError]:
        """Yield the entries and noise levels of published results and claims that the study does not have."""
        references = [(f"published[{index}].entry", one.entry) for index, one in enumerate(self.published)]
        for index, claim in enumerate(self.claims):
            references += [(f"claims[{index}].{side}", getattr(claim, side)) for side in ("first", "second")]
        if not references:
            # Forming hundreds of ensembles takes time that a study without references need not spend.
            return
        at = self._certified_at(self._named_ensembles())
        for cascade in self.cascades:
            # Which levels are chosen is not known yet.
            first = self.sigmas if cascade.choose else [max(sigma for sigma, _ in cascade.levels(self.sigmas))]
            for sigma in first:
                at[sigma].add(cascade.name(self.sigmas))
        named_sigmas = [(f"claims[{index}].sigma", claim.sigma or ()) for index, claim in enumerate(self.claims)]
        named_sigmas += [(f"published[{index}].sigma", (one.sigma,)) for index, one in enumerate(self.published)]
        unknown = [
            *unknown_entries(references, [*dict.fromkeys(name for names in at.values() for name in sorted(names))]),
            *unknown_sigmas(named_sigmas, self.sigmas),
        ]
        yield from unknown
        if unknown:
            return
        for index, claim in enumerate(self.claims):
            yield from absent_entries(f"claims[{index}]", (claim.first, claim.second), claim.sigma, at)
        for index, one in enumerate(self.published):
            yield from absent_entries(f"published[{index}]", (one.entry,), (one.sigma,), at)

    @model_validator(mode="after")
    def _entries_fit(self) -> "StudyConfig":
        # Each is asked where the one before leaves no doubt what is meant.
        refuse([*self._twice()] or [*self._unknown()] or [*self._unfit_cascades()] or [*self._unknown_entries()])
        return self


def _name(spec: EnsembleSpec) -> str:
    """Return the name that entries of the study file call an ensemble by."""
    return ensemble_name(spec.label, spec.weights, spec.average, consensus_size=spec.consensus_size)

"""A study file (TOML) says everything that determines a study's numbers; here it becomes specs."""

import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from rspipe.algorithms import Algorithm, AlgorithmSpec, Objectives, Sobol, Stopping
from rspipe.architectures import find_architecture
from rspipe.errors import StudyError
from rspipe.membership import MOST_IN_SUBSETS, Member, ensemble_label, parse_ids, parse_members, subsets
from rspipe.methods import MethodSpec
from rspipe.space import ADVMACER_SPACE, Parameters, Space, applied, check_copies_fit, check_space, grid_size
from rspipe.spec import (
    CertifySpec,
    DataSpec,
    DigitsData,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    RuleSpec,
    Seed,
    Spec,
    TrainingSpec,
    WeighSpec,
    check_can_certify,
    content_id,
    nearest,
)


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, (int, float, str)) else value


_NO_CODE = {"allow_code": False}


def _known_architecture(name: str, info: ValidationInfo) -> str:
    if info.context == _NO_CODE and ":" in name:
        # Before anything is imported. Who makes a spec in Python has chosen the module already.
        raise PydanticCustomError(
            "code_not_allowed",
            "this runs code of module '{module}'; pass --allow-code if you trust that module and this study file",
            {"module": name.partition(":")[0]},
        )
    try:
        find_architecture(name)
    except StudyError as error:
        raise PydanticCustomError("unknown_architecture", "{reason}", {"reason": str(error)}) from error
    return name


Sigmas = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Architecture = Annotated[str, AfterValidator(_known_architecture)]
Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ModelSpec(Spec):
    """One base classifier to train."""

    label: Label
    data: DataSpec
    architecture: Architecture
    method: MethodSpec
    training: TrainingSpec
    train_sigma: PositiveFloat
    seed: Seed

    @model_validator(mode="after")
    def _batch_holds_copies(self) -> "ModelSpec":
        check_copies_fit(self.method, self.training, place=f"'{self.label}'")
        return self

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.train_sigma:g}-seed{self.seed}-{self.digest}"


_LATER = {"algorithm": {"name": "sobol"}, "objectives": ("acr",), "early_stopping": None}


def _without_later_defaults(search: dict[str, Any]) -> dict[str, Any]:
    # Searches from before there were other algorithms keep their identity.
    plain = {**search, "objectives": tuple(search["objectives"])}
    return {name: value for name, value in search.items() if name not in _LATER or plain[name] != _LATER[name]}


def _without_trials(search: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped search without the number of its trials, to which more can be added; not so of `sobol`."""
    return {name: value for name, value in search.items() if name != "trials" or "algorithm" not in search}


class SearchSpec(Spec):
    """A search for the hyper-parameters of one method at one noise level, judged on the validation split."""

    label: Label
    """Name of the winner among the study's models."""
    data: DataSpec
    architecture: Architecture
    method: MethodSpec
    training: TrainingSpec
    sigma: PositiveFloat
    space: Space
    trials: PositiveInt
    seed: Seed
    n: PositiveInt
    alpha: Annotated[float, Field(gt=0, lt=1)]
    algorithm: Algorithm = Sobol()
    objectives: Objectives = ("acr",)
    early_stopping: Stopping = None

    @model_serializer(mode="wrap")
    def _short(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_later_defaults(serialize(self))

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.sigma:g}-{content_id(_without_trials(self.model_dump(mode='json')))}"


class EnsembleSpec(Spec):
    """An ensemble of trained models at one noise level."""

    label: str
    """In the paper's words, e.g. "advmacer x1 + smoothadv x2"."""
    sigma: PositiveFloat
    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Ids of the models."""
    weights: "Weighting"
    average: "Average"
    weigh: WeighSpec
    first: int = 0
    """Members that are asked first, for `consensus` alone."""

    @property
    def id(self) -> str:
        """Readable and unique."""
        # File names end at 255 characters; the digest tells apart what is cut off.
        name = self.label.replace(" + ", "+").replace(" ", "-")[:190]
        return f"{name}-{self.weights}-s{self.sigma:g}-{self.digest}"


Weighting = Literal["uniform", "esbrs_ratio", "esbrs_paper", "esbrs_acr", "sween", "auto", "mme", "consensus"]
"""How members are combined: an average with uniform or solved weights, or another rule (`rspipe.ensembles`)."""
Average = Literal["probabilities", "logits"]


def ensemble_name(members: str, weights: str, average: str) -> str:
    """Return an ensemble's name in tables: members and weighting, and what is averaged where it is logits."""
    return f"{members} ({weights})" if average == "probabilities" else f"{members} ({weights}, {average})"


class ModelGroup(Spec):
    """`[[models]]`: one method at several noise levels and seeds."""

    # Before the label, which is its name by default: the first error is the one reported.
    method: MethodSpec
    label: Label
    architecture: Architecture
    training: TrainingSpec
    sigma: Sigmas
    seeds: Seeds


class SearchGroup(Spec):
    """`[[search]]`: the same search at several noise levels; the winners are trained with `seeds`."""

    label: Label
    architecture: Architecture
    method: MethodSpec
    """Where the search starts: trial 0 and the values of what is not searched."""
    training: TrainingSpec
    """Of the winner."""
    trial_epochs: PositiveInt | None = None
    """Epochs of a trial; the winner's by default."""
    sigma: Sigmas
    seeds: Seeds
    space: Space
    """What is varied, by name; of AdvMacer all that the paper leaves open by default."""
    trials: Annotated[int, Field(ge=2)] = 8
    """The first has the study file's settings. More can be added later, except with `sobol`."""
    seed: Seed = 0
    n: PositiveInt = 1000
    """Noise samples per validation image."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    algorithm: Algorithm = Sobol()
    """Its name, or a table of its name and parameters."""
    objectives: Objectives = ("acr",)
    """The first, `acr`, decides which trial wins."""
    early_stopping: Stopping = None
    """`true`, or a table of `grace` and `reduction`; off by default."""

    @model_validator(mode="before")
    @classmethod
    def _default_space(cls, values: Any) -> Any:
        method = values.get("method") if isinstance(values, dict) else None
        if isinstance(method, dict) and method.get("name") == "advmacer" and "space" not in values:
            return {**values, "space": ADVMACER_SPACE}
        return values

    @model_serializer(mode="wrap")
    def _short(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_later_defaults(serialize(self))

    @model_validator(mode="after")
    def _space_fits_method(self) -> "SearchGroup":
        check_can_certify(self.n, self.alpha)
        check_copies_fit(self.method, self.training, place="method")
        check_space(self.space, self.method, self.training)
        return self

    @property
    def possible_trials(self) -> int:
        """The number of trials, or of a grid's points and the study file's own settings."""
        if self.algorithm.name != "grid":
            return self.trials
        return 1 + grid_size(self.space, self.algorithm.levels, self.method, self.training)

    @model_validator(mode="after")
    def _can_proceed(self) -> "SearchGroup":
        if self.objectives[0] != "acr" or len(set(self.objectives)) < len(self.objectives):
            raise PydanticCustomError(
                "objectives",
                "objectives = {given} must begin with 'acr', which decides who wins, and name none twice",
                {"given": str(list(self.objectives))},
            )
        if self.early_stopping is not None:
            epochs = self.trial_epochs or self.training.epochs
            if len(self.objectives) > 1:
                raise PydanticCustomError(
                    "stopping_by_several",
                    "early_stopping compares trials by ACR alone; leave it out, or all objectives but 'acr'",
                )
            if (first := self.early_stopping.first_rung(epochs)) >= epochs:
                raise PydanticCustomError(
                    "grace_too_long",
                    "early_stopping.grace = {grace} must be below the {epochs} epochs of a trial",
                    {"grace": first, "epochs": epochs},
                )
        if self.algorithm.name == "grid" and self.trials <= (
            size := grid_size(self.space, self.algorithm.levels, self.method, self.training)
        ):
            raise PydanticCustomError(
                "grid_too_large",
                "trials = {trials} are too few for the {size} points of the grid and the study file's own settings; "
                "raise trials to {least}, or lower algorithm.levels",
                {"trials": self.trials, "size": size, "least": size + 1},
            )
        return self


def _kind_of_members(value: Any) -> str:
    return "Ids" if isinstance(value, list | tuple) else "Words"


class EnsembleGroup(Spec):
    """`[[ensembles]]`: the same members at every noise level (or at `sigma`), with each of the weightings."""

    members: Annotated[
        Annotated[str, Tag("Words")] | Annotated[tuple[str, ...], Tag("Ids")], Discriminator(_kind_of_members)
    ]
    """In the paper's words, or a list of models: ids, the digest of which may be left out."""
    all_subsets: bool = False
    """Form an ensemble of every subset of two or more of the members, of which there are eight at most."""
    weights: Annotated[tuple[Weighting, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (
        "uniform",
        "esbrs_ratio",
    )
    average: Average = "probabilities"
    consensus: Annotated[int, Field(ge=2)] = 2
    """Members that `consensus` asks first."""
    sigma: Sigmas | None = None

    @model_validator(mode="after")
    def _weights_fit_average(self) -> "EnsembleGroup":
        if "sween" in self.weights and self.average == "logits":
            raise PydanticCustomError(
                "sween_of_logits", "weights 'sween' are those of an average of probabilities; drop average = 'logits'"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default_subsets(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Studies that were run before there was a choice keep their identity.
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if (name, value) != ("all_subsets", False)}

    @property
    def text(self) -> str:
        """Return the members as they are written."""
        return self.members if isinstance(self.members, str) else ", ".join(self.members)

    def wanted(self, *, place: str = "members") -> tuple[tuple[str, int], ...]:
        """Return (label, count) pairs."""
        if isinstance(self.members, str):
            return parse_members(self.members, place=place)
        labels = [model.label for model in parse_ids(self.members, place=place)]
        return tuple((label, labels.count(label)) for label in dict.fromkeys(labels))

    def sigmas(self, of_study: tuple[float, ...]) -> tuple[float, ...]:
        """Return the noise levels at which the ensembles are wanted."""
        return self.sigma or (of_study if isinstance(self.members, str) else (parse_ids(self.members)[0].sigma,))

    def choose(self, models: Sequence[Member]) -> tuple[Member, ...] | None:
        """Return the members among the models of a noise level, in order; None where one is not there.

        Raises:
            StudyError: A model has another digest than the one named.
        """
        if isinstance(self.members, str):
            have = [[model for model in models if model.label == label] for label, _ in self.wanted()]
            counts = [count for _, count in self.wanted()]
            enough = all(len(group) >= count for group, count in zip(have, counts, strict=True))
            picked = [model for group, count in zip(have, counts, strict=True) for model in group[:count]]
            return tuple(picked) if enough else None
        found = {(model.label, model.seed): model for model in models}
        named = parse_ids(self.members)
        if any((one.label, one.seed) not in found for one in named):
            return None
        for one in named:
            actual = found[one.label, one.seed].id
            if one.text != actual and one.text.count("-") == actual.count("-"):
                raise StudyError(f"ensembles: member {one.text!r} is {actual!r} here; correct its last eight digits")
        return tuple(found[one.label, one.seed] for one in named)

    @property
    def names(self) -> tuple[str, ...]:
        """What the ensembles are called in tables, one for each of the weightings."""
        return tuple(ensemble_name(self.text, weights, self.average) for weights in self.weights)


class PublishedResult(Spec):
    """`[[published]]`: what others report for an entry of the study, to stand beside what is measured."""

    entry: str
    """Label of models, compared in the mean over seeds, or an ensemble as in tables: "advmacer x3 (uniform)"."""
    sigma: PositiveFloat
    acr: NonNegativeFloat
    """Mean over their seeds, where there are several."""
    low: NonNegativeFloat | None = None
    """Of their seeds; `acr` by default."""
    high: NonNegativeFloat | None = None
    images: PositiveInt = 10_000
    """Test images that it is an average over; those certified here are taken for a sample of them."""
    source: str
    differs: str = ""
    """In what the entry differs from what was published; empty where it is the same recipe."""

    @model_validator(mode="after")
    def _in_order(self) -> "PublishedResult":
        low, high = self.span
        if not low <= self.acr <= high:
            raise PydanticCustomError(
                "published_order",
                "low = {low}, acr = {acr} and high = {high} must ascend",
                {"low": low, "acr": self.acr, "high": high},
            )
        return self

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest of their seeds."""
        return (self.acr if self.low is None else self.low), (self.acr if self.high is None else self.high)


class Claim(Spec):
    """`[[claims]]`: a statement that one entry has a larger ACR than another, to be judged on the same images."""

    first: str
    """The entry with the larger ACR, named as in `PublishedResult`."""
    second: str
    sigma: Sigmas | None = None
    """Noise levels; all where both entries are certified by default."""
    by: float | None = None
    """The difference that was published, at the only noise level named."""
    source: str = ""

    @model_validator(mode="after")
    def _one_difference(self) -> "Claim":
        if self.by is not None and (self.sigma is None or len(self.sigma) != 1):
            raise PydanticCustomError("claim_sigma", "by = {by} needs a single sigma beside it", {"by": self.by})
        return self


_SHARED = ("architecture", "training")
"""What entries that train models inherit from the top of the file."""


class StudyConfig(Spec):
    """A validated study file."""

    also_written: ClassVar[tuple[str, ...]] = _SHARED
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: str = ""
    data: DataSpec = DigitsData()
    models: Annotated[tuple[ModelGroup, ...], Field(min_length=1)]
    search: tuple[SearchGroup, ...] = ()
    ensembles: tuple[EnsembleGroup, ...] = ()
    weigh: WeighSpec = WeighSpec()
    certify: CertifySpec = CertifySpec()
    radii: tuple[NonNegativeFloat, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    """Radii at which certified accuracy is tabulated, in pixel units."""
    baseline: Label | None = None
    """Label that the report compares every model with; the first model by default."""
    published: tuple[PublishedResult, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def id(self) -> str:
        """Readable, and unique for what determines the numbers: not for what is reported of them."""
        return f"{self.name}-{content_id(self.identity)}"

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the numbers, JSON-like."""
        content = self.model_dump(mode="json", exclude={"title", "radii", "baseline", "published", "claims"})
        return {**content, "search": [_without_trials(search) for search in content["search"]]}

    @cached_property
    def default_groups(self) -> tuple[ModelGroup, ...]:
        """The settings that searches start from, where no entry trains them: what a winner is compared with.

        Not of `sobol`, whose studies say themselves what they compare.
        """
        found = []
        for group in (search for search in self.search if search.algorithm.name != "sobol"):
            start = (group.method, group.training, group.architecture)
            there = {s for g in self.models if (g.method, g.training, g.architecture) == start for s in g.sigma}
            if missing := tuple(sigma for sigma in group.sigma if sigma not in there):
                found.append(
                    ModelGroup(
                        label=f"{group.label}_default",
                        architecture=group.architecture,
                        method=group.method,
                        training=group.training,
                        sigma=missing,
                        seeds=group.seeds,
                    )
                )
        return tuple(found)

    @property
    def groups(self) -> tuple["ModelGroup | SearchGroup", ...]:
        """Every entry that trains models."""
        return (*self.models, *self.default_groups, *self.search)

    @cached_property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        """Every base classifier whose settings the file itself names."""
        return tuple(
            ModelSpec(
                label=group.label,
                data=self.data,
                architecture=group.architecture,
                method=group.method,
                training=group.training,
                train_sigma=sigma,
                seed=seed,
            )
            for group in (*self.models, *self.default_groups)
            for sigma in group.sigma
            for seed in group.seeds
        )

    @cached_property
    def search_specs(self) -> tuple[SearchSpec, ...]:
        """One search per `[[search]]` and noise level."""
        return tuple(
            SearchSpec(
                label=group.label,
                data=self.data,
                architecture=group.architecture,
                method=group.method,
                training=group.training.model_copy(update={"epochs": group.trial_epochs or group.training.epochs}),
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
        return tuple(
            ModelSpec(
                label=group.label,
                data=self.data,
                architecture=group.architecture,
                method=method,
                training=training,
                train_sigma=search.sigma,
                seed=seed,
            )
            for seed in group.seeds
        )

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """All noise levels, ascending."""
        return tuple(sorted({s for group in self.groups for s in group.sigma}))

    def ensemble_specs(self, models: Iterable[ModelSpec]) -> tuple[EnsembleSpec, ...]:
        """Return the ensembles of the given models; those that name other models are left out."""
        at: dict[float, list[Member]] = {}
        alike: Counter[tuple[float, str]] = Counter()
        for model in models:
            position = alike[model.train_sigma, model.label]
            at.setdefault(model.train_sigma, []).append(Member(model.id, model.label, model.seed, position))
            alike[model.train_sigma, model.label] += 1
        # The same ensemble may be named by several entries.
        specs: dict[tuple[Any, ...], EnsembleSpec] = {}
        for group in self.ensembles:
            for sigma in group.sigmas(self.sigmas):
                pool = group.choose(at.get(sigma, []))
                if pool is None:
                    continue
                for members in subsets(pool) if group.all_subsets else (pool,):
                    for spec in self._weighted(group, sigma, members):
                        same = spec.members if spec.first else tuple(sorted(spec.members))
                        specs.setdefault((sigma, same, spec.weights, spec.average, spec.first), spec)
        return tuple(specs.values())

    def _weighted(self, group: EnsembleGroup, sigma: float, members: tuple[Member, ...]) -> Iterable[EnsembleSpec]:
        """Yield an ensemble with each of its entry's weightings."""
        written = isinstance(group.members, str) and not group.all_subsets
        for weights in group.weights:
            if weights == "consensus" and group.consensus >= len(members):
                continue
            yield EnsembleSpec(
                label=group.text if written else ensemble_label(members),
                sigma=sigma,
                members=tuple(member.id for member in members),
                weights=weights,
                average=group.average,
                weigh=self.weigh,
                first=group.consensus if weights == "consensus" else 0,
            )

    @model_validator(mode="after")
    def _entries_exist(self) -> "StudyConfig":
        labels = [group.label for group in self.groups]
        entries = [*labels, *(name for ensemble in self.ensembles for name in ensemble.names)]
        references = [(f"published[{index}].entry", one.entry) for index, one in enumerate(self.published)]
        for index, claim in enumerate(self.claims):
            references += [(f"claims[{index}].{side}", getattr(claim, side)) for side in ("first", "second")]
        for place, name in references:
            if name not in entries:
                raise PydanticCustomError(
                    "unknown_entry",
                    "{place}: there is no entry '{name}'{hint}",
                    {"place": place, "name": name, "hint": nearest(name, entries)},
                )
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> "StudyConfig":
        labels = [group.label for group in self.groups]
        seeds: dict[tuple[str, float], set[int]] = {}
        for group in self.groups:
            if len(set(group.seeds)) < len(group.seeds):
                raise PydanticCustomError(
                    "seed_twice",
                    "'{label}' lists a seed twice in seeds = {seeds}; remove one",
                    {"label": group.label, "seeds": str(list(group.seeds))},
                )
            for sigma in group.sigma:
                if (group.label, sigma) in seeds:
                    raise PydanticCustomError(
                        "label_twice",
                        "two entries are labelled '{label}' at sigma {sigma}; give one another label",
                        {"label": group.label, "sigma": sigma},
                    )
                seeds[group.label, sigma] = set(group.seeds)
        for index, ensemble in enumerate(self.ensembles):
            self._members_fit(ensemble, seeds, place=f"ensembles[{index}]")
        if self.baseline is not None and self.baseline not in labels:
            raise PydanticCustomError(
                "unknown_baseline",
                "baseline: no model is labelled '{label}'{hint}",
                {"label": self.baseline, "hint": nearest(self.baseline, labels)},
            )
        return self

    def _members_fit(self, ensemble: EnsembleGroup, seeds: dict[tuple[str, float], set[int]], *, place: str) -> None:
        """Raise unless an entry's members are models of the study, by label and noise level."""
        labels, text = [group.label for group in self.groups], ensemble.text
        wanted = ensemble.wanted(place=f"{place}.members")
        size = sum(count for _, count in wanted)
        if "consensus" in ensemble.weights and ensemble.consensus >= size:
            raise PydanticCustomError(
                "consensus_too_large",
                "{place}.consensus = {first} must be below the {size} members of '{text}'",
                {"place": place, "first": ensemble.consensus, "size": size, "text": text},
            )
        if ensemble.all_subsets and size > MOST_IN_SUBSETS:
            raise PydanticCustomError(
                "too_many_subsets",
                "{place}.all_subsets: '{text}' are {size} members; all subsets are formed of {most} at most",
                {"place": place, "text": text, "size": size, "most": MOST_IN_SUBSETS},
            )
        place = f"{place}.members"
        for label, count in wanted:
            if label not in labels:
                raise PydanticCustomError(
                    "unknown_member",
                    "{place}: no model is labelled '{label}'{hint}",
                    {"place": place, "label": label, "hint": nearest(label, labels)},
                )
            for sigma in ensemble.sigmas(self.sigmas):
                have = len(seeds.get((label, sigma), ()))
                if have < count and (ensemble.sigma is not None or have > 0):
                    raise PydanticCustomError(
                        "too_many_members",
                        "{place}: '{label} x{count}' needs {count} models but sigma {sigma} has {have}; "
                        "add seeds to '{label}' or ask for fewer",
                        {"place": place, "label": label, "count": count, "sigma": sigma, "have": have},
                    )
        if not isinstance(ensemble.members, str):
            for one in parse_ids(ensemble.members):
                if one.seed not in seeds.get((one.label, one.sigma), ()) or ensemble.sigma not in (None, (one.sigma,)):
                    raise PydanticCustomError(
                        "unknown_model",
                        "{place}: the study has no '{text}' at this noise level; see sigma and seeds of '{label}'",
                        {"place": place, "text": one.text, "label": one.label},
                    )
        if not any(all((label, sigma) in seeds for label, _ in wanted) for sigma in self.sigmas):
            raise PydanticCustomError(
                "no_common_sigma",
                "{place}: '{text}' has no sigma at which all of its members are trained; add one to 'sigma' of a model",
                {"place": place, "text": text},
            )


def _inherit(config: dict[str, Any]) -> dict[str, Any]:
    """Return the file with `[training]` and `architecture` merged into each entry that trains models."""
    config = dict(config)
    shared = {key: config.pop(key) for key in _SHARED if key in config}
    for section in ("models", "search"):
        entries = config.get(section)
        if not isinstance(entries, list):
            continue
        merged = []
        for entry in entries:
            if not isinstance(entry, dict):
                merged.append(entry)
                continue
            own, inherited = entry.get("training", {}), shared.get("training", {})
            both = isinstance(own, dict) and isinstance(inherited, dict)
            filled = {**shared, **entry, "training": {**inherited, **own} if both else own or inherited}
            method = entry.get("method")
            if "label" not in entry and section == "models" and isinstance(method, dict) and "name" in method:
                filled["label"] = method["name"]
            merged.append(filled)
        config[section] = merged
    return config


def _override(config: dict[str, Any], assignment: str) -> None:
    """Apply one `dotted.key=value` to a parsed study file; list items are addressed by position."""
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise StudyError(f"override {assignment!r} is not of the form key=value, e.g. certify.n=1000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    place: Any = config
    for parent in parents:
        if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
            place = place[int(parent)]
        elif isinstance(place, dict):
            if parent in ("rule", "algorithm") and isinstance(place.get(parent), str):
                # A rule or an algorithm may be given by its name alone; here it gets parameters beside it.
                place[parent] = {"name": place[parent]}
            place = place.setdefault(parent, {})
        else:
            raise StudyError(f"override {assignment!r}: there is no {parent!r} in the study file")
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise StudyError(f"override {assignment!r}: there is no {last!r} in the study file")


_TAGS = {
    arg.model_fields["name"].annotation
    for union in (MethodSpec, DataSpec, RuleSpec, AlgorithmSpec)
    for arg in get_args(get_args(union)[0])
}
_TAG_NAMES = {name for tag in _TAGS for name in get_args(tag)}
_TAGGED = ("method", "data", "rule", "algorithm")


def _place(location: Sequence[str | int]) -> str:
    text = ""
    for position, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in _TAG_NAMES and position and location[position - 1] in _TAGGED:
            continue
        elif part not in ("Range", "Choice", "Words", "Ids"):
            text += f".{part}" if text else part
    return text


def _one_line(error: ErrorDetails) -> str:
    place, value = _place(error["loc"]), error.get("input")
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        valid = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return f"{place}: unknown {place.rpartition('.')[2]} {context['tag']!r}{nearest(str(context['tag']), valid)}"
    if error["type"] == "union_tag_not_found":
        return f"{place}: needs a name, e.g. {place.rpartition('.')[2]}.name"
    if error["type"] == "missing":
        return f"{place} is missing"
    if isinstance(value, (int, float, str)):
        return f"{place} = {value!r}: {error['msg']}"
    return f"{place}: {error['msg']}" if place else error["msg"]


def _refusal(path: Path, error: ValidationError, *, within: str = "") -> StudyError:
    """Return the first of the errors as one line; `within` is the part of the file that was validated."""
    first, *others = error.errors()
    first["loc"] = (within, *first["loc"]) if within else first["loc"]
    more = f" (and {len(others)} more)" if others else ""
    return StudyError(f"{path}: {_one_line(first)}{more}")


def load_study(path: Path, *, overrides: Iterable[str] = (), allow_code: bool = False) -> StudyConfig:
    """Return the study that a TOML file describes, with `dotted.key=value` overrides applied.

    Args:
        path: Of the file.
        overrides: In their order.
        allow_code: Whether an architecture may be `module:function`. Otherwise a study file is data alone, and nothing
            that it names is imported.

    Raises:
        StudyError: The file is missing, is not TOML, or says something impossible; the message names place,
            value and remedy.
    """
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such study file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path}: not a readable TOML file: {error}") from error
    # An override of a key of the default data set needs no [data] in the file.
    config.setdefault("data", {"name": DigitsData().name})
    for assignment in overrides:
        _override(config, assignment)
    if isinstance(shared := config.get("training"), dict):
        # By itself first: what is wrong with it is not to be said of every entry that inherits it.
        try:
            TrainingSpec.model_validate(shared)
        except ValidationError as error:
            raise _refusal(path, error, within="training") from error
    try:
        study = StudyConfig.model_validate(_inherit(config), context=None if allow_code else _NO_CODE)
        if study.data.name != "digits" and not Path(study.data.folder).is_absolute():
            folder = str((path.parent / study.data.folder).resolve())
            study = study.model_copy(update={"data": study.data.model_copy(update={"folder": folder})})
        # Resolving finds what no single entry shows. Not before the folder is known: a copy keeps what is cached.
        _ = (study.model_specs, study.search_specs, study.ensemble_specs(study.model_specs))
    except ValidationError as error:
        raise _refusal(path, error) from error
    return study

"""A study file (TOML) says everything that determines a study's numbers; here it becomes specs."""

import tomllib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from rspipe.architectures import find_architecture
from rspipe.errors import StudyError
from rspipe.methods import MethodSpec
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


def _known_architecture(name: str) -> str:
    try:
        find_architecture(name)
    except StudyError as error:
        raise PydanticCustomError("unknown_architecture", "{reason}", {"reason": str(error)}) from error
    return name


Sigmas = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Architecture = Annotated[str, AfterValidator(_known_architecture)]
Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _check_copies_fit(method: MethodSpec, training: TrainingSpec, *, place: str) -> None:
    """Raise unless an optimizer step holds at least one image with all its noisy copies."""
    if method.images_per_step(training.batch_size) < 1:
        raise PydanticCustomError(
            "batch_too_small",
            "{place}: m = {m} does not fit into batch_size = {batch}; raise training.batch_size or lower m",
            {"place": place, "m": getattr(method, "m", 1), "batch": training.batch_size},
        )


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
        _check_copies_fit(self.method, self.training, place=f"'{self.label}'")
        return self

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.train_sigma:g}-seed{self.seed}-{self.digest}"


class Range(Spec):
    """An interval of a hyper-parameter, both ends included; whole numbers where the hyper-parameter is one."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _not_empty(self) -> "Range":
        if not self.low < self.high:
            raise PydanticCustomError(
                "empty_range", "low = {low} must be below high = {high}", {"low": self.low, "high": self.high}
            )
        if self.log and self.low <= 0:
            raise PydanticCustomError("log_range", "low = {low} must be positive on a log scale", {"low": self.low})
        return self


class Choice(Spec):
    """A list of values of a hyper-parameter."""

    choices: Annotated[tuple[float | int, ...], Field(min_length=1)]


def _kind_of_domain(value: Any) -> str:
    chosen = isinstance(value, dict) and any(str(key).startswith("choice") for key in value)
    return "Choice" if chosen or isinstance(value, Choice) else "Range"


Domain = Annotated[Annotated[Range, Tag("Range")] | Annotated[Choice, Tag("Choice")], Discriminator(_kind_of_domain)]
Space = Annotated[dict[str, Domain], Field(min_length=1)]


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

    @property
    def id(self) -> str:
        """Readable and unique."""
        return f"{self.label}-s{self.sigma:g}-{self.digest}"


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
        name = self.label.replace(" + ", "+").replace(" ", "-")
        return f"{name}-{self.weights}-s{self.sigma:g}-{self.digest}"


Weighting = Literal["uniform", "esbrs_ratio", "esbrs_paper", "mme", "consensus"]
"""How members are combined: an average with uniform or solved weights, or another rule (`rspipe.ensembles`)."""
Average = Literal["probabilities", "logits"]


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
    trials: Annotated[int, Field(ge=2)] = 8
    seed: Seed = 0
    n: PositiveInt = 1000
    """Noise samples per validation image."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001

    @model_validator(mode="after")
    def _space_fits_method(self) -> "SearchGroup":
        fields = type(self.method).model_fields
        searchable = [name for name in fields if name != "name"]
        check_can_certify(self.n, self.alpha)
        _check_copies_fit(self.method, self.training, place="method")
        for name, domain in self.space.items():
            if name not in searchable:
                raise PydanticCustomError(
                    "unknown_hyperparameter",
                    "{method} has no hyper-parameter '{name}'{hint}",
                    {"method": self.method.name, "name": name, "hint": nearest(name, searchable)},
                )
            ends = (domain.low, domain.high) if isinstance(domain, Range) else domain.choices
            for end in ends:
                try:
                    method = type(self.method).model_validate({**self.method.model_dump(), name: end})
                except ValidationError as error:
                    reason = error.errors()[0]["msg"]
                    raise PydanticCustomError(
                        "value_out_of_range",
                        "space.{name}: {value} is no value of it: {reason}",
                        {"name": name, "value": end, "reason": reason},
                    ) from error
                _check_copies_fit(method, self.training, place=f"space.{name}")
        return self


class EnsembleGroup(Spec):
    """`[[ensembles]]`: the same members at every noise level (or at `sigma`), with each of the weightings."""

    members: str
    weights: Annotated[tuple[Weighting, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (
        "uniform",
        "esbrs_ratio",
    )
    average: Average = "probabilities"
    consensus: Annotated[int, Field(ge=2)] = 2
    """Members that `consensus` asks first."""
    sigma: Sigmas | None = None


class StudyConfig(Spec):
    """A validated study file."""

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

    @property
    def id(self) -> str:
        """Readable, and unique for what determines the numbers: not for what is reported of them."""
        return f"{self.name}-{content_id(self.identity)}"

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the numbers, JSON-like."""
        return self.model_dump(mode="json", exclude={"title", "radii", "baseline"})

    @property
    def groups(self) -> tuple["ModelGroup | SearchGroup", ...]:
        """Every entry that trains models."""
        return (*self.models, *self.search)

    @cached_property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        """Every base classifier that the file itself names."""
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
            for group in self.models
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
                trials=group.trials,
                seed=group.seed,
                n=group.n,
                alpha=group.alpha,
            )
            for group in self.search
            for sigma in group.sigma
        )

    def winner_specs(self, search: SearchSpec, best: dict[str, float | int]) -> tuple[ModelSpec, ...]:
        """Return the models to train with the hyper-parameters `best` that a search found."""
        group = next(g for g in self.search if g.label == search.label and search.sigma in g.sigma)
        method = type(search.method).model_validate({**search.method.model_dump(), **best})
        return tuple(
            ModelSpec(
                label=group.label,
                data=self.data,
                architecture=group.architecture,
                method=method,
                training=group.training,
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
        ids: dict[tuple[str, float], list[str]] = {}
        for model in models:
            ids.setdefault((model.label, model.train_sigma), []).append(model.id)
        specs = []
        for group in self.ensembles:
            wanted = parse_members(group.members)
            for sigma in group.sigma or self.sigmas:
                available = [ids.get((label, sigma), []) for label, _ in wanted]
                if any(len(have) < count for have, (_, count) in zip(available, wanted, strict=True)):
                    continue
                members = [id_ for have, (_, count) in zip(available, wanted, strict=True) for id_ in have[:count]]
                specs += [
                    EnsembleSpec(
                        label=group.members,
                        sigma=sigma,
                        members=tuple(members),
                        weights=weights,
                        average=group.average,
                        weigh=self.weigh,
                        first=group.consensus if weights == "consensus" else 0,
                    )
                    for weights in group.weights
                ]
        return tuple(specs)

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
            place = f"ensembles[{index}].members"
            wanted = parse_members(ensemble.members, place=place)
            size = sum(count for _, count in wanted)
            if "consensus" in ensemble.weights and ensemble.consensus >= size:
                raise PydanticCustomError(
                    "consensus_too_large",
                    "ensembles[{index}].consensus = {first} must be below the {size} members of '{text}'",
                    {"index": index, "first": ensemble.consensus, "size": size, "text": ensemble.members},
                )
            for label, count in wanted:
                if label not in labels:
                    raise PydanticCustomError(
                        "unknown_member",
                        "{place}: no model is labelled '{label}'{hint}",
                        {"place": place, "label": label, "hint": nearest(label, labels)},
                    )
                for sigma in ensemble.sigma or self.sigmas:
                    have = len(seeds.get((label, sigma), ()))
                    if have < count and (ensemble.sigma is not None or have > 0):
                        raise PydanticCustomError(
                            "too_many_members",
                            "{place}: '{label} x{count}' needs {count} models but sigma {sigma} has {have}; "
                            "add seeds to '{label}' or ask for fewer",
                            {"place": place, "label": label, "count": count, "sigma": sigma, "have": have},
                        )
            if not any(all((label, sigma) in seeds for label, _ in wanted) for sigma in self.sigmas):
                raise PydanticCustomError(
                    "no_common_sigma",
                    "{place}: '{text}' has no sigma at which all of its members are trained; "
                    "add one to 'sigma' of a model",
                    {"place": place, "text": ensemble.members},
                )
        if self.baseline is not None and self.baseline not in labels:
            raise PydanticCustomError(
                "unknown_baseline",
                "baseline: no model is labelled '{label}'{hint}",
                {"label": self.baseline, "hint": nearest(self.baseline, labels)},
            )
        return self


def parse_members(text: str, *, place: str = "members") -> tuple[tuple[str, int], ...]:
    """Return (label, count) pairs of the paper's notation, e.g. "advmacer x1 + smoothadv x2"."""
    pairs = []
    for part in text.split("+"):
        label, _, count = part.strip().partition(" x")
        if not label or not count.strip().isdecimal() or int(count) < 1:
            raise PydanticCustomError(
                "members",
                "{place}: '{text}' is not of the form 'advmacer x1 + smoothadv x2'",
                {"place": place, "text": text},
            )
        pairs.append((label.strip(), int(count)))
    if len({label for label, _ in pairs}) < len(pairs):
        raise PydanticCustomError("members", "{place}: '{text}' names a label twice", {"place": place, "text": text})
    if sum(count for _, count in pairs) < 2:
        raise PydanticCustomError(
            "members",
            "{place}: '{text}' is a single model; an ensemble has two or more",
            {"place": place, "text": text},
        )
    return tuple(pairs)


_SHARED = ("architecture", "training")


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
            if parent == "rule" and isinstance(place.get(parent), str):
                # A rule may be given by its name alone; here it gets parameters beside it.
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
    for union in (MethodSpec, DataSpec, RuleSpec)
    for arg in get_args(get_args(union)[0])
}
_TAG_NAMES = {name for tag in _TAGS for name in get_args(tag)}


def _place(location: Sequence[str | int]) -> str:
    text = ""
    for position, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in _TAG_NAMES and position and location[position - 1] in ("method", "data", "rule"):
            continue
        elif part not in ("Range", "Choice"):
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


def load_study(path: Path, *, overrides: Iterable[str] = ()) -> StudyConfig:
    """Return the study that a TOML file describes, with `dotted.key=value` overrides applied.

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
        study = StudyConfig.model_validate(_inherit(config))
        if study.data.name != "digits" and not Path(study.data.folder).is_absolute():
            folder = str((path.parent / study.data.folder).resolve())
            study = study.model_copy(update={"data": study.data.model_copy(update={"folder": folder})})
        # Resolving finds what no single entry shows. Not before the folder is known: a copy keeps what is cached.
        _ = (study.model_specs, study.search_specs)
    except ValidationError as error:
        raise _refusal(path, error) from error
    return study

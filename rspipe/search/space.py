"""The space of a search: ranges, choices and conditions of hyper-parameters, fields of method and training."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rspipe.errors import nearest
from rspipe.spec import Spec
from rspipe.training.methods import MethodSpec
from rspipe.training.spec import TrainingSpec, check_copies_fit

Value: TypeAlias = float | int

Parameters: TypeAlias = dict[str, Value]
"""Values by name: a field of the method, or `training.` and a field of the training settings."""


TRAINING = "training."

_FIXED = {"name", "epochs", "precision"}

_CORNERS = 4096
"""Combinations of ends that are tried at most before a study starts."""


class Condition(Spec):
    """The values that another hyper-parameter must have: one of `values`, or from `low` to `high`, ends included."""

    values: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Condition":
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if (self.values is None) == (not bounds):
            raise PydanticCustomError("condition", "give a list of values, or low, high or both")
        if bounds != sorted(bounds):
            raise PydanticCustomError(
                "empty_condition", "low = {low} must not exceed high = {high}", {"low": self.low, "high": self.high}
            )
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values or bounds that it names."""
        return self.values or tuple(bound for bound in (self.low, self.high) if bound is not None)

    def holds(self, value: Value) -> bool:
        """Return whether a value meets the condition."""
        if self.values is not None:
            return value in self.values
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def _condition(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return {"values": [value]}
    return {"values": value} if isinstance(value, (list, tuple)) else value


Conditions: TypeAlias = dict[str, Annotated[Condition, BeforeValidator(_condition)]]


class Range(Spec):
    """An interval of a hyper-parameter, both ends included; whole numbers where the hyper-parameter is one."""

    low: float
    high: float
    log: bool = False
    when: Conditions = Field(default_factory=dict)
    """Varied only where these other hyper-parameters have these values; else it keeps the study file's."""

    @model_validator(mode="after")
    def _not_empty(self) -> "Range":
        if not self.low < self.high:
            raise PydanticCustomError(
                "empty_range", "low = {low} must be below high = {high}", {"low": self.low, "high": self.high}
            )
        if self.log and self.low <= 0:
            raise PydanticCustomError("log_range", "low = {low} must be positive on a log scale", {"low": self.low})
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """The smallest and the largest value."""
        return (self.low, self.high)

    def holds(self, value: Value) -> bool:
        """Return whether a value lies in the interval."""
        return self.low <= value <= self.high


class Choice(Spec):
    """A list of values of a hyper-parameter."""

    choices: Annotated[tuple[Value, ...], Field(min_length=1)]
    when: Conditions = Field(default_factory=dict)
    """As of a range."""

    @property
    def ends(self) -> tuple[Value, ...]:
        """The smallest and the largest value."""
        return tuple(dict.fromkeys((min(self.choices), max(self.choices))))

    def holds(self, value: Value) -> bool:
        """Return whether a value is in the list."""
        return value in self.choices


def _kind_of_domain(value: Any) -> str:
    chosen = isinstance(value, dict) and any(str(key).startswith("choice") for key in value)
    return "Choice" if chosen or isinstance(value, Choice) else "Range"


Domain = Annotated[Annotated[Range, Tag("Range")] | Annotated[Choice, Tag("Choice")], Discriminator(_kind_of_domain)]

Space = Annotated[dict[str, Domain], Field(min_length=1)]


ADVMACER_SPACE: dict[str, Any] = {
    "lbd": {"low": 0.5, "high": 32.0, "log": True},
    "gamma": {"low": 2.0, "high": 16.0},
    "T": {"low": 1, "high": 4},
    "m": {"choices": (2, 4, 8)},
    "eps": {"low": 0.125, "high": 2.0, "log": True},
    "beta": {"low": 1.0, "high": 32.0, "log": True},
    f"{TRAINING}lr": {"low": 0.01, "high": 0.2, "log": True},
}
"""The space of AdvMacer by default: around the paper's settings, all it leaves open."""


def _number_types(annotation: Any) -> set[type]:
    """Return which of int and float an annotation allows."""
    if annotation in (int, float):
        return {annotation}
    return set().union(*(_number_types(arg) for arg in get_args(annotation) if isinstance(arg, type) or get_args(arg)))


def _field(name: str, method: MethodSpec, training: TrainingSpec) -> tuple[Spec, str]:
    """Return the spec that a hyper-parameter lies in, and its field there."""
    return (training, name.removeprefix(TRAINING)) if name.startswith(TRAINING) else (method, name)


def _searchable(spec: Spec) -> list[str]:
    fields = type(spec).model_fields.items()
    return [name for name, field in fields if name not in _FIXED and _number_types(field.annotation)]


def is_whole(name: str, method: MethodSpec, training: TrainingSpec) -> bool:
    """Return whether a hyper-parameter is a whole number."""
    spec, field = _field(name, method, training)
    return _number_types(type(spec).model_fields[field].annotation) == {int}


def own_values(space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec) -> Parameters:
    """Return the study file's values of the hyper-parameters of a space; those that are off are left out."""
    values = {name: getattr(*_field(name, method, training)) for name in sorted(space)}
    return {name: value for name, value in values.items() if value is not None}


def applied(
    parameters: Mapping[str, Value], method: MethodSpec, training: TrainingSpec
) -> tuple[MethodSpec, TrainingSpec]:
    """Return method and training settings with some hyper-parameters changed.

    Raises:
        ValidationError: The values are none, or do not fit together.
    """
    own = {name: value for name, value in parameters.items() if not name.startswith(TRAINING)}
    others = {name.removeprefix(TRAINING): v for name, v in parameters.items() if name.startswith(TRAINING)}
    return (
        type(method).model_validate({**method.model_dump(), **own}),
        TrainingSpec.model_validate({**training.model_dump(), **others}),
    )


def parents_first(space: Mapping[str, Domain]) -> list[str]:
    """Return the names of a space by alphabet, but each after those that its conditions are about."""
    ordered: list[str] = []
    while len(ordered) < len(space):
        open_ = [name for name in sorted(space) if name not in ordered]
        ready = [name for name in open_ if not any(parent in open_ for parent in space[name].when)]
        if not ready:
            rest = ", ".join(sorted(set(space) - set(ordered)))
            raise PydanticCustomError("circle", "space: the conditions of {rest} go in a circle", {"rest": rest})
        ordered.append(ready[0])
    return ordered


def own_point(space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec) -> Parameters:
    """Return the study file's values of the hyper-parameters that it has on and whose conditions hold."""
    own = own_values(space, method, training)
    return choose({name: space[name] for name in own}, own, own.__getitem__)


def choose(space: Mapping[str, Domain], own: Mapping[str, Value], value: Callable[[str], Value]) -> Parameters:
    """Return the values of the hyper-parameters whose conditions hold, sorted by name.

    Args:
        space: What is varied.
        own: The study file's values, which the others keep.
        value: Called for each hyper-parameter that is varied, those that conditions are about before the others.
    """
    chosen: Parameters = {}
    for name in parents_first(space):
        known = {**own, **chosen}
        if all(parent in known and condition.holds(known[parent]) for parent, condition in space[name].when.items()):
            chosen[name] = value(name)
    return {name: chosen[name] for name in sorted(chosen)}


def levels(domain: Domain, count: int, *, whole: bool) -> tuple[Value, ...]:
    """Return the values of a domain on a grid: all choices, or `count` evenly spaced values of a range."""
    if isinstance(domain, Choice):
        return domain.choices
    positions = [step / (count - 1) for step in range(count)]
    return tuple(dict.fromkeys(value_at(domain, position, whole=whole) for position in positions))


def value_at(domain: Range, position: float, *, whole: bool) -> Value:
    """Return the value at a position in [0, 1] between the ends of a range, both of which it reaches."""
    if domain.log:
        value = domain.low * (domain.high / domain.low) ** position
    else:
        value = domain.low + position * (domain.high - domain.low)
    # Four digits read well in a study file but may lie just outside a narrow range.
    return round(value) if whole else min(max(float(f"{value:.4g}"), domain.low), domain.high)


def grid_points(
    space: Mapping[str, Domain], count: int, method: MethodSpec, training: TrainingSpec
) -> tuple[Parameters, ...]:
    """Return every combination of `levels`, each once, without the study file's own settings."""
    own, names = own_values(space, method, training), sorted(space)
    values = [levels(space[name], count, whole=is_whole(name, method, training)) for name in names]
    points: dict[tuple[tuple[str, Value], ...], Parameters] = {}
    for point in itertools.product(*values):
        chosen = choose(space, own, dict(zip(names, point, strict=True)).__getitem__)
        points[tuple(chosen.items())] = chosen
    points.pop(tuple(own_point(space, method, training).items()), None)
    return tuple(points.values())


def grid_size(space: Mapping[str, Domain], count: int, method: MethodSpec, training: TrainingSpec) -> int:
    """Return the number of `grid_points`, or an upper bound where there are very many."""
    sizes = [len(levels(d, count, whole=is_whole(name, method, training))) for name, d in space.items()]
    whole = math.prod(sizes)
    return whole if whole > _CORNERS else len(grid_points(space, count, method, training))


def _check_names(space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec) -> None:
    for name, domain in space.items():
        spec, field = _field(name, method, training)
        if field not in _searchable(spec):
            raise PydanticCustomError(
                "unknown_hyperparameter",
                "{owner} has no hyper-parameter '{name}'{hint}",
                {
                    "owner": method.name if spec is method else "training",
                    "name": field,
                    "hint": nearest(field, _searchable(spec)),
                },
            )
        for parent in domain.when:
            if parent not in space or parent == name:
                raise PydanticCustomError(
                    "unknown_parent",
                    "space.{name}.when: '{parent}' is not varied beside it{hint}",
                    {"name": name, "parent": parent, "hint": nearest(parent, set(space) - {name})},
                )
            if not any(map(domain.when[parent].holds, _tried(space, parent))):
                raise PydanticCustomError(
                    "never",
                    "space.{name}.when.{parent}: no value that {parent} takes meets it; the two must overlap",
                    {"name": name, "parent": parent},
                )


def _tried(space: Mapping[str, Domain], name: str) -> tuple[Value, ...]:
    """Return the ends of a domain, and what conditions name within it."""
    named = [end for child in space.values() if name in child.when for end in child.when[name].ends]
    return tuple(dict.fromkeys((*space[name].ends, *filter(space[name].holds, named))))


def _corners(space: Mapping[str, Domain], own: Parameters, names: tuple[str, ...]) -> Iterator[Parameters]:
    """Yield the combinations of the ends of some hyper-parameters, the others as in the study file."""
    for ends in itertools.product(*(_tried(space, name) for name in names)):
        given = {**own, **dict(zip(names, ends, strict=True))}
        chosen = choose({name: space[name] for name in space if name in given}, own, given.__getitem__)
        yield {name: value for name, value in chosen.items() if name in names}


def _check_together(
    space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec, names: tuple[str, ...]
) -> None:
    for corner in itertools.islice(_corners(space, own_values(space, method, training), names), _CORNERS):
        place = ", ".join(f"{name} = {value:g}" for name, value in corner.items())
        try:
            changed, trained = applied(corner, method, training)
        except ValidationError as error:
            raise PydanticCustomError(
                "values_clash",
                "space: {place} do not fit together: {reason}; narrow a range, or vary one only `when` another allows",
                {"place": place, "reason": error.errors()[0]["msg"]},
            ) from error
        check_copies_fit(changed, trained, place=f"space: {place}")


def check_space(space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec) -> None:
    """Raise a PydanticCustomError unless every end, and every combination of ends, can be trained.

    What only values between the ends rule out is found by the trial that draws them, which is then invalid.
    """
    _check_names(space, method, training)
    parents_first(space)
    for name, domain in space.items():
        if domain.when:
            continue
        for end in domain.ends if isinstance(domain, Range) else domain.choices:
            try:
                changed, trained = applied({name: end}, method, training)
            except ValidationError as error:
                raise PydanticCustomError(
                    "value_out_of_range",
                    "space.{name}: {value} is no value of it: {reason}",
                    {"name": name, "value": end, "reason": error.errors()[0]["msg"]},
                ) from error
            check_copies_fit(changed, trained, place=f"space.{name}")
    for pair in itertools.combinations(sorted(space), 2):
        _check_together(space, method, training, pair)
    _check_together(space, method, training, tuple(sorted(space)))

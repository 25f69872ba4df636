"""The space of a search: the points of its domains, as fields of method and training settings."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, get_args

from pydantic_core import PydanticCustomError

from rspipe.search.domains import TRAINING, Choice, Domain, Range, Value
from rspipe.spec import Spec
from rspipe.training.methods import MethodSpec
from rspipe.training.spec import TrainingSpec

Parameters: TypeAlias = dict[str, Value]
"""Values by name: a field of the method, or `training.` and a field of the training settings."""

_FIXED = {"name", "epochs", "precision"}

CORNERS = 4096
"""Points that are listed at most before a study starts."""

_COUNTED = 20_000
"""Points of a grid, at most."""


def _number_types(annotation: Any) -> set[type]:
    """Return which of int and float an annotation allows."""
    if annotation in (int, float):
        return {annotation}
    return set().union(*(_number_types(arg) for arg in get_args(annotation) if isinstance(arg, type) or get_args(arg)))


def field_of(name: str, method: MethodSpec, training: TrainingSpec) -> tuple[Spec, str]:
    """Return the spec that a hyper-parameter lies in, and its field there."""
    return (training, name.removeprefix(TRAINING)) if name.startswith(TRAINING) else (method, name)


def searchable(spec: Spec) -> list[str]:
    """Return the fields of method or training settings that a search may vary."""
    fields = type(spec).model_fields.items()
    return [name for name, field in fields if name not in _FIXED and _number_types(field.annotation)]


def is_whole(name: str, method: MethodSpec, training: TrainingSpec) -> bool:
    """Return whether a hyper-parameter is a whole number."""
    spec, field = field_of(name, method, training)
    return _number_types(type(spec).model_fields[field].annotation) == {int}


def own_values(space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec) -> Parameters:
    """Return the study file's values of the hyper-parameters of a space; those that are off are left out."""
    values = {name: getattr(*field_of(name, method, training)) for name in sorted(space)}
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
    """Return the number of `grid_points`.

    Raises:
        PydanticCustomError: It may be more than anybody counts.
    """
    sizes = [len(levels(d, count, whole=is_whole(name, method, training))) for name, d in space.items()]
    if (most := math.prod(sizes)) > _COUNTED:
        raise PydanticCustomError(
            "grid_beyond",
            "the grid has up to {most} points, and {counted} is the largest that is searched; lower algorithm.levels, "
            "or take another algorithm",
            {"most": most, "counted": _COUNTED},
        )
    return len(grid_points(space, count, method, training))

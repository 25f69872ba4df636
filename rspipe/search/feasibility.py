"""Whether the ends of a space, alone and together, can be trained: asked before a study starts."""

import itertools
from collections.abc import Iterator, Mapping

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from rspipe.errors import nearest
from rspipe.search.domains import Domain, Range, Value
from rspipe.search.space import CORNERS, Parameters, applied, choose, field_of, own_values, parents_first, searchable
from rspipe.spec import reason
from rspipe.training.methods import MethodSpec
from rspipe.training.spec import TrainingSpec, check_begins, check_copies_fit


def _check_names(space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec) -> None:
    for name, domain in space.items():
        spec, field = field_of(name, method, training)
        if field not in searchable(spec):
            raise PydanticCustomError(
                "unknown_hyperparameter",
                "{owner} has no hyper-parameter '{name}'{hint}",
                {
                    "owner": method.name if spec is method else "training",
                    "name": field,
                    "hint": nearest(field, searchable(spec)),
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
    space: Mapping[str, Domain],
    method: MethodSpec,
    training: TrainingSpec,
    names: tuple[str, ...],
    *,
    epochs: int | None,
) -> None:
    for corner in itertools.islice(_corners(space, own_values(space, method, training), names), CORNERS):
        place = ", ".join(f"{name} = {value:g}" for name, value in corner.items())
        try:
            changed, trained = applied(corner, method, training)
        except ValidationError as error:
            raise PydanticCustomError(
                "values_clash",
                "space: {place} do not fit together: {reason}; narrow a range, or vary one only `when` another allows",
                {"place": place, "reason": reason(error, subject="it")},
            ) from error
        check_copies_fit(changed, trained, place=f"space: {place}")
        if epochs is not None:
            check_begins(changed, epochs, place=f"space: {place}")


def check_space(
    space: Mapping[str, Domain], method: MethodSpec, training: TrainingSpec, *, epochs: int | None = None
) -> None:
    """Raise a PydanticCustomError unless every end, and every combination of ends, can be trained.

    With `epochs`, those of a trial, what a method is about has to begin within them.
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
                    {"name": name, "value": end, "reason": reason(error, subject="it")},
                ) from error
            check_copies_fit(changed, trained, place=f"space.{name}")
            if epochs is not None:
                check_begins(changed, epochs, place=f"space.{name}")
    for pair in itertools.combinations(sorted(space), 2):
        _check_together(space, method, training, pair, epochs=epochs)
    _check_together(space, method, training, tuple(sorted(space)), epochs=epochs)

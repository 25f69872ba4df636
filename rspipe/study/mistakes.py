"""The mistakes of a study file: all of it together, each with its place, its value and the remedy."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rspipe.data.spec import DataSpec
from rspipe.errors import nearest, nearest_name
from rspipe.search.spec import AlgorithmSpec
from rspipe.smoothing.sampling import RULES
from rspipe.spec import wrong_value
from rspipe.training.methods import MethodSpec

Location = tuple[str | int, ...]
"""Keys and positions in a parsed study file, among them the tags of alternatives."""


def _names(union: Any) -> set[str]:
    """Return the names of the alternatives of a union of specs."""
    kinds = get_args(get_args(union)[0])
    return {name for kind in kinds for name in get_args(kind.model_fields["name"].annotation)}


_NAMED = {"method": _names(MethodSpec), "data": _names(DataSpec), "algorithm": _names(AlgorithmSpec), "rule": {*RULES}}
"""Tables of a study file whose name says what else they hold, and the names."""

_LONGEST_SHOWN = 100

_UNION_TAGS = ("Range", "Choice", "Real", "Whole", "One", "List", "Number", "Numbers", "ModelGroup", "CheckpointGroup")
"""Names of alternatives that are no part of a study file."""


def _in_file(location: Location) -> Location:
    """Return a location without the tags of alternatives."""
    return tuple(
        part
        for position, part in enumerate(location)
        if part not in _UNION_TAGS and not (position and part in _NAMED.get(str(location[position - 1]), ()))
    )


def _place(location: Location) -> str:
    """Return a location as `--set` has it, with positions in brackets."""
    text = ""
    for part in _in_file(location):
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: object) -> str:
    """Return a single value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    text = value.isoformat() if isinstance(value, datetime.date | datetime.time) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _line(error: ErrorDetails) -> str:
    place, value, kind = _place(error["loc"]), error["input"], error["type"]
    entry = place.rpartition(".")[2]
    if kind == "union_tag_invalid":
        context = error["ctx"]
        valid = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return f"{place}: unknown {entry} {_shown(context['tag'])}{nearest(str(context['tag']), valid)}"
    if kind == "union_tag_not_found":
        return f"{place}: needs a name, e.g. {entry}.name"
    if kind == "model_attributes_type":
        return f"{place} must be a table, e.g. {{ name = {_shown(value) if isinstance(value, str) else '...'} }}"
    words, is_verb = wrong_value(error)
    single = isinstance(value, bool | int | float | str | datetime.date | datetime.time)
    if single and kind not in ("missing", "value_error"):
        return f"{place} = {_shown(value)}{'' if is_verb else ':'} {words}"
    return f"{place}{'' if is_verb else ':'} {words}" if place else words


def mistakes_in(error: ValidationError, *, within: Location = (), only_unknown_keys: bool = False) -> list[str]:
    """Return a line for each mistake in what was validated.

    Args:
        error: Of the validation.
        within: The part of the study file that was validated.
        only_unknown_keys: Whether to leave out all others.
    """
    errors = [one for one in error.errors(include_url=False) if not only_unknown_keys or one["type"] == "unknown_key"]
    # A list whose only entry is wrong counts as empty, too.
    wrong_within = {one["loc"][:length] for one in errors for length in range(len(one["loc"]))}
    shown = [one for one in errors if one["type"] != "too_short" or one["loc"] not in wrong_within]
    for one in shown:
        one["loc"] = (*within, *one["loc"])
    return list(dict.fromkeys(_line(one) for one in shown))


def unknown_keys(error: ValidationError) -> dict[Location, str | None]:
    """Return the keys of a parsed file that are unknown, and what each is probably meant to be.

    It is the first one of each table, behind which whatever else is wrong with that table hides.
    """
    unknown = (one for one in error.errors() if one["type"] == "unknown_key")
    return {(*_in_file(one["loc"]), one["ctx"]["key"]): one["ctx"]["meant"] for one in unknown}


def renamed(content: Any, location: Sequence[str | int], name: str | None) -> Any:
    """Return parsed content with another name for what is at a location; without it where that is None, or taken."""
    first, *rest = location
    if isinstance(content, list):
        return [renamed(value, rest, name) if position == first else value for position, value in enumerate(content)]
    if rest:
        return {**content, first: renamed(content[first], rest, name)}
    others = {key: value for key, value in content.items() if key != first}
    return others if name is None else {name: content[first], **others}


def with_nearest_names(content: Any, location: Location = ()) -> tuple[Any, list[str]]:
    """Return parsed content with the nearest names in place of unknown ones, and what is said of each.

    An unknown name of a table hides whatever else is wrong with the table.
    """
    if isinstance(content, list):
        pairs = [with_nearest_names(value, (*location, position)) for position, value in enumerate(content)]
        return [value for value, _ in pairs], [line for _, lines in pairs for line in lines]
    if not isinstance(content, dict):
        return content, []
    changed, mistakes = {}, []
    for key, value in content.items():
        changed[key], lines = with_nearest_names(value, (*location, key))
        mistakes += lines
        table = {"name": value} if isinstance(value, str) and key in ("rule", "algorithm") else value
        name = table.get("name") if key in _NAMED and isinstance(table, dict) else None
        if isinstance(name, str) and name not in _NAMED[key] and (meant := nearest_name(name, _NAMED[key])):
            mistakes.append(f"{_place((*location, key))}: unknown {key} {_shown(name)}{nearest(name, _NAMED[key])}")
            changed[key] = {**table, "name": meant}
    return changed, mistakes


def listed(mistakes: Iterable[str]) -> str:
    """Return mistakes as the text of an error: one as it is, several in lines of their own."""
    lines = list(dict.fromkeys(mistakes))
    return lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} mistakes:", *(f"  {line}" for line in lines)])

"""Bounds of what a study file may hold: larger ones are mistakes or attacks, and would hang or crash a parser."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from rspipe.errors import StudyError, printable

_LONGEST_FILE, _LONGEST_TEXT, _LONGEST_NAME = 1 << 22, 10_000, 200

_MOST_PARTS = 1_000

_DEEPEST, _MOST_VALUES = 32, 100_000

_NUMBERS = range(-(2**63), 2**63)


def parsed_toml(text: str) -> dict[str, Any]:
    """Return what a text in TOML says.

    Raises:
        StudyError: It is none, or too large or too deep for a study; the message does not name the file.
    """
    if len(text) > _LONGEST_FILE:
        raise StudyError(f"{len(text):,} characters are too many for a study file, which has at most {_LONGEST_FILE:,}")
    # The time that a dotted key takes grows with the square of its parts.
    if any(piece.count(".") > _MOST_PARTS for piece in re.split(r"[\n=\[\]{},]", text)):
        raise StudyError(f"a key has more than {_MOST_PARTS:,} parts; shorten it")
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        raise StudyError(f"tables or lists lie more than {_DEEPEST} deep in each other; flatten them") from error
    except ValueError as error:
        raise StudyError("a whole number has thousands of digits; they end at 2^63") from error


def check_bounds(content: dict[str, Any]) -> None:
    """Check that parsed content is not too deep, that its whole numbers have 64 bits, and that its texts can be shown.

    Raises:
        StudyError: Something is beyond that; the message begins with its place.
    """
    for count, (name, value, depth) in enumerate(_walk(content)):
        if count > _MOST_VALUES:
            raise StudyError(f"{_MOST_VALUES:,} values are too many for a study file; name fewer")
        place = printable(name)[-80:]
        if depth > _DEEPEST:
            raise StudyError(f"{place}: lies more than {_DEEPEST} deep; flatten it")
        if isinstance(value, int) and value not in _NUMBERS:
            raise StudyError(f"{place}: a whole number of {value.bit_length():,} bits is too large; they end at 2^63")
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            raise StudyError(f"{place}: a text of {len(value):,} characters is longer than {_LONGEST_TEXT:,}")
        if isinstance(value, str) and printable(value) != value:
            raise StudyError(
                f"{place}: '{printable(value)[:80]}' has characters that control a terminal; leave them out"
            )


def _walk(content: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Yield the place, the value and the depth of everything, keys as texts of their own."""
    left: list[tuple[str, Any, int]] = [("the file", content, 0)]
    while left:
        place, value, depth = left.pop()
        yield place, value, depth
        if isinstance(value, dict):
            for key, inner in value.items():
                if len(str(key)) > _LONGEST_NAME:
                    raise StudyError(f"a key of {place} has {len(str(key)):,} characters; shorten it")
                yield f"a key of {place}", str(key), depth
                left.append((f"{place}.{key}" if depth else str(key), inner, depth + 1))
        elif isinstance(value, list):
            left += [(f"{place}[{index}]", inner, depth + 1) for index, inner in enumerate(value)]

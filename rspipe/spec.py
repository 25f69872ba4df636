"""Specs: frozen, validated descriptions of what to run. A spec's content is its identity."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from rspipe.errors import nearest, nearest_name

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]

NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PositiveInt = Annotated[int, Field(gt=0)]

NonNegativeInt = Annotated[int, Field(ge=0)]

Seed = Annotated[int, Field(ge=0, lt=2**63)]


def content_id(content: Any) -> str:
    """Return eight hex digits that identify JSON-like content (SHA-256 of its canonical form)."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown keys, identified by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    also_written: ClassVar[tuple[str, ...]] = ()
    """Keys that a study file has at this place beside the fields."""

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    valid = (*cls.model_fields, *cls.also_written)
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'{hint}",
                        {"key": key, "hint": nearest(key, valid), "meant": nearest_name(key, cls.model_fields)},
                    )
        return values

    @property
    def digest(self) -> str:
        """Eight hex digits of the content."""
        return content_id(self.model_dump(mode="json"))


PATTERNS = {
    r"^[a-z][a-z0-9_]*$": "small letters, digits and _, a letter first",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*$": "letters, digits, _, . and -, a letter or a digit first",
    "^[0-9a-f]{64}$": "the 64 hex digits of a SHA-256",
}
"""The patterns of texts, in words."""


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda context: f"must be greater than {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:g}",
    "less_than": lambda context: f"must be less than {context['lt']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']:g}",
    "too_short": lambda context: (
        "must not be empty" if context["min_length"] == 1 else f"must hold {context['min_length']} or more"
    ),
    "too_long": lambda context: f"must hold at most {context['max_length']}",
    "string_too_long": lambda context: f"must have at most {context['max_length']} characters, for it names files",
    "string_pattern_mismatch": lambda context: f"must be {PATTERNS[context['pattern']]}",
}

_KINDS = {
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be a text",
    "tuple": "must be a list",
    "model": "must be a table",
    "dataclass": "must be a table",
    "dict": "must be a table",
}

_OWN_OF_PYDANTIC = {*get_args(ErrorType)} - {"value_error"}


def wrong_value(error: ErrorDetails) -> tuple[str, bool]:
    """Return what is wrong with a value, and whether that begins with a verb, such as "must be a number".

    Never in pydantic's words, which speak of inputs and validation; the reasons of our own checks as they are.

    Args:
        error: One of those of a `ValidationError`.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"]), False
    if kind not in _OWN_OF_PYDANTIC:
        return error["msg"], False
    if kind == "literal_error":
        valid = re.findall("'([^']*)'", context["expected"])
        return f"is no valid name{nearest(str(error['input']), valid)}", True
    if kind in _WORDS:
        return _WORDS[kind](context), True
    return _KINDS.get(kind) or _KINDS.get(kind.partition("_")[0], "is not of the right kind"), True


def reason(error: ValidationError, *, subject: str | None = None) -> str:
    """Return the first of the reasons of a refusal, said of a subject, or of the field by default."""
    first = error.errors()[0]
    words, is_verb = wrong_value(first)
    return f"{subject or first['loc'][-1]} {words}" if is_verb else words


def refusals(*checks: Callable[[], object]) -> Iterator[ValueError]:
    """Yield the errors of checks that are independent of each other."""
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield error


def refuse(mistakes: Iterable[ValueError]) -> None:
    """Raise all mistakes of a value together; do nothing where there are none.

    Raises:
        ValidationError: With a line for each.
    """
    lines = [
        InitErrorDetails(
            type=one
            if isinstance(one, PydanticCustomError)
            else PydanticCustomError("refused", "{reason}", {"reason": str(one)}),
            input=None,
        )
        for one in mistakes
    ]
    if lines:
        raise ValidationError.from_exception_data("study", lines)


def by_name(value: Any) -> Any:
    """Return a table for what may be given by its name alone."""
    return {"name": value} if isinstance(value, str) else value


def one_or_list(value: Any) -> str:
    """Return the tag of an alternative, for a value that may be given alone or as a list: "One" or "List"."""
    return "List" if isinstance(value, list | tuple) else "One"


class ImageRange(Spec):
    """Images by their numbers in a part of a data set: start, start + skip, ..., the first so many of them.

    As papers say it: `{ skip = 20 }` is `--skip 20` of Cohen et al. 2019, `{ first = 500 }` the first 500 images, and
    `{ start = 500, first = 500 }` images 500 to 999.
    """

    start: NonNegativeInt = 0
    skip: PositiveInt = 1
    first: PositiveInt | None = None
    """How many; all there are by default."""


def _ascending(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if list(numbers) != sorted(set(numbers)):
        raise PydanticCustomError("image_order", "numbers of images must ascend, without repetition")
    return numbers


def _kind_of_choice(value: Any) -> str:
    if isinstance(value, dict | ImageRange):
        return "Range"
    return "Numbers" if isinstance(value, list | tuple) else "Number"


ImageChoice: TypeAlias = Annotated[
    Annotated[PositiveInt, Tag("Number")]
    | Annotated[ImageRange, Tag("Range")]
    | Annotated[
        tuple[NonNegativeInt, ...],
        Field(min_length=1),
        AfterValidator(_ascending),
        Tag("Numbers"),
    ],
    Discriminator(_kind_of_choice),
]
"""Some images of a part: so many evenly spaced ones, a range, or a list of their numbers."""


def number_chosen(images: ImageChoice | None) -> int | None:
    """Return how many images a choice has whatever the data set; None where that depends on it."""
    if isinstance(images, tuple):
        return len(images)
    return images.first if isinstance(images, ImageRange) else images


def samples_all(images: ImageChoice | None) -> bool:
    """Return whether a choice is spread over all of a part, as a sample of it is; the first images are none of it."""
    if isinstance(images, ImageRange):
        return images.first is None and images.start < images.skip
    return not isinstance(images, tuple)


def choice_text(images: ImageChoice | None) -> str:
    """Return which images a choice has, in words."""
    if images is None:
        return "all"
    if isinstance(images, int):
        return f"{images} evenly spaced"
    if isinstance(images, tuple):
        return f"{len(images)} listed"
    number = "all" if images.first is None else str(images.first)
    steps = f" in steps of {images.skip}" if images.skip > 1 else ""
    return f"{number} from number {images.start} on{steps}"

"""Specs: frozen, validated descriptions of what to run. A spec's content is its identity."""

import hashlib
import json
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from rspipe.errors import nearest

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
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'{hint}",
                        {"key": key, "hint": nearest(key, (*cls.model_fields, *cls.also_written))},
                    )
        return values

    @property
    def digest(self) -> str:
        """Eight hex digits of the content."""
        return content_id(self.model_dump(mode="json"))


def by_name(value: Any) -> Any:
    """Return a table for what may be given by its name alone."""
    return {"name": value} if isinstance(value, str) else value


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

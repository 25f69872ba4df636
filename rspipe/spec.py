"""Specs: frozen, validated descriptions of what to run. A spec's content is its identity."""

import hashlib
import json
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
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

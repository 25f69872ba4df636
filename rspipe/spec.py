"""Specs: frozen, validated descriptions of what to run. A spec's content is its identity."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]

NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PositiveInt = Annotated[int, Field(gt=0)]

NonNegativeInt = Annotated[int, Field(ge=0)]

Seed = Annotated[int, Field(ge=0, lt=2**63)]

Precision = Literal["float32", "bfloat16"]


# The papers' own words; "lambda" is a keyword of Python, and nearer to gamma.
_WRITTEN_OUT = {"lambda": "lbd", "lamda": "lbd", "lam": "lbd", "epsilon": "eps", "learning_rate": "lr"}


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name nearest to a wrong one, else the list of valid names."""
    names = sorted(valid)
    if not names:
        return "; there are none"
    close = [_WRITTEN_OUT.get(name, "")]
    if close[0] not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid names: {', '.join(names)}"


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

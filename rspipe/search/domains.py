"""The domains of hyper-parameters: ranges, choices, and the conditions on which they are varied."""

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from rspipe.spec import Spec

Value: TypeAlias = Annotated[
    Annotated[int, Tag("Whole")] | Annotated[float, Tag("Real")],
    Discriminator(lambda value: "Whole" if isinstance(value, int) else "Real"),
]

TRAINING = "training."
"""Before the names of training settings, apart from fields of the method."""


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

"""The form in which a section of the report gives its content to the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rspipe.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """The content of a section: numbers, tables and sentences for its template, and its figures."""

    name: str
    """Of the module in `rspipe.report.sections`, and of the template beside it."""
    content: Mapping[str, Any]
    """By the name that the template uses."""
    figures: "Mapping[str, Figure]" = field(default_factory=dict)
    """By a name that serves as a file name."""


@dataclass(frozen=True)
class Level:
    """The content of a section at one noise level: a table, and sentences made from its numbers."""

    sigma: float
    table: Table
    sentences: tuple[str, ...] = ()

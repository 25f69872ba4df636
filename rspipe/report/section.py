"""The form in which a section of the report gives its content to the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
    finding: str = ""
    """Its result in a few words, which the heading of its part of the page says."""

    @cached_property
    def pictures(self) -> dict[str, str]:
        """The figures as SVG, by their names: drawn once, for the page and for the files."""
        from rspipe.report.figures import figure_svg

        return {name: figure_svg(figure, name=name) for name, figure in self.figures.items()}


@dataclass(frozen=True)
class Level:
    """The content of a section at one noise level: a table, and sentences made from its numbers."""

    sigma: float
    table: Table
    sentences: tuple[str, ...] = ()

"""The columns of a certification log: what separates them, what they are called, and which of ours each is."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""Of Cohen et al. 2019, in their order."""

PROVED = "radius_proved"
"""A flag in the place of a radius."""

_CALLED: Mapping[str, tuple[str, ...]] = {
    "idx": ("idx", "index", "original_idx", "image_idx", "img_idx", "sample_idx", "image", "example", "id"),
    "label": ("label", "labels", "true_label", "target", "ground_truth", "gt", "y_true", "y", "class"),
    "predict": ("predict", "prediction", "predictions", "predicted", "predicted_label", "pred", "y_pred"),
    "radius": ("radius", "certified_radius", "cert_radius", "l2_radius", "radii", "rad"),
    "correct": ("correct", "is_correct", "predicted_correctly"),
    "time": ("time", "time_forward", "seconds", "elapsed"),
    PROVED: (PROVED,),
}
"""Names of our columns elsewhere, the usual names first."""

_NEEDED = ("idx", "label", "predict")

_DELIMITERS = ("\t", ",", ";", "|")

_WHOLE = re.compile(r"[+-]?\d{1,15}(\.0*)?", re.ASCII)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)

_LAST = re.compile(r"[^\s:>\]|]+$")
"""Matches the rest of a cell when that is cut off which a logger writes before each line: "INFO:root:17"."""


def is_whole(text: str) -> bool:
    """Return whether a cell is a whole number, maybe with zeros behind the point."""
    return _WHOLE.fullmatch(text) is not None


def is_number(text: str) -> bool:
    """Return whether a cell is a finite number."""
    return _NUMBER.fullmatch(text) is not None


def _plain(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", cell.strip().strip("\"'#").strip().lower())


def _split(text: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return text.split()
    # A table of Markdown has a bar at either end, too.
    return (text.strip().strip("|") if delimiter == "|" else text).split(delimiter)


@dataclass(frozen=True)
class Columns:
    """The columns of a log."""

    names: tuple[str, ...]
    """As the file has them, in lower case."""
    delimiter: str | None
    """Runs of blanks where it is None."""
    prefixed: int | None = None
    """Place of the cell that a logger's own text stands in, before the number."""

    @cached_property
    def places(self) -> dict[str, int]:
        """Of our columns, by our names."""
        known = {ours: [name for name in called if name in self.names] for ours, called in _CALLED.items()}
        return {ours: self.names.index(names[0]) for ours, names in known.items() if names}

    @property
    def others(self) -> dict[str, int]:
        """Of all other columns, by theirs."""
        ours = set(self.places.values())
        return {name: place for place, name in reversed(list(enumerate(self.names))) if place not in ours}

    @property
    def complete(self) -> bool:
        """Whether every column is there that a log must have."""
        return all(name in self.places for name in _NEEDED)

    def cells(self, text: str) -> list[str]:
        """Return the cells of a line, without quotes, blanks and what a logger wrote before it."""
        cells = [cell.strip().strip("\"'").strip() for cell in _split(text, self.delimiter)]
        while len(cells) > len(self.names) and not cells[-1]:
            cells.pop()
        if self.prefixed is not None and self.prefixed < len(cells):
            last = _LAST.search(cells[self.prefixed])
            cells[self.prefixed] = last.group() if last else ""
        # With a semicolon between cells, numbers may be written with a decimal comma.
        return [cell.replace(",", ".") for cell in cells] if self.delimiter == ";" else cells

    def is_header(self, text: str) -> bool:
        """Return whether a line is the header again."""
        return tuple(map(_plain, self.cells(text))) == self.names

    def is_rule(self, text: str) -> bool:
        """Return whether a line is the rule below the header of a table in Markdown."""
        return self.delimiter == "|" and re.fullmatch(r"[\s|:+-]+", text) is not None


def _named(text: str, delimiter: str | None) -> Columns | None:
    """Return the columns that a line names; None where it is no header."""
    # All names of the prediction say so; most lines need no closer look.
    if "pred" not in text.lower():
        return None
    cells = _split(text, delimiter)
    names = tuple(map(_plain, cells))
    if (columns := Columns(names, delimiter)).complete:
        return columns
    for place, cell in enumerate(cells):
        if (last := _LAST.search(cell.strip())) is not None:
            columns = Columns((*names[:place], _plain(last.group()), *names[place + 1 :]), delimiter, place)
            if columns.complete:
                return columns
    return None


def find_header(lines: Sequence[str]) -> tuple[int, Columns] | None:
    """Return the number of the line, from 1, that names the columns, and the columns; None without one."""
    for delimiters in (_DELIMITERS, (None,)):
        for number, text in enumerate(lines, 1):
            for delimiter in delimiters:
                if (columns := _named(text, delimiter)) is not None:
                    return number, columns
    return None


def unnamed_columns(lines: Iterable[str]) -> Columns | None:
    """Return Cohen's six columns where the first line without a header is a row of them."""
    first = next(iter(lines), "")
    for delimiter in (*_DELIMITERS, None):
        cells = (columns := Columns(COLUMNS, delimiter)).cells(first)
        if len(cells) == len(COLUMNS) and all(map(is_whole, cells[:3])) and is_number(cells[3]):
            return columns
    return None

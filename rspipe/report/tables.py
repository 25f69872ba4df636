"""Tables of a study: the same cells for the terminal, the HTML page and a spreadsheet."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rspipe.records import Interval
from rspipe.smoothing.inference import Difference, relation
from rspipe.smoothing.judgement import Judgement

Tone = Literal["", "good", "bad", "muted", "strong"]

Words = Literal["of the first", "of the verdict"]


@dataclass(frozen=True)
class Cell:
    """One place of a table."""

    text: str
    value: float | None = None
    """The key that numeric columns are sorted by."""
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows; `numeric` columns are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Cell]]) -> "Table":
        """Return the table of rows that all have the same columns, in order."""
        listed = list(rows)
        columns = tuple(listed[0]) if listed else ()
        numeric = tuple(any(row[column].value is not None for row in listed) for column in columns)
        return cls(columns, tuple(tuple(row[column] for column in columns) for row in listed), numeric)


def number(value: float, *, digits: int = 3, signed: bool = False) -> str:
    """Return a number with a fixed count of decimals; zero has no sign, and a dash is what is not finite."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def adding_up(shares: Sequence[float], *, digits: int) -> list[float]:
    """Return shares rounded so that they add up to the rounded sum: the largest remainders are rounded up."""
    scale = 10**digits
    units = [math.floor(share * scale + 1e-9) for share in shares]
    missing = round(sum(shares) * scale) - sum(units)
    order = sorted(range(len(units)), key=lambda at: units[at] - shares[at] * scale)
    for at in order[: max(0, missing)]:
        units[at] += 1
    return [unit / scale for unit in units]


def bracketed(interval: Interval, *, signed: bool = False, digits: int = 3) -> str:
    """Return "estimate [low, high]"."""
    ends = (interval.estimate, interval.low, interval.high)
    estimate, low, high = (number(value, signed=signed, digits=digits) for value in ends)
    return f"{estimate} [{low}, {high}]"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def quantity(count: float) -> str:
    """Return a count in thousands, millions or billions."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def number_cell(value: float, *, digits: int = 3, signed: bool = False) -> Cell:
    return Cell(number(value, digits=digits, signed=signed), value)


def sigma_cell(sigma: float) -> Cell:
    """Return a noise level with two digits behind the point, or as many as tell it from others."""
    return Cell(number(sigma, digits=2) if round(sigma, 2) == sigma else f"{sigma:g}", sigma)


def percent_cell(share: float, *, tone: Tone = "") -> Cell:
    return Cell(f"{100 * share:.1f} %", share, tone)


def estimate_cell(interval: Interval) -> Cell:
    half = number((interval.high - interval.low) / 2)
    return Cell(f"{number(interval.estimate)} ± {half}", interval.estimate)


def half_cell(interval: Interval) -> Cell:
    """Return half the width of an interval."""
    return number_cell((interval.high - interval.low) / 2, digits=4)


TONES: dict[str, Tone] = {
    "higher": "good",
    "lower": "bad",
    "undecided": "muted",
    "not judged": "muted",
    "reproduced": "good",
    "contradicted": "bad",
    "one member alone": "muted",
}


def flattened(content: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """Return nested JSON-like content as texts by dotted name."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{place}{key}.")
        else:
            flat[f"{place}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


# What begins code, emphasis, HTML or a cell, and the middle of a link; an interval in brackets is none.
_MARKS = re.compile(r"[\\`*<|]|(?<=\])[(\[:]")


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return _MARKS.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def markdown(table: Table) -> str:
    """Return a table as Markdown, strong cells bold; texts stand as they are."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def marked(cell: Cell) -> str:
        text = markdown_text(cell.text)
        return f"**{text}**" if cell.tone == "strong" else text

    rule = line("--:" if numeric else ":--" for numeric in table.numeric)
    return (
        "\n".join([line(map(markdown_text, table.columns)), rule, *(line(map(marked, row)) for row in table.rows)])
        + "\n"
    )


def interval_cell(interval: Interval | None, *, signed: bool = False, digits: int = 3) -> Cell:
    """Return an estimate with its interval; a dash without."""
    return Cell("–") if interval is None else Cell(bracketed(interval, signed=signed, digits=digits), interval.estimate)


def change_cell(interval: Interval | None) -> Cell:
    """Return a difference in the colour of its sign; a dash without."""
    if interval is None:
        return Cell("–")
    return Cell(bracketed(interval, signed=True, digits=4), interval.estimate, tone=TONES[relation(interval)])


def scope_cells(head: str, difference: Difference | None) -> dict[str, Cell]:
    """Return the cells of a difference for both scopes, under a heading; dashes without one."""
    procedures = None if difference is None else difference.procedures
    unknown = Cell("–") if difference is None else Cell("not judged", tone="muted")
    return {
        f"{head}, these procedures [95 %]": unknown if procedures is None else change_cell(procedures),
        f"{head}, these models [95 %]": change_cell(None if difference is None else difference.models),
    }


def not_judged(difference: Difference) -> str:
    """Return why procedures are not judged."""
    return "not judged: one seed" if 1 in difference.seeds else "not judged"


def relation_text(judgement: Judgement[str], *, sure: bool, words: Words = "of the first") -> str:
    """Return what a difference says: "higher (with Holm)", or "undecided (detectable 0.0120)".

    Args:
        judgement: For one scope.
        sure: Whether Holm's correction for the family leaves the verdict.
        words: Whether it is said of the first, as "higher", or in the words of the scope's verdict, as "holds here".
    """
    sign = relation(judgement)
    if sign == "undecided":
        return f"undecided (detectable {number(judgement.detectable, digits=4)})"
    word = sign if words == "of the first" else judgement.verdict
    return f"{word} (with Holm)" if sure else word


def relation_cell(
    difference: Difference, judgement: Judgement[str] | None, *, sure: bool, words: Words = "of the first"
) -> Cell:
    """Return what a difference says in one of its scopes, in colour where Holm's correction leaves it."""
    if judgement is None:
        return Cell(not_judged(difference), tone="muted")
    text = relation_text(judgement, sure=sure, words=words)
    return Cell(text, tone=TONES[relation(judgement)] if sure else "muted")


def difference_cells(difference: Difference, *, procedures: bool, models: bool) -> dict[str, Cell]:
    """Return the cells of a difference, first minus second: interval and verdict for both scopes.

    Args:
        difference: Of ACR.
        procedures: Whether Holm's correction for the family leaves the verdict on the procedures.
        models: The same for these models.
    """
    judged = difference.procedures
    alone = "" if difference.population is None else ", these alone"
    return {
        "first − second": number_cell(difference.estimate, digits=4, signed=True),
        "these procedures [95 %]": Cell("–") if judged is None else ends_cell(judged),
        "procedures: first is": relation_cell(difference, judged, sure=procedures),
        "these models [95 %]": ends_cell(difference.models),
        "models: first is": relation_cell(difference, difference.models, sure=models),
        "seeds": Cell(" and ".join(map(str, difference.seeds)) or "–"),
        "images": Cell(f"{difference.images:,}{alone}", difference.images),
    }


def ends_cell(interval: Interval) -> Cell:
    """Return the ends of the interval of a difference."""
    return Cell(f"[{number(interval.low, digits=4, signed=True)}, {number(interval.high, digits=4, signed=True)}]")

"""Certification logs as files: those of Cohen et al. 2019 and their descendants, read and written.

A log is tab-separated with one header line, `idx label predict radius correct time`, one row per image. What differs:
line ends, digits of the radius, a running `correct`, more columns, columns in another order, a log of PREDICT without
radii, a flag `radius proved` instead of a radius, and prose before or after the rows.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.errors import LogError
from rspipe.smoothing.certificates import ABSTAIN, Certificates
from rspipe.smoothing.counts import CountTable

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""Of Cohen et al. 2019, in their order."""

_PROVED = "radius proved"

_LARGEST_FILE = 1 << 28

_LARGEST_RADIUS = 1e6

_INTEGER = re.compile(r"[+-]?\d{1,15}(\.0*)?", re.ASCII)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)

_CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)


@dataclass(frozen=True)
class Unreadable:
    """A line that should be a row and is none."""

    line: int
    reason: str


@dataclass(frozen=True)
class CertificationLog:
    """The rows of a log, in the order of the file; arrays are [row]."""

    name: str
    kind: Literal["certify", "predict", "flags"]
    """Whether rows have radii, none, or only say if a given radius was proved."""
    header: tuple[str, ...]
    """Names of the columns; empty where the file has no header and the columns are taken for Cohen's."""
    line: IntArray
    """Line numbers, from 1."""
    idx: IntArray
    label: IntArray
    predict: IntArray
    radius: FloatArray
    """As logged; 1 or 0 for a flag, 0 where there is none."""
    radius_text: tuple[str, ...]
    logged_correct: IntArray
    """As logged; the image's own 0 or 1 is `correct`."""
    time_text: tuple[str, ...]
    extra: dict[str, tuple[str, ...]]
    """Other columns, by name."""
    line_ends: Literal["LF", "CRLF", "mixed"]
    unreadable: tuple[Unreadable, ...]
    repeated_headers: tuple[int, ...]
    """Lines on which the header stands again."""
    prose: int
    """Lines before the header and after the last row that are no rows."""

    @property
    def correct(self) -> BoolArray:
        """[row], whether the prediction is the label."""
        return np.equal(self.predict, self.label)

    @property
    def seconds(self) -> FloatArray:
        """[row], time of an image; NaN where it is missing or unreadable."""
        return np.array([_seconds(text) for text in self.time_text], dtype=np.float64)


@dataclass(frozen=True)
class Precision:
    """How radii are written: with a number of decimals, or of significant digits."""

    digits: int
    kind: Literal["decimals", "significant digits"]

    def step(self, radius: FloatArray) -> FloatArray:
        """Return [row] the distance between neighbouring numbers that can be written, at a radius."""
        if self.kind == "decimals":
            return np.full(radius.shape, 10.0**-self.digits)
        magnitude = np.floor(np.log10(np.maximum(radius, 1e-12)))
        return np.asarray(10.0 ** (magnitude + 1 - self.digits), dtype=np.float64)


def read_log(path: Path) -> CertificationLog:
    """Return the log in a file.

    Raises:
        LogError: It cannot be read, or is no certification log.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise LogError(f"{path}: {size / 1e6:,.0f} MB is too large for a certification log")
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: {error.strerror or error}; give the path of a certification log") from error
    return parse_log(data, name=str(path))


def parse_log(data: bytes, *, name: str) -> CertificationLog:
    """Return the log that a file's content holds. Lines that are no rows are kept apart, each with a reason.

    Raises:
        LogError: It is no certification log, or has no rows.
    """
    lines, line_ends = _lines(data, name=name)
    start, delimiter, header = _header(lines, name=name)
    columns = [cell.strip().strip('"').lower() for cell in header] if header else list(COLUMNS)
    places = {column: place for place, column in reversed(list(enumerate(columns)))}
    kind: Literal["certify", "predict", "flags"] = (
        "certify" if "radius" in places else "flags" if _PROVED in places else "predict"
    )
    rows: list[_Row] = []
    bad: list[Unreadable] = []
    repeated: list[int] = []
    for number, text in enumerate(lines[start:], start + 1):
        cells = [cell.strip().strip('"') for cell in text.split(delimiter)]
        if [cell.lower() for cell in cells] == columns:
            repeated.append(number)
        elif text.strip():
            row = _row(cells, places, number, kind=kind, columns=len(columns))
            if isinstance(row, _Row):
                rows.append(row)
            else:
                bad.append(row)
    if not rows:
        raise LogError(f"{name}: {'a header and no rows' if header else 'no rows'}; not a finished certification log")
    # What stands after the last row and has no tabs is prose, and no damage.
    last = rows[-1].line
    prose = [one for one in bad if one.line > last and delimiter not in lines[one.line - 1]]
    return CertificationLog(
        name=name,
        kind=kind,
        header=tuple(columns) if header else (),
        line=np.array([row.line for row in rows], dtype=np.int64),
        idx=np.array([row.idx for row in rows], dtype=np.int64),
        label=np.array([row.label for row in rows], dtype=np.int64),
        predict=np.array([row.predict for row in rows], dtype=np.int64),
        radius=np.array([row.radius for row in rows], dtype=np.float64),
        radius_text=tuple(row.radius_text for row in rows),
        logged_correct=np.array([row.correct for row in rows], dtype=np.int64),
        time_text=tuple(_cell(row.cells, places, "time", "time_forward") for row in rows),
        extra={
            column: tuple(row.cells[place] for row in rows)
            for column, place in places.items()
            if column not in (*COLUMNS, _PROVED)
        },
        line_ends=line_ends,
        unreadable=tuple(one for one in bad if one not in prose),
        repeated_headers=tuple(repeated),
        prose=len(prose) + sum(bool(line.strip()) for line in lines[: start - 1] if header),
    )


def _lines(data: bytes, *, name: str) -> tuple[list[str], Literal["LF", "CRLF", "mixed"]]:
    if not data.strip():
        raise LogError(f"{name}: empty; not a certification log")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LogError(f"{name}: not text (byte {error.start}); not a certification log") from error
    if "\0" in text:
        raise LogError(f"{name}: holds zero bytes; binary, or damaged")
    crlf, lf = text.count("\r\n"), text.count("\n")
    ends: Literal["LF", "CRLF", "mixed"] = "LF" if crlf == 0 else "CRLF" if crlf == lf else "mixed"
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n"), ends


def _header(lines: Sequence[str], *, name: str) -> tuple[int, str, list[str]]:
    """Return the number of lines before the rows, the delimiter, and the cells of the header (none where it lacks)."""
    for number, text in enumerate(lines, 1):
        for delimiter in ("\t", ","):
            cells = text.split(delimiter)
            if {"idx", "label", "predict"} <= {cell.strip().strip('"').lower() for cell in cells}:
                return number, delimiter, cells
    first = lines[0].split("\t")
    whole = [_INTEGER.fullmatch(cell.strip()) for cell in first[:3]]
    if len(first) == len(COLUMNS) and all(whole) and _NUMBER.fullmatch(first[3].strip()):
        return 0, "\t", []
    raise LogError(f"{name}: no line with the columns idx, label and predict; not a certification log")


@dataclass(frozen=True)
class _Row:
    line: int
    idx: int
    label: int
    predict: int
    radius: float
    radius_text: str
    correct: int
    cells: list[str]


def _cell(cells: Sequence[str], places: dict[str, int], *names: str) -> str:
    return next((cells[places[name]] for name in names if name in places), "")


def _row(
    cells: list[str], places: dict[str, int], line: int, *, kind: Literal["certify", "predict", "flags"], columns: int
) -> _Row | Unreadable:
    if len(cells) != columns:
        return Unreadable(line, f"{len(cells)} cells instead of {columns}")
    whole = {name: _cell(cells, places, name) for name in ("idx", "label", "predict", "correct") if name in places}
    for name, text in whole.items():
        if not _INTEGER.fullmatch(text):
            return Unreadable(line, f"{name} is {_shown(text)}, no whole number")
    numbers = {name: int(float(text)) for name, text in whole.items()}
    if numbers["idx"] < 0 or numbers["label"] < 0 or numbers["predict"] < ABSTAIN:
        return Unreadable(line, "a negative idx or label, or a class below -1")
    radius, text = 0.0, _cell(cells, places, "radius", _PROVED)
    if kind != "predict":
        if not _NUMBER.fullmatch(text):
            return Unreadable(line, f"radius is {_shown(text)}, no finite number")
        radius = float(text)
        if kind == "flags":
            radius = float(radius > 0)
        if not 0 <= radius <= _LARGEST_RADIUS:
            return Unreadable(line, f"radius {_shown(text)} is {'negative' if radius < 0 else 'beyond all bounds'}")
    correct = numbers.get("correct", int(numbers["predict"] == numbers["label"]))
    return _Row(line, numbers["idx"], numbers["label"], numbers["predict"], radius, text, correct, cells)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 20 else f"{text[:17]}...")


def _seconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return math.nan
    days, hours, minutes, seconds = clock.groups()
    return 86400 * float(days or 0) + 3600 * float(hours) + 60 * float(minutes) + float(seconds)


def radius_precision(texts: Iterable[str]) -> Precision:
    """Return how radii were written, from their texts; a rare one may have more digits."""
    decimals: Counter[int] = Counter()
    significant: Counter[int] = Counter()
    for text in texts:
        mantissa, exponent, _ = text.lower().partition("e")
        after = mantissa.partition(".")[2]
        decimals[-1 if exponent else len(after)] += 1
        significant[len(mantissa.replace(".", "").lstrip("+-0"))] += 1
    total = max(sum(decimals.values()), 1)
    most, count = decimals.most_common(1)[0] if decimals else (0, 0)
    if most >= 4 and count >= 0.99 * total:
        return Precision(most, "decimals")
    up_to = {digits: sum(significant[fewer] for fewer in significant if fewer <= digits) for digits in significant}
    enough = min((digits for digits, count in up_to.items() if count >= 0.99 * total), default=3)
    return Precision(min(max(enough, 1), 15), "significant digits")


def write_log(rows: Iterable[Sequence[object]], *, more: Sequence[str] = ()) -> str:
    """Return rows as tab-separated text in the six columns of Cohen et al. 2019, and `more` to their right."""
    return "\n".join("\t".join(map(str, row)) for row in ((*COLUMNS, *more), *rows)) + "\n"


_LOG_DECIMALS = 6


def certification_log(counts: CountTable, certificates: Certificates) -> str:
    """Return certificates as tab-separated values in the six columns of Cohen et al. 2019, radii rounded down.

    The time is that of the pass over the image, shared by all classifiers of it.
    """
    floors = np.floor(certificates.radius * 10**_LOG_DECIMALS) / 10**_LOG_DECIMALS
    seconds = f"{counts.seconds.mean():.3f}"
    return write_log(
        (example, label, prediction, f"{radius:.{_LOG_DECIMALS}f}", int(prediction == label), seconds)
        for example, label, prediction, radius in zip(
            counts.example, counts.label, certificates.prediction, floors, strict=True
        )
    )

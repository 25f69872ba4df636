"""Certification logs as files: those of Cohen et al. 2019 and their descendants, read and written.

A log is tab-separated with one header line, `idx label predict radius correct time`, one row per image. What differs:
line ends and encoding, delimiters, other names of columns, more of them or another order, digits of the radius, a
running `correct` or words for it, ways to say that nothing is certified (a radius below 0, nan, an empty cell, a name
in the place of the class), a log of PREDICT without radii, a flag `radius proved` instead of a radius, what a logger
wrote before each line, and prose before or after the rows.
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
from rspipe.audit.columns import COLUMNS, PROVED, Columns, find_header, is_number, is_whole, unnamed_columns
from rspipe.audit.tables import table_rows
from rspipe.errors import LogError
from rspipe.smoothing.cascades import CertifiedCascade
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.derivation import KINDS, CertificateKind, CertifiedClassifier
from rspipe.smoothing.sampling import RULES, Rule, rule_text

_LARGEST_FILE = 1 << 28

_LARGEST_RADIUS = 1e6

_CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)

_ABSTAINED = ("abstain", "abstained", "abstention")

_NOTHING = ("", "nan", "none", "null", "na", "n/a", "-inf", *_ABSTAINED)
"""Texts that stand in the place of a radius where nothing is certified, beside negative numbers."""

_WORDS = {"true": 1, "yes": 1, "false": 0, "no": 0}
"""For `correct`."""

Kind = Literal["certify", "predict", "flags"]


@dataclass(frozen=True)
class Unreadable:
    """A line that should be a row and is none."""

    line: int
    reason: str


@dataclass(frozen=True)
class CertificationLog:
    """The rows of a log, in the order of the file; arrays are [row]."""

    name: str
    kind: Kind
    """Whether rows have radii, none, or only say if a given radius was proved."""
    header: tuple[str, ...]
    """Names of the columns; empty where the file has no header and the columns are taken for Cohen's."""
    line: IntArray
    """Line numbers, from 1."""
    idx: IntArray
    label: IntArray
    predict: IntArray
    """As logged; ABSTAIN where the row says that nothing is certified."""
    nothing: BoolArray
    """[row] whether it says so by its radius though it names a class."""
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
    def rule(self) -> str:
        """The rule that it names, in words, or the certificate that was derived; `fixed` where it names none.

        Several are joined by "and".
        """
        texts = {*self.extra.get(RULE_COLUMN, ())}
        named = {text for text in texts if text.partition(" ")[0] in (*RULES, *KINDS)}
        return " and ".join(sorted(named)) or "fixed"

    @property
    def has_acr(self) -> bool:
        """Whether its radii have a mean: those of rule decide are what was asked for, and PREDICT has none."""
        return self.kind == "certify" and not {"decide", "predict"} & {*self.rule.split()}

    @property
    def seconds(self) -> FloatArray:
        """[row], time of an image; NaN where it is missing or unreadable."""
        return np.array([_seconds(text) for text in self.time_text], dtype=np.float64)


Rounding = Literal["nearest", "down", "up"]

_MOST_DIGITS = 9
"""That floating-point numbers can be rounded to without doubt; further ones are far below what any count changes."""


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

    def write(self, radius: FloatArray, rounding: Rounding) -> FloatArray:
        """Return [row] radii as they are written, of nine digits at most; such ones stay as they are."""
        step = Precision(min(self.digits, _MOST_DIGITS), self.kind).step(radius)
        # Decimal digits are not exact in binary: what is a whole number of steps must not become one less.
        wholes = {
            "nearest": np.rint(radius / step),
            "down": np.floor(radius / step + 1e-5),
            "up": np.ceil(radius / step - 1e-5),
        }
        return np.round(wholes[rounding] * step, 15)


def read_log(path: Path) -> CertificationLog:
    """Return the log in a file, or in a table of logs; see `log_content`.

    Raises:
        LogError: It cannot be read, or is no certification log.
    """
    return parse_log(log_content(path), name=str(path))


def log_content(path: Path) -> bytes:
    """Return the text of a log: of a file, or of one of the logs in a table, `FILE.parquet#NUMBER`.

    Raises:
        LogError: It cannot be read.
    """
    file, number = log_file(path)
    try:
        size = file.stat().st_size
        if size > _LARGEST_FILE:
            raise LogError(f"{file}: {size / 1e6:,.0f} MB is too large for a certification log")
        if file.suffix == ".parquet":
            return write_log(table_rows(file, number)).encode()
        return file.read_bytes()
    except OSError as error:
        raise LogError(f"{file}: {error.strerror or error}; give the path of a certification log") from error


def log_file(path: Path) -> tuple[Path, int | None]:
    """Return the file that a log is in, and its number there where the file is a table of several."""
    file, _, number = str(path).rpartition("#")
    return (Path(file), int(number)) if file.endswith(".parquet") and number.isdecimal() else (path, None)


def log_paths(text: str) -> tuple[Path, ...]:
    """Return the logs that a user names: a file, one in a table of several (`FILE.parquet#7`), or a range (`#7-11`)."""
    file, _, numbers = text.rpartition("#")
    first, _, last = numbers.partition("-")
    if file.endswith(".parquet") and first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        return tuple(Path(f"{file}#{number}") for number in range(int(first), int(last) + 1))
    return (Path(text),)


def parse_radii(data: bytes, *, name: str) -> CertificationLog:
    """Return the log that a file's content holds, with a radius for each image of which there is an ACR.

    Raises:
        LogError: As `parse_log`, or it has no radii, or none that an ACR is of.
    """
    log = parse_log(data, name=name)
    if log.kind != "certify":
        raise LogError(f"{name}: has no radii, which a comparison of ACR needs")
    if not log.has_acr:
        raise LogError(
            f"{name}: certificates by {log.rule} have no ACR to compare; compare certified accuracies, see rspipe audit"
        )
    return log


def parse_log(data: bytes, *, name: str) -> CertificationLog:
    """Return the log that a file's content holds. Lines that are no rows are kept apart, each with a reason.

    Raises:
        LogError: It is no certification log, or has no rows.
    """
    lines, line_ends = _lines(data, name=name)
    start, columns = find_header(lines) or (0, unnamed_columns(lines))
    if columns is None:
        raise LogError(f"{name}: no line with the columns idx, label and predict; not a certification log")
    places = columns.places
    kind: Kind = "certify" if "radius" in places else "flags" if PROVED in places else "predict"
    rows: list[_Row] = []
    bad: list[Unreadable] = []
    repeated: list[int] = []
    for number, text in enumerate(lines[start:], start + 1):
        if columns.is_header(text):
            repeated.append(number)
        elif text.strip() and not columns.is_rule(text):
            row = _row(columns.cells(text), columns, number, kind=kind)
            if isinstance(row, _Row):
                rows.append(row)
            else:
                bad.append(row)
    if not rows:
        what = "a header and no rows; not a finished certification log" if start else "no rows"
        if bad:
            what = f"none of {len(bad):,} rows can be read, line {bad[0].line}: {bad[0].reason}; correct the file"
        raise LogError(f"{name}: {what}")
    # What stands after the last row and is no line of cells is prose, and no damage.
    last = rows[-1].line
    prose = [one for one in bad if one.line > last and _is_prose(lines[one.line - 1], columns)]
    return CertificationLog(
        name=name,
        kind=kind,
        header=columns.names if start else (),
        line=np.array([row.line for row in rows], dtype=np.int64),
        idx=np.array([row.idx for row in rows], dtype=np.int64),
        label=np.array([row.label for row in rows], dtype=np.int64),
        predict=np.array([row.predict for row in rows], dtype=np.int64),
        nothing=np.array([row.nothing for row in rows], dtype=np.bool_),
        radius=np.array([row.radius for row in rows], dtype=np.float64),
        radius_text=tuple(row.radius_text for row in rows),
        logged_correct=np.array([row.correct for row in rows], dtype=np.int64),
        time_text=tuple(_cell(row.cells, places, "time") for row in rows),
        extra={name: tuple(row.cells[place] for row in rows) for name, place in columns.others.items()},
        line_ends=line_ends,
        unreadable=tuple(one for one in bad if one not in prose),
        repeated_headers=tuple(repeated),
        prose=len(prose) + sum(bool(line.strip()) for line in lines[: start - 1] if start),
    )


def _is_prose(text: str, columns: Columns) -> bool:
    if columns.delimiter:
        return columns.delimiter not in text
    words = text.split()
    # A row that was cut off, or that has blanks in a cell, begins as rows do, with two numbers.
    return len(words) != len(columns.names) and not all(map(is_whole, words[:2]))


def _decoded(data: bytes, *, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        # ASCII in two bytes has a zero in every other one.
        ends = (data[1:400:2], "utf-16-le"), (data[0:400:2], "utf-16-be")
        encoding = next((name for zeros, name in ends if zeros and not any(zeros)), "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise LogError(f"{name}: not text (byte {error.start}); not a certification log") from error


def _lines(data: bytes, *, name: str) -> tuple[list[str], Literal["LF", "CRLF", "mixed"]]:
    if not data.strip():
        raise LogError(f"{name}: empty; not a certification log")
    text = _decoded(data, name=name)
    if "\0" in text:
        raise LogError(f"{name}: holds zero bytes; binary, or damaged")
    crlf, lf = text.count("\r\n"), text.count("\n")
    ends: Literal["LF", "CRLF", "mixed"] = "LF" if crlf == 0 else "CRLF" if crlf == lf else "mixed"
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n"), ends


@dataclass(frozen=True)
class _Row:
    line: int
    idx: int
    label: int
    predict: int
    nothing: bool
    radius: float
    radius_text: str
    correct: int
    cells: list[str]


def _cell(cells: Sequence[str], places: dict[str, int], name: str) -> str:
    return cells[places[name]] if name in places else ""


def _row(cells: list[str], columns: Columns, line: int, *, kind: Kind) -> _Row | Unreadable:
    places = columns.places
    if len(cells) != len(columns.names):
        return Unreadable(line, f"{len(cells)} cells instead of {len(columns.names)}")
    try:
        idx, label = (_whole(_cell(cells, places, name), name) for name in ("idx", "label"))
        if idx < 0 or label < 0:
            return Unreadable(line, "a negative idx or label")
        text = _cell(cells, places, "radius" if kind == "certify" else PROVED)
        radius = 0.0 if kind == "predict" else _radius(text)
        predict = _class(_cell(cells, places, "predict"), kind=kind, radius=radius)
        correct = _correct(_cell(cells, places, "correct"))
    except _CellError as error:
        return Unreadable(line, str(error))
    if kind == "flags":
        radius = float(radius is not None and radius > 0)
    # A class without a radius is not certified, whatever it is: the image counts 0 at every radius.
    nothing = radius is None and predict != ABSTAIN
    if nothing:
        predict = ABSTAIN
    right = int(predict == label)
    return _Row(line, idx, label, predict, nothing, radius or 0.0, text, right if correct is None else correct, cells)


class _CellError(ValueError):
    """A cell that is nothing which its column can hold; the message says why."""


def _whole(text: str, name: str) -> int:
    if not is_whole(text):
        raise _CellError(f"{name} is {_shown(text)}, no whole number")
    return int(float(text))


def _radius(text: str) -> float | None:
    """Return a radius; None where nothing is certified."""
    if text.lower() in _NOTHING:
        return None
    if not is_number(text):
        raise _CellError(f"radius is {_shown(text)}, no finite number")
    if (radius := float(text)) > _LARGEST_RADIUS:
        raise _CellError(f"radius {_shown(text)} is beyond all bounds")
    return None if radius < 0 else radius


def _class(text: str, *, kind: Kind, radius: float | None) -> int:
    """Return a predicted class, or ABSTAIN for a negative number or a name that says so."""
    if text.lower() in _ABSTAINED:
        return ABSTAIN
    # Software writes a class that is none as a number that is none; without a radius beside it, it may be damage.
    if text.lower() in _NOTHING and (radius is None or (kind == "predict" and text)):
        return ABSTAIN
    return max(_whole(text, "predict"), ABSTAIN)


def _correct(text: str) -> int | None:
    """Return what a row says of its correctness, 0 or 1 or a running count; None where it says nothing."""
    if text.lower() in _NOTHING:
        return None
    return _WORDS[text.lower()] if text.lower() in _WORDS else _whole(text, "correct")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 20 else f"{text[:17]}...")


def _seconds(text: str) -> float:
    if is_number(text):
        return float(text)
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return math.nan
    days, hours, minutes, seconds = clock.groups()
    return 86400 * float(days or 0) + 3600 * float(hours) + 60 * float(minutes) + float(seconds)


def radius_precision(texts: Iterable[str]) -> Precision:
    """Return how radii were written, from their texts; a rare one may have more digits.

    Formats of significant digits drop a zero at the end, as every tenth radius has: where all have as many decimals, it
    is decimals that were written.
    """
    decimals: Counter[int] = Counter()
    significant: Counter[int] = Counter()
    for text in texts:
        mantissa, exponent, _ = text.lower().partition("e")
        after = mantissa.partition(".")[2]
        decimals[-1 if exponent else len(after)] += 1
        significant[len(mantissa.replace(".", "").lstrip("+-0"))] += 1
    total = max(sum(decimals.values()), 1)
    most, count = decimals.most_common(1)[0] if decimals else (0, 0)
    if most >= 2 and count >= 0.99 * total:
        return Precision(most, "decimals")
    up_to = {digits: sum(significant[fewer] for fewer in significant if fewer <= digits) for digits in significant}
    enough = min((digits for digits, count in up_to.items() if count >= 0.99 * total), default=3)
    return Precision(min(max(enough, 1), 15), "significant digits")


def write_log(rows: Iterable[Sequence[object]], *, more: Sequence[str] = ()) -> str:
    """Return rows as tab-separated text in the six columns of Cohen et al. 2019, and `more` to their right."""
    return "\n".join("\t".join(map(str, row)) for row in ((*COLUMNS, *more), *rows)) + "\n"


_LOG_DECIMALS = 6


LEVEL_COLUMNS = ("level", "sigma")
"""To the right of the six columns of a cascade's log: the level that answers, from 1, and its noise; empty where none
does."""

SIZE_COLUMN = "n"
"""To their right, in the log of another certificate than CERTIFY's: the samples of an image's estimate."""

RULE_COLUMN = "rule"
"""To its right: the rule in words, or the name of the certificate that was derived. Without it a log is CERTIFY's."""

OWN_COLUMNS = (*LEVEL_COLUMNS, SIZE_COLUMN, RULE_COLUMN)


def certification_log(
    certified: CertifiedClassifier | CertifiedCascade, rule: Rule, *, kind: CertificateKind = "certify"
) -> str:
    """Return certificates as tab-separated values in the six columns of Cohen et al. 2019, radii rounded down.

    The time is that of the pass over the image, shared by all classifiers of it; of a cascade, of its levels' passes.
    To their right, a cascade's log has `LEVEL_COLUMNS`, one of other certificates than CERTIFY's `SIZE_COLUMN` and
    `RULE_COLUMN`.

    Args:
        certified: The certificates.
        rule: That their counts were sampled by.
        kind: What was derived from these.
    """
    right: dict[str, Sequence[object]] = {}
    if isinstance(certified, CertifiedCascade):
        sigmas, levels = certified.record.sigmas, certified.level.tolist()
        answers = [(at + 1, sigmas[at]) if at >= 0 else ("", "") for at in levels]
        right |= dict(zip(LEVEL_COLUMNS, zip(*answers, strict=True), strict=True))
        certified = certified.classifier
    if (text := rule_text(rule) if kind == "certify" else kind) != "fixed":
        right |= {SIZE_COLUMN: certified.n.tolist(), RULE_COLUMN: [text] * certified.n.size}
    extra = [*zip(*right.values(), strict=True)] or [()] * certified.n.size
    floors = np.floor(certified.radius * 10**_LOG_DECIMALS) / 10**_LOG_DECIMALS
    seconds = f"{certified.seconds / max(certified.example.size, 1):.3f}"
    columns = (certified.example, certified.label, certified.prediction, floors, extra)
    return write_log(
        (
            (example, label, prediction, f"{radius:.{_LOG_DECIMALS}f}", int(prediction == label), seconds, *more)
            for example, label, prediction, radius, more in zip(*columns, strict=True)
        ),
        more=[*right],
    )

"""A collection of published certification logs: a Parquet table of their rows, and a CSV file that lists them."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.audit.columns import is_number
from rspipe.audit.ladder import Ladder, nearest_successes
from rspipe.errors import LogError, first_line, printable
from rspipe.smoothing.certificates import ABSTAIN

if TYPE_CHECKING:
    import pyarrow as pa

_NEEDED = (
    "id",
    "repository",
    "data_set",
    "architecture",
    "method",
    "settings",
    "sigma",
    "n",
    "alpha",
    "recipe",
    "model",
)

_ROWS = ("log", "idx", "label", "predict", "radius")

_BOUNDS = (("id", 0, 2**31 - 1), ("sigma", 1e-3, 1e3), ("n", 1, 1e9), ("alpha", 1e-12, 0.5))
"""Of numbers in a line of the catalogue."""

_LARGEST = dict.fromkeys(("log", "idx", "label", "predict"), 2**31 - 1) | {"radius": 1e6}
"""Of numbers in a row."""


@dataclass(frozen=True)
class Setting:
    """What logs must share to be compared: the images they number, the network, and the noise level."""

    data_set: str
    architecture: str
    order: str
    """In which images are numbered, where a data set has several; empty elsewhere."""
    sigma: float

    def __str__(self) -> str:
        data_set = f"{self.data_set} ({self.order} order)" if self.order else self.data_set
        return f"{data_set}, {self.architecture}, sigma {self.sigma:g}"


@dataclass(frozen=True)
class CollectedLog:
    """One log of a collection: of one trained network at the noise level that it was trained for."""

    number: int
    setting: Setting
    method: str
    recipe: str
    """Same method, settings and authors of the training."""
    settings: str
    """As the log's path names them, and who published it."""
    model: str
    """Two logs of one model are two certifications of the same network."""
    n: int
    example: IntArray
    """[image], ascending."""
    correct: FloatArray
    """[image] 1 where the prediction is the label."""
    successes: IntArray
    """[image] the count of n whose radius is nearest to the logged one; 0 where nothing is certified."""


def read_collection(table: Path) -> list[CollectedLog]:
    """Return the logs of a collection whose n and alpha are known, and that are certified at their training noise.

    Args:
        table: Parquet file with columns log, idx, label, predict, radius. The CSV file of the same name beside it has a
            line per log: id, repository, data_set, architecture, method, settings, train_sigma, sigma, n, alpha,
            recipe, model, and image_order where a data set is numbered in several orders.

    Raises:
        LogError: A file cannot be read, or lacks a column or a log.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    catalogue = table.with_suffix(".csv")
    try:
        with catalogue.open(encoding="utf-8-sig", newline="") as opened:
            lines = _checked(csv.DictReader(opened, strict=True), catalogue)
        rows = pq.read_table(table, columns=list(_ROWS), page_checksum_verification=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise LogError(f"{error.filename or table}: {error.strerror or error}; a collection is two files") from error
    # Arrow's own errors of damaged files are those of the system, too.
    except (OSError, pa.ArrowException, csv.Error, ValueError, KeyError) as error:
        raise LogError(f"{table}: no collection of logs can be read ({printable(first_line(error))})") from error
    columns = {name: rows[name].combine_chunks() for name in _ROWS}
    if reason := _wrong_rows(columns):
        raise LogError(f"{table}: {reason}")
    columns = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
    order = np.lexsort((columns["idx"], columns["log"]))
    columns = {name: column[order] for name, column in columns.items()}
    same = (np.diff(columns["log"]) == 0) & (np.diff(columns["idx"]) == 0)
    if same.any():
        log, image = (columns[name][np.flatnonzero(same)[0]] for name in ("log", "idx"))
        raise LogError(f"{table}: image {image} of log {log} stands there twice")
    starts = {int(number): at for number, at in zip(*np.unique(columns["log"], return_index=True), strict=True)}
    ends = dict(zip(starts, [*list(starts.values())[1:], len(order)], strict=True))
    wanted = [line for line in lines if _same(line["sigma"], line.get("train_sigma", line["sigma"])) and line["alpha"]]
    if missing := [line["id"] for line in wanted if int(line["id"]) not in starts]:
        raise LogError(f"{table}: has no rows of log {missing[0]}, which {catalogue.name} lists")
    return [log for same in _by_ladder(wanted) for log in _logs(same, columns, starts, ends)]


def _same(one: str, other: str) -> bool:
    """Return whether two texts are one, or are one number."""
    return one == other or (is_number(one) and is_number(other) and float(one) == float(other))


def _checked(reader: "csv.DictReader[str]", catalogue: Path) -> list[dict[str, str]]:
    """Return the lines of a catalogue, each of them whole.

    Raises:
        LogError: A column is missing, or a line says something that cannot be.
    """
    if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
        raise LogError(f"{catalogue}: has no column {missing[0]!r}; a list of logs has {', '.join(_NEEDED)}")
    lines: dict[int, dict[str, str]] = {}
    for line in reader:
        where = f"{catalogue}: line {reader.line_num}"
        if None in line or None in line.values():
            raise LogError(f"{where} has not as many cells as the first line")
        if any(text != printable(text) for text in line.values()):
            raise LogError(f"{where} holds characters that cannot be printed")
        for name, low, high in _BOUNDS:
            text = line[name]
            number = float(text) if is_number(text) else math.nan
            if not low <= number <= high and (name != "alpha" or text):
                raise LogError(f"{where}: {name} is {text[:20]!r}, no number from {low:g} to {high:g}")
        if not (line["id"] + line["n"]).isdecimal():
            raise LogError(f"{where}: id and n are whole numbers")
        if lines.setdefault(int(line["id"]), line) is not line:
            raise LogError(f"{where}: log {line['id']} is listed twice")
    return list(lines.values())


def _wrong_rows(columns: dict[str, "pa.ChunkedArray"]) -> str:
    """Return what is wrong with the columns of all logs; nothing where they hold rows of logs."""
    import pyarrow as pa

    for name, column in columns.items():
        right = pa.types.is_floating if name == "radius" else pa.types.is_integer
        if not right(column.type) or column.null_count:
            return f"its column {name} holds something else than numbers"
        values = column.to_numpy(zero_copy_only=False)
        low = ABSTAIN if name == "predict" else 0
        if not ((values >= low) & (values <= _LARGEST[name])).all():
            return f"its column {name} holds something else than numbers from {low} to {_LARGEST[name]:g}"
    return ""


def _terms(line: dict[str, str]) -> tuple[float, int, float]:
    return float(line["sigma"]), int(line["n"]), float(line["alpha"])


def _by_ladder(lines: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    for _, same in groupby(sorted(lines, key=_terms), key=_terms):
        yield list(same)


def _logs(
    lines: list[dict[str, str]], columns: dict[str, np.ndarray], starts: dict[int, int], ends: dict[int, int]
) -> Iterator[CollectedLog]:
    """Yield logs of one sigma, n and alpha: their radii lie on one ladder, and most stand in many of them."""
    sigma, n, alpha = _terms(lines[0])
    ladder = Ladder(sigma, n, alpha, "nearest", 0.0)
    places = [slice(starts[int(line["id"])], ends[int(line["id"])]) for line in lines]
    radii, inverse = np.unique(np.concatenate([columns["radius"][at] for at in places]), return_inverse=True)
    counts = np.split(
        nearest_successes(radii.astype(np.float64), ladder)[inverse],
        np.cumsum([at.stop - at.start for at in places])[:-1],
    )
    for line, at, successes in zip(lines, places, counts, strict=True):
        predict, label = columns["predict"][at], columns["label"][at]
        yield CollectedLog(
            number=int(line["id"]),
            setting=Setting(line["data_set"], line["architecture"], line.get("image_order", ""), sigma),
            method=line["method"],
            recipe=line["recipe"],
            settings=", ".join(filter(None, (line["settings"], line["repository"].partition("/")[2]))),
            model=line["model"],
            n=n,
            example=columns["idx"][at].astype(np.int64),
            correct=(predict == label).astype(np.float64),
            successes=np.where(predict == ABSTAIN, 0, successes),
        )

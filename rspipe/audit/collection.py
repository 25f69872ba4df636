"""A collection of published certification logs: a Parquet table of their rows, and a CSV file that lists them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.audit.ladder import Ladder, nearest_successes
from rspipe.errors import LogError, first_line
from rspipe.smoothing.certificates import ABSTAIN

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
            lines = {int(line["id"]): line for line in _checked(csv.DictReader(opened), catalogue)}
        rows = pq.read_table(table, columns=list(_ROWS))
    except OSError as error:
        raise LogError(f"{error.filename or table}: {error.strerror or error}; a collection is two files") from error
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise LogError(f"{table}: no collection of logs can be read ({first_line(error)})") from error
    columns = {name: rows[name].to_numpy() for name in _ROWS}
    order = np.lexsort((columns["idx"], columns["log"]))
    columns = {name: column[order] for name, column in columns.items()}
    starts = {int(number): at for number, at in zip(*np.unique(columns["log"], return_index=True), strict=True)}
    ends = dict(zip(starts, [*list(starts.values())[1:], len(order)], strict=True))
    wanted = [
        line for line in lines.values() if line["sigma"] == line.get("train_sigma", line["sigma"]) and line["alpha"]
    ]
    if missing := [line["id"] for line in wanted if int(line["id"]) not in starts]:
        raise LogError(f"{table}: has no rows of log {missing[0]}, which {catalogue.name} lists")
    return [log for same in _by_ladder(wanted) for log in _logs(same, columns, starts, ends)]


def _checked(lines: "csv.DictReader[str]", catalogue: Path) -> Iterator[dict[str, str]]:
    if missing := [name for name in _NEEDED if name not in (lines.fieldnames or ())]:
        raise LogError(f"{catalogue}: has no column {missing[0]!r}; a list of logs has {', '.join(_NEEDED)}")
    yield from lines


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

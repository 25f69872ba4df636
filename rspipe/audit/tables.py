"""Certification logs in a Parquet table: a row per log and image, as collections of published logs are kept."""

from collections.abc import Iterator
from pathlib import Path

from rspipe.errors import LogError, first_line

_NUMBER = "log"
"""The column that says which log a row is of."""

_NEEDED = ("idx", "label", "predict", "radius")


def table_rows(file: Path, number: int | None) -> Iterator[tuple[object, ...]]:
    """Yield the rows of one log of a table in Cohen's six columns, radii with the digits that they were stored with.

    Args:
        file: With the columns idx, label, predict and radius, and `log` where it holds several.
        number: Of the log; not needed where there is only one.

    Raises:
        LogError: The table is none of certification logs, or has no log of this number.
        OSError: The file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as opened:
            columns = pq.read_schema(opened).names
            if missing := [name for name in _NEEDED if name not in columns]:
                raise LogError(f"{file}: has no column {missing[0]!r}; a table of logs has {', '.join(_NEEDED)}")
            if number is None and _NUMBER in columns:
                logs = pc.unique(pq.read_table(opened, columns=[_NUMBER])[_NUMBER]).to_pylist()
                if len(logs) != 1:
                    raise LogError(f"{file}: holds {len(logs):,} logs; name one by its number, as {file.name}#0")
            elif number is not None and _NUMBER not in columns:
                raise LogError(f"{file}: has no column {_NUMBER!r}; it is a single log, name it without #{number}")
            chosen = None if number is None else pc.field(_NUMBER) == number
            rows = pq.read_table(opened, columns=[*_NEEDED], filters=chosen)
    except pa.ArrowException as error:
        raise LogError(f"{file}: is no Parquet file that can be read ({first_line(error)})") from error
    if not rows.num_rows:
        raise LogError(f"{file}: has no rows" + ("" if number is None else f" of log {number}"))
    cells = [rows[name].to_numpy() for name in _NEEDED]
    # The shortest text that is this number at its precision: the one that was logged.
    for idx, label, predict, radius in zip(*cells, strict=True):
        yield idx, label, predict, str(radius), int(predict == label), ""

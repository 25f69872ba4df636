"""The count table as rows of Parquet files, and back: the one place that knows their columns."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from rspipe.arrays import IntArray, TextArray
from rspipe.errors import StoreError
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import derive
from rspipe.smoothing.spec import CertifySpec, RuleSpec
from rspipe.spec import reason
from rspipe.storage.files import other_version_error
from rspipe.storage.paths import StorePath

_COUNTS, _SUMS = pa.list_(pa.int64()), pa.list_(pa.float64())

SCHEMA = pa.schema(
    {
        "example": pa.int64(),
        "label": pa.int64(),
        "classifier": pa.string(),
        "kind": pa.string(),
        "sigma": pa.float64(),
        # What follows from the counts by the rule.
        "prediction": pa.int64(),
        "radius": pa.float64(),
        "p_a_lower": pa.float64(),
        "n_a": pa.int64(),
        "samples": pa.int64(),
        # The counts. A row notes its own marks alone, and `prefix` is flat: [mark x class].
        "selection": _COUNTS,
        "pilot": _COUNTS,
        "estimation": _COUNTS,
        "stop": pa.string(),
        "marks": _COUNTS,
        "prefix": _COUNTS,
        "probability_sum": _SUMS,
        "probability_square": _SUMS,
        # What they depend on, and where they come from.
        "rule": pa.string(),
        "rule_parameters": pa.string(),
        "n0": pa.int64(),
        "n": pa.int64(),
        "alpha": pa.float64(),
        "seed": pa.int64(),
        "streams": pa.string(),
        "block_size": pa.int64(),
        "batch_size": pa.int64(),
        "noise": pa.string(),
        "precision": pa.string(),
        "device": pa.string(),
        "seconds": pa.float64(),
        "key": pa.string(),
    }
)
"""Of the certification counts: a row for each classifier and example."""

_MARKED = ("marks", "prefix")

_SOFT = ("probability_sum", "probability_square")

_COUNTED = tuple(field.name for field in fields(CountTable) if field.name not in ("rule", *_MARKED))
"""Columns that are fields of a count table as they are."""

_STREAMS = "selection 0, pilot 6, estimation 1"

_RULE: TypeAdapter[RuleSpec] = TypeAdapter(RuleSpec)


_ADDED_UP = ("selection", "pilot", "estimation", "n0", "n", "samples")

_CHECKED = (*_ADDED_UP, "rule_parameters", "sigma", "alpha")


def part_name(content: bytes | memoryview) -> str:
    """Return the name of a Parquet part, which says its content."""
    return f"part-{hashlib.sha256(content).hexdigest()[:32]}.parquet"


def part_table(content: bytes, *, path: StorePath, columns: Sequence[str] | None) -> pa.Table:
    """Return the rows of a Parquet part.

    Args:
        content: Of the file.
        path: Of the file, whose name says its content.
        columns: Those to return; all by default.

    Raises:
        StoreError: It is what was written, by another version of rspipe.
        ValueError: It is not what was written under this name, or its counts do not add up.
        pa.ArrowException: It cannot be read.
    """
    if path.name != part_name(content):
        raise ValueError("its content is not what was written")
    read = None if columns is None else [*dict.fromkeys((*columns, *_CHECKED))]
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    schema = file.schema_arrow
    for column in SCHEMA.names if read is None else read:
        if column not in schema.names or schema.field(column).type != SCHEMA.field(column).type:
            raise other_version_error(path, f"its column {column} is missing, or of another kind")
    rows = file.read(columns=read)
    for parameters in pc.unique(rows["rule_parameters"]).to_pylist():
        try:
            _RULE.validate_json(parameters)
        except ValidationError as error:
            raise other_version_error(path, reason(error, subject="its rule")) from error
    _check_counts(rows)
    return rows.select([*(columns or SCHEMA.names)])


def _check_counts(rows: pa.Table) -> None:
    """Raise ValueError unless counts add up, and what they depend on is possible."""
    for column in rows.column_names:
        if rows[column].null_count:
            raise ValueError(f"its column {column} lacks values")
    selection, pilot, estimation = (_sums(rows[name]) for name in _ADDED_UP[:3])
    n0, n, samples, sigma, alpha = (rows[name].to_numpy() for name in (*_ADDED_UP[3:], "sigma", "alpha"))
    if not ((selection == n0) & (samples == n0 + pilot + estimation) & (estimation <= n) & (n0 > 0)).all():
        raise ValueError("its counts do not add up to its samples")
    classes = {length for name in _ADDED_UP[:3] for length in _lengths(rows[name])}
    if len(classes) > 1:
        raise ValueError("its counts are not of the same classes")
    if "prefix" in rows.column_names and (_lengths(rows["prefix"]) != _lengths(rows["marks"]) * classes.pop()).any():
        raise ValueError("its counts at marks are not of all classes")
    if not ((sigma > 0) & np.isfinite(sigma) & (alpha > 0) & (alpha < 1)).all():
        raise ValueError("its sigma or alpha is none")


def _lengths(lists: pa.ChunkedArray) -> IntArray:
    return np.asarray(pc.list_value_length(lists).to_numpy(), dtype=np.int64)


def _sums(counts: pa.ChunkedArray) -> IntArray:
    """Return [row] sums of lists of counts.

    Raises:
        ValueError: One is negative.
    """
    lists = counts.combine_chunks()
    flat = np.asarray(lists.flatten())
    if (flat < 0).any():
        raise ValueError("a count is below 0")
    ends = np.asarray(lists.offsets) - lists.offsets[0].as_py()
    return np.asarray(np.diff(np.concatenate([[0], np.cumsum(flat)])[ends]), dtype=np.int64)


def needed_columns(*, marks: bool, soft: bool) -> list[str]:
    """Return the columns that count tables are made from.

    Args:
        marks: With the counts at marks: what the radius grid and fewer samples are derived from.
        soft: With the sums of probabilities.
    """
    counted = [name for name in _COUNTED if soft or name not in _SOFT]
    return [*counted, "rule_parameters", "key", *(_MARKED if marks else ())]


def count_rows(counts: CountTable, *, keys: Sequence[str], spec: CertifySpec, device: str) -> pa.Table:
    """Return counts as rows of SCHEMA: with all that they depend on, and the certificates that follow by the rule.

    Args:
        counts: Of some classifiers at one image.
        keys: Identity of what determines each row's counts, beside the example.
        spec: The settings of the certification.
        device: Where the noise was drawn.
    """
    own = derive(counts)
    reached = (counts.prefix[..., 0] >= 0).sum(-1)
    columns: dict[str, Any] = {
        **{name: getattr(counts, name) for name in _COUNTED},
        "marks": [counts.marks[:marks] for marks in reached],
        "prefix": [prefix[:marks].ravel() for prefix, marks in zip(counts.prefix, reached, strict=True)],
        **{name: getattr(own, name) for name in ("prediction", "radius", "p_a_lower", "n_a")},
        "samples": counts.samples,
        "rule": counts.rule.name,
        "rule_parameters": json.dumps(asdict(counts.rule), separators=(",", ":")),
        "streams": _STREAMS,
        "block_size": spec.block_size,
        "precision": spec.precision,
        "device": device,
        "key": keys,
    }
    shared = {name: [value] * len(keys) for name, value in columns.items() if isinstance(value, str | int | float)}
    return pa.table({name: list(values) for name, values in (columns | shared).items()}, schema=SCHEMA)


def count_tables(rows: pa.Table, keys: Mapping[str, str], *, folder: Any) -> Iterator[CountTable]:
    """Yield the counts of each classifier under its key, one after the other, ordered by id, then by example.

    An image that stands in several files, with the same counts, comes once.

    Args:
        rows: Of the columns that `needed_columns` names.
        keys: Key by classifier.
        folder: Where they come from, for messages.

    Raises:
        StoreError: An example has two different counts under one key.
    """
    encoded = rows["classifier"].combine_chunks().dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    order = np.lexsort((rows["example"].to_numpy(), codes))
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code in sorted(range(len(names)), key=names.__getitem__):
        ours = rows.take(order[bounds[code] : bounds[code + 1]])
        ours = ours.filter(pc.equal(ours["key"], pa.scalar(keys.get(names[code]), pa.string())))
        if ours.num_rows:
            yield _count_table(_once_each(ours, folder=folder))


def _once_each(rows: pa.Table, *, folder: Any) -> pa.Table:
    """Return rows of one classifier, ordered by example, without repetitions."""
    example = rows["example"].to_numpy()
    repeated = example[1:] == example[:-1]
    for at in np.flatnonzero(repeated).tolist():
        if any(rows[name][at] != rows[name][at + 1] for name in ("selection", "estimation")):
            raise StoreError(
                f"{folder}: {rows['classifier'][at]} has two different counts for image {example[at]}; "
                "two processes wrote here: delete the folder and certify again"
            )
    return rows.filter(pa.array(np.append(True, ~repeated)))


def _count_table(rows: pa.Table) -> CountTable:
    """Return rows of one classifier as arrays; what was not read is empty."""
    images = rows.num_rows

    def column(name: str) -> NDArray[Any]:
        return np.asarray(rows[name].to_numpy())

    def text(name: str) -> TextArray:
        return np.array(rows[name].to_pylist(), dtype=np.str_)

    def lists(name: str) -> NDArray[Any]:
        if name not in rows.column_names:
            return np.zeros((images, 0))
        return np.asarray(rows[name].combine_chunks().flatten().to_numpy()).reshape(images, -1)

    selection = lists("selection")
    marks, prefix = np.zeros(0, np.int64), np.zeros((images, 0, selection.shape[1]), np.int64)
    if "marks" in rows.column_names:
        marks = max((row.values.to_numpy() for row in rows["marks"]), key=len)
        prefix = np.full((images, len(marks), selection.shape[1]), -1, np.int64)
        for row, noted in enumerate(rows["prefix"]):
            counts = noted.values.to_numpy().reshape(-1, selection.shape[1])
            prefix[row, : len(counts)] = counts
    first = rows.slice(0, 1).to_pylist()[0]
    return CountTable(
        rule=_RULE.validate_json(first["rule_parameters"]),
        classifier=text("classifier"),
        kind=text("kind"),
        noise=text("noise"),
        example=column("example"),
        label=column("label"),
        selection=selection,
        pilot=lists("pilot"),
        estimation=lists("estimation"),
        stop=text("stop"),
        marks=marks,
        prefix=prefix,
        probability_sum=lists("probability_sum"),
        probability_square=lists("probability_square"),
        batch_size=column("batch_size"),
        seconds=column("seconds"),
        **{name: first[name] for name in ("sigma", "n0", "n", "alpha", "seed")},
    )

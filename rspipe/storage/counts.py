"""Certification counts between Parquet and arrays."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rspipe.smoothing.derivation import ClassifierCounts
from rspipe.smoothing.spec import RuleSpec

_HISTOGRAMS = ("selection", "pilot", "estimation")

_NUMBERS = ("sigma", "n0", "n", "alpha", "seed", "seconds")

COLUMNS = ("classifier", "example", "key", "kind", "label", "stop", "rule_parameters", *_HISTOGRAMS, *_NUMBERS)

NOTED = ("marks", "prefix")

SOFT = ("probability_sum", "probability_square")

_RULE: TypeAdapter[RuleSpec] = TypeAdapter(RuleSpec)


def disputed(rows: Any) -> int | None:
    """Return an example that has two different counts in a data frame of one classifier; None where there is none."""
    for example, same in rows[rows.duplicated("example", keep=False)].groupby("example"):
        counts = {(*map(int, a), *map(int, b)) for a, b in zip(same["selection"], same["estimation"], strict=True)}
        if len(counts) > 1:
            return int(example)
    return None


def by_classifier(table: pa.Table) -> Iterator[tuple[str, Any]]:
    """Yield each classifier of a table in one chunk and a data frame of its rows, ordered by example.

    One at a time: as Python's objects the lists of counts take ten times the memory that they have in the table.
    """
    encoded = table["classifier"].combine_chunks().dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    order = np.lexsort((table["example"].to_numpy(), codes))
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for code in sorted(range(len(names)), key=names.__getitem__):
        yield names[code], table.take(order[bounds[code] : bounds[code + 1]]).to_pandas()


def classifier_counts_of(rows: Any) -> ClassifierCounts:
    """Return the counts that a data frame of one classifier, ordered by example, holds."""

    def stacked(name: str, kind: type[np.int64] | type[np.float64]) -> NDArray[Any]:
        return np.stack(rows[name].to_list()).astype(kind)

    first = rows.iloc[0]
    selection = stacked("selection", np.int64)
    images, classes = selection.shape
    marks, prefix = np.zeros(0, np.int64), np.zeros((images, 0, classes), np.int64)
    if "marks" in rows:
        marks = max(rows["marks"], key=len).astype(np.int64)
        prefix = np.full((images, len(marks), classes), -1, np.int64)
        for row, noted in enumerate(rows["prefix"]):
            reached = noted.reshape(-1, classes)
            prefix[row, : len(reached)] = reached
    soft = "probability_sum" in rows
    nothing = np.zeros((images, 0))
    return ClassifierCounts(
        id=str(first["classifier"]),
        kind="model" if first["kind"] == "model" else "ensemble",
        sigma=float(first["sigma"]),
        rule=_RULE.validate_json(first["rule_parameters"]),
        n0=int(first["n0"]),
        n=int(first["n"]),
        alpha=float(first["alpha"]),
        seed=int(first["seed"]),
        example=rows["example"].to_numpy(np.int64),
        label=rows["label"].to_numpy(np.int64),
        selection=selection,
        pilot=stacked("pilot", np.int64),
        estimation=stacked("estimation", np.int64),
        stop=rows["stop"].to_numpy(str),
        marks=marks,
        prefix=prefix,
        probability_sum=stacked("probability_sum", np.float64) if soft else nothing,
        probability_square=stacked("probability_square", np.float64) if soft else nothing,
        seconds=float(rows["seconds"].sum()),
    )

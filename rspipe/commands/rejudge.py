"""Judge published methods again, from a collection of logs: which printed orders are certain."""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from rspipe.audit.collection import read_collection
from rspipe.commands.terminal import Terminal
from rspipe.errors import LogError
from rspipe.report.rejudged import rejudge
from rspipe.report.rejudged_tables import pair_rows, rejudged_markdown
from rspipe.storage.paths import StorePath

_MARKS = "<!-- rejudged -->", "<!-- end of rejudged -->"


@dataclass(frozen=True)
class Options:
    """The collection, and where to write."""

    logs: tyro.conf.Positional[Path]
    """Parquet table of the logs' rows; the CSV file of the same name beside it says what each log is."""
    pairs: Path | None = None
    """File for every pair, quantity and verdict, tab-separated."""
    into: Path | None = None
    """Markdown file whose part between the lines <!-- rejudged --> and <!-- end of rejudged --> is replaced; printed by
    default."""


def main(options: Options, terminal: Terminal) -> None:
    """Print or write what is certain of each setting."""
    text = options.into.read_text(encoding="utf-8") if options.into is not None and options.into.is_file() else ""
    if options.into is not None and any(text.count(mark) != 1 for mark in _MARKS):
        raise LogError(f"{options.into}: needs the lines {_MARKS[0]} and {_MARKS[1]} once each")
    terminal.doing("reading the logs")
    logs = read_collection(options.logs)
    terminal.doing("judging every pair")
    settings = rejudge(logs)
    if not settings:
        raise LogError(f"{options.logs}: no two methods have logs of the same images at one noise level")
    if options.pairs is not None:
        rows = list(pair_rows(settings))
        target = io.StringIO()
        writer = csv.DictWriter(target, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        StorePath.of(options.pairs).write_text(target.getvalue())
    content = rejudged_markdown(settings, source=options.logs.name)
    if options.into is None:
        terminal.stop()
        sys.stdout.write(content)
        return
    before, _, rest = text.partition(_MARKS[0])
    after = rest.partition(_MARKS[1])[2]
    StorePath.of(options.into).write_text(f"{before}{_MARKS[0]}\n{content}{_MARKS[1]}{after}")

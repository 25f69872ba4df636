"""Audit certification logs, ours or published: what alpha and n their radii imply, and what is wrong.

Exit status: 0 no log has a problem, 1 some have, 2 some cannot be read.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.markup import escape

from rspipe.audit.audit import Audit, audit_lines, audit_log, cohen_log, rspipe_log
from rspipe.audit.log import log_file, read_log
from rspipe.audit.radii import Known
from rspipe.commands.terminal import Terminal
from rspipe.errors import LogError
from rspipe.storage.paths import StorePath

STYLES = {"problem": "red", "note": "yellow"}
WRITERS = {"rspipe": rspipe_log, "cohen": cohen_log}


@dataclass(frozen=True)
class Options:
    """Which logs to audit, what is known of them, and where to write them."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Certification logs."""
    known: tyro.conf.OmitArgPrefixes[Known] = field(default_factory=Known)
    export: Path | None = None
    """Folder to write the logs to, as <name>.<dialect>.tsv, or <name>-<number>.<dialect>.tsv for a log in a table."""
    dialect: Literal["rspipe", "cohen"] = "rspipe"
    """rspipe: radii rounded down to what was proved, with sigma, n, alpha and n_a where the radii imply them; cohen:
    the six columns alone, radii as logged. Both have one row per image, in order."""


def main(options: Options, terminal: Terminal) -> None:
    """Print the audit of every log, and export the logs where a folder is given."""
    if not options.files:
        raise LogError("give one certification log or more")
    console = terminal.console
    audits: dict[Path, Audit] = {}
    unreadable = 0
    for path in dict.fromkeys(options.files):
        try:
            audits[path] = audit_log(read_log(path), options.known)
        except LogError as error:
            console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            unreadable += 1
            continue
        console.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
        for word, text in audit_lines(audits[path]):
            console.print(f"  [{STYLES.get(word, 'default')}]{word:<12}[/]{escape(text)}", soft_wrap=True)
    if options.export is not None:
        targets = [options.export / f"{_name(path)}.{options.dialect}.tsv" for path in audits]
        if len(set(targets)) < len(targets):
            raise LogError("two logs have the same name, and one would overwrite the other; export them apart")
        for target, audit in zip(targets, audits.values(), strict=True):
            StorePath.of(target).write_text(WRITERS[options.dialect](audit))
            console.print(f"Written: {escape(str(target))}", soft_wrap=True)
    bad = sum(audit.problems > 0 for audit in audits.values())
    console.print(f"Logs: {len(audits)}, with problems: {bad}, unreadable: {unreadable}")
    sys.exit(2 if unreadable else 1 if bad else 0)


def _name(path: Path) -> str:
    """Return what an exported log is called: as its file, with its number where that is a table of several."""
    file, number = log_file(path)
    return file.stem if number is None else f"{file.stem}-{number}"

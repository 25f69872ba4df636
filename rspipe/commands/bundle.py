"""Pack a run's result into one file that somebody else can check, with checksums, without networks."""

from dataclasses import dataclass
from pathlib import Path

from rspipe.commands.options import ReadRun, run_to_read
from rspipe.commands.terminal import Terminal
from rspipe.errors import StoreError
from rspipe.stages.report import check_report
from rspipe.storage.bundle import bundle
from rspipe.storage.paths import StorePath


@dataclass(frozen=True)
class Options:
    """Which run directory to pack, and where to."""

    run: ReadRun
    """The run directory: a folder or an address."""
    out: str | None = None
    """The zip file, a path or an address; <study id>.zip in the working directory by default."""


def main(options: Options, terminal: Terminal) -> None:
    """Write the bundle, and print where it is.

    Raises:
        StoreError: The run has no report, or one of other counts; or the place for the bundle is a folder.
    """
    store, study = run_to_read(options.run)
    path = options.out or f"{study.id}.zip"
    if Path(path).is_dir():
        raise StoreError(f"{path} is a folder; name a file in it, --out {Path(path, study.id)}.zip")
    check_report(store, study)
    StorePath.of(path).write_bytes(bundle(store.run_dir))
    terminal.say(f"Bundle: {path}")

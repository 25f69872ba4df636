"""A line on stderr that says how far a computation is, for callers without a terminal of their own."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_SECONDS = 0.2


@contextmanager
def progress_line(total: int, unit: str, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function to be called with the number of units just done; the line is written anew as they come.

    Args:
        total: Number of units; 0 where it is not known.
        unit: What is counted, in the plural.
        shown: Whether anything is written at all.
    """
    done, began, written = 0, time.monotonic(), 0.0

    def write(end: str) -> None:
        seconds = time.monotonic() - began
        left = f", {seconds * (total - done) / done:.0f} s left" if 0 < done < total else ""
        amount = f"{done:,} of {total:,}" if total else f"{done:,}"
        sys.stderr.write(f"\r{amount} {unit}, {seconds:.0f} s{left}".ljust(70) + end)
        sys.stderr.flush()

    def advance(units: int) -> None:
        nonlocal done, written
        done += units
        if shown and time.monotonic() - written > _EVERY_SECONDS:
            written = time.monotonic()
            write("")

    try:
        yield advance
    finally:
        if shown:
            write("\n")

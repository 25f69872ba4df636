"""Ray where its public interface does not suffice: each function says what for, as probed with Ray 2.60.

Nothing else in rspipe touches `ray._private` or file descriptor 2.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Elsewhere than on Linux Ray keeps to 127.0.0.1 by default; this asks for it here.
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def loopback_only() -> Iterator[None]:
    """Let a Ray that is started meanwhile listen at 127.0.0.1 alone.

    `ray.init(_node_ip_address="127.0.0.1")` replaces that address by one that others reach. The variable of the
    environment is read by the processes that Ray starts, but by this one only when it imports Ray.
    """
    from ray._private import ray_constants

    before, enabled = os.environ.get(_CLUSTERS), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_CLUSTERS], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        os.environ.pop(_CLUSTERS)
        if before is not None:
            os.environ[_CLUSTERS] = before
        ray_constants.ENABLE_RAY_CLUSTER = enabled


@contextmanager
def messages_to(log: Path) -> Iterator[None]:
    """Append to a file what Ray reports of lost nodes and workers, instead of printing it.

    Ray prints a paragraph per worker whatever `log_to_driver` and `logging_level` are; what matters of it reaches us
    as errors.
    """
    from ray._private import worker

    def write(data: dict[str, Any], **_: bool) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"({data.get('pid')}) {line}\n" for line in data.get("lines", ()))

    before = worker.print_to_stdstream
    worker.print_to_stdstream = write
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextmanager
def native_stderr_to(log: Path) -> Iterator[Callable[[], str]]:
    """Append to a file what native code writes to file descriptor 2; Python's own sys.stderr stays where it is.

    Why a cluster refuses a client (`Unauthenticated`) is written there by Ray's native code and said nowhere else:
    `ray.init` raises a plain ConnectionError, and RAY_BACKEND_LOG_LEVEL changes nothing. The rest is noise to a user.

    Yields:
        A function that returns what was written since.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with log.open("ab+") as file, os.fdopen(os.dup(original), "w", buffering=1) as terminal:
        start = file.seek(0, os.SEEK_END)

        def written() -> str:
            return os.pread(file.fileno(), 1_000_000, start).decode(errors="replace")

        os.dup2(file.fileno(), 2)
        python_stderr, sys.stderr = sys.stderr, terminal
        try:
            yield written
        finally:
            sys.stderr = python_stderr
            os.dup2(original, 2)
            os.close(original)

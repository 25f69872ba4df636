"""One process at a time in a run directory."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rspipe.errors import StoreError


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Hold a run directory, made when new, until this process leaves it or ends in whatever way.

    Raises:
        StoreError: Another process holds it, or it cannot be written or locked.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / "lock").open("a+")
    except OSError as error:
        raise StoreError(f"run directory {run_dir}: {error}; choose another with --run-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise StoreError(
                    f"run directory {run_dir} is in use by another process; wait for it or end it"
                ) from error
            raise StoreError(
                f"run directory {run_dir} cannot be locked ({error.strerror}); "
                "choose one on another file system with --run-dir"
            ) from error
        yield

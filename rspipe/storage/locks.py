"""One process at a time in a run directory.

In a folder it is the file `lock`, which the system frees when its holder ends. In an object store it is an object of
each process below `lock/`, written before it looks for those of others, and again every ten seconds. Since a store
lists what was written before, of two processes at least one sees the other, and that one ends: never do two run. A
process that was not heard of for a minute is taken for dead. If it was only cut off, it notices when it next writes
its own object, and ends; till then both may write the same records, each of them whole.
"""

import errno
import fcntl
import logging
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from rspipe.errors import DamagedError, StoreError
from rspipe.storage.files import read_content, record_bytes
from rspipe.storage.paths import StorePath

_log = logging.getLogger(__name__)


RENEWED_SECONDS = 10.0

SILENT_SECONDS = 60.0

LOOK_SECONDS = 2.0

_SAME_START_SECONDS = 1.5


@contextmanager
def exclusive(run_dir: StorePath) -> Iterator[None]:
    """Hold a run directory, made when new, until this process leaves it or ends in whatever way.

    Raises:
        StoreError: Another process holds it, or it cannot be written or locked.
    """
    try:
        run_dir.local_part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"run directory {run_dir}: {error}; take another, or one that can be written") from error
    with _locked_file(run_dir.local_part) if run_dir.is_local else _locked_bucket(run_dir):
        yield


@contextmanager
def _locked_file(run_dir: Path) -> Iterator[None]:
    try:
        lock = (run_dir / "lock").open("a+")
    except OSError as error:
        raise StoreError(f"run directory {run_dir}: {error}; take another, or one that can be written") from error
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


@contextmanager
def _locked_bucket(run_dir: StorePath) -> Iterator[None]:
    own = run_dir / "lock" / uuid.uuid4().hex
    content = record_bytes(_this_process())
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(own, content, ended), daemon=True)
    own.write_bytes(content)
    try:
        _wait_for_silence(run_dir, own, content)
        renewal.start()
        yield
    finally:
        ended.set()
        if renewal.ident is not None:
            renewal.join()
        with suppress(StoreError):
            own.unlink(missing_ok=True)


def _wait_for_silence(run_dir: StorePath, own: StorePath, content: bytes) -> None:
    """Return when no other process is left in a run directory.

    Raises:
        StoreError: One lives: it runs on this machine, or wrote its object again while this process looked.
    """
    seen: dict[str, datetime] = {}
    while others := _others(run_dir, own):
        for name, (written, silent, owner) in others.items():
            who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
            if _is_alive(owner) or seen.get(name, written) != written:
                raise StoreError(f"run directory {run_dir} is in use by {who}; wait for it or end it")
            if name not in seen:
                left = SILENT_SECONDS - silent
                _log.warning(
                    "warning: %s was held by %s; going on unless that is heard of within %.0f s", run_dir, who, left
                )
            seen[name] = written
        time.sleep(LOOK_SECONDS)
        own.write_bytes(content)


def _others(run_dir: StorePath, own: StorePath) -> dict[str, tuple[datetime, float, dict[str, Any]]]:
    """Return when others wrote their objects, seconds ago, and who they are; delete the objects of the dead."""
    # All times are the store's: clocks need not agree.
    times = (run_dir / "lock").modified()
    if (now := times.pop(own.name, None)) is None:
        raise StoreError(f"{own} is gone, or not listed yet; run the same command again")
    others: dict[str, tuple[datetime, float, dict[str, Any]]] = {}
    for name, written in times.items():
        other, silent = run_dir / "lock" / name, (now - written).total_seconds()
        owner = _owner(other)
        alive = _is_alive(owner)
        if alive is False or (alive is None and silent >= SILENT_SECONDS):
            other.unlink(missing_ok=True)
        else:
            others[name] = (written, silent, owner)
    return others


def _owner(lock: StorePath) -> dict[str, Any]:
    """Return who wrote an object; nothing where it is gone, or was written by something else."""
    try:
        return read_content(lock)
    except DamagedError:
        return {}


def _renew(own: StorePath, content: bytes, ended: threading.Event) -> None:
    """Write the own object again and again; end the process when another has deleted it."""
    reachable = True
    while not ended.wait(RENEWED_SECONDS):
        try:
            if not own.is_file():
                _log.error("%s is gone: another process went on in this run directory; this one ends", own)
                # Not Ctrl-C, which what runs in the background may ignore.
                os.kill(os.getpid(), signal.SIGTERM)
                return
            own.write_bytes(content)
            reachable = True
        except StoreError as error:
            if reachable:
                _log.warning("warning: the lock cannot be renewed (%s); trying again", error)
            reachable = False


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _is_alive(owner: dict[str, Any]) -> bool | None:
    """Return whether a process of this machine runs; None for those of other machines."""
    if not owner.get("machine") or (owner["host"], owner["machine"]) != (platform.node(), _machine()):
        return None
    started = _started(int(owner["pid"]))
    # Another process may have got the same number since.
    return started is not None and abs(started - float(owner["started"])) < _SAME_START_SECONDS


def _machine() -> str:
    """Return an identity of this boot of this machine and of this view of its processes; "" if unknown.

    Containers of one machine may share its name, and number their processes each on its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> float | None:
    """Return when a process of this machine started, in seconds after the boot; None if it has ended."""
    # Both are in seconds of a clock that may be set meanwhile; their difference is not.
    boot = psutil.boot_time()
    try:
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return None if ended else float(process.create_time() - boot)
    except psutil.NoSuchProcess:
        return None

"""One process at a time in a run directory.

In a folder it is the file `lock`, which the system frees when its holder ends. In an object store it is an object of
each process below `lock/`, written before it looks for those of others, and again every ten seconds. Since a store
lists what was written before, of two processes at least one sees the other, and that one ends: never do two run. A
process that was not heard of for a minute is taken for dead. If it was only cut off, it learns that when it next
writes its own object, and ends; till then both may write the same records, each of them whole.
"""

import errno
import fcntl
import json
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

from rspipe.errors import StoreError
from rspipe.storage.files import found_json
from rspipe.storage.paths import ObjectPath, Place, local_part

_log = logging.getLogger(__name__)


RENEWED_SECONDS = 10.0

SILENT_SECONDS = 60.0

LOOK_SECONDS = 2.0


@contextmanager
def alone(run_dir: Place) -> Iterator[None]:
    """Hold a run directory, made when new, until this process leaves it or ends in whatever way.

    Raises:
        StoreError: Another process holds it, or it cannot be written or locked.
    """
    try:
        local_part(run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"run directory {run_dir}: {error}; choose another with --run-dir") from error
    with _folder_alone(run_dir) if isinstance(run_dir, Path) else _bucket_alone(run_dir):
        yield


@contextmanager
def _folder_alone(run_dir: Path) -> Iterator[None]:
    try:
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


@contextmanager
def _bucket_alone(run_dir: ObjectPath) -> Iterator[None]:
    own = run_dir / "lock" / uuid.uuid4().hex
    content = json.dumps(_owner(), sort_keys=True).encode()
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(own, content, ended), daemon=True)
    own.write_bytes(content)
    try:
        _wait_for_silence(run_dir, own, content)
        renewing.start()
        yield
    finally:
        ended.set()
        if renewing.ident is not None:
            renewing.join()
        with suppress(StoreError):
            own.unlink(missing_ok=True)


def _wait_for_silence(run_dir: ObjectPath, own: ObjectPath, content: bytes) -> None:
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


def _others(run_dir: ObjectPath, own: ObjectPath) -> dict[str, tuple[datetime, float, dict[str, Any]]]:
    """Return when others wrote their objects, seconds ago, and who they are; delete the objects of the dead."""
    # All times are the store's: clocks need not agree.
    times = (run_dir / "lock").times()
    now, found = times.pop(own.name), {}
    for name, written in times.items():
        other, silent = run_dir / "lock" / name, (now - written).total_seconds()
        owner = found_json(other) or {}
        alive = _is_alive(owner)
        if alive is False or (alive is None and silent >= SILENT_SECONDS):
            other.unlink(missing_ok=True)
        else:
            found[name] = (written, silent, owner)
    return found


def _renew(own: ObjectPath, content: bytes, ended: threading.Event) -> None:
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


def _owner() -> dict[str, Any]:
    return {"host": platform.node(), "machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid())}


def _is_alive(owner: dict[str, Any]) -> bool | None:
    """Return whether a process of this machine runs; None for those of other machines."""
    if not owner.get("machine") or (owner["host"], owner["machine"]) != (platform.node(), _machine()):
        return None
    return bool(_began(int(owner["pid"])) == owner["began"])


def _machine() -> str:
    """Return what tells this boot of this machine, and this view of its processes, from others; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """Return when a process of this machine began, in ticks since the boot; "" if it has ended."""
    try:
        # The name in field 2 may hold spaces, but ends with the last parenthesis.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]

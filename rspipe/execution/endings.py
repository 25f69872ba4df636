"""Ends of a connection that Ray itself would turn into silence or a crash: a head that is lost, and Ctrl-C.

A driver that hears nothing of its head for a minute is ended by Ray's native code, with status 1 and without a word; so
it is noticed here before. And what is left of Ray's native threads can crash while Python ends or Ray is shut down
under threads that still call it: such a process ends without either, and Ray's own processes with it or by themselves.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rspipe.errors import ClusterError, RspipeError
from rspipe.execution.failures import root_cause
from rspipe.execution.ray_internals import ask_head

head_lost = threading.Event()
"""Set once the head does not answer any more: a call of Ray's would not return."""

_left_behind = threading.Event()

_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""After so many seconds Ray's native code ends this process."""

_ASK_SECONDS = 4.0

_FAILURES = 3
"""Of which one may be that this process itself stood still."""


def end_process(status: int) -> NoReturn:
    """End this process with an exit status; at once where Ray was left behind."""
    if not _left_behind.is_set():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def orderly_end(address: str) -> Iterator[None]:
    """Shut Ray down in the end; leave it behind when the user interrupts or the head is lost.

    Raises:
        ClusterError: The head at host:port is lost, or what else Ray raised.
    """
    import ray

    over = threading.Event()
    _interrupt_on_signals()
    threading.Thread(target=_watch, args=(address, over), daemon=True).start()
    try:
        yield
    except BaseException as error:
        if head_lost.is_set() or not (_answers(address) or _answers(address)):
            head_lost.set()
            _left_behind.set()
            if isinstance(error, RspipeError) and not isinstance(error, ClusterError):
                raise
            raise ClusterError(_lost_text(address)) from error
        if isinstance(error, KeyboardInterrupt):
            _left_behind.set()
        else:
            ray.shutdown()
        if isinstance(error, ray.exceptions.RayError):
            raise root_cause(error) from error
        raise
    else:
        ray.shutdown()
    finally:
        over.set()


def _answers(address: str) -> bool:
    return ask_head(address, seconds=_ASK_SECONDS).kind != "none"


def _lost_text(address: str) -> str:
    lost = "the Ray of this run" if address.startswith("127.") else f"the Ray head at {address}"
    return f"{lost} is lost; the same command goes on from here (another head: `--ray-address`)"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _interrupt_on_signals() -> None:
    """Take SIGTERM, which `ray job stop` and schedulers send, and a closed terminal for Ctrl-C.

    Ray's own handler, set when it starts, would end in an abort.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _interrupt)
    # `nohup` asks to go on.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)


def _watch(address: str, over: threading.Event) -> None:
    """Interrupt the main thread when the head is lost, and end this process where that does not help."""
    patience = float(os.environ.get(_PATIENCE, "60"))
    failures, since = 0, 0.0
    while not over.wait(min(_ASK_SECONDS, patience / 8)):
        since = since if failures else time.monotonic()
        failures = 0 if _answers(address) else failures + 1
        if failures >= _FAILURES and time.monotonic() - since > patience / 2:
            break
    else:
        return
    head_lost.set()
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)
    if not over.wait(patience / 5):
        sys.stderr.write(f"error: {_lost_text(address)}\n")
        sys.stderr.flush()
        os._exit(2)

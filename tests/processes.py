"""Starting, watching and killing pipelines and their Ray processes, by process id."""

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parents[1]
PIPELINES = REPOSITORY / "pipelines"
TINY = Path(__file__).parent / "tiny.toml"
# Seconds until something is taken to hang: no figure, since the machine may be busy with other things.
PATIENCE = 900.0
ATTEMPTS = 8
RAY = str(Path(sys.executable).with_name("ray"))

# Of a head, its nodes and its drivers.
SECRETS = {
    "RAY_AUTH_TOKEN": "a" * 32,
    "AWS_ACCESS_KEY_ID": "id-planted-by-a-test",
    "AWS_SECRET_ACCESS_KEY": "key-planted-by-a-test",
    "AWS_SESSION_TOKEN": "token-planted-by-a-test",
}

T = TypeVar("T")


def repeated(function: Callable[[], T], *errors: type[Exception]) -> T:
    """Return what a function that starts a Ray returns: on a busy machine Ray gives up after a quarter of a minute."""
    for _ in range(ATTEMPTS - 1):
        with suppress(*errors):
            return function()
    return function()


def start(script: str, *words: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start a pipeline in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(PIPELINES / script), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )


def start_on_terminal(
    script: str, *words: str, environment: dict[str, str] | None = None
) -> tuple["subprocess.Popen[bytes]", list[str]]:
    """Start a pipeline on a terminal of its own; return it and the list that gets what it shows."""
    ours, theirs = pty.openpty()
    # In the background of a shell without job control this process ignores Ctrl-C, and would hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, str(PIPELINES / script), *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    shown: list[str] = []

    def read() -> None:
        with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):
            # A terminal whose other side is closed raises instead of ending.
            while part := terminal.read(4096):
                shown.append(part.decode(errors="replace"))

    threading.Thread(target=read, daemon=True).start()
    return process, shown


def finish(process: "subprocess.Popen[str]", *, seconds: float = PATIENCE) -> tuple[int, str]:
    """Return the exit status and the output of a pipeline."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"the pipeline did not end within {seconds} s; it printed:\n{output}") from None
    return process.returncode, output


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a driver, and it alone; what it started ends by itself."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def run(script: str, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a pipeline to its end; again where it could start no Ray of its own, as happens on a busy machine."""
    for _ in range(ATTEMPTS):
        status, output = finish(start(script, *words, environment=environment))
        if "cannot start a Ray on this machine" not in output:
            break
    return status, output


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]", *, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds while a pipeline runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the pipeline ended before the condition held; it printed:\n{finish(process)[1]}")
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("the condition did not come about in time")
        time.sleep(0.1)


def _parents() -> dict[int, int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # Field 4 of stat; the name in field 2 may hold spaces but ends with the last parenthesis.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    return parents


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Yield (process id, command line) of all processes below one."""
    parents = _parents()
    for candidate in parents:
        above = candidate
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and candidate != pid:
            try:
                command = (Path("/proc") / str(candidate) / "cmdline").read_bytes()
            except OSError:
                continue
            yield candidate, command.replace(b"\0", b" ").decode(errors="replace")


def kill_one(pid: int, name: str) -> bool:
    """Kill one process below `pid` whose command line holds a name; False when there is none."""
    for candidate, command in descendants(pid):
        if name in command:
            os.kill(candidate, signal.SIGKILL)
            return True
    return False


@dataclass(frozen=True)
class Head:
    """A running Ray head that wants a token."""

    address: str
    dashboard: str
    environment: dict[str, str]
    """Of a client that knows the token."""
    folder: Path
    """Ray's temporary files."""


def free_ports(count: int) -> list[int]:
    """Return free ports outside of the range that Ray's workers use."""
    ports: list[int] = []
    # Processes with neighbouring ids look for theirs at the same moment.
    for port in range(20_500 + os.getpid() % 250 * 30, 30_000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("0.0.0.0", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """End a head and every process it started."""
    below = [pid for pid, _ in descendants(process.pid)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(3)
    for pid in [process.pid, *below]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def submit(head: Head, *words: str, options: tuple[str, ...] = (), cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `ray job submit` to its end, with its output in one text."""
    return subprocess.run(
        [RAY, "job", "submit", f"--address={head.dashboard}", *options, "--", "python", *words],
        cwd=cwd,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

"""The cause of a failure on the cluster: our own error inside those of Ray."""

import re

from rspipe import errors
from rspipe.errors import ClusterError, RspipeError, WorkersLostError

# The last line of a traceback that one of our errors ended.
_NAMED = re.compile(r"^rspipe\.errors\.(\w+): (.+)$", re.MULTILINE)

# Of Ray's own guard of memory. That of the system says nothing.
_SHORT_OF_MEMORY = re.compile(r"low on memory\. Memory on the node \(IP: (?P<node>[^,)]+).*?\) was (?P<used>[^(\n]+\w)")

_REMEDY = "; the same command goes on from here"


def root_cause(error: BaseException) -> RspipeError:
    """Return the error of ours inside what Ray made of it, or a ClusterError with a line of it.

    Ray passes an error on as a cause, as a class of its own, or as the text of a traceback alone.
    """
    from ray import exceptions

    deaths = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
    )
    lost = False
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if (memory := _SHORT_OF_MEMORY.search(str(current))) is not None:
            where, used = memory["node"], memory["used"]
            return WorkersLostError(
                f"workers were lost: Ray ended some on node {where}, which ran low on memory ({used}); run fewer side "
                f"by side, --resources.workers, or lower batch sizes{_REMEDY}"
            )
        lost = lost or isinstance(current, deaths)
        # The last one is the outermost: it was raised from those before it.
        for name, message in reversed(_NAMED.findall(str(current))):
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, RspipeError):
                return kind(message)
        if isinstance(current, RspipeError):
            return current
        queue += [getattr(current, "cause", None), current.__cause__, current.__context__]
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    # Of a chain in text the first traceback ends with what happened; the others say what became of it.
    text = str(error).partition("\nThe above exception was the direct cause")[0]
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if lost:
        return WorkersLostError(f"workers were lost: {_sentence(lines[0])}{_REMEDY}")
    return ClusterError(f"work on the cluster failed: {_sentence(lines[-1])}{_REMEDY}")


def _sentence(line: str) -> str:
    return line.strip().rstrip(".")


def passing(error: RspipeError) -> str:
    """Return what an error says to who goes on by himself."""
    return str(error).removesuffix(_REMEDY)

"""The only place that connects to Ray: its address, its token, and silence in the terminal."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from rspipe.errors import ClusterError, one_line
from rspipe.execution.endings import orderly_end
from rspipe.execution.heads import REFUSED_TOKEN, head_address
from rspipe.execution.ray_internals import messages_to, native_stderr_to, own_ray
from rspipe.execution.resources import Cluster, Resources, wait_for_nodes
from rspipe.execution.worker import ONE_ARENA

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A thread of Ray's that outlives the connection would start another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # A run under `uv run` would otherwise rebuild its environment in every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Training runs in a thread of its worker.
    **ONE_ARENA,
}

_PASSED_ON = ("RSPIPE_CODE",)
"""Environment variables that workers get: the folders of the user's own modules."""

_OBJECT_STORE_BYTES = 300_000_000


@contextmanager
def connect(*, address: str | None, resources: Resources, log: Path) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine and stop it in the end.

    Args:
        address: host:port of a running head. None takes RAY_ADDRESS (which `ray job submit` sets), and without
            that starts Ray on this machine, which listens at 127.0.0.1 alone and is protected by Ray's token unless
            RAY_AUTH_MODE says otherwise.
        resources: What the stages may use.
        log: File that gets what Ray's native code would write to the terminal.

    Raises:
        ClusterError: No head answers, it refuses the token, or is lost later; or no Ray can be started here.
    """
    resources.check()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    # Workers of a head that runs already have another environment than this process.
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    local = {"num_cpus": resources.cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    with native_stderr_to(log), messages_to(log):
        head = head_address(address)
        try:
            with nullcontext() if head else own_ray(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                context = ray.init(
                    address=head or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({"runtime_env": {"env_vars": passed}} if passed else {}),
                    **({} if head else local),
                )
        except Exception as error:
            # A Ray that does not come up in time, on a busy machine, is a plain Exception.
            raise _refused(head, error, log) from error
        joined = str(context.address_info.get("gcs_address", head))
        with orderly_end(joined):
            _silence_loggers()
            cluster = wait_for_nodes(Cluster(joined, (), resources), workers=resources.workers or 1)
            yield replace(cluster, resources=resources.on(cluster.nodes))


def _refused(head: str | None, error: Exception, log: Path) -> ClusterError:
    """Return the error of a `ray.init` that failed, with the remedy where the cause is known."""
    reason = one_line(error).removesuffix(".")
    if head is None:
        return ClusterError(f"cannot start a Ray on this machine: {reason}; {_local_remedy(error, reason, log)}")
    if type(error).__name__ == "AuthenticationError":
        return ClusterError(REFUSED_TOKEN.format(head))
    if "No node info found" in reason:
        return ClusterError(
            f"this machine is no node of the Ray cluster at {head}; `ray start --address={head}` makes it one, "
            "or submit the study from outside with `ray job submit`"
        )
    if "ersion mismatch" in reason:
        return ClusterError(f"cannot join Ray at {head}: {reason}; install the same versions on both")
    return ClusterError(f"cannot join Ray at {head}: {reason}; {log} may say more")


def _local_remedy(error: Exception, reason: str, log: Path) -> str:
    if "AF_UNIX" in reason:
        return "let RAY_TMPDIR name a folder with a short path"
    filename = getattr(error, "filename", None)
    if "home directory" in reason or (filename is not None and _in_home(Path(str(filename)))):
        return "let HOME name a folder that can be written"
    if filename is not None:
        return "let RAY_TMPDIR name a folder that can be written"
    if "timed out" in reason:
        return "free CPUs or memory and try again"
    return f"{log} may say more"


def _in_home(path: Path) -> bool:
    """Return whether Ray's token goes there."""
    return path in (token := Path("~/.ray/auth_token").expanduser(), *token.parents)


def _silence_loggers() -> None:
    """Leave Ray's warnings to its own log files; errors reach us as exceptions."""
    # Importing the libraries sets up their loggers, so it comes first.
    import ray.data
    import ray.train
    import ray.tune

    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # An image may take hours; what hangs is told by what others took.
    context.execution_no_progress_timeout_s = -1

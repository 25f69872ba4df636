"""The only place that connects to Ray: its address, its token, and silence in the terminal."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rspipe.errors import ClusterError, first_line
from rspipe.execution.ray_internals import loopback_only, messages_to, native_stderr_to
from rspipe.execution.resources import Cluster, Resources, wait_for_nodes

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A thread of Ray's that outlives the connection would start another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # A run under `uv run` would otherwise rebuild its environment in every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

_PASSED_ON = ("RSPIPE_CODE",)
"""Environment variables that workers get: the folders of the user's own modules."""

_OBJECT_STORE_BYTES = 300_000_000

_CONNECT_SECONDS = 5.0


def _check_reachable(address: str) -> None:
    """Raise ClusterError unless something listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise ClusterError(
            f"Ray address {address!r} is that of a client or a dashboard; give the head's own, e.g. 10.0.0.1:6379"
        )
    if not host or not port.isdigit():
        raise ClusterError(f"Ray address {address!r} is not of the form host:port; e.g. 10.0.0.1:6379, or leave it out")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray head answers at {address} ({error}); start one with `ray start --head`, or leave the address out"
        ) from error


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
        ClusterError: The head does not answer or refuses the token.
    """
    resources.check()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("local", "auto"):
        _check_reachable(address)
        # Something listens: what Ray would go on trying for twenty seconds is a token that the head refuses.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "5")
    import ray

    # Workers of a head that runs already have another environment than this process.
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    local = {"num_cpus": resources.cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    with native_stderr_to(log) as native_messages, messages_to(log):
        try:
            with loopback_only() if address == "local" else nullcontext(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                context = ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({"runtime_env": {"env_vars": passed}} if passed else {}),
                    **(local if address == "local" else {}),
                )
        except Exception as error:
            # A Ray that does not come up in time, on a busy machine, is a plain Exception.
            raise _refused(address, error, native_messages()) from error
        try:
            _silence_loggers()
            joined = str(context.address_info.get("gcs_address", address))
            yield wait_for_nodes(Cluster(joined, (), resources), workers=resources.workers or 1)
        finally:
            ray.shutdown()


def _refused(address: str, error: Exception, native: str) -> ClusterError:
    """Return the error of a `ray.init` that failed, with the remedy."""
    if "Unauthenticated" in native or type(error).__name__ == "AuthenticationError":
        return ClusterError(
            f"the Ray cluster at {address} refuses this client's token; "
            "`export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...` with the content of ~/.ray/auth_token on its head"
        )
    first = first_line(error)
    if address == "local":
        return ClusterError(f"cannot start a Ray on this machine: {first} Free CPUs or memory and try again")
    return ClusterError(f"cannot join Ray at {address}: {first}")


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
    # A stage that makes no progress for this long is stuck: end with an error instead of waiting for ever.
    context.execution_no_progress_timeout_s = 15 * 60

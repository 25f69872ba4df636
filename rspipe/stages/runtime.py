"""The only place that connects to Ray: addresses, tokens, resources, and silence in the terminal."""

import ctypes
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rspipe.errors import ClusterError, first_line

_log = logging.getLogger(__name__)

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
    # A run under `uv run` would otherwise build its environment anew in every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# Elsewhere than on Linux Ray keeps to 127.0.0.1 by default; this asks for it here.
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_OBJECT_STORE_BYTES = 300_000_000
_CONNECT_SECONDS = 5.0
_NODE_POLL_SECONDS = 1.0
# Of mallopt(3); 32 MiB is the most that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Resources:
    """What the stages may use. Never part of an identity: on a given kind of device, results do not depend on it."""

    cpus_per_worker: float = 1.0
    """CPUs that each training worker, search trial and certification actor reserves; it computes with one thread."""
    gpus_per_worker: float = 0.0
    """GPUs of each of them, 1 or a fraction; several GPUs for one model are several workers."""
    workers: int | None = None
    """How many of them run side by side; as many as the cluster holds by default."""
    workers_per_model: int = 1
    """Training workers that share a model, each with a part of every batch; losses change by rounding alone."""
    decoders: int | None = None
    """Tasks that decode image files for each model in training, beside the workers; by default as many as there are
    CPUs that no worker reserves, at least one."""
    threads_per_worker: int = 1
    """Threads of each certification actor. More of them save memory where members are large; the last bits of
    logits can depend on their number."""
    cpus: int | None = None
    """CPUs of the Ray started for this run; all of this machine's by default. Only without an address."""
    wait_minutes: float = 0.0
    """How long to wait for machines on which `workers` fit, or one without that number. A cluster that grows is asked
    for them."""

    def check(self) -> None:
        """Raise ClusterError for amounts that mean nothing."""
        least = {"cpus_per_worker": 0.0, "gpus_per_worker": 0.0, "wait_minutes": 0.0}
        least |= dict.fromkeys(("workers", "workers_per_model", "decoders", "threads_per_worker", "cpus"), 1)
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ClusterError(f"--resources.{name.replace('_', '-')} = {value:g} must be at least {low:g}")
        if self.gpus_per_worker > 1:
            raise ClusterError(
                f"--resources.gpus-per-worker = {self.gpus_per_worker:g}, but a worker computes on one GPU; "
                "let several workers share a model with --resources.workers-per-model"
            )
        if self.cpus_per_worker == 0 == self.gpus_per_worker:
            raise ClusterError("--resources.cpus-per-worker and --resources.gpus-per-worker are both 0; raise one")


@dataclass(frozen=True)
class Node:
    """What one machine of a cluster offers."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """What a connected cluster offers."""

    address: str
    nodes: tuple[Node, ...]
    resources: Resources

    def _fit(self, node: Node) -> int:
        """Return how many workers fit on a node: a worker does not span two."""
        shares = ((node.cpus, self.resources.cpus_per_worker), (node.gpus, self.resources.gpus_per_worker))
        # Halves and thirds of a GPU add up to one.
        return min(int(have / need + 1e-6) for have, need in shares if need > 0)

    @property
    def fits(self) -> int:
        """Number of workers that fit."""
        return sum(map(self._fit, self.nodes))

    def now(self) -> "Cluster":
        """Return what the cluster offers now, and ask it for as many workers as that allows: nodes come and go."""
        found = _wait_for_nodes(self, workers=1)
        asked = self.resources
        workers = None if asked.workers is None else max(1, min(asked.workers, found.fits))
        return replace(found, resources=replace(asked, workers=workers))

    def workers(self, work: int) -> int:
        """Return how many workers to start for `work` pieces of work: at least one, at most what fits.

        Raises:
            ClusterError: Not even one fits, or more are asked for than fit.
        """
        asked = self.resources
        fits = self.fits
        need = f"{asked.cpus_per_worker:g} CPUs and {asked.gpus_per_worker:g} GPUs per worker"
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        where = f" on {len(self.nodes)} nodes" if len(self.nodes) > 1 else ""
        have = f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs{where}"
        if fits < 1:
            raise ClusterError(f"{need} are asked for but {have}; lower --resources.* or add nodes")
        if asked.workers is not None and asked.workers > fits:
            raise ClusterError(
                f"{asked.workers} workers with {need} are asked for but {have}; lower --resources.workers"
            )
        return max(1, min(work, asked.workers or fits))

    def trainers(self, models: int) -> int:
        """Return how many workers to start for training: whole groups of those that share a model.

        Raises:
            ClusterError: Not even one group fits.
        """
        together = self.resources.workers_per_model
        most = self.workers(models * together)
        if most < together:
            raise ClusterError(
                f"--resources.workers-per-model = {together} but no more than {most} workers fit; "
                "lower it or what each of them reserves"
            )
        return most - most % together

    def decoders(self, trainers: int) -> int:
        """Return how many tasks decode for each model while so many workers train."""
        asked = self.resources
        left = sum(node.cpus for node in self.nodes) - trainers * asked.cpus_per_worker
        return asked.decoders or max(1, int(left * asked.workers_per_model / trainers))


def _reachable(address: str) -> None:
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
            that starts Ray on this machine, which listens at 127.0.0.1 alone and is
            protected by Ray's token unless RAY_AUTH_MODE says otherwise.
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
        _reachable(address)
        # Something listens: what Ray would go on trying for twenty seconds is a token that the head refuses.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "5")
    import ray

    local = {"num_cpus": resources.cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    with _native_stderr(log) as said, _messages_in(log):
        try:
            with _on_loopback(wanted=address == "local"), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                context = ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(local if address == "local" else {}),
                )
        except Exception as error:
            # A Ray that does not come up in time, on a busy machine, is a plain Exception.
            raise _refused(address, error, said()) from error
        try:
            _silence_loggers()
            found = str(context.address_info.get("gcs_address", address))
            yield _wait_for_nodes(Cluster(found, (), resources), workers=resources.workers or 1)
        finally:
            ray.shutdown()


@contextmanager
def _on_loopback(*, wanted: bool) -> Iterator[None]:
    """Let a Ray that is started meanwhile listen at 127.0.0.1 alone, if that is wanted."""
    from ray._private import ray_constants

    if not wanted:
        yield
        return
    before, ours = os.environ.get(_CLUSTERS), ray_constants.ENABLE_RAY_CLUSTER
    # Its processes read the one, this process has read it when it imported Ray.
    os.environ[_CLUSTERS], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        os.environ.pop(_CLUSTERS)
        if before is not None:
            os.environ[_CLUSTERS] = before
        ray_constants.ENABLE_RAY_CLUSTER = ours


def _alive_nodes() -> tuple[Node, ...]:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return tuple(Node(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive)


def _wait_for_nodes(cluster: Cluster, *, workers: int) -> Cluster:
    """Return what the cluster offers once so many workers fit, or when the time is over that resources leave for it."""
    from ray.autoscaler.sdk import request_resources

    asked = cluster.resources
    deadline = time.monotonic() + 60 * asked.wait_minutes
    cluster = replace(cluster, nodes=_alive_nodes())
    if cluster.fits >= workers or asked.wait_minutes == 0:
        return cluster
    share = {"CPU": asked.cpus_per_worker, "GPU": asked.gpus_per_worker}
    _log.warning(
        "waiting for machines: %d of %d workers fit, for %g min at most", cluster.fits, workers, asked.wait_minutes
    )
    try:
        request_resources(bundles=[{name: amount for name, amount in share.items() if amount}] * workers)
        while cluster.fits < workers and time.monotonic() < deadline:
            time.sleep(_NODE_POLL_SECONDS)
            cluster = replace(cluster, nodes=_alive_nodes())
    finally:
        # A request outlives its driver, and would keep machines that nobody uses.
        request_resources(bundles=[])
    return cluster


def _refused(address: str, error: Exception, native: str) -> ClusterError:
    """Return what to tell the user when `ray.init` failed."""
    if "Unauthenticated" in native or type(error).__name__ == "AuthenticationError":
        return ClusterError(
            f"the Ray cluster at {address} refuses this client's token; "
            "`export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...` with the content of ~/.ray/auth_token on its head"
        )
    first = first_line(error)
    if address == "local":
        return ClusterError(f"cannot start a Ray on this machine: {first} Free CPUs or memory and try again")
    return ClusterError(f"cannot join Ray at {address}: {first}")


@contextmanager
def _native_stderr(path: Path) -> Iterator[Callable[[], str]]:
    """Send what native code writes to file descriptor 2 to a file; Python's own sys.stderr stays where it was.

    Ray's native code explains there, and only there, why a cluster refuses a client; the rest is noise to a user.

    Args:
        path: Appended to.

    Yields:
        A function that returns what was written since.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with path.open("ab+") as file, os.fdopen(os.dup(original), "w", buffering=1) as terminal:
        start = file.seek(0, os.SEEK_END)

        def said() -> str:
            return os.pread(file.fileno(), 1_000_000, start).decode(errors="replace")

        os.dup2(file.fileno(), 2)
        python_stderr, sys.stderr = sys.stderr, terminal
        try:
            yield said
        finally:
            sys.stderr = python_stderr
            os.dup2(original, 2)
            os.close(original)


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


@contextmanager
def _messages_in(log: Path) -> Iterator[None]:
    """Have what Ray says of lost nodes and workers written to a file instead of the terminal.

    Ray prints it whatever `log_to_driver` says; what matters of it reaches us as errors.
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


def worker_device(gpus: float) -> torch.device:
    """Return the device of the worker that calls this."""
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def set_deterministic(*, threads: int = 1) -> None:
    """Ask this process for bit-reproducible results in float32 proper."""
    # The order of sums depends on the number of threads. Workers are many; each has one.
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid for operators that read what nobody wrote; it costs a tenth of a training.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # TensorFloat-32 is another precision, and another classifier.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default glibc returns large blocks to the system, and every batch would fault them in again: small networks run
    twice as fast without.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    set_option(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def environment() -> dict[str, str]:
    """Return what the numbers of a run depend on beside its study, on this machine, and when it began."""
    packages = ("rspipe", "torch", "torchvision", "ray", "numpy", "scipy", "cvxpy", "mlflow", "scikit-learn")
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "commit": _commit(Path(__file__).parent),
        "python": platform.python_version(),
        **found,
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
        "precision": "float32",
        "float32_matmul": torch.get_float32_matmul_precision(),
        "numpy_random": np.random.Philox.__name__,
    }


def _commit(folder: Path) -> str:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        # An image holds no repository; its making says which commit it is.
        return os.environ.get("RSPIPE_COMMIT") or "unknown"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

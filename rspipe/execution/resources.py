"""Resources: those that the stages may use, and those that a cluster has."""

import logging
import time
from dataclasses import dataclass, replace
from typing import Literal

from rspipe.errors import ClusterError
from rspipe.execution.ray_internals import free_resources, requests_that_wait

_log = logging.getLogger(__name__)

_NODE_POLL_SECONDS = 1.0

_FREED_SECONDS = 60.0
"""In which a driver that was killed gives back what it held, and a stage the actors of the one before."""

_SETTLED_SECONDS = _SILENT_SECONDS = 5.0


@dataclass(frozen=True)
class Resources:
    """Resources that the stages may use, no part of an identity.

    On a kind of device results do not depend on them, but for the last bits with other threads or workers that share a
    model, and for searches that learn from trials, of which several run side by side.
    """

    cpus_per_worker: float = 1.0
    """CPUs that each training worker, search trial and certification actor reserves; it computes with one thread."""
    gpus_per_worker: float | Literal["auto"] = "auto"
    """GPUs of each of them, 1 or a fraction; several GPUs for one model are several workers. By default one where the
    cluster has any, and else none."""
    allow_cpu: bool = False
    """Let a worker that reserved a GPU compute on the CPU where torch sees none; otherwise the study ends."""
    workers: int | None = None
    """How many of them run side by side; as many as the cluster holds by default."""
    workers_per_model: int = 1
    """Training workers that share a model, each with a part of every batch (DistributedDataParallel). Gradients are
    those of one worker up to rounding, but for layers that mix the images of a batch: the statistics of batch
    normalization are those of a worker's own part on CPUs, and those of the whole batch on GPUs (SyncBatchNorm)."""
    decoders: int | None = None
    """Tasks that decode image files for each model in training, beside the workers; by default as many as there are
    CPUs that no worker reserves, at least one."""
    threads_per_worker: int = 1
    """Threads of each certification actor. More of them save memory where members are large; the last bits of
    logits can depend on their number."""
    cpus: int | None = None
    """CPUs of the Ray started for this run; all of this machine's by default. Only without an address."""
    wait_minutes: float = 0.0
    """How long to wait for machines on which `workers` fit, or one without that number, and then, in each stage, until
    others give back what one worker needs: a minute at least. A cluster that grows is asked for machines."""

    @property
    def gpus(self) -> float:
        """GPUs of each worker, none before the cluster is known that "auto" depends on."""
        return 0.0 if self.gpus_per_worker == "auto" else self.gpus_per_worker

    def on(self, nodes: "tuple[Node, ...]") -> "Resources":
        """Return these resources with "auto" decided by nodes."""
        if self.gpus_per_worker != "auto":
            return self
        some = any(node.gpus >= 1 and node.cpus >= self.cpus_per_worker for node in nodes)
        return replace(self, gpus_per_worker=1.0 if some else 0.0)

    def check(self) -> None:
        """Raise ClusterError for amounts that mean nothing."""
        least = {"cpus_per_worker": 0.0, "gpus_per_worker": 0.0, "wait_minutes": 0.0}
        least |= dict.fromkeys(("workers", "workers_per_model", "decoders", "threads_per_worker", "cpus"), 1)
        for name, low in least.items():
            value = getattr(self, name)
            if value not in (None, "auto") and not value >= low:
                raise ClusterError(f"--resources.{name.replace('_', '-')} = {value:g} must be at least {low:g}")
        if self.gpus > 1:
            raise ClusterError(
                f"--resources.gpus-per-worker = {self.gpus:g}, but a worker computes on one GPU; "
                "let several workers share a model with --resources.workers-per-model"
            )
        if self.cpus_per_worker == 0 == self.gpus:
            raise ClusterError("--resources.cpus-per-worker and --resources.gpus-per-worker are both 0; raise one")


@dataclass(frozen=True)
class Node:
    """Resources of one machine of a cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """A connected cluster: the nodes that it has, and the resources that the stages may use of it."""

    address: str
    nodes: tuple[Node, ...]
    resources: Resources

    def _fit(self, node: Node) -> int:
        """Return how many workers fit on a node: a worker does not span two, nor does its share of a GPU."""
        cpus, gpus = self.resources.cpus_per_worker, self.resources.gpus
        fits = [_times(node.cpus, cpus)] if cpus > 0 else []
        if gpus > 0:
            # What others leave of a node is a sum, whose fraction may be that of one GPU.
            whole = int(node.gpus + 1e-6)
            fits.append(whole * _times(1.0, gpus) + _times(node.gpus - whole, gpus))
        return min(fits)

    @property
    def _need(self) -> str:
        return f"{self.resources.cpus_per_worker:g} CPUs and {self.resources.gpus:g} GPUs per worker"

    @property
    def fits(self) -> int:
        """Number of workers that fit."""
        return sum(map(self._fit, self.nodes))

    @property
    def summary(self) -> str:
        """Devices and workers in a few words.

        Raises:
            ClusterError: Not even one worker fits, or more are asked for than fit.
        """
        workers, wanted, nodes = self.workers(max(1, self.fits)), self.resources, len(self.nodes)
        shares = ((wanted.cpus_per_worker, "CPU"), (wanted.gpus, "GPU"))
        each = " and ".join(f"{amount:g} {name}{'s' * (amount > 1)}" for amount, name in shares if amount)
        where = "this machine" if nodes == 1 and self.address.startswith("127.") else f"{nodes} nodes"
        return f"{workers} worker{'s' * (workers > 1)} with {each} each, Ray of {where} at {self.address}"

    def now(self) -> "Cluster":
        """Return the cluster as it is now, asked for no more workers than fit: nodes come and go."""
        current, wanted = wait_for_nodes(self, workers=1), self.resources
        workers = None if wanted.workers is None else max(1, min(wanted.workers, current.fits))
        return replace(current, resources=replace(wanted, workers=workers))

    def free(self, workers: int, *, at_best: int, stage: str) -> int:
        """Return how many workers fit into what nobody holds, once there is room for so many.

        Args:
            workers: The fewest to wait for.
            at_best: As many as a stage would start: those of the one before may be about to give back what they hold.
            stage: What waits.

        Raises:
            ClusterError: Others hold it for longer than `Resources.wait_minutes`.
        """
        patience = Patience(self, stage=stage, workers=workers)
        while (fits := replace(self, nodes=_free_nodes()).fits) < max(workers, at_best):
            if fits >= workers and patience.seconds > _SETTLED_SECONDS:
                break
            patience.lose()
            time.sleep(_NODE_POLL_SECONDS)
        return fits

    def held(self, workers: int) -> str:
        """Return what so many workers wait for, and how much of it others hold."""
        nodes, free = _alive_nodes(), _free_nodes()
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        held = f"{cpus - sum(node.cpus for node in free):g} of {cpus:g} CPUs"
        if self.resources.gpus:
            held += f" and {gpus - sum(node.gpus for node in free):g} of {gpus:g} GPUs"
        several = f", for {workers} workers" if workers > 1 else ""
        return f"{self._need}{several}: others hold {held}"

    def workers(self, work: int) -> int:
        """Return how many workers to start for `work` pieces of work: at least one, at most what fits.

        Raises:
            ClusterError: Not even one fits, or more are asked for than fit.
        """
        wanted, fits, need = self.resources, self.fits, self._need
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        where = f" on {len(self.nodes)} nodes" if len(self.nodes) > 1 else ""
        have = f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs{where}"
        if fits < 1:
            raise ClusterError(f"{need} are asked for but {have}; lower --resources.* or add nodes")
        if wanted.workers is not None and wanted.workers > fits:
            raise ClusterError(
                f"{wanted.workers} workers with {need} are asked for but {have}; lower --resources.workers"
            )
        return max(1, min(work, wanted.workers or fits))

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
        wanted = self.resources
        left = sum(node.cpus for node in self.nodes) - trainers * wanted.cpus_per_worker
        return wanted.decoders or max(1, int(left * wanted.workers_per_model / trainers))


def _times(have: float, need: float) -> int:
    """Return how often a need is met: halves and thirds of a GPU add up to one."""
    return int(have / need + 1e-6)


class Patience:
    """How long a stage has been waiting for what others hold: it says so, and ends in the end."""

    def __init__(self, cluster: Cluster, *, stage: str, workers: int = 1) -> None:
        """Wait from now on.

        Args:
            cluster: Whose `Resources.wait_minutes` is the limit, a minute at least.
            stage: What waits.
            workers: For how many it waits.
        """
        self._cluster, self._stage, self._workers = cluster, stage, workers
        self._most = max(_FREED_SECONDS, 60 * cluster.resources.wait_minutes)
        self._told = False
        self.regain()

    @property
    def seconds(self) -> float:
        """Seconds it has waited."""
        return time.monotonic() - self._began

    def regain(self) -> None:
        """Note that there is no need to wait."""
        self._began = time.monotonic()
        self._told = False

    def watch(self, *, at_work: bool) -> None:
        """Lose it while nobody is at work and Ray has requests that wait, and regain it otherwise.

        Raises:
            ClusterError: As `lose`.
        """
        if at_work or not requests_that_wait():
            self.regain()
        else:
            self.lose()

    def lose(self) -> None:
        """Say who waits for what, once and after some seconds.

        Raises:
            ClusterError: Others hold it for too long.
        """
        if self.seconds > self._most:
            raise ClusterError(
                f"{self._stage} waited {self._most / 60:g} min for {self._cluster.held(self._workers)}; wait longer "
                "with --resources.wait-minutes, or end what holds them: `ray status` shows it"
            )
        if self.seconds > _SILENT_SECONDS and not self._told:
            self._told = True
            held = self._cluster.held(self._workers)
            _log.warning("%s waits for %s, for %g min at most", self._stage, held, self._most / 60)


def _alive_nodes() -> tuple[Node, ...]:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return tuple(Node(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive)


def _free_nodes() -> tuple[Node, ...]:
    return tuple(Node(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in free_resources())


def wait_for_nodes(cluster: Cluster, *, workers: int) -> Cluster:
    """Return the cluster once so many workers fit, or after `Resources.wait_minutes`."""
    from ray.autoscaler.sdk import request_resources

    wanted = cluster.resources
    deadline = time.monotonic() + 60 * wanted.wait_minutes
    cluster = replace(cluster, nodes=_alive_nodes())
    if cluster.fits >= workers or wanted.wait_minutes == 0:
        return cluster
    share = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus}
    _log.warning(
        "waiting for machines: %d of %d workers fit, for %g min at most", cluster.fits, workers, wanted.wait_minutes
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

"""A Ray of several nodes, processes of this machine, that come and go."""

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

from ray._private.node import Node
from ray.cluster_utils import Cluster

from rspipe.execution.ray_internals import without_servers
from tests.processes import PATIENCE, descendants, kill_one, repeated, wait_until

WORKERS = ("ray::ImplicitFunc", "ray::RayTrainWorker", "ray::MapWorker")
"""Processes that do the work of a search, of training, and of weighing and certification."""


def raylet(node: Node) -> int:
    """Return the process id of a node's raylet, which all that runs on the node is below of."""
    return int(node.all_processes["raylet"][0].process.pid)


class Nodes:
    """A head that computes nothing and nodes of one CPU each; every node has a home and temporary files of its own."""

    def __init__(self, folder: Path, *, others: int, environment: Mapping[str, str] | None = None) -> None:
        self._folder, self._others, self._environment = folder, others, environment or {}
        self._started = 0
        self.start()

    def start(self) -> None:
        """Start a head and nodes; once more after the head was lost, on other machines."""
        self.homes: list[Path] = []
        self._started += 1
        self._cluster = Cluster()
        try:
            for cpus in (0, *[1] * self._others):
                self.add(cpus=cpus)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """host:port of the head."""
        return str(self._cluster.address)

    @property
    def head(self) -> Node:
        """The head."""
        return self._cluster.head_node

    @property
    def others(self) -> list[Node]:
        """The nodes that compute."""
        return list(self._cluster.worker_nodes)

    def add(self, *, cpus: int = 1, gpus: int = 0) -> Node:
        """Start a node and wait until it has joined; Ray is told of its GPUs, which the machine may not have."""
        home = self._folder / f"node-{self._started}-{len(self.homes)}"
        (home / "tmp").mkdir(parents=True)
        self.homes.append(home)
        own = {**os.environ, **self._environment, "HOME": str(home), "TMPDIR": str(home / "tmp")}
        # The head looks after the others every three seconds by default, and five times before it believes in a loss.
        settings = {} if self.head else {"_system_config": {"health_check_period_ms": 300}}
        with chdir(home), without_servers():
            node = repeated(
                lambda: self._cluster.add_node(
                    wait=False, num_cpus=cpus, num_gpus=gpus, include_dashboard=False, env_vars=own, **settings
                ),
                Exception,
            )
        # `add_node` itself gives up after half a minute.
        self._cluster._wait_for_node(node, timeout=PATIENCE)
        return node

    def lose(self, node: Node) -> None:
        """End a node as if its machine had failed."""
        self._cluster.remove_node(node, allow_graceful=False)

    def lose_head(self) -> None:
        """End the head with all nodes, at once: to end them one by one takes longer than a study."""
        self.head.all_processes["gcs_server"][0].process.kill()
        for node in self.others:
            node.all_processes["raylet"][0].process.kill()
        self.close()

    def _workers(self, names: tuple[str, ...] = WORKERS) -> dict[int, Node]:
        """Return the nodes of all processes with one of these names, by process id."""
        return {
            pid: node
            for node in self.others
            for pid, command in descendants(raylet(node))
            if any(name in command for name in names)
        }

    def at_work(self, worker: str, driver: "subprocess.Popen[str]") -> Node:
        """Wait for a worker of this name while a driver runs; return its node."""
        workers: dict[int, Node] = {}
        wait_until(lambda: workers.update(self._workers((worker,))) or workers, driver)
        return next(iter(workers.values()))

    def kill_worker(self, name: str) -> bool:
        """Kill a worker of this name; False when there is none."""
        return any(kill_one(raylet(node), name) for node in self.others)

    def replace_worker(self, name: str, driver: "subprocess.Popen[str]") -> bool:
        """Kill a worker of this name and wait for another in its place; False when there is none."""
        before = self._workers((name,)).keys()
        if not self.kill_worker(name):
            return False
        wait_until(lambda: self._workers((name,)).keys() - before, driver)
        return True

    def wait_until_idle(self) -> None:
        """Wait until no worker is left of those whose driver is gone."""
        deadline = time.monotonic() + PATIENCE
        while left := self._workers():
            assert time.monotonic() < deadline, f"workers {sorted(left)} outlive their driver"
            time.sleep(0.1)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

"""Waiting until a stage has given back what it took of the cluster."""

import time

import ray

from rspipe.execution.resources import Cluster
from tests.processes import PATIENCE


def wait_for_cpus(cluster: Cluster) -> None:
    """Wait until every CPU of a cluster is free."""
    deadline, every = time.monotonic() + PATIENCE, sum(node.cpus for node in cluster.nodes)
    while (free := ray.available_resources().get("CPU", 0)) < every:
        assert time.monotonic() < deadline, f"{every - free:g} CPUs are still taken"
        time.sleep(0.2)

"""How a worker process computes."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from rspipe.errors import ClusterError
from rspipe.execution.worker import ONE_ARENA, set_deterministic, worker_device

FAULTS = """
import resource, threading
import torch
from rspipe.execution.worker import keep_freed_memory

def count():
    keep_freed_memory()
    for _ in range(20):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


def test_workers_compute_with_one_thread_in_float32_proper() -> None:
    torch.set_num_threads(2)
    set_deterministic()
    assert torch.get_num_threads() == 1
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_gpu_that_torch_does_not_see_is_told_with_node_and_reason_unless_the_cpu_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    assert worker_device(0.0, allow_cpu=False) == worker_device(1.0, allow_cpu=True) == cpu
    monkeypatch.setattr(torch.version, "cuda", None)
    here = f"on node {platform.node()} reserved a GPU"
    with pytest.raises(ClusterError, match=f"{here}, but its torch .* is built for CPU"):
        worker_device(0.5, allow_cpu=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ClusterError, match=r"hides all of them from torch; .*--resources\.gpus-per-worker 0"):
        worker_device(1.0, allow_cpu=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ClusterError, match="but torch sees none"):
        worker_device(1.0, allow_cpu=False)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_large_tensors_in_a_thread_take_no_new_memory_again_and_again() -> None:
    words, environment = [sys.executable, "-c", FAULTS], {**os.environ, **ONE_ARENA}
    faults = int(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)
    # Ten times 64 MiB are 163,840 pages; some of the first may be new.
    assert faults < 20_000

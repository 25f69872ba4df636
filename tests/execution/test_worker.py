"""How a worker process computes."""

import platform

import pytest
import torch

from rspipe.errors import ClusterError
from rspipe.execution.worker import set_deterministic, worker_device


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

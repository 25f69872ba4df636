"""How a worker process computes."""

import torch

from rspipe.execution.worker import set_deterministic


def test_workers_compute_with_one_thread_in_float32_proper() -> None:
    torch.set_num_threads(2)
    set_deterministic()
    assert torch.get_num_threads() == 1
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"

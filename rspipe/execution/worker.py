"""How a worker process computes: its device, determinism, memory."""

import ctypes
import os

import torch

# Of mallopt(3); 32 MiB is the most that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_LARGEST_MMAP_THRESHOLD = 32 * 2**20

_KEPT_BYTES = 2**30


def worker_device(gpus: float) -> torch.device:
    """Return the device of the worker that calls this."""
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def set_deterministic(*, threads: int = 1) -> None:
    """Ask this process for bit-reproducible results in float32 proper."""
    # The order of sums depends on the number of threads. Workers are many; each has one.
    torch.set_num_threads(threads)
    # As `use_deterministic_algorithms` does, without the compiler, whose import takes each process more than a second.
    torch.set_deterministic_debug_mode("warn")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
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

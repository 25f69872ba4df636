"""How a worker process computes: its device, determinism, memory."""

import ctypes
import os
import platform

import torch

from rspipe.errors import ClusterError, first_line

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment of processes that compute in other threads than the first, which have heaps of 64 MiB each otherwise."""


def worker_device(gpus: float, *, allow_cpu: bool) -> torch.device:
    """Return the device of the worker that calls this, which reserved so many GPUs.

    Raises:
        ClusterError: It reserved one and torch sees none, and the CPU is not allowed.
    """
    if gpus > 0 and torch.cuda.is_available():
        return torch.device("cuda")
    if gpus > 0 and not allow_cpu:
        raise ClusterError(
            f"a worker on node {platform.node()} reserved a GPU, but {_why_no_gpu()}; mend that, or compute on CPUs: "
            "--resources.gpus-per-worker 0, or --resources.allow-cpu for such nodes alone"
        )
    return torch.device("cpu")


def gpu_of_this_process(option: str) -> torch.device:
    """Return the GPU that the user asked for by an option of the command line.

    Raises:
        ClusterError: Torch sees none.
    """
    if not torch.cuda.is_available():
        raise ClusterError(f"{option}: on {platform.node()} {_why_no_gpu()}; leave it out to compute on the CPU")
    return torch.device("cuda")


def device_text(device: torch.device) -> str:
    """Return what tells a device from those of another kind: a GPU's noise depends on its model and size."""
    if device.type != "cuda":
        return str(device)
    properties = torch.cuda.get_device_properties(device)
    return f"cuda: {properties.name}, {properties.multi_processor_count} multiprocessors"


def _why_no_gpu() -> str:
    """Return why torch sees no GPU here."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"its torch {torch.__version__} is built for CPUs"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return "CUDA_VISIBLE_DEVICES hides all of them from torch"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return f"torch sees none: {first_line(error).rstrip('.')}"
    return f"torch sees none of CUDA_VISIBLE_DEVICES = {visible}"


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
    twice as fast without, and steps of thousands of images, whose tensors exceed every limit below which glibc would
    keep them, a quarter faster.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    # All from the heap, which never shrinks.
    set_option(_M_MMAP_MAX, 0)
    set_option(_M_TRIM_THRESHOLD, -1)

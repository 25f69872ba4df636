"""The precisions that networks are deployed in, and which of them is the fast one."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch

Precision = Literal["float32", "bfloat16"]

AnyPrecision = Literal["auto", "float32", "bfloat16"]
"""A precision, or whichever is faster where the network runs."""

# NVIDIA's, from A100 on: earlier ones compute bfloat16 in software.
_CAPABILITY_WITH_BFLOAT16 = (8, 0)

# How many times as fast as float32 it has to be: far from what is measured where it is slow (.6) and fast (2), so that
# every process on a machine comes to the same.
_WORTH = 1.2

SLOW = "bfloat16 is no faster than float32 on this CPU, 5 to 11 times slower without instructions for it; take float32"


def fastest_precision(device: torch.device) -> Precision:
    """Return the precision in which networks run faster on a device: bfloat16 where it has fast instructions for that.

    Of a CPU that has some, a convolution is timed in both precisions, once a process (50 ms of one thread): Intel's
    avx512_bf16 without AMX, which many virtual machines hide, computes bfloat16 more slowly than float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= _CAPABILITY_WITH_BFLOAT16
    else:
        fast = device.type == "cpu" and _cpu_has_bfloat16() and _speedup() > _WORTH
    return "bfloat16" if fast else "float32"


def _cpu_has_bfloat16() -> bool:
    # The first asks for what torch makes use of here, which ATEN_CPU_CAPABILITY can limit; the others ask the CPU.
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return used and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class _TensorFloatOff:
    """A switch that many threads may hold at once: the last one that lets go puts it back."""

    def __init__(self) -> None:
        self._lock, self._holders = threading.Lock(), 0
        self._allowed: bool | None = None
        self._settings: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._holders:
                self._switch_off()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._put_back()

    @property
    def _operations(self) -> tuple[Any, ...]:
        return torch.backends.cudnn.conv, torch.backends.cudnn.rnn  # type: ignore[attr-defined]

    def _switch_off(self) -> None:
        self._settings = [str(one.fp32_precision) for one in self._operations]
        try:
            self._allowed = bool(torch.backends.cudnn.allow_tf32)
            torch.backends.cudnn.allow_tf32 = False
        except RuntimeError:
            # Convolutions and recurrent layers have settings of their own, which only torch's later interface can read.
            self._allowed = None
            for one in self._operations:
                one.fp32_precision = "ieee"

    def _put_back(self) -> None:
        if self._allowed is not None:
            torch.backends.cudnn.allow_tf32 = self._allowed
        for one, setting in zip(self._operations, self._settings, strict=True):
            if one.fp32_precision != setting:
                one.fp32_precision = setting


tensor_float_off = _TensorFloatOff()
"""Keeps the convolutions of GPUs since 2020 from TensorFloat-32 meanwhile, which torch lets them use by default."""


@cache
@torch.inference_mode()
def _speedup() -> float:
    """Return how many times as fast as in float32 a convolution is in bfloat16 on this CPU."""
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    # Of a residual network: 64 channels, 3 x 3, images in channels-last order.
    inputs = torch.ones(8, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    # On a busy machine threads wait for each other; the CPU time of one says what is timed here, whatever others do.
    torch.set_num_threads(1)
    try:
        # In turns, and the fastest of each. The first is a rehearsal.
        for _ in range(6):
            for dtype, taken in seconds.items():
                x, w = inputs.to(dtype), weight.to(dtype)
                begin = time.thread_time()
                torch.conv2d(x, w, padding=1)
                taken.append(time.thread_time() - begin)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])

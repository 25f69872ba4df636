"""The precisions that networks are deployed in, and which of them is the fast one."""

from functools import cache
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

AnyPrecision = Literal["auto", "float32", "bfloat16"]
"""A precision, or whichever is faster where the network runs."""

# NVIDIA's, from A100 on: earlier ones compute bfloat16 in software.
_CAPABILITY_WITH_BFLOAT16 = (8, 0)

SLOW = "this CPU has no bfloat16 instructions, and bfloat16 is 5 to 11 times slower than float32 on it; take float32"


def fastest_precision(device: torch.device) -> Precision:
    """Return the precision in which networks run faster on a device: bfloat16 where it has instructions for that."""
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= _CAPABILITY_WITH_BFLOAT16
    else:
        has_bfloat16 = device.type == "cpu" and _cpu_has_bfloat16()
    return "bfloat16" if has_bfloat16 else "float32"


@cache
def _cpu_has_bfloat16() -> bool:
    # The first asks for what torch makes use of here, which ATEN_CPU_CAPABILITY can limit; the others ask the CPU.
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return used and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

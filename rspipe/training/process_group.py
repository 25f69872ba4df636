"""Processes that train one model together: who has which images, and on what they agree."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

Group = dist.ProcessGroup


def size_of(group: Group | None) -> int:
    """Return the number of processes; a process without a group is alone."""
    return 1 if group is None else dist.get_world_size(group)


def rank_in(group: Group | None) -> int:
    """Return the number of this process in its group, from 0."""
    return 0 if group is None else dist.get_rank(group)


def is_first(group: Group | None) -> bool:
    """Return whether this process is the one that reads and writes for its group, or alone."""
    return rank_in(group) == 0


def own_rows(count: int, group: Group | None) -> slice:
    """Return the rows of a batch of `count` that belong to this process: as many as others have, but for one.

    Raises:
        ValueError: There are more processes than rows.
    """
    rank, size = rank_in(group), size_of(group)
    if count < size:
        raise ValueError(f"a step of {count} images cannot be shared by {size} processes; use fewer")
    return slice(count * rank // size, count * (rank + 1) // size)


def mean_over(values: Tensor, group: Group | None) -> Tensor:
    """Return the mean of the tensors that the processes have."""
    if group is None:
        return values
    total = values.clone()
    dist.all_reduce(total, group=group)
    return total / size_of(group)


def from_first(values: Tensor | None, *, shape: tuple[int, ...], like: Tensor, group: Group) -> Tensor:
    """Return the bytes that the first process of a group has, uint8 of a shape, on the device of `like`."""
    held = torch.empty(shape, dtype=torch.uint8, device=like.device) if values is None else values.to(like.device)
    dist.broadcast(held.contiguous(), dist.get_global_rank(group, 0), group=group)
    return held


def share_buffers(network: nn.Module, group: Group | None) -> None:
    """Give every process the buffers that the first one has, e.g. the running statistics of batch normalization."""
    if group is not None:
        for buffer in network.buffers():
            dist.broadcast(buffer, dist.get_global_rank(group, 0), group=group)


def agreed(value: T, group: Group | None, device: torch.device) -> T:
    """Return the value that the first process of a group has, in all of them."""
    if group is None:
        return value
    held = [value]
    dist.broadcast_object_list(held, dist.get_global_rank(group, 0), group=group, device=device)
    return held[0]

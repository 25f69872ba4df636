"""One model on several processes: each runs its rows of every batch, and all know the logits of all rows.

A loss is then computed in every process from the same logits and the same noise, as if there were one process, so no
training method has to know. What passes between processes: logits, input gradients of attacks, batch statistics, and
once per step the gradients of the parameters.
"""

import copy
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")

Group = dist.ProcessGroup


def _rows(count: int, group: Group) -> slice:
    """Return the rows of a batch that belong to this process: a part of even size, but for one row."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    return slice(count * rank // size, count * (rank + 1) // size)


def _summed(values: Tensor, group: Group) -> Tensor:
    total = values.contiguous().clone()
    dist.all_reduce(total, group=group)
    return total


def _assembled(part: Tensor, count: int, group: Group) -> Tensor:
    """Return all rows from the parts of all processes. Zeros are added to each, which changes nothing."""
    whole = part.new_zeros((count, *part.shape[1:]))
    whole[_rows(count, group)] = part
    dist.all_reduce(whole, group=group)
    return whole


class _Own(torch.autograd.Function):
    """Own rows of what all processes have; the gradient is that of all rows."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.count = group, len(whole)
        return whole[_rows(len(whole), group)].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _assembled(gradients[0], ctx.count, ctx.group), None


class _All(torch.autograd.Function):
    """All rows, from the own ones; each process computes the same loss of them, so the gradient is its own rows'."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, count: int, group: Group) -> Tensor:
        ctx.group, ctx.count = group, count
        return _assembled(part, count, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][_rows(ctx.count, ctx.group)].contiguous(), None, None


class _Sum(torch.autograd.Function):
    """The sum over processes, each of which uses it for its own rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _summed(values, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.group), None


class _SharedBatchNorm(nn.Module):
    """Batch normalization whose statistics in training are those of the rows of all processes.

    torch's SyncBatchNorm does the same on GPUs alone.
    """

    def __init__(self, layer: _BatchNorm, group: Group) -> None:
        super().__init__()
        self.layer, self.group = layer, group

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training:
            normalized: Tensor = layer(x)
            return normalized
        dims, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = _summed(values.new_tensor([x.numel() / x.shape[1]]), self.group)
        mean = _Sum.apply(values.sum(dims), self.group) / count
        centred = values - mean.view(shape)
        variance = _Sum.apply((centred * centred).sum(dims), self.group) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal: Tensor = centred * (variance + layer.eps).rsqrt().view(shape)
        if layer.affine:
            normal = normal * layer.weight.view(shape) + layer.bias.view(shape)
        return normal.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as torch does."""
        layer = self.layer
        if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
            return
        layer.num_batches_tracked.add_(1)
        share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
        layer.running_var.lerp_(variance.to(layer.running_var.dtype), share)


class _Shared(nn.Module):
    """A network of which each process runs its own rows."""

    def __init__(self, network: nn.Module, group: Group) -> None:
        super().__init__()
        self.network, self.group = network, group

    def forward(self, inputs: Tensor) -> Tensor:
        part = self.network(_Own.apply(inputs, self.group))
        logits: Tensor = _All.apply(part, len(inputs), self.group)
        return logits


def shared(network: nn.Module, group: Group) -> nn.Module:
    """Return the network as all processes of a group run it together, on the parameters and buffers of `network`.

    Every process calls it with the same inputs [batch, ...] and gets the logits [batch, class] of all. Gradients of
    a loss that all compute alike are right for the inputs; those of the parameters are parts, to be added up by
    `sum_gradients`. Batch normalization is that of the whole batch; dropout draws differ between processes.
    """
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, tensors)
    # Once the twin exists, so that its normalization layers still share their tensors with the network's.
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _SharedBatchNorm(child, group))
    return _Shared(_SharedBatchNorm(twin, group) if isinstance(twin, _BatchNorm) else twin, group)


def sum_gradients(network: nn.Module, group: Group) -> None:
    """Add up the gradients of the parameters over the processes of a group."""
    present = [parameter for parameter in network.parameters() if parameter.grad is not None]
    if not present:
        return
    flat = torch.cat([parameter.grad.flatten() for parameter in present if parameter.grad is not None])
    dist.all_reduce(flat, group=group)
    for parameter, total in zip(present, torch.split(flat, [p.numel() for p in present]), strict=True):
        parameter.grad = total.view_as(parameter)


def from_first(values: Tensor | None, *, shape: tuple[int, ...], like: Tensor, group: Group) -> Tensor:
    """Return the bytes that the first process of a group has, uint8 of a shape, on the device of `like`."""
    held = torch.empty(shape, dtype=torch.uint8, device=like.device) if values is None else values.to(like.device)
    dist.broadcast(held.contiguous(), dist.get_global_rank(group, 0), group=group)
    return held


def agreed(value: T | None, group: Group | None, device: torch.device) -> T | None:
    """Return the value that the first process of a group has, in all of them."""
    if group is None:
        return value
    held = [value]
    dist.broadcast_object_list(held, dist.get_global_rank(group, 0), group=group, device=device)
    return held[0]


def is_first(group: Group | None) -> bool:
    """Return whether this process is the one that reads and writes for its group, or alone."""
    return group is None or dist.get_rank(group) == 0

"""The loss of a training step: a module around the network, for one process or several."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rspipe.networks.modes import channels_last
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.method import Batch, Terms
from rspipe.training.process_group import Group
from rspipe.training.spec import ModelSpec


class _InBfloat16(nn.Module):
    """A network whose convolutions and products run in bfloat16 and channels last; logits come back in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = self.network(channels_last(images))
        return logits.float()


class StepLoss(nn.Module):
    """The loss of a method as a module, so that a step is one forward pass for DistributedDataParallel.

    Inside it a method runs the bare network as often as it likes: the steps of an attack exchange nothing.
    """

    def __init__(self, network: nn.Module, method: MethodSpec) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, batch: Batch) -> Terms:
        return self.method.loss(self.network, batch)


def with_common_statistics(network: nn.Module, group: Group) -> nn.Module:
    """Return the network, on the same tensors, with batch normalization over the images of all processes."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, tensors)
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(twin, group)  # type: ignore[no-untyped-call]
    return converted


def step_loss(network: nn.Module, spec: ModelSpec, group: Group | None) -> nn.Module:
    """Return the loss as a training step evaluates it: in its precision, compiled, shared, on the network's tensors."""
    if group is not None and next(network.parameters()).device.type == "cuda":
        # SyncBatchNorm exists for GPUs alone.
        network = with_common_statistics(network, group)
    trained = network if spec.training.precision == "float32" else _InBfloat16(network)
    if spec.training.compiled:
        trained = cast(nn.Module, torch.compile(trained))
    loss = StepLoss(trained, spec.method)
    return loss if group is None else DistributedDataParallel(loss, process_group=group)

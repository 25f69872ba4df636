"""The loss of a training step: a module around the network, for one process or several."""

import copy
import logging
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rspipe.networks.modes import channels_last, copied, out_of_memory
from rspipe.networks.precision import Precision
from rspipe.training.methods import MethodSpec
from rspipe.training.methods.method import Batch, Terms
from rspipe.training.process_group import Group
from rspipe.training.spec import ModelSpec

_log = logging.getLogger(__name__)


class _ChannelsLast(nn.Module):
    """A network whose images and convolutions are in channels-last memory order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(channels_last(images))
        return logits


class _InBfloat16(nn.Module):
    """A network whose convolutions and products run in bfloat16; logits come back in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = self.network(images)
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


def _gains_by_channels_last(network: nn.Module, shape: tuple[int, ...], precision: Precision) -> bool:
    """Whether a network is faster in channels-last order, and runs in it: `view` may refuse there, where it is used.

    Measured for float32 on CPUs, where pooling and batch normalization gain much and large batches most; not on GPUs.
    """
    device = next(network.parameters()).device
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return False
    if precision == "float32" and device.type != "cpu":
        return False
    # Two modes, since attacks run the network as it is evaluated.
    twin = copied(network).to(memory_format=torch.channels_last)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        try:
            for training in (False, True):
                twin.train(training)(channels_last(torch.zeros(2, *shape, device=device)))
        except Exception as error:
            # Of the network's own code: what else is wrong with it shows when it trains.
            if out_of_memory(error):
                # Says nothing of the network, whose order must not depend on it.
                raise
            _log.info("%s keeps its memory order: %s", type(network).__name__, error)
            return False
    return True


def step_loss(network: nn.Module, spec: ModelSpec, group: Group | None, *, shape: tuple[int, ...]) -> nn.Module:
    """Return the loss as a training step evaluates it: in its precision, compiled, shared, on the network's tensors.

    Args:
        network: On its device; its convolutions are put into the memory order in which they are faster.
        spec: Precision, method, and whether it is compiled.
        group: Processes that share the step.
        shape: Of an image: channel, height, width.
    """
    precision = spec.training.precision
    in_order = _gains_by_channels_last(network, shape, precision)
    if group is not None and next(network.parameters()).device.type == "cuda":
        # SyncBatchNorm exists for GPUs alone.
        network = with_common_statistics(network, group)
    trained = _ChannelsLast(network) if in_order else network
    if precision == "bfloat16":
        trained = _InBfloat16(trained)
    if spec.training.compiled:
        trained = cast(nn.Module, torch.compile(trained))
    loss = StepLoss(trained, spec.method)
    return loss if group is None else DistributedDataParallel(loss, process_group=group)

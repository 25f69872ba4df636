"""Traced networks that do the same with less: batch normalization, ReLU and sums move into the convolutions before.

oneDNN computes them there, while a result is still in the cache; PyTorch has these kernels for its compiler's use.
"""

import logging
import operator
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

Layer = TypeVar("Layer", bound=nn.Module)


_log = logging.getLogger(__name__)


_RELU = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")

_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")


def layer(traced: fx.GraphModule, node: object, *kinds: type[Layer]) -> Layer | None:
    """Return the module that the node calls with one argument, if it is exactly of one of the kinds, without hooks."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = traced.get_submodule(str(node.target))
    plain = type(module) in kinds and not module._forward_hooks and not module._forward_pre_hooks
    return module if plain else None  # type: ignore[return-value]


def add_module(traced: fx.GraphModule, module: nn.Module) -> str:
    """Add the module under a new name and return the name."""
    name = f"deployed_{len(list(traced.children()))}"
    traced.add_submodule(name, module)
    return name


def fold(traced: fx.GraphModule) -> None:
    """Fold batch normalization into the convolution before it, if nobody else sees that, and drop what does nothing."""
    for node in list(traced.graph.nodes):
        if layer(traced, node, nn.Identity) and isinstance(node.args[0], fx.Node):
            _replace(traced, node, node.args[0])
            continue
        norm = layer(traced, node, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        conv = layer(traced, node.args[0], nn.Conv1d, nn.Conv2d, nn.Conv3d) if norm else None
        if norm and conv and norm.running_var is not None and len(node.args[0].users) == 1:
            node.args[0].target = add_module(traced, nn.utils.fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            _replace(traced, node, node.args[0])


def _replace(traced: fx.GraphModule, node: fx.Node, by: fx.Node) -> None:
    node.replace_all_uses_with(by)
    traced.graph.erase_node(node)


class MaxPool2x2(nn.Module):
    """Max pooling of 2x2 without overlap: torch's takes two to five times as long on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., height // 2, width // 2]."""
        height, width = (side - side % 2 for side in x.shape[-2:])
        rows = torch.maximum(x[..., 0:height:2, :width], x[..., 1:height:2, :width])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


def split_pools(traced: fx.GraphModule) -> None:
    """Replace max pooling of 2x2 without overlap by `MaxPool2x2`, which was measured in channels-last order alone.

    Args:
        traced: A network on a CPU, changed in place; its pools make it a channels-last one.
    """
    for node in traced.graph.nodes:
        pool = layer(traced, node, nn.MaxPool2d)
        if pool is None or pool.return_indices or pool.ceil_mode:
            continue
        sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        if [one if isinstance(one, tuple) else (one, one) for one in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]:
            node.target = add_module(traced, MaxPool2x2())


class ConvReLU(nn.Module):
    """relu(convolution of x + other), rounded once; it may take the place of `other`."""

    def __init__(self, conv: nn.Conv2d, *, in_place: bool = False) -> None:
        super().__init__()
        self.conv, self.in_place = conv, in_place

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the result [batch, channel, height, width]."""
        c = self.conv
        settings = (c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups)
        if other is None:
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *settings, "relu", [], "")
        elif other.shape != self._shape(x) or other.dtype != x.dtype or not _is_channels_last(x):
            # The kernels do not broadcast, nor do they always notice that they should have.
            result = functional.relu(c(x) + other)
        elif self.in_place and _is_channels_last(other):
            kernel = torch.ops.mkldnn._convolution_pointwise_.binary
            result = kernel(other, x, *settings, "add", 1.0, "relu", [], None)
        else:
            kernel = torch.ops.mkldnn._convolution_pointwise.binary
            result = kernel(x, other, *settings, "add", 1.0, "relu", [], None)
        return result

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        c = self.conv
        assert isinstance(c.padding, tuple)
        sides = zip(x.shape[2:], c.padding, c.dilation, c.kernel_size, c.stride, strict=True)
        return x.shape[0], c.out_channels, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sides)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@cache
def has_fused_convolutions(dtype: torch.dtype) -> bool:
    """Whether this PyTorch on this CPU has fused convolutions of a dtype, and they compute what they should."""
    # On the device "meta" nothing would be drawn, and SymPy imported: half a second of CPU in each process.
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(2, 2, 2, dtype=dtype).requires_grad_(False)
    for parameter in conv.parameters():
        nn.init.ones_(parameter)
    fused, in_place = ConvReLU(conv), ConvReLU(conv, in_place=True)
    for order in (torch.contiguous_format, torch.channels_last):
        x = torch.arange(-9.0, 9.0).reshape(1, 2, 3, 3).to(dtype, memory_format=order)
        y = conv(x)
        try:
            alone, sums = fused(x), (fused(x, y), in_place(x, y.clone()))
        except (AttributeError, RuntimeError, TypeError) as error:
            _log.info("%s convolutions are not fused: %s", dtype, error)
            return False
        expected = functional.relu(y + y)
        if not torch.equal(alone, functional.relu(y)) or not all(torch.equal(one, expected) for one in sums):
            return False
    return True


def fuse(traced: fx.GraphModule, dtype: torch.dtype) -> None:
    """Move each ReLU, and the sum before it, into the convolution before it, if nobody else sees the values between.

    Not in a network with NaN or infinity among its parameters: a fused ReLU maps NaN to 0, and it would vote like a
    sound one. Nor where this PyTorch has no such convolutions for the CPU.

    Args:
        traced: A network on a CPU, changed in place.
        dtype: Of its convolutions.
    """
    if not has_fused_convolutions(dtype) or not all(
        bool(parameter.isfinite().all()) for parameter in traced.parameters()
    ):
        return
    for relu in list(traced.graph.nodes):
        if not (_is_function(relu, *_RELU) or layer(traced, relu, nn.ReLU)):
            continue
        source = relu.all_input_nodes[0]
        conv, others = _fusable(traced, source)
        plain = _plain_convolution(traced, conv)
        if plain and len(source.users) == 1:
            in_place = any(_is_free(traced, other, source, conv) for other in others)
            with traced.graph.inserting_before(source):
                name = add_module(traced, ConvReLU(plain, in_place=in_place))
                fused = traced.graph.call_module(name, (conv.args[0], *others))
            relu.replace_all_uses_with(fused)
            for node in dict.fromkeys((relu, source, conv)):
                traced.graph.erase_node(node)


def _fusable(traced: fx.GraphModule, source: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """Return the node that can compute `source` and its ReLU if it is a convolution, and what else is in the sum."""
    terms = source.all_input_nodes
    if not _is_function(source, *_ADD) or len(terms) != 2 or len(source.args) != 2 or source.kwargs:
        return source, []
    # A sum in place changes its first term, which nobody may see unless it is the convolution's own.
    for conv in terms[:1] if _is_function(source, operator.iadd, "add_") else terms[::-1]:
        if _plain_convolution(traced, conv) and len(conv.users) == 1 and _can_wait(traced, conv, source):
            return conv, [term for term in terms if term is not conv]
    return source, []


def _is_free(traced: fx.GraphModule, term: fx.Node, total: fx.Node, conv: fx.Node) -> bool:
    """Whether the sum of the term and the convolution may overwrite the term: nobody sees it any more.

    It must be memory of its own, a convolution's result; whoever else reads it must be done, and hold no view of it.
    """

    def is_convolution(node: fx.Node) -> bool:
        is_fused = node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), ConvReLU)
        return is_fused or layer(traced, node, nn.Conv2d) is not None

    readers = [user for user in term.users if user is not total]
    done = all(is_convolution(user) and user is not conv and user < total for user in readers)
    return is_convolution(term) and done


def _is_function(node: fx.Node, *targets: object) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def _plain_convolution(traced: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    conv = layer(traced, node, nn.Conv2d)
    is_plain = conv and conv.groups == 1 and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)
    return conv if is_plain else None


def _can_wait(traced: fx.GraphModule, conv: fx.Node, until: fx.Node) -> bool:
    """Whether nothing between the two nodes can change the convolution's input in place."""
    node = conv.next
    while node is not until:
        if node.op != "call_module" or getattr(traced.get_submodule(str(node.target)), "inplace", False):
            return False
        node = node.next
    return True

"""The deployed form of a trained network: the base classifier that is certified and that users run.

Precision and execution form decide votes near a decision boundary, so they are part of the classifier: a certificate
holds for `deploy(network, precision=...)` on the kind of machine that sampled it.
"""

import copy
import logging
import operator
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from rspipe.errors import ModelError
from rspipe.networks.modes import bare, channels_last, copied
from rspipe.networks.outputs import logits_of

Precision = Literal["float32", "bfloat16"]

Layer = TypeVar("Layer", bound=nn.Module)


_log = logging.getLogger(__name__)


_RELU = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")

_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")


def deploy(network: Callable[[Tensor], Any], *, precision: Precision) -> nn.Module:
    """Return the base classifier that is certified and deployed, on the network's device; the network stays as it is.

    It is in eval mode, maps float32 inputs [batch, ...] to float32 logits [batch, class], and has no gradient. What is
    deployed already is returned as it is.

    float32: the network's layers and parameters as they are, in channels-last memory order where that is faster.

    bfloat16: also, batch normalization is folded into the convolution before it, then parameters and activations are
    rounded to bfloat16. What comes before the first parameters (`Normalize`) and a final linear layer stay float32:
    noise is not rounded in input coordinates, and logits not at all. On CPUs, ReLU and the sum before it run inside
    the convolution before them.

    A network that torch.fx cannot trace keeps its memory order, and bfloat16 rounds all of it, from input to logits.
    So does one that takes gradients in its forward pass. Of `torch.compile` and data parallelism the network within is
    deployed.

    Args:
        network: Maps [batch, ...] to logits [batch, class], in a form that `rspipe.networks.outputs.logits_of` knows: a
            module, already on its device, or another function, which has no other precision than its own.
        precision: Of parameters and activations.

    Raises:
        ModelError: bfloat16 cannot hold a parameter, there is none, or it would hide that one is NaN or infinite; or,
            from the classifier when it is called, an operation has no bfloat16 form, or what it returns are no logits.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
    if isinstance(network, _Deployed):
        if network.precision != precision:
            raise ModelError(f"the classifier is deployed in {network.precision}; deploy the network it was made from")
        return network
    network = copied(bare(network) if isinstance(network, nn.Module) else _Function(network))
    network.eval()
    for parameter in network.parameters():
        # A copy of a TorchScript program may hold parameters that are computed.
        parameter.detach_().requires_grad_(False)
    if precision == "bfloat16":
        _check_can_be_rounded(network)
    traced = _trace(network.float())
    if traced is None and precision == "bfloat16":
        return _Deployed(nn.Sequential(_Cast(torch.bfloat16), network.to(torch.bfloat16)), precision).eval()
    if traced is None:
        return _Deployed(network, precision).eval()
    if precision == "bfloat16":
        _fold_batch_norms(traced)
        _round(traced)
        if all(parameter.device.type == "cpu" for parameter in traced.parameters()) and _has_fused_convolutions():
            _fuse(traced)
    elif not _likes_channels_last(traced):
        return _Deployed(network, precision).eval()
    traced.delete_all_unused_submodules()
    return _Deployed(_ChannelsLast(traced), precision).eval()


def _check_can_be_rounded(network: nn.Module) -> None:
    parameters = dict(network.named_parameters())
    if not parameters:
        raise ModelError("precision bfloat16 rounds parameters, and the classifier has none; use float32")
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise ModelError(f"precision bfloat16 cannot hold {name}, which is {parameter.dtype}; use float32")


def _likes_channels_last(traced: fx.GraphModule) -> bool:
    """Whether a float32 network gains by channels-last order.

    Pooling and batch normalization run several times as fast in it; convolutions alone hardly care, and flattening
    for a linear layer has to undo it.
    """
    kinds = ("Pool", "BatchNorm")
    layers = (type(module).__name__ for module in traced.modules())
    calls = (str(getattr(node.target, "__name__", node.target)) for node in traced.graph.nodes)
    return any(kind in name for name in layers for kind in kinds) or any("pool" in name for name in calls)


class _Function(nn.Module):
    """A function of inputs as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Function":
        # What a function holds is its own affair.
        return _Function(self.function)

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


class _Deployed(nn.Module):
    def __init__(self, body: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.body, self.precision = body, precision

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        try:
            logits = logits_of(self.body(inputs))
        except (RuntimeError, TypeError) as error:
            if "BFloat16" not in str(error):
                raise
            raise ModelError(f"precision bfloat16 fails in this network ({error}); use float32") from error
        return logits.float()


class _Cast(nn.Module):
    """Floating-point tensors in the dtype, anything else (a shape, an index) as it is."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class _ChannelsLast(nn.Module):
    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__()
        for node in traced.graph.find_nodes(op="call_method", target="view"):
            # `view` refuses to merge dimensions that channels-last order has moved apart; `reshape` copies.
            if not any(isinstance(argument, torch.dtype) for argument in node.args):
                node.target = "reshape"
        traced.recompile()
        for module in traced.modules():
            if isinstance(module, nn.Conv2d):
                # Unlike `contiguous`, `to` also sets the strides of a dimension of size 1, which convolutions look at.
                module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
        self.traced = traced

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.traced(channels_last(inputs))
        return logits


class _ConvReLU(nn.Module):
    """relu(convolution of x + other), rounded once."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        c, kernel = self.conv, torch.ops.mkldnn._convolution_pointwise
        settings = (c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups)
        if other is None:
            result: Tensor = kernel(x, *settings, "relu", [], "")
        elif other.shape == self._shape(x) and other.dtype == x.dtype and _is_channels_last(x):
            result = kernel.binary(x, other, *settings, "add", 1.0, "relu", [], None)
        else:
            # The kernel does not broadcast, nor does it always notice that it should have.
            result = functional.relu(c(x) + other)
        return result

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        c = self.conv
        assert isinstance(c.padding, tuple)
        sides = zip(x.shape[2:], c.padding, c.dilation, c.kernel_size, c.stride, strict=True)
        return x.shape[0], c.out_channels, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sides)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@cache
def _has_fused_convolutions() -> bool:
    """Whether this PyTorch on this CPU has the fused bfloat16 convolutions, and they compute what they should."""
    conv = nn.Conv2d(2, 2, 2, dtype=torch.bfloat16, device="meta").to_empty(device="cpu").requires_grad_(False)
    for parameter in conv.parameters():
        nn.init.ones_(parameter)
    x = torch.arange(-9.0, 9.0).reshape(1, 2, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    fused, y = _ConvReLU(conv), conv(x)
    try:
        return torch.equal(fused(x), functional.relu(y)) and torch.equal(fused(x, y), functional.relu(y + y))
    except (AttributeError, RuntimeError, TypeError) as error:
        _log.info("bfloat16 convolutions are not fused: %s", error)
        return False


_GRADIENT_CALLS = (torch.autograd.grad, torch.autograd.backward, "requires_grad_", "backward")


def _trace(network: nn.Module) -> fx.GraphModule | None:
    if isinstance(network, _Function | torch.jit.ScriptModule):
        return None
    try:
        # Inside Sequential, a single layer and a network with hooks are called as modules too.
        traced = fx.symbolic_trace(nn.Sequential(network))
    except Exception as error:  # noqa: BLE001 - the network's own code runs on stand-ins and may raise anything
        _log.warning("%s is deployed layer by layer, torch.fx cannot trace it: %s", type(network).__name__, error)
        return None
    # A graph does not keep where gradients are enabled.
    return None if any(node.target in _GRADIENT_CALLS for node in traced.graph.nodes) else traced


def _layer(traced: fx.GraphModule, node: object, *kinds: type[Layer]) -> Layer | None:
    """Return the module that the node calls with one argument, if it is exactly of one of the kinds, without hooks."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = traced.get_submodule(str(node.target))
    plain = type(module) in kinds and not module._forward_hooks and not module._forward_pre_hooks
    return module if plain else None  # type: ignore[return-value]


def _add(traced: fx.GraphModule, module: nn.Module) -> str:
    """Add the module under a new name and return the name."""
    name = f"deployed_{len(list(traced.children()))}"
    traced.add_submodule(name, module)
    return name


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        norm = _layer(traced, node, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        conv = _layer(traced, node.args[0], nn.Conv1d, nn.Conv2d, nn.Conv3d) if norm else None
        if norm and conv and norm.running_var is not None and len(node.args[0].users) == 1:
            node.args[0].target = _add(traced, nn.utils.fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _round(traced: fx.GraphModule) -> None:
    """Round everything to bfloat16 except what comes before the first parameters and a final linear layer."""
    nodes = list(traced.graph.nodes)
    early: set[fx.Node] = set()
    exact: set[Tensor] = set()
    for node in nodes:
        tensors = _tensors(traced, node)
        if early.issuperset(node.all_input_nodes) and not any(isinstance(t, nn.Parameter) for t in tensors):
            early.add(node)
            exact.update(tensors)
    last = nodes[-1].args[0]
    if linear := _layer(traced, last, nn.Linear):
        # A copy, in case the layer is also called elsewhere.
        last.target = _add(traced, copy.deepcopy(linear))
        exact.update(_tensors(traced, last))
    for node in nodes:
        is_final = linear is not None and node is last
        for source in node.all_input_nodes:
            if node not in early and (source in early) != is_final:
                cast = _Cast(torch.float32 if is_final else torch.bfloat16)
                with traced.graph.inserting_before(node):
                    node.replace_input_with(source, traced.graph.call_module(_add(traced, cast), (source,)))
    for tensor in (*traced.parameters(), *traced.buffers()):
        if tensor.is_floating_point() and tensor not in exact:
            tensor.data = tensor.data.to(torch.bfloat16)


def _tensors(traced: fx.GraphModule, node: fx.Node) -> list[Tensor]:
    """Return the parameters and buffers that the node itself reads."""
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(traced)
        return [value] if isinstance(value, Tensor) else []
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return [*module.parameters(), *module.buffers()]
    return []


def _fuse(traced: fx.GraphModule) -> None:
    """Move each ReLU, and the sum before it, into the convolution before it, if nobody else sees the values between."""
    if not all(bool(parameter.isfinite().all()) for parameter in traced.parameters()):
        # A fused ReLU maps NaN to 0: a broken network would vote like a sound one.
        raise ModelError("precision bfloat16 would hide NaN or infinity in the parameters; train the network again")
    for relu in list(traced.graph.nodes):
        if not (_is_function(relu, *_RELU) or _layer(traced, relu, nn.ReLU)):
            continue
        source = relu.all_input_nodes[0]
        conv, others = _fusable(traced, source)
        layer = _plain_convolution(traced, conv)
        if layer and len(source.users) == 1:
            with traced.graph.inserting_before(source):
                fused = traced.graph.call_module(_add(traced, _ConvReLU(layer)), (conv.args[0], *others))
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


def _is_function(node: fx.Node, *targets: object) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def _plain_convolution(traced: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    conv = _layer(traced, node, nn.Conv2d)
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

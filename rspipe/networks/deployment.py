"""The deployed form of a trained network: the base classifier that is certified and that users run.

Precision and execution form decide votes near a decision boundary, so they are part of the classifier: a certificate
holds for `deploy(network, precision=...)` on the kind of machine that sampled it.
"""

import copy
import logging
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn

from rspipe.errors import ModelError, first_line
from rspipe.networks import fusion
from rspipe.networks.modes import (
    bare,
    channels_last,
    check_samples_are_apart,
    copied,
    device_of,
    of_other_dtype,
    out_of_memory,
)
from rspipe.networks.outputs import close_logits, largest_logit, logits_of
from rspipe.networks.precision import SLOW, AnyPrecision, Precision, fastest_precision, tensor_float_off

_log = logging.getLogger(__name__)

_CHECKED, _ROUNDINGS = 8, 1e-2
"""Inputs that a trace is compared on; largest difference that roundings make (TensorFloat-32), by the largest logit."""

_MIXED = 3e-2
"""Difference of a sample's logits in two batches, by the largest logit, beyond what roundings make (bfloat16)."""


def deploy(network: Callable[[Tensor], Any], *, precision: AnyPrecision = "auto") -> "Deployed":
    """Return the base classifier that is certified and deployed, on the network's device; the network stays as it is.

    It is in eval mode, maps float32 inputs [batch, ...] to float32 logits [batch, class], and has no gradient. What is
    deployed already is returned as it is. Its `precision` says what was taken.

    On GPUs float32 is float32, whatever `torch.backends.cudnn.allow_tf32` says: TensorFloat-32 is another precision.
    On CPUs, batch normalization is folded into the convolution before it, and ReLU and the sum before it run inside
    the convolution before them; images are in channels-last order where there are convolutions. In float32 that changes
    the order of roundings, and nothing else; on other devices the layers run as they are.

    bfloat16: batch normalization is folded on every device, then parameters and activations are rounded to bfloat16.
    What comes before the first parameters (`Normalize`) and a final linear layer stay float32: noise is not rounded in
    input coordinates, and logits not at all.

    A network that torch.fx cannot trace keeps its memory order, and bfloat16 rounds all of it, from input to logits.
    So does one that takes gradients in its forward pass, and one of which the trace is another function: it branches on
    what its input is, or draws at random. The first call finds that out, on some of its inputs, and warns. Of
    `torch.compile` and data parallelism the network within is deployed. Until the first call it holds the network
    itself, whose class must be known where it is unpickled.

    Args:
        network: Maps [batch, ...] to logits [batch, class], in a form that `rspipe.networks.outputs.logits_of` knows: a
            module, already on its device, or another function, which has no other precision than its own.
        precision: Of parameters and activations; auto is bfloat16 where that is the faster one on the device
            (`fastest_precision`) and torch.fx can trace the network, else float32.

    Raises:
        ModelError: Batch normalization has no running statistics; bfloat16 cannot hold a parameter, or there is none;
            the network cannot be copied; or, from the classifier when it is called, a sample's logits depend on those
            beside it, an operation has no bfloat16 form, it casts to another dtype than its parameters', or what it
            returns are no logits.
    """
    if precision not in get_args(AnyPrecision):
        raise ValueError(f"precision must be one of {get_args(AnyPrecision)}, got {precision!r}")
    if isinstance(network, Deployed):
        if precision not in ("auto", network.precision):
            raise ModelError(f"the classifier is deployed in {network.precision}; deploy the network it was made from")
        return network
    given = bare(network) if isinstance(network, nn.Module) else _Function(network)
    try:
        network = copied(given)
    except TypeError as error:
        raise ModelError(
            f"{type(network).__name__} cannot be copied, as what is deployed has to be: {error}; give it without that"
        ) from error
    network.eval()
    check_samples_are_apart(network)
    for parameter in network.parameters():
        # A copy of a TorchScript program may hold parameters that are computed.
        parameter.detach_().requires_grad_(False)
    refused = _cannot_be_rounded(network)
    check_precision(network, precision)
    traced = _trace(network.float())
    device = device_of(network) or torch.device("cpu")
    if precision == "auto":
        precision = "float32" if refused or traced is None else fastest_precision(device)
    elif precision == "bfloat16" and device.type == "cpu" and fastest_precision(device) == "float32":
        _log.warning("warning: %s", SLOW)
    if traced is None and precision == "bfloat16":
        return Deployed(nn.Sequential(_Cast(torch.bfloat16), network.to(torch.bfloat16)), precision).eval()
    if traced is None:
        return Deployed(network, precision).eval()
    # Apart from what follows. Of bfloat16, which rounds, the trace itself is compared.
    reference = copied(network)
    compared = None if precision == "float32" else _trace(reference)
    # A GPU's memory is for others until it is needed; a trace may know its device.
    reference.cpu()
    on_cpu = all(parameter.device.type == "cpu" for parameter in traced.parameters())
    # In float32 it was measured on CPUs alone.
    ordered = (precision == "bfloat16" or (on_cpu and _has_convolutions(traced))) and not _writes_into_views(traced)
    if on_cpu or precision == "bfloat16":
        fusion.fold(traced)
    if precision == "bfloat16":
        _round(traced)
    if on_cpu:
        fusion.split_pools(traced)
        fusion.fuse(traced, getattr(torch, precision))
    traced.delete_all_unused_submodules()
    traced.recompile()
    body = _ChannelsLast(traced) if ordered else traced
    return Deployed(body, precision, unchecked=(reference, compared)).eval()


def check_precision(network: nn.Module, precision: AnyPrecision) -> None:
    """Raise ModelError where a network has no form in a precision that is asked for."""
    if precision == "bfloat16" and (refused := _cannot_be_rounded(network)):
        raise ModelError(f"precision bfloat16 {refused}; use float32")


def _cannot_be_rounded(network: nn.Module) -> str:
    """Return why a network has no bfloat16 form, if it has none."""
    parameters = dict(network.named_parameters())
    odd = (f"cannot hold {name}, which is {p.dtype}" for name, p in parameters.items() if not p.is_floating_point())
    return next(odd, "") if parameters else "rounds parameters, and the classifier has none"


def _has_convolutions(traced: fx.GraphModule) -> bool:
    """Whether images are convolved, so that channels-last order pays.

    Pooling and batch normalization run several times as fast in it. Convolutions alone gain up to a fifth with AVX2 and
    lose up to a tenth with AVX-512, but take less memory: half the time where every batch faults it in again.
    """
    layers = (type(module).__name__ for module in traced.modules())
    calls = (str(getattr(node.target, "__name__", node.target)) for node in traced.graph.nodes)
    return any("Conv2d" in name for name in layers) or any("conv2d" in name for name in calls)


_RESHAPING = ("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten")
_SHARING = (
    *_RESHAPING,
    *("getitem", "slice", "select", "narrow", "split", "chunk", "unbind", "squeeze", "unsqueeze"),
    *("permute", "transpose", "t", "movedim", "swapaxes", "expand", "diagonal"),
)
"""Names of operations that may return another shape of the same memory; the first copy it in some memory orders."""


def _name(node: fx.Node) -> str:
    """Return the name of what a node calls: "view", also of `torch.ops.aten.view.default`."""
    target = node.target
    return str(getattr(target, "_opname", getattr(target, "__name__", target)))


def _writes_into_views(traced: fx.GraphModule) -> bool:
    """Whether a network writes through another shape of a tensor that it reads later, or counts on strides.

    In another memory order the shape would be that of a copy.
    """

    def in_place(node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
        name = _name(node)
        return bool(node.kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))

    def written(node: fx.Node) -> bool:
        return any(in_place(user) or (_name(user) in _SHARING and written(user)) for user in node.users)

    nodes = list(traced.graph.nodes)
    return any(_name(node) == "as_strided" for node in nodes) or any(
        _name(node) in _RESHAPING and len(node.all_input_nodes[0].users) > 1 and written(node)
        for node in nodes
        if node.op in ("call_method", "call_function") and node.all_input_nodes
    )


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


class Deployed(nn.Module):
    """A network as it is deployed, in a precision."""

    def __init__(
        self,
        body: nn.Module,
        precision: Precision,
        *,
        unchecked: tuple[nn.Module, nn.Module | None] | None = None,
    ) -> None:
        super().__init__()
        self.body, self.precision = body, precision
        # The float32 network, and what must be the same function; the body by default. In a tuple: no part of this one.
        self._unchecked = unchecked
        self._compared = False

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return float32 logits [batch, class]."""
        with tensor_float_off() if inputs.is_cuda else nullcontext():
            if not self._compared:
                self._check(inputs[:_CHECKED])
            return self._logits(inputs)

    def _logits(self, inputs: Tensor) -> Tensor:
        # Where they are counted: a function may return NumPy's.
        return _logits_in(self.precision, self.body, inputs).float().to(inputs.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Deployed":
        here = device_of(self.body)
        if here is not None and here.type == "cpu" != fn(torch.empty(0)).device.type:
            raise ModelError("the classifier is deployed for a CPU; deploy the network where it is to run")
        moved: Deployed = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def _check(self, few: Tensor) -> None:
        """Refuse a network whose samples depend on each other, and mend one whose trace is another function."""
        here = device_of(self.body)
        if here is not None and here.type != few.device.type:
            raise ModelError(f"inputs are on {few.device}, and the classifier is on {here}; give x.to({str(here)!r})")
        if (unchecked := self._unchecked) is not None:
            self._compare(few, *unchecked)
        # Last: until then, another thread checks for itself.
        self._unchecked = None
        if bool((few != few[:1]).any()):
            # Copies of one image show little of what a batch mixes.
            check_batches(self.body, few)
            self._compared = True

    def _compare(self, few: Tensor, reference: nn.Module, traced: nn.Module | None) -> None:
        """Put the network itself in the place of its trace where the two differ by more than roundings."""
        exact = _logits_in("float32", reference.to(few.device), few.clone()).float()
        if not _agrees(self.body if traced is None else traced.to(few.device), few, exact):
            _log.warning(
                "%s is deployed layer by layer: what torch.fx traces of it is another function, since it branches on "
                "its input, draws at random or writes into a view",
                type(reference).__name__,
            )
            rounded = self.precision == "bfloat16"
            whole = nn.Sequential(_Cast(torch.bfloat16), reference.to(torch.bfloat16)) if rounded else reference
            self.body = whole.eval()


def _logits_in(precision: Precision, body: nn.Module, inputs: Tensor) -> Tensor:
    """Return logits of a network whose parameters are in a precision, in which it may fail."""
    try:
        return logits_of(body(inputs))
    except (RuntimeError, TypeError) as error:
        if precision == "bfloat16" and "BFloat16" in str(error):
            raise ModelError(f"precision bfloat16 fails in this network ({error}); use float32") from error
        if not of_other_dtype(error) or next(body.parameters(), None) is None:
            # What has no parameters here has a dtype of its own, and says so.
            raise
        raise ModelError(
            f"the network fails with its parameters in {precision} ({first_line(error)}); where it casts to a dtype, "
            "let it cast to that of its parameters, or deploy a function, network.eval().forward, which stays as it is"
        ) from error


def check_batches(classifier: Callable[[Tensor], Any], inputs: Tensor) -> None:
    """Raise ModelError where a classifier gives the first of several samples other logits beside others.

    One that draws at random gives others in any case.
    """
    few = inputs[:_CHECKED]
    half = len(few) // 2
    try:
        # As far from those beside it as images are from each other.
        others = torch.cat([few[:half], 1 - few[half:]])
        beside, whole, again = (logits_of(classifier(batch.clone())).float() for batch in (others, few, few))
    except Exception as error:
        # The network's own code: whatever is wrong with the batch itself is raised by the pass that follows.
        if out_of_memory(error):
            raise
        return
    most = _MIXED * largest_logit(whole) + 1e-6
    if not whole.shape == again.shape == beside.shape:
        return
    if close_logits(whole, again, most / 10) and not close_logits(beside[:half], whole[:half], most):
        raise ModelError(
            "a sample's class depends on the samples beside it (as if batches were normalized by themselves), and "
            "nothing can be certified; give the network in eval mode, a program as it was exported or scripted in it"
        )


def _agrees(body: nn.Module, few: Tensor, exact: Tensor) -> bool:
    """Return whether a form of a network gives its logits, but for roundings."""
    try:
        got = logits_of(body(few.clone())).float()
    except Exception as error:
        # Whatever a trace raises: the network itself has just answered, and takes its place.
        if out_of_memory(error):
            raise
        return False
    return close_logits(got, exact, _ROUNDINGS * largest_logit(exact) + 1e-6)


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
        for node in traced.graph.nodes:
            # `view` refuses to merge dimensions that channels-last order has moved apart; `reshape` copies.
            if node.target == "view" and not any(isinstance(argument, torch.dtype) for argument in node.args):
                node.target, node.args = "reshape", (*node.args, *node.kwargs.values())
                node.kwargs = {}
            elif node.target == "view_as":
                node.target = "reshape_as"
            elif node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        traced.recompile()
        for module in traced.modules():
            if isinstance(module, nn.Conv2d):
                # Unlike `contiguous`, `to` also sets the strides of a dimension of size 1, which convolutions look at.
                module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
        self.traced = traced

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.traced(channels_last(inputs))
        return logits


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
    if linear := fusion.layer(traced, last, nn.Linear):
        # A copy, in case the layer is also called elsewhere.
        last.target = fusion.add_module(traced, copy.deepcopy(linear))
        exact.update(_tensors(traced, last))
    for node in nodes:
        is_final = linear is not None and node is last
        for source in node.all_input_nodes:
            if node not in early and (source in early) != is_final:
                cast = _Cast(torch.float32 if is_final else torch.bfloat16)
                with traced.graph.inserting_before(node):
                    node.replace_input_with(
                        source, traced.graph.call_module(fusion.add_module(traced, cast), (source,))
                    )
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

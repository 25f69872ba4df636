"""Networks that are files of their own: ONNX graphs and TorchScript programs, architecture and parameters in one."""

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rspipe.errors import ModelError, first_line, needs_extra
from rspipe.networks.outputs import logits_of

Runtime = Callable[[Tensor], Any]
"""Maps images to what the file's network returns."""


class FileNetwork(nn.Module):
    """A network of which a file is the only parameter: its bytes are kept, copied and compared like any other's.

    It has no gradients. The file is opened where the network runs, when it first does.
    """

    content: Tensor

    def __init__(self, opened: Callable[[bytes, torch.device], Runtime]) -> None:
        super().__init__()
        self._opened = opened
        self._runtime: Runtime | None = None
        self.register_buffer("content", torch.zeros(0, dtype=torch.uint8))

    def __getstate__(self) -> dict[str, Any]:
        # What runs a file can be neither copied nor sent.
        return {**self.__dict__, "_runtime": None}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._runtime = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if (given := state_dict.get(f"{prefix}content")) is not None:
            self.content, self._runtime = torch.empty_like(given, device=self.content.device), None
        super()._load_from_state_dict(state_dict, prefix, *others)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, class], on the device of the images."""
        if self._runtime is None:
            self._runtime = self._opened(self.content.cpu().numpy().tobytes(), self.content.device)
        logits = logits_of(self._runtime(images), name="the file's network")
        return logits.to(images.device)


def file_parameters(content: bytes) -> dict[str, Tensor]:
    """Return the state dict of a `FileNetwork`."""
    return {"content": torch.frombuffer(bytearray(content), dtype=torch.uint8)}


def _torchscript(content: bytes, device: torch.device) -> Runtime:
    try:
        with warnings.catch_warnings():
            # It is deprecated, and what people have.
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ModelError(f"the file is no program of torch.jit.save ({first_line(error)[:160]})") from error
    program.eval()
    # A function: as a module it would become a part of the network, parameters and all.
    return program.forward  # type: ignore[no-any-return]


_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


def _onnx(content: bytes, device: torch.device) -> Runtime:  # noqa: ARG001 - it runs on the CPU, wherever images are
    with needs_extra("an ONNX file", extra="onnx"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    # As torch in this process: the order of sums depends on it.
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    # Weights in a file beside the graph are no part of its content, which is the network. onnxruntime would look for
    # them in the working directory, where another network's may lie; here it finds none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        if os.devnull in str(error):
            raise ModelError(
                "the weights of the ONNX graph lie in another file beside it, and it is no network without them; write "
                "both into one, by torch.onnx.export(..., external_data=False) or onnx.save(onnx.load(file), one_file)"
            ) from error
        raise ModelError(f"the file is no ONNX graph that onnxruntime can run ({first_line(error)[:160]})") from error
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    if len(inputs) != 1:
        raise ModelError(f"the ONNX graph has {len(inputs)} inputs; export it with the images alone")
    if len(outputs) > 1:
        outputs = [name for name in outputs if name == "logits"]
        if not outputs:
            raise ModelError("the ONNX graph has several outputs, none called 'logits'; export it with these alone")
    size = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None
    if (dtype := _DTYPES.get(inputs[0].type)) is None:
        raise ModelError(f"the ONNX graph takes {inputs[0].type}; export it for float images")

    def run(images: Tensor) -> Tensor:
        pixels = images.detach().to("cpu", dtype).numpy()
        parts = []
        # A graph may be exported for batches of one size alone: the last is filled up.
        for begin in range(0, len(pixels), size or len(pixels)):
            part = pixels[begin : begin + size] if size else pixels
            filled = np.resize(part, (size, *part.shape[1:])) if size else part
            (logits,) = session.run(outputs, {inputs[0].name: filled})
            parts.append(torch.from_numpy(logits[: len(part)]))
        return torch.cat(parts)

    return run


def torchscript(classes: int) -> nn.Module:  # noqa: ARG001 - the file decides
    """Return a network that runs a TorchScript program, without the program: it is the checkpoint."""
    return FileNetwork(_torchscript)


def onnx(classes: int) -> nn.Module:  # noqa: ARG001 - the file decides
    """Return a network that runs an ONNX graph by onnxruntime on the CPU, without the graph: it is the checkpoint."""
    return FileNetwork(_onnx)

"""Files of checkpoints, read without executing anything: torch's and safetensors'."""

import argparse
import codecs
import datetime
import importlib
import pathlib
import re
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rspipe.errors import ModelError


def _harmless() -> list[Any]:
    """Return what may lie beside tensors in a file: types that only hold values, and what makes NumPy's numbers.

    torch's loader calls nothing else (`weights_only`).
    """
    core = importlib.import_module("numpy._core.multiarray")
    numbers = {type(np.dtype(kind)) for kind in ("?bhilqBHILQefdFDSUMm")}
    rebuilt = [
        (function, f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")
        for name, function in (("scalar", core.scalar), ("_reconstruct", core._reconstruct))
    ]
    paths = (pathlib.PurePosixPath, pathlib.PureWindowsPath)
    # A path of another system is one of this system's kind to hold it.
    named = [
        (paths[0], "pathlib.PosixPath"),
        (paths[1], "pathlib.WindowsPath"),
        (paths[0], "pathlib._local.PosixPath"),
        (paths[1], "pathlib._local.WindowsPath"),
    ]
    values = [
        argparse.Namespace,
        types.SimpleNamespace,
        datetime.date,
        datetime.datetime,
        datetime.timedelta,
        *paths,
        np.ndarray,
        np.dtype,
        *numbers,
    ]
    return [*values, *named, *rebuilt, (codecs.encode, "_codecs.encode")]


def read_checkpoint(path: Path) -> Any:
    """Return what a checkpoint holds, tensors on the CPU, executing nothing from it.

    Raises:
        ModelError: The file is missing or damaged, or cannot be read without executing it.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint file")
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load(path)


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); allow it") from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path}: is a TorchScript program, which would have to be run; if you trust it, name the architecture "
                "'torchscript' and pass --allow-code"
            ) from error
        # torch's own advice is to execute what is in the file.
        code = re.search(r"GLOBAL ([\w.]+)|(legacy .tar)", str(error))
        if code:
            raise ModelError(
                f"{path}: refused, for it holds more than tensors ({code[1] or code[2]}) and reading it could execute "
                "code; if you trust it, load it elsewhere with weights_only=False and torch.save its state dict alone"
            ) from error
        raise ModelError(
            f"{path}: damaged, or no file of torch.save ({type(error).__name__}); download it again"
        ) from error


def _load_safetensors(path: Path) -> Any:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ModelError(f"{path}: needs the package safetensors; pip install safetensors") from error
    try:
        return safetensors.load_file(path, device="cpu")
    except Exception as error:
        raise ModelError(
            f"{path}: damaged, or no file of safetensors ({type(error).__name__}); download it again"
        ) from error


def few(items: list[str]) -> str:
    """Return the first three of some names."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"

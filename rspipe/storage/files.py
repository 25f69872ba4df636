"""Content of the files of a run directory: JSON and tensors, read without executing anything."""

import hashlib
import io
import json
import pickle
from typing import Any

import torch

from rspipe.errors import DamagedError, first_line
from rspipe.storage.paths import StorePath


def write_json(path: StorePath, content: Any) -> None:
    """Write JSON-like content; errors are those of `StorePath.write_bytes`."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: StorePath) -> Any:
    """Return the content of a JSON file.

    Raises:
        DamagedError: It is damaged or missing.
        StoreError: It cannot be reached.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise damaged_error(path, error) from error


def read_json_if_there(path: StorePath) -> Any | None:
    """Return the content of a JSON file, or None where there is none; errors are those of `read_json`."""
    try:
        return read_json(path)
    except DamagedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def damaged_error(path: StorePath, error: Exception) -> DamagedError:
    """Return the error of a file whose content cannot be used."""
    # From its second line on, torch advises users to execute the content of the file.
    reason = first_line(error)[:120]
    return DamagedError(f"{path}: damaged or missing ({reason}); delete it and run again to recreate it")


def save_torch(path: StorePath, content: Any) -> None:
    """Write tensors and plain values; errors are those of `StorePath.write_bytes`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def load_torch(path: StorePath) -> Any:
    """Return what `save_torch` wrote, executing nothing from the file.

    Raises:
        DamagedError: It is damaged or missing.
        StoreError: It cannot be reached.
    """
    try:
        return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise damaged_error(path, error) from error


def checksum(parameters: dict[str, torch.Tensor]) -> str:
    """Return sixteen hex digits that identify parameters (SHA-256 of names, types, shapes and bytes)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

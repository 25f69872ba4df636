"""Files of a run directory: written whole or not at all, read without executing anything."""

import hashlib
import json
import os
import pickle
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rspipe.errors import DamagedError, StoreError, first_line
from rspipe.storage.paths import ObjectPath, Place, opened


def write_atomically(path: Place, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in place: readers see all or nothing.

    In a folder the temporary file lies beside `path` and is renamed.

    Raises:
        StoreError: The file could not be written, e.g. because the disk is full.
    """
    if isinstance(path, ObjectPath):
        _upload(path, write)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path}: could not be written: {error}; free space or fix permissions, then resume"
        ) from error


def _upload(path: ObjectPath, write: Callable[[Path], None]) -> None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            write(temporary)
            content = temporary.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: could not be prepared in {tempfile.gettempdir()}: {error}; free space") from error
    path.write_bytes(content)


def write_json(path: Place, content: Any) -> None:
    """Write JSON-like content atomically."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_text(path: Place, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Place, content: bytes) -> None:
    """Write bytes atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def read_json(path: Place) -> Any:
    """Return the content of a JSON file.

    Raises:
        DamagedError: It is damaged or missing.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def found_json(path: Place) -> Any | None:
    """Return the content of a JSON file, or None where there is none; errors are those of `read_json`."""
    try:
        return read_json(path)
    except DamagedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def damaged(path: Place, error: Exception) -> DamagedError:
    """Return what to tell of a file that cannot be read."""
    # What torch says beyond its first line would have users execute what is in the file.
    reason = first_line(error)[:120]
    return DamagedError(f"{path}: damaged or missing ({reason}); delete it and run again to make it anew")


def save_torch(path: Place, content: Any) -> None:
    """Write tensors and plain values atomically."""
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load_torch(path: Place) -> Any:
    """Return what `save_torch` wrote, executing nothing from the file.

    Raises:
        DamagedError: It is damaged or missing.
    """
    try:
        with opened(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise damaged(path, error) from error


def checksum(parameters: dict[str, torch.Tensor]) -> str:
    """Return sixteen hex digits that identify parameters (SHA-256 of names, types, shapes and bytes)."""
    found = hashlib.sha256()
    for name, tensor in sorted(parameters.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]

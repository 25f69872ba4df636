"""Files of a run directory: written whole or not at all, read without executing anything."""

import json
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rspipe.errors import StoreError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see all or nothing.

    Raises:
        StoreError: The file could not be written, e.g. because the disk is full.
    """
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


def write_json(path: Path, content: Any) -> None:
    """Write JSON-like content atomically."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> StoreError:
    """Return what to tell of a file that cannot be read."""
    # What torch says beyond its first line would have users execute what is in the file.
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
    return StoreError(f"{path}: damaged or missing ({reason}); delete it and run again to make it anew")


def save_torch(path: Path, content: Any) -> None:
    """Write tensors and plain values atomically."""
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load_torch(path: Path) -> Any:
    """Return what `save_torch` wrote, executing nothing from the file.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise damaged(path, error) from error

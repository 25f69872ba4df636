"""Content of the files of a run directory, each of which can tell whether it is what was written.

A record is JSON whose key `sha256` is the hash of all others. Other files end with a seal: the hash of their place in
the run directory and of their content. Nothing in a file is executed.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

from rspipe.errors import DamagedError, StoreError, first_line, printable
from rspipe.networks.modes import out_of_memory
from rspipe.records import Record
from rspipe.spec import reason
from rspipe.storage.paths import StorePath

R = TypeVar("R", bound=Record)

T = TypeVar("T")

_REMEDY = "; run the study again, which recreates it"

_SEAL = b"\n# rspipe sha256 "

_SEAL_LENGTH = len(_SEAL) + 64 + 1


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the file of a record from JSON-like content, whose texts become printable."""
    plain = _printable(json.loads(json.dumps(content)))
    return (json.dumps({**plain, "sha256": _hash(plain)}, indent=1, sort_keys=True) + "\n").encode()


def write_record(path: StorePath, content: Mapping[str, Any]) -> None:
    """Write a record; errors are those of `StorePath.write_bytes`."""
    path.write_bytes(record_bytes(content))


def read_content(path: StorePath) -> dict[str, Any]:
    """Return the content of a record.

    Raises:
        DamagedError: It is missing, or not what was written.
        StoreError: It cannot be reached.
    """

    def parse(content: bytes) -> dict[str, Any]:
        values = json.loads(content)
        if not isinstance(values, dict) or values.pop("sha256", "") != _hash(values) or values != _printable(values):
            raise ValueError("its content is not what was written")
        return values

    return parsed(path, parse)


def read_record(path: StorePath, kind: type[R], **place: Any) -> R:
    """Return a record of a kind.

    Args:
        path: Of its file.
        kind: Of the record.
        place: What the place of the file says: fields of the record, which have these values.

    Raises:
        DamagedError: It is missing, not what was written, or another one.
        StoreError: It cannot be reached, or is of another version of rspipe.
    """
    content = read_content(path)
    try:
        record: R = _adapter(kind).validate_python(content)
    except ValidationError as error:
        raise other_version_error(path, reason(error)) from error
    for name, value in place.items():
        if getattr(record, name) != value:
            raise damaged_error(path, ValueError(f"it is that of {name} {getattr(record, name)!r}"))
    return record


def _adapter(kind: type[R]) -> TypeAdapter[R]:
    """Return the adapter of a kind of record, which takes milliseconds to make."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


_adapters: dict[type[Record], TypeAdapter[Any]] = {}


def _printable(content: Any) -> Any:
    """Return JSON-like content with its texts as they may be shown in a terminal."""
    if isinstance(content, dict):
        return {printable(key): _printable(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_printable(value) for value in content]
    return printable(content) if isinstance(content, str) else content


def if_there(read: Callable[[], T]) -> T | None:
    """Return what is read from a file, or None where there is no such file."""
    try:
        return read()
    except DamagedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def write_sealed(path: StorePath, content: bytes | memoryview, *, place: str) -> None:
    """Write a file that belongs to a place; errors are those of `StorePath.write_bytes`."""
    path.write_bytes(b"".join((content, _seal(content, place))))


def read_sealed(path: StorePath, parse: Callable[[bytes], T], *, place: str) -> T:
    """Return what a function makes of the content of a sealed file.

    Raises:
        DamagedError: It is missing, not what was written, or that of another place.
        StoreError: It cannot be reached.
    """

    def unsealed(content: bytes) -> T:
        if content[-_SEAL_LENGTH:] != _seal(memoryview(content)[:-_SEAL_LENGTH], place):
            raise ValueError("its content is not what was written here")
        return parse(content[:-_SEAL_LENGTH])

    return parsed(path, unsealed)


def _seal(content: bytes | memoryview, place: str) -> bytes:
    digest = hashlib.sha256(place.encode() + b"\0")
    digest.update(content)
    return _SEAL + digest.hexdigest().encode() + b"\n"


def parsed(path: StorePath, parse: Callable[[bytes], T]) -> T:
    """Return what a function makes of the content of a file; errors are those of `read_content`, or its StoreError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise damaged_error(path, error) from error
    try:
        return parse(content)
    except Exception as error:  # A damaged file can raise anything in a parser: RecursionError, AttributeError, ...
        if isinstance(error, StoreError) or out_of_memory(error):
            raise
        raise damaged_error(path, error) from error


def damaged_error(path: StorePath, error: Exception) -> DamagedError:
    """Return the error of a file whose content cannot be used."""
    # From its second line on, torch advises users to execute the content of the file.
    why = printable(first_line(error))[:120]
    return DamagedError(f"{path}: damaged or missing ({why}){_REMEDY}")


def other_version_error(path: StorePath, why: str) -> StoreError:
    """Return the error of a file whose content is what was written, but is not known to this version of rspipe."""
    return StoreError(f"{path}: written by another version of rspipe ({why}); start a new run")


def damage(error: DamagedError) -> str:
    """Return which file is damaged and how, for whoever recreates it."""
    return str(error).removesuffix(_REMEDY)


def torch_bytes(content: Any) -> memoryview:
    """Return the file of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def torch_content(content: bytes) -> Any:
    """Return what `torch_bytes` was given, tensors on the CPU; whatever else it is, it raises anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_parameters(path: StorePath, *, expected: str) -> dict[str, torch.Tensor]:
    """Return parameters on the CPU.

    Args:
        path: Of a file of `torch_bytes`.
        expected: Their checksum.

    Raises:
        DamagedError: They are missing, or others.
        StoreError: They cannot be reached.
    """

    def parse(content: bytes) -> dict[str, torch.Tensor]:
        parameters: dict[str, torch.Tensor] = torch_content(content)
        if checksum(parameters) != expected:
            raise ValueError("these are not the parameters that model.json describes")
        return parameters

    return parsed(path, parse)


def checksum(parameters: dict[str, torch.Tensor]) -> str:
    """Return sixteen hex digits that identify parameters (SHA-256 of names, types, shapes and bytes)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

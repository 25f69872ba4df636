"""Where a run directory lies: in a folder, or below an address of an object store that pyarrow speaks to.

A `Place` is either a `Path` or an `ObjectPath`, which has as much of pathlib's interface as rspipe uses. Credentials
come from the environment of each process, as the store's own tools find them, and are in no place's text or pickle.
"""

import io
import platform
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from rspipe.errors import StoreError

# A write of theirs is all or nothing, and what was written is seen by all at once. What is asked of pyarrow: one
# request for a small object; an end of trying after half a minute instead of fifteen.
_STORES = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=30"}

_OPTIONS = ("region", "scheme", "endpoint_override")

_FETCHED_AT_ONCE = 16

_LONGEST = 240


@cache
def _filesystem(scheme: str, bucket: str, query: str) -> Any:
    options = "&".join(filter(None, (query, _STORES[scheme])))
    found, _ = fs.FileSystem.from_uri(f"{scheme}://{bucket}?{options}")
    return found


@dataclass(frozen=True)
class ObjectPath:
    """A name in an object store. What cannot be done there is a StoreError; what is missing a FileNotFoundError."""

    scheme: str
    path: str
    """Bucket and key."""
    query: str = ""
    """Options of the connection, e.g. "endpoint_override=minio.local:9000&scheme=http"."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}" + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> "ObjectPath":
        return replace(self, path=f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """Return the path with another ending."""
        return replace(self, path=self.path.removesuffix(Path(self.name).suffix) + suffix)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Yield the file system; what it refuses becomes one line."""
        try:
            yield _filesystem(self.scheme, self.path.partition("/")[0], self.query)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> StoreError:
        reason = " ".join(str(error).split())
        reason = reason[max(reason.find("AWS Error "), 0) :].partition(" (Request ID")[0].rstrip(".")
        return StoreError(
            f"{self}: {reason[:_LONGEST]} (on {platform.node()}); check the bucket, the network, and credentials "
            "in the environment of every node, then resume"
        )

    def is_file(self) -> bool:
        """Return whether there is something under this name."""
        with self._connected() as connected:
            return bool(connected.get_file_info(self.path).is_file)

    def read_bytes(self) -> bytes:
        """Return the content."""
        with self._connected() as connected, connected.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def write_bytes(self, content: bytes) -> None:
        """Write the content: readers see all or nothing."""
        try:
            with self._connected() as connected, connected.open_output_stream(self.path) as stream:
                stream.write(content)
        except FileNotFoundError as error:
            # Google's way to say that there is no such bucket.
            raise self._refused(error) from error

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete what is under this name."""
        with self._connected() as connected:
            try:
                connected.delete_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def rename(self, target: "ObjectPath") -> None:
        """Move what is under this name to another."""
        with self._connected() as connected:
            connected.move(self.path, target.path)

    def times(self) -> dict[str, datetime]:
        """Return the names directly below this one, and when the store says they were written."""
        with self._connected() as connected:
            found = connected.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return {one.base_name: one.mtime for one in found if one.is_file}

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yield what lies directly below this name and matches a pattern."""
        return (self / name for name in sorted(self.times()) if fnmatchcase(name, pattern))


Place: TypeAlias = Path | ObjectPath


def place(text: str) -> Place:
    """Return where a path or an address leads; a path is taken from the working directory.

    Raises:
        StoreError: The address is of no known kind, names no bucket, or holds credentials.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text).expanduser().absolute()
    if scheme == "file":
        return Path(unquote(urlsplit(text).path))
    if scheme not in _STORES:
        raise StoreError(
            f"{scheme}:// is no storage that rspipe knows; give a folder, or an address that begins with "
            + " or ".join(f"{known}://" for known in _STORES)
        )
    path, _, query = rest.partition("?")
    # The text itself would go into the message, the log and the records.
    if "@" in rest or any(name not in _OPTIONS for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise StoreError(
            f"an address of {scheme}:// may have no user, no password and no options but {', '.join(_OPTIONS)}; "
            "credentials belong in the environment of every node, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    parts = [part for part in path.split("/") if part]
    if not parts or {".", ".."} & {*parts}:
        raise StoreError(f"{text}: give a bucket and a name in it, e.g. {scheme}://my-bucket/runs/digits")
    return ObjectPath(scheme, "/".join(parts), query)


def local_part(run_dir: Place) -> Path:
    """Return the folder of this machine for what no object store can hold, such as logs that grow.

    It is the run directory itself where that is a folder, else ~/rspipe-runs/<bucket>/<name>.
    """
    return run_dir if isinstance(run_dir, Path) else Path.home() / "rspipe-runs" / run_dir.path


@contextmanager
def local_copy(path: Place) -> Iterator[Path]:
    """Yield a file of this machine with the content of a file, and its name."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def set_aside(path: Place) -> None:
    """Give a damaged file another ending, so that it no longer counts."""
    if isinstance(path, Path):
        path.rename(path.with_suffix(".damaged"))
    else:
        path.rename(path.with_suffix(".damaged"))


def opened(path: Place) -> BinaryIO:
    """Return a file, open for reading."""
    return path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def fetched(paths: Sequence[Place]) -> Iterator[tuple[Place, Any]]:
    """Yield each path with what pyarrow reads it from; objects are fetched side by side."""

    def buffer(path: Place) -> pa.BufferReader:
        return pa.BufferReader(path.read_bytes())

    if all(isinstance(path, Path) for path in paths):
        yield from zip(paths, paths, strict=True)
        return
    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
        yield from zip(paths, pool.map(buffer, paths), strict=True)

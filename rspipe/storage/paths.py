"""Paths of a run directory: in a folder, or below an address of an object store that pyarrow speaks to."""

import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from rspipe.errors import StoreError, printable

# Writes to these are all or nothing, and readers see them at once. The options: one request for a small object;
# retries that end after half a minute instead of fifteen.
_OBJECT_STORES = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=30"}

_OPTIONS = ("region", "scheme", "endpoint_override")

_LONGEST_REASON = 240

_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}")
"""Names of local files that are being written."""


@cache
def _filesystem(scheme: str, bucket: str, query: str) -> Any:
    if scheme == "file":
        return fs.LocalFileSystem()
    options = "&".join(filter(None, (query, _OBJECT_STORES[scheme])))
    filesystem, _ = fs.FileSystem.from_uri(f"{scheme}://{bucket}?{options}")
    return filesystem


@dataclass(frozen=True)
class StorePath:
    """A file or folder below a run directory, on this machine's file systems or in an object store.

    Cheap and picklable: each process connects by itself, with the credentials that the store's own tools find in its
    environment; they are in no path's text. Methods raise FileNotFoundError for what is not there, and StoreError, in
    one line, for whatever else the file system or the store refuses.
    """

    scheme: str
    path: str
    """Absolute path of a local file; bucket and key of an object."""
    query: str = ""
    """Options of the connection, e.g. "endpoint_override=minio.local:9000&scheme=http"."""

    @classmethod
    def of(cls, where: "str | Path | StorePath") -> "StorePath":
        """Return a path from its text, a local path or an address; a relative one starts at the working directory.

        Raises:
            StoreError: The address is of no known kind, names no bucket, or holds credentials.
        """
        if isinstance(where, StorePath):
            return where
        text = str(where)
        scheme, mark, rest = text.partition("://")
        if not mark:
            if match := _ONE_SLASH.match(text):
                raise StoreError(f"{match[1]}:/ is no folder; an address begins with {match[1]}://")
            try:
                return cls("file", str(Path(text).expanduser().absolute()))
            except RuntimeError as error:
                raise StoreError(f"{text}: nobody of this name has a home here") from error
        if scheme == "file":
            return cls("file", str(Path(unquote(urlsplit(text).path)).absolute()))
        if scheme not in _OBJECT_STORES:
            raise StoreError(
                f"{scheme}:// is no storage that rspipe knows; give a folder, or an address that begins with "
                + " or ".join(f"{known}://" for known in _OBJECT_STORES)
            )
        path, _, query = rest.partition("?")
        options = parse_qsl(query, keep_blank_values=True)
        # The text itself would go into the message, the log and the records; whatever is escaped in it is read there.
        if "@" in unquote(unquote(rest)) or any(name not in _OPTIONS for name, _ in options):
            raise StoreError(
                f"an address of {scheme}:// may have no user, no password and no options but {', '.join(_OPTIONS)}; "
                "credentials belong in the environment of every node, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        names = [name for name in path.split("/") if name]
        if not names or {".", ".."} & {*names}:
            raise StoreError(f"{text}: give a bucket and a name in it, e.g. {scheme}://my-bucket/runs/digits")
        return cls(scheme, "/".join(names), query)

    def __str__(self) -> str:
        if self.is_local:
            return self.path
        return f"{self.scheme}://{self.path}" + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> "StorePath":
        # Names may come from a stranger's records.
        if not all(part.strip(".") and printable(part) == part for part in name.split("/")):
            raise StoreError(f"{self}: {printable(name)!r} is no name of a file in it")
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """Whether it lies on a file system of this machine rather than in an object store."""
        return self.scheme == "file"

    @property
    def local_part(self) -> Path:
        """The folder of this machine for what no object store can hold, such as logs that grow.

        It is the path itself where that is local, else ~/rspipe-runs/<bucket>/<name>.
        """
        return Path(self.path) if self.is_local else Path.home() / "rspipe-runs" / self.path

    @contextmanager
    def _connected(self, action: str = "read") -> Iterator[Any]:
        """Yield the file system, and turn its refusals into StoreError."""
        try:
            yield _filesystem(self.scheme, "" if self.is_local else self.path.partition("/")[0], self.query)
        except FileNotFoundError:
            raise
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self._refused(error, action) from error

    def _refused(self, error: Exception, action: str) -> StoreError:
        if self.is_local:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            return StoreError(
                f"{self}: could not be {action}: {reason} (on {platform.node()}); free space or fix permissions, then "
                "resume"
            )
        reason = " ".join(str(error).split())
        reason = reason[max(reason.find("AWS Error "), 0) :].partition(" (Request ID")[0].rstrip(".")
        return StoreError(
            f"{self}: could not be {action}: {reason[:_LONGEST_REASON]} (on {platform.node()}); check the bucket, "
            "the network, and credentials in the environment of every node, then resume"
        )

    def is_file(self) -> bool:
        """Return whether there is a file of this name."""
        with self._connected() as filesystem:
            return bool(filesystem.get_file_info(self.path).is_file)

    def read_bytes(self) -> bytes:
        """Return the content."""
        with self._connected() as filesystem, filesystem.open_input_stream(self.path) as stream:
            content: bytes = stream.read()
        return content

    def read_text(self) -> str:
        """Return the content as UTF-8 text."""
        return self.read_bytes().decode("utf-8")

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Write the content atomically: readers see all of it or what was there before. Folders are made.

        Raises:
            StoreError: It could not be written, e.g. because the disk is full; what was there before is still there.
        """
        try:
            with self._connected("written") as filesystem:
                if self.is_local:
                    self._replace(content)
                else:
                    with filesystem.open_output_stream(self.path) as stream:
                        stream.write(content)
        except FileNotFoundError as error:
            # Google's way to say that there is no such bucket.
            raise self._refused(error, "written") from error

    def _replace(self, content: bytes | memoryview) -> None:
        # Not by pyarrow, which has no fsync: a rename may reach the disk before the content does.
        path = Path(self.path)
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def forget_half_written(self) -> None:
        """Delete what killed processes had begun to write in this folder and below; nothing else may write there."""
        # Object stores have no such files.
        if self.is_local:
            with self._connected("deleted"):
                for folder, _, names in os.walk(self.path):
                    for name in filter(_TEMPORARY.fullmatch, names):
                        (Path(folder) / name).unlink(missing_ok=True)

    def write_text(self, text: str) -> None:
        """Write text atomically, as UTF-8; errors are those of `write_bytes`."""
        self.write_bytes(text.encode("utf-8"))

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the file."""
        with self._connected("deleted") as filesystem:
            try:
                filesystem.delete_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def set_aside(self) -> "StorePath":
        """Append `.damaged` to a file's name, so that it no longer counts; return its path, which no other file had."""
        number, aside = 1, replace(self, path=f"{self.path}.damaged")
        while aside.is_file():
            number += 1
            aside = replace(self, path=f"{self.path}.damaged-{number}")
        with self._connected("renamed") as filesystem:
            filesystem.move(self.path, aside.path)
        return aside

    def modified(self) -> dict[str, datetime]:
        """Return the names of the files directly below this folder, with the times at which they were written."""
        with self._connected() as filesystem:
            entries = filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return {entry.base_name: entry.mtime for entry in entries if entry.is_file}

    def folders(self) -> list["StorePath"]:
        """Return the folders directly below this one, by name."""
        with self._connected() as filesystem:
            entries = filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return [self / name for name in sorted(entry.base_name for entry in entries if not entry.is_file)]

    def glob(self, pattern: str) -> list["StorePath"]:
        """Return the files directly below this folder whose names match a pattern, by name."""
        return [self / name for name in sorted(self.modified()) if fnmatchcase(name, pattern)]

    @contextmanager
    def as_local_file(self) -> Iterator[Path]:
        """Yield a file of this machine that has this one's content and name; it may be this one itself."""
        if self.is_local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / self.name
            copy.write_bytes(self.read_bytes())
            yield copy

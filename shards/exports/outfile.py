"""One file of an export: written under a working name, made durable, read back by its format, then given its name.

Unlike a dataset's files these may be written twice under one name: a run that was cut off between naming a file and
noting it in the journal makes the same bytes again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import xxhash

from headrace.schemas.errors import StorageError
from headrace.shards.exports.contract import FileLine
from headrace.shards.exports.totals import Totals
from headrace.shards.store_local import storage_error

_CHUNK = 4 << 20


class OutFile:
    """A file being written. `publish` reads it back and gives it its name; leaving a `with` block early removes it."""

    def __init__(self, folder: Path, path: str, working: Path) -> None:
        """`path` is relative to the export's `folder`; `working` is where it lies until it is complete."""
        self.path, self._final, self._working = path, folder / path, working
        self._hash = xxhash.xxh3_128()
        self.bytes = 0
        try:
            working.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(working, "wb", buffering=1 << 20)  # noqa: SIM115
        except OSError as exc:
            raise storage_error("write", str(working), exc) from exc

    def write(self, data: Any) -> int:
        """Append bytes. Raises: StorageError."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        try:
            self._file.write(view)
        except OSError as exc:
            raise storage_error("write", str(self._working), exc) from exc
        self.bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.bytes

    @property
    def closed(self) -> bool:
        return self._file.closed

    def flush(self) -> None:
        """What was written becomes visible to readers. Raises: StorageError."""
        try:
            self._file.flush()
        except OSError as exc:
            raise storage_error("write", str(self._working), exc) from exc

    def seek(self, offset: int, whence: int = 0) -> int:
        """Only asked where the file stands: what is written is never gone back to."""
        if whence == 1 and offset == 0:
            return self.bytes
        raise OSError("an export is written from front to back")

    def publish(
        self, read_back: Callable[[Path], Totals] | None = None, expected: Totals | None = None, **detail: Any
    ) -> FileLine:
        """Make it durable, compare what is on disk with what was written, and give it its name.

        Raises: StorageError, also if the file reads back differently.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as exc:
            raise storage_error("write", str(self._working), exc) from exc
        digest, sha256 = digests(self._working)
        if digest != self._hash.hexdigest():
            raise StorageError(f"{self._working}: what was read back is not what was written: the disk lost bytes")
        totals = Totals()
        if read_back is not None:
            totals = compared(self.path, read_back(self._working), expected)
        give_name(self._working, self._final)
        return FileLine(self.path, self.bytes, sha256, totals.samples, totals.tokens, totals.sum, detail)

    def abort(self) -> None:
        """Forget it. Harmless after `publish`."""
        if not self._file.closed:
            with suppress(OSError):  # a full disk may refuse the last buffer
                self._file.close()
            with suppress(OSError):
                self._working.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def compared(path: str, found: Totals, expected: Totals | None) -> Totals:
    """`found`. Raises: StorageError if it is not what was expected: a bug of ours must not reach a trainer."""
    if expected is not None and found != expected:
        raise StorageError(
            f"{path} reads back as {found.samples} samples, {found.tokens} tokens, sum {found.sum};"
            f" the dataset has {expected.samples}, {expected.tokens}, sum {expected.sum}"
        )
    return found


def digests(path: Path) -> tuple[str, str]:
    """(XXH3-128, sha256) of a file, hex. Raises: StorageError."""
    fast, slow = xxhash.xxh3_128(), hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as f:
            while data := f.read(_CHUNK):
                fast.update(data)
                slow.update(data)
    except OSError as exc:
        raise storage_error("read", str(path), exc) from exc
    return fast.hexdigest(), slow.hexdigest()


def give_name(working: Path, final: Path) -> None:
    """Rename, durably. Raises: StorageError."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(working, final)
        sync_folder(final.parent)
    except OSError as exc:
        raise storage_error("write", str(final), exc) from exc


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(folder: Path, path: str, working: Path, data: bytes) -> FileLine:
    """A small file, whole. Raises: StorageError."""
    with OutFile(folder, path, working) as out:
        out.write(data)
        return out.publish()

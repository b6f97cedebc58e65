"""The blobs that the files connector hands out: whole files, ranges of files, and what was decompressed.

A blob may be opened again and from several threads at once; each opening has a place of its own. What was decompressed
lies in memory up to 64 MiB, else in a temporary file that goes when its blob goes.
"""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from collections.abc import Callable
from typing import Any, BinaryIO

from headrace.connectors.byte_source import ByteSource
from headrace.connectors.contract import Blob, BytesBlob
from headrace.schemas.errors import RecordError

MEMORY_BYTES = 64 << 20


class FileBlob(Blob):
    """A file of a store. Every opening compares it with the pin."""

    def __init__(self, id: str, size: int, open_: Callable[[], BinaryIO], path: str | None) -> None:
        self.id = id
        self._size = size
        self._open = open_
        self._path = path

    def open(self) -> BinaryIO:
        return self._open()

    @property
    def size(self) -> int:
        return self._size

    def local_path(self) -> str | None:
        return self._path


class SliceBlob(Blob):
    """The bytes [offset, offset + size) of another blob: a member of an archive that was stored as it is."""

    def __init__(self, id: str, whole: Blob, offset: int, size: int) -> None:
        self.id = id
        self._whole = whole
        self._offset = offset
        self._size = size

    def open(self) -> BinaryIO:
        window: Any = _Window(self._whole.open(), self._offset, self._size)
        return io.BufferedReader(window, 1 << 16)  # type: ignore[return-value]

    @property
    def size(self) -> int:
        return self._size


class _Window(io.RawIOBase):
    """A range of a seekable stream as a stream of its own; closing it closes the stream."""

    def __init__(self, stream: BinaryIO, offset: int, size: int) -> None:
        self._stream = stream
        self._offset = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = max(0, min(len(view), self._size - self._at))
        if not size:
            return 0
        self._stream.seek(self._offset + self._at)
        data = self._stream.read(size)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class TempBlob(Blob):
    """A temporary file that is removed when the blob is collected or the process ends."""

    def __init__(self, id: str, path: str, size: int) -> None:
        self.id = id
        self._path = path
        self._size = size
        self._remove = weakref.finalize(self, _unlink, path)

    def open(self) -> BinaryIO:
        return open(self._path, "rb")

    @property
    def size(self) -> int:
        return self._size

    def local_path(self) -> str | None:
        return self._path


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # the worker's temporary folder may have been cleaned before


def spool(source: ByteSource, id: str, max_bytes: int) -> tuple[Blob, RecordError | None]:
    """The rest of a source as a blob, and the damage that ended it. Raises: RecordError `too_large`."""
    pieces: list[bytes] = []
    size = 0
    for chunk in source.chunks():
        pieces.append(chunk)
        size += len(chunk)
        if size > MEMORY_BYTES:
            return _to_file(source, id, pieces, max_bytes), source.damage
    return BytesBlob(id, b"".join(pieces)), source.damage


def _to_file(source: ByteSource, id: str, pieces: list[bytes], max_bytes: int) -> Blob:
    descriptor, path = tempfile.mkstemp(prefix="headrace-")
    size = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in pieces:
                size += file.write(chunk)
            pieces.clear()
            for chunk in source.chunks():
                size += file.write(chunk)
                if size > max_bytes:
                    raise RecordError("too_large", f"{id} expands to more than {max_bytes} bytes")
    except BaseException:
        _unlink(path)
        raise
    return TempBlob(id, path, size)

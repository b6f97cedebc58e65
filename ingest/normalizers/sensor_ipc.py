"""Arrow IPC, file and stream, as chunks: message by message, with the sizes of compressed bodies looked up beforehand.

The file format is the stream format between two magic words, so both are read as streams: a file that lost its footer
still gives the batches it has, and is then reported as truncated. Every batch is validated in full before it is used,
because offsets in a hostile file may point anywhere.

A compressed buffer begins with its uncompressed size. Arrow believes it; here the sizes of a message are summed from
its metadata first. Layout of what is read from the flatbuffer (apache/arrow format/Message.fbs):

    Message        0 version, 1 header type, 2 header, 3 body length
    RecordBatch    0 length, 1 nodes, 2 buffers: vector of struct {i64 offset, i64 length}, 3 compression
    DictionaryBatch 0 id, 1 data: RecordBatch
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.sensor_parquet import FLOOR, arrow_errors
from headrace.ingest.normalizers.sensor_table import Chunk
from headrace.schemas.errors import RecordError

MAGIC = b"ARROW1"
_DICTIONARY, _BATCH = 2, 3  # MessageHeader of Message.fbs


class IpcTable:
    """The chunks of one Arrow IPC file or stream."""

    def __init__(self, blob: Blob, limits: Limits, *, file: bool) -> None:
        self._blob = blob
        self._limits = limits
        self._file = file
        self.flags: tuple[str, ...] = ()
        self._check_bodies()
        with arrow_errors("the Arrow schema"):
            self._reader = pa.ipc.open_stream(self._open())
            self.schema = self._reader.schema
        if len(set(self.schema.names)) != len(self.schema.names):
            raise RecordError("corrupt", f"two columns bear one name: {sorted(self.schema.names)[:20]}")

    def _open(self) -> pa.NativeFile:
        stream = self._blob.open()
        if self._file:
            if stream.read(6) != MAGIC:
                raise RecordError("corrupt", "an Arrow file begins with ARROW1")
            stream.read(2)
        return pa.PythonFile(stream, mode="r")

    def chunks(self) -> Iterator[Chunk]:
        """All rows. Raises: RecordError."""
        row = 0
        iterator: Any = iter(self._reader)
        while True:
            with arrow_errors(f"the Arrow batch after row {row}"):
                batch = next(iterator, None)
                if batch is None:
                    break
                batch.validate(full=True)
            yield Chunk(batch, np.arange(row, row + batch.num_rows, dtype=np.int64), raw=_place(row))
            row += batch.num_rows
        if self._file:
            with self._blob.open() as stream:
                stream.seek(max(0, self._blob.size - 6))
                if stream.read(6) != MAGIC:
                    raise RecordError("truncated", f"the Arrow file ends after row {row} without its footer")

    def _check_bodies(self) -> None:
        """Raises: RecordError `bomb` if a compressed body declares more than the limits allow."""
        total = 0
        reader = pa.ipc.MessageReader.open_stream(self._open())
        while True:
            try:
                message = reader.read_next_message()
            except (StopIteration, EOFError):
                return
            except (pa.ArrowException, OSError, ValueError, MemoryError):
                return  # the reading proper meets it too, and says what came before
            if message is None:
                return
            try:
                size = _declared(message.metadata.to_pybytes(), message.body)
            except (struct.error, IndexError):
                return
            total += size
            allowed = max(FLOOR, self._limits.max_ratio * self._blob.size)
            if size > self._limits.max_bytes or total > allowed:
                raise RecordError(
                    "bomb", f"compressed Arrow bodies declare {total} bytes in a file of {self._blob.size}"
                )


def _place(row: int) -> Any:
    return lambda i: ({"row": row + i}, None)


def _declared(metadata: bytes, body: pa.Buffer | None) -> int:
    """Bytes that the compressed buffers of a message say they expand to; 0 for other messages."""
    root = _u32(metadata, 0)
    kind_at = _field(metadata, root, 1)
    header_at = _field(metadata, root, 2)
    if not kind_at or not header_at or body is None:
        return 0
    kind = metadata[kind_at]
    batch = header_at + _u32(metadata, header_at)
    if kind == _DICTIONARY:
        inner = _field(metadata, batch, 1)
        if not inner:
            return 0
        batch = inner + _u32(metadata, inner)
    elif kind != _BATCH:
        return 0
    buffers_at = _field(metadata, batch, 2)
    if not _field(metadata, batch, 3) or not buffers_at:
        return 0
    vector = buffers_at + _u32(metadata, buffers_at)
    total = 0
    for i in range(_u32(metadata, vector)):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * i)
        if length >= 8 and 0 <= offset <= body.size - 8:
            (size,) = struct.unpack("<q", body.slice(offset, 8).to_pybytes())
            total += max(0, size)  # -1: this buffer is not compressed
    return total


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, index: int) -> int:
    """Where a field of a flatbuffer table lies, 0 if it is absent."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * index + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * index)
    return table + offset if offset else 0

"""Arrow IPC, file and stream, as chunks, with the sizes of every message looked up before Arrow reads it.

A file is read by its footer; one that lost its footer is read as the stream that it is between its magic words, gives
the batches it has, and is reported as truncated. Every batch is validated in full before it is used, because offsets in
a hostile file may point anywhere.

Arrow believes the lengths in a message, and the uncompressed size before each compressed buffer; here they are
compared with the file and the limits first. What is read of the flatbuffers (apache/arrow format/Message.fbs,
File.fbs), by field:

    Message         0 version, 1 header type, 2 header, 3 body length
    RecordBatch     0 length, 1 nodes, 2 buffers: vector of struct {i64 offset, i64 length}, 3 compression
    DictionaryBatch 0 id, 1 data: RecordBatch
    Footer          0 version, 1 schema, 2 dictionaries, 3 record batches: vectors of struct {i64 offset, i32 metadata
                    length, 4 bytes of padding, i64 body length}
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.sensor_columns import check_names, distinct
from headrace.ingest.normalizers.sensor_parquet import FLOOR, arrow_errors
from headrace.ingest.normalizers.sensor_table import Chunk
from headrace.schemas.errors import RecordError

MAGIC = b"ARROW1"
_DICTIONARY, _BATCH = 2, 3  # MessageHeader of Message.fbs


class IpcTable:
    """The chunks of one Arrow IPC file or stream."""

    def __init__(self, blob: Blob, limits: Limits, *, file: bool) -> None:
        self.flags: tuple[str, ...] = ()
        self.units: dict[str, str] = {}
        self.position: tuple[str, str] | None = None
        self._size = blob.size
        self.max_text = max(FLOOR, limits.max_ratio * blob.size)
        self._limits = limits
        self._stream = blob.open()
        self._whole = True
        try:
            with arrow_errors("the Arrow schema"):
                self._batches = self._file_batches() if file else self._stream_batches(0)
                self.schema = next(self._batches)
                check_names(self.schema)
        except RecordError:
            self._stream.close()
            raise

    def __enter__(self) -> IpcTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def chunks(self) -> Iterator[Chunk]:
        """All rows. Raises: RecordError."""
        row = 0
        names = distinct(self.schema.names)
        while True:
            with arrow_errors(f"the Arrow batch after row {row}"):
                batch = next(self._batches, None)
                if batch is None:
                    break
                batch.validate(full=True)
                fields = [f.with_name(name) for f, name in zip(batch.schema, names)]
                batch = pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(fields))
            yield Chunk(batch, np.arange(row, row + batch.num_rows, dtype=np.int64), raw=_place(row))
            row += batch.num_rows
        if not self._whole:
            raise RecordError("truncated", f"the Arrow file ends after row {row} without its footer")

    def _file_batches(self) -> Iterator[Any]:
        """The schema, then every batch."""
        self._stream.seek(max(0, self._size - 10))
        tail = self._stream.read(10)
        if len(tail) < 10 or tail[4:] != MAGIC:
            self._whole = False
            yield from self._stream_batches(8)
            return
        blocks = self._footer_blocks(int.from_bytes(tail[:4], "little", signed=True))
        total = 0
        for offset, metadata_length, body_length in blocks:
            total = self._checked(_declared(self._stream, self._size, offset, metadata_length, body_length), total)
        self._stream.seek(0)
        reader = pa.ipc.open_file(pa.PythonFile(self._stream, mode="r"))
        yield reader.schema
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)

    def _footer_blocks(self, length: int) -> list[tuple[int, int, int]]:
        if not 0 < length <= self._size - 10:
            raise RecordError("corrupt", f"an Arrow footer of {length} bytes in a file of {self._size}")
        self._stream.seek(self._size - 10 - length)
        footer = self._stream.read(length)
        blocks: list[tuple[int, int, int]] = []
        try:
            root = _u32(footer, 0)
            for field in (2, 3):
                at = _field(footer, root, field)
                if at:
                    vector = at + _u32(footer, at)
                    for i in range(_u32(footer, vector)):
                        blocks.append(struct.unpack_from("<qi4xq", footer, vector + 4 + 24 * i))
        except struct.error as exc:
            raise RecordError("corrupt", f"the Arrow footer points outside itself: {exc}") from exc
        return blocks

    def _stream_batches(self, start: int) -> Iterator[Any]:
        """The schema, then every batch; messages are walked beforehand, up to the first that does not fit the file."""
        at, total = start, 0
        while True:
            self._stream.seek(at)
            head = self._stream.read(8)
            prefix = 8 if head[:4] == b"\xff\xff\xff\xff" else 4
            length = int.from_bytes(head[prefix - 4 : prefix], "little", signed=True)
            if len(head) < prefix or length == 0:
                break
            if not 0 < length <= self._size - at - prefix:
                if at == start:
                    raise RecordError("truncated", f"the Arrow schema declares {length} bytes in {self._size - at}")
                break  # Arrow stops here, too, and says what is wrong
            self._stream.seek(at + prefix)
            metadata = self._stream.read(length)
            try:
                root = _u32(metadata, 0)
                body_at = _field(metadata, root, 3)
                (body,) = struct.unpack_from("<q", metadata, body_at) if body_at else (0,)
                if not 0 <= body <= self._size:
                    break
                total = self._checked(_declared(self._stream, self._size, at, prefix + length, body), total)
            except struct.error:
                break
            at += prefix + length + body
        self._stream.seek(start)
        reader: Any = pa.ipc.open_stream(pa.PythonFile(self._stream, mode="r"))
        yield reader.schema
        yield from reader

    def _checked(self, declared: int, total: int) -> int:
        allowed = max(FLOOR, self._limits.max_ratio * self._size)
        if declared > self._limits.max_bytes or total + declared > allowed:
            raise RecordError(
                "bomb", f"compressed Arrow bodies declare {total + declared} bytes in a file of {self._size}"
            )
        return total + declared


def _place(row: int) -> Any:
    return lambda i: ({"row": row + i}, None)


def _declared(stream: BinaryIO, size: int, offset: int, metadata_length: int, body_length: int) -> int:
    """Bytes that the compressed buffers of a message say they expand to; 0 for other messages.

    Raises: RecordError if the message does not lie in the file; struct.error if its metadata point outside themselves.
    """
    if offset < 0 or metadata_length < 8 or body_length < 0 or offset + metadata_length + body_length > size:
        raise RecordError(
            "corrupt", f"an Arrow message at {offset} of {metadata_length} + {body_length} bytes in a file of {size}"
        )
    stream.seek(offset)
    message = stream.read(metadata_length)
    metadata = message[8:] if message[:4] == b"\xff\xff\xff\xff" else message[4:]
    root = _u32(metadata, 0)
    kind_at, header_at = _field(metadata, root, 1), _field(metadata, root, 2)
    if not kind_at or not header_at:
        return 0
    kind = struct.unpack_from("<B", metadata, kind_at)[0]
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
        start, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * i)
        if length >= 8 and 0 <= start <= body_length - 8:
            stream.seek(offset + metadata_length + start)
            total += max(0, int.from_bytes(stream.read(8), "little", signed=True))  # -1: this one is not compressed
    return total


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, index: int) -> int:
    """Where a field of a flatbuffer table lies, 0 if it is absent. Raises: struct.error."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise struct.error("a flatbuffer table before its start")
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * index + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * index)
    return table + offset if offset else 0

"""The layout of an Arrow IPC file with every buffer on a 64-byte border (the Arrow format, "File Format" and "IPC").

    ARROW1\\0\\0 [schema message]                        head, padded to 64
    [FFFFFFFF][i32 n][metadata, n bytes][body]         a block: metadata padded so that the body begins on a 64-byte
    …                                                  border, every buffer of the body padded to 64
    [FFFFFFFF][00000000] [footer][i32 size] ARROW1     tail

pyarrow writes buffers on 8-byte borders and does not let one choose; mapped tokens should start where vector loads and
GPU copies like them. So the messages are made here: pyarrow writes one for a single null row, and the numbers in it
(row count, node and buffer tables, body length) are replaced. The result is an ordinary Arrow file for every reader.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from headrace.shards.plain_arrays import Flat, flatten

_MARK = b"\xff\xff\xff\xff"
_MAGIC = b"ARROW1"
ALIGNMENT = 64

# Field numbers in the tables of Message.fbs and File.fbs.
_MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 2, 3
_BATCH_LENGTH, _BATCH_NODES, _BATCH_BUFFERS = 0, 1, 2
_FOOTER_BATCHES = 3


def head(schema: pa.Schema) -> bytes:
    """Magic and schema message, a multiple of 64 bytes long."""
    return _MAGIC + b"\0\0" + _framed(_metadata(schema.serialize().to_pybytes()), 8)


def read_schema(data: bytes) -> pa.Schema:
    """The schema of a file's head. Raises: pa.ArrowException, ValueError if it is none."""
    if not data.startswith(_MAGIC):
        raise ValueError("the file does not begin with ARROW1")
    return pa.ipc.read_schema(pa.py_buffer(data[8:]))


def tail(schema: pa.Schema, blocks: Sequence[tuple[int, int, int]]) -> bytes:
    """End mark and footer; a block is (offset, bytes of metadata with its frame, bytes of body)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        row = _null_row(schema)
        for _ in blocks:
            writer.write_batch(row)
    data = sink.getvalue().to_pybytes()
    size = struct.unpack_from("<i", data, len(data) - 10)[0]
    footer = bytearray(data[len(data) - 10 - size : len(data) - 10])
    at, n = _vector(footer, _root(footer), _FOOTER_BATCHES)
    if n != len(blocks):
        raise ValueError(f"the footer lists {n} blocks, {len(blocks)} were written")
    for i, (offset, metadata, body) in enumerate(blocks):
        struct.pack_into("<qixxxxq", footer, at + 24 * i, offset, metadata, body)
    return _MARK + b"\0\0\0\0" + bytes(footer) + struct.pack("<i", size) + _MAGIC


class BlockEncoder:
    """Makes record batch messages of one schema."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._template = bytes(_metadata(_null_row(schema).serialize().to_pybytes()))

    def encode(self, columns: Sequence[pa.Array]) -> tuple[int, list[memoryview]]:
        """(bytes of metadata with its frame, the parts of the message in order, the metadata first)."""
        flat = Flat()
        for column in columns:
            flatten(column, flat)
        metadata = bytearray(self._template)
        message = _root(metadata)
        batch = _table(metadata, message, _MESSAGE_HEADER)
        struct.pack_into("<q", metadata, _field(metadata, batch, _BATCH_LENGTH), len(columns[0]))
        at, n = _vector(metadata, batch, _BATCH_NODES)
        if n != len(flat.nodes):
            raise ValueError(f"the message has room for {n} columns, {len(flat.nodes)} came")
        for i, node in enumerate(flat.nodes):
            struct.pack_into("<qq", metadata, at + 16 * i, *node)
        at, n = _vector(metadata, batch, _BATCH_BUFFERS)
        if n != len(flat.buffers):
            raise ValueError(f"the message has room for {n} buffers, {len(flat.buffers)} came")
        parts: list[memoryview] = []
        offset = 0
        for i, buffer in enumerate(flat.buffers):
            struct.pack_into("<qq", metadata, at + 16 * i, offset, buffer.nbytes)
            padding = -buffer.nbytes % ALIGNMENT
            if buffer.nbytes:
                parts.append(np.ascontiguousarray(buffer).reshape(-1).view(np.uint8).data)
            if padding:
                parts.append(memoryview(bytes(padding)))
            offset += buffer.nbytes + padding
        struct.pack_into("<q", metadata, _field(metadata, message, _MESSAGE_BODY_LENGTH), offset)
        framed = _framed(metadata, 0)
        return len(framed), [memoryview(framed), *parts]


def _null_row(schema: pa.Schema) -> pa.RecordBatch:
    """One row of nulls: numbers that are zero would be left out of a message, and could not be replaced."""
    return pa.RecordBatch.from_arrays([pa.nulls(1, f.type) for f in schema], schema=schema)


def _metadata(message: bytes) -> bytearray:
    """The flatbuffer of an encapsulated message."""
    if message[:4] != _MARK:
        raise ValueError("pyarrow wrote a message without its mark")
    return bytearray(message[8 : 8 + struct.unpack_from("<i", message, 4)[0]])


def _framed(metadata: bytes | bytearray, before: int) -> bytes:
    """Mark, length and metadata, padded to end on a border if it begins `before` bytes after one."""
    padding = -(before + 8 + len(metadata)) % ALIGNMENT
    return _MARK + struct.pack("<i", len(metadata) + padding) + bytes(metadata) + b"\0" * padding


# ---- reading a flatbuffer: a table begins with the distance back to its vtable, which says where each field is ----


def _root(data: bytearray) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _field(data: bytearray, table: int, number: int) -> int:
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    place = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
    if not place:
        raise ValueError(f"pyarrow left field {number} out of a message")
    return int(table + place)


def _table(data: bytearray, table: int, number: int) -> int:
    at = _field(data, table, number)
    return int(at + struct.unpack_from("<I", data, at)[0])


def _vector(data: bytearray, table: int, number: int) -> tuple[int, int]:
    """(where its items begin, how many)."""
    at = _table(data, table, number)
    return at + 4, int(struct.unpack_from("<I", data, at)[0])

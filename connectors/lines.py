"""Cuts bytes into lines, about a mebibyte of them to a record batch.

    line: large_binary  without its line end (LF or CR LF) and, at byte 0, without a UTF-8 byte order mark
    byte: int64         offset of the line's first byte in the (uncompressed) file

A batch's borders depend only on where it begins, so reading on from any position gives the same batches. A range reads
like a Hadoop text split: it owns the lines that *begin* in [start, stop), so ranges never share or miss a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.connectors.byte_source import ByteSource

BATCH_BYTES = 1 << 20
SCHEMA = pa.schema([pa.field("line", pa.large_binary(), nullable=False), pa.field("byte", pa.int64(), nullable=False)])
_BOM = b"\xef\xbb\xbf"
_KEPT_BYTES = 1 << 16  #: of a line that is too long


@dataclass(frozen=True)
class Lines:
    """Whole lines: a batch of `SCHEMA`, and the offset after the last one."""

    batch: pa.RecordBatch
    end: int


@dataclass(frozen=True)
class LongLine:
    """A line over the limit, passed over: its range and its first 64 KiB."""

    begin: int
    end: int
    head: bytes


@dataclass(frozen=True)
class Torn:
    """The piece of a line that damage cut off."""

    begin: int
    data: bytes


def read_lines(source: ByteSource, stop: int | None, max_line: int) -> Iterator[Lines | LongLine | Torn]:
    """The lines from the source's position on that begin before `stop`.

    The source must stand at the beginning of a line. Where it ends in damage, an unfinished last line is Torn.
    """
    while stop is None or source.position < stop:
        begin = source.position
        data = source.read(BATCH_BYTES)
        if not data:
            return
        cut = data.rfind(b"\n") + 1
        if not cut:
            got = _first_line(source, data, max_line)
            if isinstance(got, LongLine):
                yield got
                continue
            data, cut = got, len(got)
        elif len(data) < BATCH_BYTES and source.at_end() and source.damage is None:
            cut = len(data)  # the last line needs no line end
        if not data.endswith(b"\n", 0, cut) and source.damage is not None:
            yield Torn(begin, data)
            return
        source.unread(data[cut:])
        batch, end = _batch(data[:cut], begin, stop)
        if batch.num_rows:
            yield Lines(batch, end)
        if end < begin + cut:
            return  # the rest begins at or after `stop`


def skip_to_line(source: ByteSource) -> None:
    """Move behind the next line end: a source that stands just before a place then stands at the first line there."""
    while chunk := source.read(BATCH_BYTES):
        found = chunk.find(b"\n")
        if found >= 0:
            source.unread(chunk[found + 1 :])
            return


def _first_line(source: ByteSource, data: bytes, max_line: int) -> bytes | LongLine:
    """The line that `data` begins, with its line end if it has one."""
    begin = source.position - len(data)
    pieces, size, head = [data], len(data), data[:_KEPT_BYTES]
    while chunk := source.read(BATCH_BYTES):
        found = chunk.find(b"\n") + 1
        if found:
            source.unread(chunk[found:])
            chunk = chunk[:found]
        size += len(chunk)
        if size <= max_line:
            pieces.append(chunk)
        else:
            pieces = []
        if found:
            break
    return b"".join(pieces) if size <= max_line else LongLine(begin, begin + size, head)


def _batch(data: bytes, begin: int, stop: int | None) -> tuple[pa.RecordBatch, int]:
    """The batch of whole lines in `data` that begin before `stop`, and the offset after the last of them."""
    flat = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(flat == 10)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1] + 1))
    if stop is not None:
        count = int(np.searchsorted(starts, stop - begin, side="left"))
        starts, ends = starts[:count], ends[:count]
    if not len(starts):
        return _empty(), begin
    last = int(ends[-1])
    end = begin + min(last + 1, len(data))
    if end - begin == len(data) and b"\r\n" not in data and not (begin == 0 and data.startswith(_BOM)):
        offsets = np.empty(len(starts) + 1, dtype=np.int64)  # nothing to leave out but the line ends
        offsets[:-1] = starts - np.arange(len(starts))
        offsets[-1] = offsets[-2] + ends[-1] - starts[-1]
        return _of_lines(offsets, data.replace(b"\n", b""), starts + begin), end
    keep = np.ones(len(data), dtype=np.bool_)
    keep[ends[ends < len(data)]] = False
    keep[end - begin :] = False
    carriage = (ends > starts) & (ends < len(data)) & (flat[np.maximum(ends - 1, 0)] == 13)
    keep[ends[carriage] - 1] = False
    lengths = ends - starts - carriage
    if begin == 0 and data.startswith(_BOM):
        keep[:3] = False
        starts = starts.copy()
        starts[0] = 3
        lengths[0] -= 3
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return _of_lines(offsets, np.ascontiguousarray(flat[keep]), starts + begin), end


def _of_lines(offsets: npt.NDArray[np.int64], data: Any, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
    line = pa.Array.from_buffers(pa.large_binary(), len(places), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    byte = pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)])
    return pa.RecordBatch.from_arrays([line, byte], schema=SCHEMA)


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.large_binary()), pa.array([], pa.int64())], schema=SCHEMA)

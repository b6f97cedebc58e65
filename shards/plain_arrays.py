"""Arrow arrays reduced to their one plain form: the same values always give the same bytes.

Two arrays of equal values may differ in memory: offsets that begin elsewhere, values left under null slots, stray bits
after the end of a bitmap, a bitmap that says "no nulls". `flatten` removes all of that, so shard bytes are a function
of the rows alone, however they were batched, sliced or computed. NaN keeps its bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_EMPTY = np.empty(0, np.uint8)


@dataclass
class Flat:
    """Columns as an IPC message wants them, depth first: nodes (length, nulls) and buffers without padding."""

    nodes: list[tuple[int, int]] = field(default_factory=list)
    buffers: list[npt.NDArray[Any]] = field(default_factory=list)


def flatten(array: pa.Array, into: Flat) -> None:
    """Append one column. Raises: TypeError for a type that shards do not hold."""
    kind, length = array.type, len(array)
    if pa.types.is_nested(kind) and array.null_count and not _nulls_are_empty(array):
        array = pa.array(array.to_pylist(), type=kind)  # rare: values under null slots
    valid = _validity(array)
    into.nodes.append((length, 0 if valid is None else int(length - valid.sum())))
    into.buffers.append(_EMPTY if valid is None else np.packbits(valid, bitorder="little"))
    if pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            flatten(array.field(i), into)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = _offsets(array)
        into.buffers.append(offsets - offsets[0])
        flatten(array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])), into)
    elif _has_offsets(kind):
        _flatten_bytes(array, valid, into)
    elif pa.types.is_boolean(kind):
        bits = _bits(array.buffers()[1], array.offset, length)
        into.buffers.append(np.packbits(bits if valid is None else bits & valid, bitorder="little"))
    elif _is_fixed(kind):
        into.buffers.append(_fixed(array, valid))
    else:
        raise TypeError(f"a shard column cannot have the Arrow type {kind}")


def row_sizes(array: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes that each row takes in a shard, without padding: fixed widths, 8 per list or string, and their content.

    A function of the values alone, so that it may decide where blocks end.
    """
    kind, length = array.type, len(array)
    if pa.types.is_struct(kind):
        total = np.ones(length, np.int64)
        for i in range(kind.num_fields):
            total += row_sizes(array.field(i))
        return total
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or _has_offsets(kind):
        offsets = _offsets(array).astype(np.int64)
        inner = np.diff(offsets)
        if not _has_offsets(kind):
            if _is_fixed(kind.value_type):
                inner = inner * (kind.value_type.bit_width // 8)
            else:
                child = row_sizes(array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))
                sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(child)])
                inner = sums[offsets[1:] - offsets[0]] - sums[offsets[:-1] - offsets[0]]
        valid = _validity(array)
        return 8 + (inner if valid is None else inner * valid)
    return np.full(length, max(kind.bit_width // 8, 1), np.int64)


def _flatten_bytes(array: pa.Array, valid: npt.NDArray[np.bool_] | None, into: Flat) -> None:
    offsets = _offsets(array)
    data = array.buffers()[2]
    whole = np.frombuffer(data, np.uint8) if data is not None and data.size else _EMPTY
    if valid is not None and bool((np.diff(offsets)[~valid] != 0).any()):
        lengths = np.diff(offsets) * valid
        kept = [whole[a : a + n] for a, n in zip(offsets[:-1].tolist(), lengths.tolist()) if n]
        whole = np.concatenate(kept) if kept else _EMPTY
        offsets = np.concatenate([np.zeros(1, offsets.dtype), np.cumsum(lengths).astype(offsets.dtype)])
    into.buffers.append(offsets - offsets[0])
    into.buffers.append(whole[int(offsets[0]) : int(offsets[-1])])


def _fixed(array: pa.Array, valid: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.uint8]:
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(len(array) * width, np.uint8)
    raw = np.frombuffer(data, np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    if valid is not None:
        raw = raw.copy()
        raw.reshape(len(array), width)[~valid] = 0
    return raw


def _nulls_are_empty(array: pa.Array) -> bool:
    if pa.types.is_struct(array.type):
        return all(array.field(i).null_count == len(array) for i in range(array.type.num_fields))
    valid = _validity(array)
    return valid is None or not (np.diff(_offsets(array))[~valid] != 0).any()


def _validity(array: pa.Array) -> npt.NDArray[np.bool_] | None:
    if not array.null_count:
        return None
    return _bits(array.buffers()[0], array.offset, len(array))


def _bits(buffer: pa.Buffer, offset: int, length: int) -> npt.NDArray[np.bool_]:
    first = offset // 8
    packed = np.frombuffer(buffer, np.uint8)[first : (offset + length + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[offset - 8 * first :][:length].astype(np.bool_)


def _offsets(array: pa.Array) -> npt.NDArray[Any]:
    kind = array.type
    wide = pa.types.is_large_list(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    dtype: Any = np.int64 if wide else np.int32
    buffer = array.buffers()[1]
    if buffer is None or buffer.size == 0:
        return np.zeros(len(array) + 1, dtype)
    return np.frombuffer(buffer, dtype)[array.offset : array.offset + len(array) + 1]


def _has_offsets(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_temporal(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_decimal(kind)
    )

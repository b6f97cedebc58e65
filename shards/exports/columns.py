"""Arrow columns to numpy and back without `pa.array`, which imports pandas on first use.

Reading goes through the plain form that shards are written in, so slices, filters and values under null slots do not
matter here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.shards.plain_arrays import Flat, flatten


def plain(column: pa.Array) -> tuple[npt.NDArray[np.bool_] | None, list[npt.NDArray[Any]]]:
    """(which rows are not null, None if all are; the other buffers of its plain form)."""
    flat = Flat()
    flatten(column, flat)
    if not flat.nodes[0][1]:
        return None, flat.buffers[1:]
    return np.unpackbits(flat.buffers[0], bitorder="little")[: len(column)].astype(np.bool_), flat.buffers[1:]


def list_arrays(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """(values, offsets) of a column of lists of numbers, strings or bytes: row i is values[offsets[i]:offsets[i+1]]."""
    kind = column.type
    _, buffers = plain(column)
    offsets = buffers[0].astype(np.int64)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return buffers[1], offsets
    inner = kind.value_type
    letter = "f" if pa.types.is_floating(inner) else "u" if pa.types.is_unsigned_integer(inner) else "i"
    return buffers[2].view(f"{letter}{inner.bit_width // 8}"), offsets


def bools(values: npt.NDArray[np.bool_]) -> pa.Array:
    """A bool column."""
    data = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, data])


def int64s(values: npt.NDArray[Any]) -> pa.Array:
    """An int64 column."""
    data = np.ascontiguousarray(values, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(data), [None, pa.py_buffer(data)])


def repeated(text: str, rows: int) -> pa.Array:
    """A string column of one value."""
    data = text.encode()
    return _strided(pa.string(), rows, len(data), data * rows)


def lists(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> pa.Array:
    """A large_list column."""
    kind = pa.from_numpy_dtype(values.dtype)
    child = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
    ends = pa.py_buffer(np.ascontiguousarray(offsets, np.int64))
    return pa.Array.from_buffers(pa.large_list(kind), len(offsets) - 1, [None, ends], children=[child])


def plain_binary(column: pa.Array) -> pa.Array:
    """A fixed-size binary column as binary, nulls kept."""
    valid, (data,) = plain(column)
    width, rows = column.type.byte_width, len(column)
    if valid is None:
        return _strided(pa.binary(), rows, width, data)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(valid * width, dtype=np.int32)])
    held = np.ascontiguousarray(data.reshape(rows, width)[valid])
    bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
    nulls = rows - int(valid.sum())
    return pa.Array.from_buffers(pa.binary(), rows, [bits, pa.py_buffer(offsets), pa.py_buffer(held)], nulls)


def hexed(column: pa.Array) -> pa.Array:
    """A fixed-size binary column without nulls as hex."""
    _, (data,) = plain(column)
    return _strided(pa.string(), len(column), 2 * column.type.byte_width, data.tobytes().hex().encode())


def _strided(kind: pa.DataType, rows: int, width: int, data: Any) -> pa.Array:
    offsets = np.arange(rows + 1, dtype=np.int64) * width
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)])

"""Pieces of many arrays, laid end to end: one call of Arrow copies them all, without an object for each piece.

The pieces become an Arrow array of *binary views* (length, and where in which buffer) over the arrays as they lie, and
casting that to plain binary lays their bytes end to end. The thread that copies does not hold the interpreter's lock.
Layout of a view, 16 bytes: int32 length; then of up to 12 bytes the bytes themselves, of longer ones their first 4
bytes (which only comparisons look at), int32 buffer, int32 offset (Arrow columnar format, "Variable-size Binary View").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.shards.loader.table import Longs

_VIEW = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("buffer", "<i4"), ("offset", "<i4")])
_INLINE = 12
_REACH = (1 << 31) - 1


def end_to_end(
    arrays: Sequence[npt.NDArray[Any]], which: Longs, low: Longs, high: Longs, gaps: Longs | None = None
) -> npt.NDArray[Any]:
    """arrays[which[i]][low[i] : high[i]] for each i, one after the other; a view where that is one piece.

    arrays: of one dtype. gaps: zeros to lay before each piece, and after the last; None where there are none.
    """
    if gaps is None and len(low) == 1:
        return arrays[int(which[0])][int(low[0]) : int(high[0])]
    if not len(low):
        return np.zeros(0 if gaps is None else int(gaps.sum()), arrays[0].dtype if arrays else np.uint16)
    kind = arrays[0].dtype
    step = kind.itemsize
    if max(int(high.max()), 0 if gaps is None else int(gaps.max())) * step > _REACH:
        return _one_by_one(arrays, which, low, high, gaps)
    pieces = np.zeros(len(low), _VIEW)
    size = (high - low) * step
    pieces["length"], pieces["buffer"], pieces["offset"] = size, which, low * step
    for i in np.flatnonzero(size <= _INLINE).tolist():
        raw = arrays[which[i]][low[i] : high[i]].tobytes()
        pieces[i : i + 1].view(np.uint8)[4:] = np.frombuffer(raw.ljust(_INLINE, b"\0"), np.uint8)
    buffers = [pa.py_buffer(array) for array in arrays]
    if gaps is not None:
        every = np.zeros(len(low) + len(gaps), _VIEW)
        every[1::2] = pieces
        every["length"][::2] = gaps * step  # up to 12 bytes the zeros are there already
        every["buffer"][::2] = np.where(gaps * step > _INLINE, len(buffers), 0)
        buffers.append(pa.py_buffer(bytes(int(gaps.max()) * step)))
        pieces = every
    views = pa.Array.from_buffers(pa.binary_view(), len(pieces), [None, pa.py_buffer(pieces), *buffers])
    return np.frombuffer(views.cast(pa.large_binary()).buffers()[2], kind)


def _one_by_one(
    arrays: Sequence[npt.NDArray[Any]], which: Longs, low: Longs, high: Longs, gaps: Longs | None
) -> npt.NDArray[Any]:
    """The same where something is beyond 2 GiB, to which views do not reach."""
    parts = [arrays[i][a:b] for i, a, b in zip(which.tolist(), low.tolist(), high.tolist())]
    if gaps is not None:
        nothing = [np.zeros(n, arrays[0].dtype) for n in gaps.tolist()]
        parts = [part for pair in zip(nothing, parts) for part in pair] + nothing[-1:]
    return np.concatenate(parts)

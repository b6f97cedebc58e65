"""The parts of a sample beside its JSON: tokens or raw payload as arrays, text as text.

    tokens    the ids, marks included                    raw streams: text, or the payload in its own shape and dtype
    sensor    t (int64 ns since 1970), value, valid      raster       pixels, valid and, where known, cloud
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.record import PAYLOAD_COLUMN, list_views, modality_of, payload_views
from headrace.shards.exports.columns import list_arrays, plain
from headrace.shards.exports.marks import Marks
from headrace.shards.exports.pieces import Piece

Array = npt.NDArray[Any]


def token_rows(piece: Piece, marks: Marks) -> Iterator[Array]:
    """The ids of each row, as they are written."""
    values, offsets = marks.apply(*piece.content)
    ends = offsets.tolist()
    return (values[start:stop] for start, stop in pairwise(ends))


def raw_parts(piece: Piece) -> dict[str, Iterator[Array | bytes | None]]:
    """Raw columns by name, row by row: arrays, text as UTF-8 bytes, None for what is null."""
    batch = piece.batch
    modality = modality_of(batch)
    if modality == "text":
        values, offsets = piece.content
        ends = offsets.tolist()
        data = values.tobytes()
        return {"text": (data[start:stop] for start, stop in pairwise(ends))}
    if modality == "sensor":
        return {name: list_views(batch, name) for name in ("t", "value", "valid")}
    found: dict[str, Iterator[Array | bytes | None]] = {PAYLOAD_COLUMN[modality]: payload_views(batch)}
    if modality == "raster":
        for name in ("valid", "cloud"):
            found[name] = _masks(piece, name)
    return found


def _masks(piece: Piece, name: str) -> Iterator[Array | None]:
    """(height, width) uint8 of each row of a raster, None where it has none."""
    column = piece.batch.column(name)
    values, offsets = list_arrays(column)
    known, _ = plain(column)
    for i, shape in enumerate(piece.batch.column("shape").to_pylist()):
        mask = values[int(offsets[i]) : int(offsets[i + 1])]
        yield mask.reshape(shape[-2:]) if known is None or known[i] else None


def npy_bytes(array: Array) -> bytes:
    """The array as a .npy file (NumPy Enhancement Proposal 1), little-endian, C order."""
    return _npy_head(array.dtype.str, array.shape) + array.tobytes()


@lru_cache(maxsize=4096)
def _npy_head(dtype: str, shape: tuple[int, ...]) -> bytes:
    out = BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def npy_array(data: Array) -> Array:
    """The array of a .npy file given as its bytes. Raises: ValueError if it is none."""
    start = 10 + int(data[8]) + 256 * int(data[9])
    dtype, shape = _npy_said(data[:start].tobytes())
    return data[start:].view(dtype).reshape(shape)


@lru_cache(maxsize=4096)
def _npy_said(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    file = BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"a .npy of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return dtype, shape

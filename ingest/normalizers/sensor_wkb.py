"""Well-known binary geometry as text, and columns of points as numbers.

ISO WKB (type + 1000 Z + 2000 M) and EWKB (high bits, SRID) in both byte orders. Counts are checked against the bytes
that are left before anything is read. Source: OGC 06-103r4 (Simple Features) clause 8.2; PostGIS's EWKB for the high
bits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from headrace.ingest.normalizers.sensor_series import Floats
from headrace.schemas.errors import RecordError

_NAMES = {
    1: "POINT",
    2: "LINESTRING",
    3: "POLYGON",
    4: "MULTIPOINT",
    5: "MULTILINESTRING",
    6: "MULTIPOLYGON",
    7: "GEOMETRYCOLLECTION",
}
_MAX_DEPTH = 16


def to_wkt(data: bytes) -> str:
    """The geometry as WKT. Raises: RecordError `corrupt`."""
    try:
        text, end = _geometry(data, 0, 0, tagged=True)
    except (struct.error, KeyError, IndexError) as exc:
        raise RecordError("corrupt", f"not a WKB geometry ({len(data)} bytes): {exc}") from exc
    if end != len(data):
        raise RecordError("corrupt", f"a WKB geometry ends at byte {end} of {len(data)}")
    return text


def _geometry(data: bytes, at: int, depth: int, *, tagged: bool) -> tuple[str, int]:
    if depth > _MAX_DEPTH:
        raise RecordError("corrupt", f"a WKB geometry is nested more than {_MAX_DEPTH} levels deep")
    order = "<" if data[at] == 1 else ">"
    (code,) = struct.unpack_from(f"{order}I", data, at + 1)
    at += 5
    if code & 0x20000000:
        at += 4  # the SRID of EWKB
    base = code & 0xFFFF
    has_z = bool(code & 0x80000000) or base // 1000 in (1, 3)
    has_m = bool(code & 0x40000000) or base // 1000 in (2, 3)
    kind = base % 1000
    name = _NAMES[kind]
    head = (
        f"{name}{' Z' if has_z and not has_m else ' M' if has_m and not has_z else ' ZM' if has_z else ''} "
        if tagged
        else ""
    )
    width = 2 + has_z + has_m
    if kind == 1:
        values = struct.unpack_from(f"{order}{width}d", data, at)
        at += 8 * width
        return (head + "EMPTY" if all(np.isnan(values)) else f"{head}({_position(values)})"), at
    if kind == 2:
        body, at = _positions(data, at, order, width)
        return head + body, at
    (count,) = struct.unpack_from(f"{order}I", data, at)
    at += 4
    if count * (4 if kind == 3 else 5) > len(data) - at:
        raise RecordError("corrupt", f"a WKB geometry declares {count} parts in {len(data) - at} bytes")
    parts = []
    for _ in range(count):
        part, at = _positions(data, at, order, width) if kind == 3 else _geometry(data, at, depth + 1, tagged=kind == 7)
        parts.append(part.strip())
    return head + (f"({', '.join(parts)})" if parts else "EMPTY"), at


def _positions(data: bytes, at: int, order: str, width: int) -> tuple[str, int]:
    (count,) = struct.unpack_from(f"{order}I", data, at)
    at += 4
    if count * width * 8 > len(data) - at:
        raise RecordError("corrupt", f"a WKB geometry declares {count} positions in {len(data) - at} bytes")
    values = struct.unpack_from(f"{order}{count * width}d", data, at)
    text = ", ".join(_position(values[i : i + width]) for i in range(0, len(values), width))
    return (f"({text})" if count else "EMPTY"), at + count * width * 8


def _position(values: Sequence[float]) -> str:
    return " ".join(repr(v).removesuffix(".0") for v in values)


def points(array: pa.Array) -> list[Floats] | None:
    """[x, y(, z)(, m)] of an array of little-endian points, NaN where null; None if anything in it is no such point."""
    kept = array.drop_null()
    if len(kept) == 0:
        return None
    kept = kept.cast(pa.large_binary())
    offsets = np.frombuffer(kept.buffers()[1], np.int64)[kept.offset : kept.offset + len(kept) + 1]
    size = int(offsets[1] - offsets[0])
    if size not in (21, 29, 37) or (np.diff(offsets) != size).any():
        return None
    raw = np.frombuffer(kept.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, size)
    if (raw[:, :5] != raw[0, :5]).any() or raw[0, 0] != 1:
        return None
    code = int.from_bytes(raw[0, 1:5].tobytes(), "little")
    if code not in {21: (1,), 29: (1001, 2001, 0x80000001, 0x40000001), 37: (3001, 0xC0000001)}[size]:
        return None
    values = np.frombuffer(np.ascontiguousarray(raw[:, 5:]).tobytes(), "<f8").reshape(len(raw), -1)
    places = np.flatnonzero(np.array(array.is_valid().to_pylist(), dtype=np.bool_))
    out = np.full((values.shape[1], len(array)), np.nan)
    out[:, places] = values.T
    return list(out)

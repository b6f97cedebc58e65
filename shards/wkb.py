"""The bounding box of a geometry in WKB (OGC 06-103r4, §8.2; ISO and EWKB flavours), for the catalogue."""

from __future__ import annotations

import struct

import numpy as np

Box = tuple[float, float, float, float]

_POINT, _LINE, _POLYGON = 1, 2, 3
_COLLECTIONS = {4, 5, 6, 7}  # multi point, multi line, multi polygon, geometry collection
_MAX_DEPTH = 16


def bounds(data: bytes) -> Box | None:
    """(west, south, east, north); None for an empty geometry. Raises: ValueError if it is not WKB."""
    boxes: list[Box] = []
    try:
        _read(data, 0, boxes, 0)
    except struct.error as exc:
        raise ValueError(f"not WKB: it ends early ({len(data)} bytes)") from exc
    if not boxes:
        return None
    array = np.array(boxes)
    return (float(array[:, 0].min()), float(array[:, 1].min()), float(array[:, 2].max()), float(array[:, 3].max()))


def _read(data: bytes, at: int, boxes: list[Box], depth: int) -> int:
    """Add the boxes of the geometry at byte `at`, and give back where it ends."""
    order = struct.unpack_from("<B", data, at)[0]
    if order > 1 or depth > _MAX_DEPTH:
        raise ValueError("not WKB: no byte order mark" if order > 1 else "not WKB: collections nested too deep")
    end = "<" if order else ">"
    code = struct.unpack_from(end + "I", data, at + 1)[0]
    at += 5
    dimensions = 2 + bool(code & 0x80000000) + bool(code & 0x40000000) + (0, 1, 1, 2)[(code & 0xFFFF) // 1000 % 4]
    if code & 0x20000000:
        at += 4  # EWKB: a reference system id
    kind = (code & 0xFFFF) % 1000
    if kind == _POINT:
        return _points(data, at, 1, dimensions, end, boxes)
    if kind not in {_LINE, _POLYGON, *_COLLECTIONS}:
        raise ValueError(f"not a WKB geometry that headrace knows: type {code}")
    number = struct.unpack_from(end + "I", data, at)[0]
    at += 4
    if kind == _LINE:
        return _points(data, at, number, dimensions, end, boxes)
    if number * 4 > len(data) - at:
        raise ValueError(f"not WKB: {number} parts in {len(data)} bytes")
    for _ in range(number):
        if kind == _POLYGON:
            at = _points(data, at + 4, struct.unpack_from(end + "I", data, at)[0], dimensions, end, boxes)
        else:
            at = _read(data, at, boxes, depth + 1)
    return at


def _points(data: bytes, at: int, number: int, dimensions: int, end: str, boxes: list[Box]) -> int:
    size = 8 * dimensions * number
    if at + size > len(data):
        raise ValueError(f"not WKB: {number} points in {len(data)} bytes")
    xy = np.frombuffer(data, end + "f8", dimensions * number, at).reshape(number, dimensions)[:, :2]
    xy = xy[~np.isnan(xy).any(axis=1)]  # an empty point is NaN NaN
    if len(xy):
        low, high = xy.min(axis=0), xy.max(axis=0)
        boxes.append((float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    return at + size

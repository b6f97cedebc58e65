"""Footprints: the outline of a tile in longitude and latitude (OGC:CRS84), as WKB.

An edge that is straight in the raster's projection is curved in degrees, so every edge is drawn with `SEGMENTS`
pieces. Outlines that cross the antimeridian are cut there into two polygons (RFC 7946, 3.1.9), outlines around a pole
are closed along it, and what cannot be expressed (a corner beside the Earth's limb, a body that is not the Earth) has
no footprint rather than a wrong one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SEGMENTS = 8  #: pieces of an edge
OUTLINE_POINTS = 4 * SEGMENTS

Floats = npt.NDArray[np.float64]
#: (columns, rows) in pixels, the outer corner of the first pixel is (0, 0) → longitudes and latitudes in degrees;
#: not finite where there are none.
ToLonLat = Callable[[Floats, Floats], tuple[Floats, Floats]]


def footprints(to_lonlat: ToLonLat | None, windows: Sequence[tuple[int, int, int, int]]) -> list[bytes | None]:
    """The outline of each window (column, row, width, height) as WKB; one call of `to_lonlat` for all."""
    if to_lonlat is None or not windows:
        return [None] * len(windows)
    steps = np.arange(SEGMENTS) / SEGMENTS
    still = np.zeros(SEGMENTS)
    around_x = np.concatenate([steps, still + 1, 1 - steps, still])
    around_y = np.concatenate([still + 1, 1 - steps, still, steps])
    w = np.asarray(windows, dtype=np.float64)
    columns = (w[:, 0:1] + w[:, 2:3] * around_x).reshape(-1)
    rows = (w[:, 1:2] + w[:, 3:4] * around_y).reshape(-1)
    lon, lat = to_lonlat(columns, rows)
    shape = (len(windows), OUTLINE_POINTS)
    return [outline(x, y) for x, y in zip(lon.reshape(shape), lat.reshape(shape))]


def outline(lon: Floats, lat: Floats) -> bytes | None:
    """WKB of the ring through these points: a Polygon, or a MultiPolygon where it crosses the antimeridian."""
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.abs(lat).max() > 90 + 1e-9:
        return None
    steps = np.diff(lon, append=lon[:1])
    steps -= 360 * np.round(steps / 360)  # the short way round
    winding = steps.sum()
    x = lon[0] + np.concatenate([[0.0], np.cumsum(steps[:-1])])
    y = np.clip(lat, -90, 90)
    if abs(winding) > 180:
        return _polygons([_around_pole(x, y, winding)])
    x -= 360 * np.floor((x.min() + 180) / 360)
    if x.max() - x.min() > 360:
        x = np.minimum(x, x.min() + 360)
    if x.max() <= 180 + 1e-9:
        return _polygons([_counterclockwise(np.minimum(x, 180), y)])
    east, west = _clip(x, y, 180, keep=-1), _clip(x, y, 180, keep=1)
    rings = [_counterclockwise(*east)]
    if len(west[0]) > 2:
        rings.append(_counterclockwise(west[0] - 360, west[1]))
    return _polygons(rings)


def _around_pole(x: Floats, y: Floats, winding: float) -> tuple[Floats, Floats]:
    """A ring that goes once around the Earth, closed along the antimeridian and over the pole it encloses."""
    if winding < 0:
        x, y = x[::-1], y[::-1]
    x = (x + 180) % 360 - 180
    start = int(np.argmin(x))
    x, y = np.roll(x, -start), np.roll(y, -start)
    gap = 360 - (x[-1] - x[0])
    share = (180 - x[-1]) / gap if gap else 0.0
    border = y[-1] + (y[0] - y[-1]) * share
    pole = 90.0 if y.mean() > 0 else -90.0
    return _counterclockwise(
        np.concatenate([[-180.0], x, [180.0, 180.0, -180.0]]), np.concatenate([[border], y, [border, pole, pole]])
    )


def _clip(x: Floats, y: Floats, at: float, keep: int) -> tuple[Floats, Floats]:
    """The part of a ring on one side of a meridian (Sutherland and Hodgman); `keep` -1: west of it, 1: east."""
    inside = (x - at) * keep >= 0
    out: list[tuple[float, float]] = []
    for i in range(len(x)):
        before = i - 1
        if inside[i] != inside[before]:
            share = (at - x[before]) / (x[i] - x[before])
            out.append((at, y[before] + share * (y[i] - y[before])))
        if inside[i]:
            out.append((x[i], y[i]))
    points = np.array(out, dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _counterclockwise(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    area = float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    return (x[::-1], y[::-1]) if area < 0 else (x, y)


def _polygons(rings: list[tuple[Floats, Floats]]) -> bytes:
    """Little-endian WKB: [u8 1][u32 3][u32 rings] n × [u32 points] m × [f64 x][f64 y]; several as MultiPolygon (6)."""
    bodies = []
    for x, y in rings:
        closed = np.stack([np.append(x, x[0]), np.append(y, y[0])], axis=1)
        bodies.append(struct.pack("<BIII", 1, 3, 1, len(closed)) + closed.astype("<f8").tobytes())
    return bodies[0] if len(bodies) == 1 else struct.pack("<BII", 1, 6, len(bodies)) + b"".join(bodies)


def polygon_of(wkb: bytes) -> list[Any]:
    """The rings of a WKB that `outline` made, as (n, 2) arrays; for reading it back."""
    kind, count = struct.unpack_from("<II", wkb, 1)
    parts, at = ([wkb], 0) if kind == 3 else ([], 9)
    rings = []
    if kind == 6:
        for _ in range(count):
            (points,) = struct.unpack_from("<I", wkb, at + 9)
            parts.append(wkb[at : at + 13 + 16 * points])
            at += 13 + 16 * points
    for part in parts:
        (points,) = struct.unpack_from("<I", part, 9)
        rings.append(np.frombuffer(part, "<f8", points * 2, 13).reshape(-1, 2))
    return rings

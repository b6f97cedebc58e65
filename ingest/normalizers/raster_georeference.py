"""Where a grid lies: its CRS as text, its ground sample distance, and the way from pixels to longitude and latitude.

A grid is placed by an affine transform; if it has none, by ground control points, or by a rational polynomial model.
The last two are approximations, and a record placed by them has no `transform`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.ingest.normalizers.raster_errors import failures
from headrace.ingest.normalizers.raster_footprint import OUTLINE_POINTS, Floats, ToLonLat

_METRES_PER_DEGREE = 111_319.490793  # of a meridian, WGS 84 equatorial radius · π / 180
_MAX_GCPS = 512


@dataclass(frozen=True)
class Georeference:
    """Of one grid. `transform`: a b c d e f, x = a·col + b·row + c, y = d·col + e·row + f."""

    crs: str | None = None
    transform: tuple[float, ...] | None = None
    gsd_m: float | None = None
    to_lonlat: ToLonLat | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def tile_transform(self, column: int, row: int) -> list[float] | None:
        """The transform of a window that begins at this pixel."""
        if self.transform is None:
            return None
        a, b, c, d, e, f = self.transform
        return [a, b, a * column + b * row + c, d, e, d * column + e * row + f]


def georeference_of(dataset: Any) -> Georeference:
    """Of an open rasterio dataset. A file whose transform is the identity has none."""
    crs, transform = dataset.crs, dataset.transform
    if transform.is_identity:
        return _by_points(dataset)
    numbers = tuple(float(v) for v in transform[:6])
    if not np.isfinite(numbers).all() or transform.determinant == 0:
        return Georeference(crs=crs_text(crs))
    if crs:
        return Georeference(crs_text(crs), numbers, _gsd(crs, transform), _affine_way(crs, transform))
    if dataset.driver == "netCDF" and _is_lonlat(dataset.tags()):
        gsd_m = float(np.hypot(transform.b, transform.e)) * _METRES_PER_DEGREE
        extra = {"geometry_from": "longitude and latitude, datum unknown"}
        return Georeference(None, numbers, gsd_m, _affine_way(None, transform), extra)
    return Georeference(None, numbers)


def crs_text(crs: Any) -> str | None:
    """`EPSG:n` (or another authority's code) where that says exactly the same, else WKT2; None without a CRS."""
    if not crs:
        return None
    text: str = crs.to_string()
    if ":" in text and "[" not in text and "+" not in text:
        return text
    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except failures():
        return str(crs.to_wkt())  # what WKT2 cannot say: local systems of old GeoTIFFs


def _gsd(crs: Any, transform: Any) -> float | None:
    """Metres a pixel: the square root of its area where the CRS has a length unit, else its height in degrees."""
    if not crs:
        return None
    if crs.is_geographic:
        return float(np.hypot(transform.b, transform.e)) * _METRES_PER_DEGREE
    try:
        metres = float(crs.linear_units_factor[1])
    except failures():
        return None
    return float(np.sqrt(abs(transform.determinant))) * metres


def _is_lonlat(tags: dict[str, str]) -> bool:
    """CF 4.1 and 4.2: axes in degrees_east and degrees_north are longitude and latitude, without naming a datum."""
    units = {value.lower() for key, value in tags.items() if key.endswith("#units")}
    east = {"degrees_east", "degree_east", "degrees_e", "degree_e"}
    return bool(units & east) and bool(units & {unit.replace("_e", "_n").replace("ast", "orth") for unit in east})


def _affine_way(crs: Any, transform: Any) -> ToLonLat:
    """crs None: the axes are longitude and latitude."""
    geographic = crs is None or bool(crs.is_geographic)

    def to_lonlat(columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        x = transform.a * columns + transform.b * rows + transform.c
        y = transform.d * columns + transform.e * rows + transform.f
        # The edge of a cell that is centred on a pole lies beyond it.
        y = np.clip(y, -90, 90) if geographic else y
        return (x, y) if crs is None else _to_degrees(crs, x, y)

    return to_lonlat


def _to_degrees(crs: Any, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """One point without an answer fails a whole call, so a failed call is repeated outline by outline."""
    from rasterio import warp

    try:
        lon, lat = warp.transform(crs, "EPSG:4326", x, y)  # rasterio always gives longitude first
    except failures():
        if len(x) <= OUTLINE_POINTS:
            return _nowhere(len(x))
        starts = range(0, len(x), OUTLINE_POINTS)
        parts = [_to_degrees(crs, x[i : i + OUTLINE_POINTS], y[i : i + OUTLINE_POINTS]) for i in starts]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    return np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)


def _nowhere(count: int) -> tuple[Floats, Floats]:
    return np.full(count, np.nan), np.full(count, np.nan)


def _by_points(dataset: Any) -> Georeference:
    from rasterio import transform as transforms

    crs = dataset.crs
    points, points_crs = dataset.gcps
    rpcs = dataset.rpcs
    extra: dict[str, Any] = {}
    transformer: Any = None
    if points:
        every = -(-len(points) // _MAX_GCPS)
        extra["gcps"] = [[p.row, p.col, p.x, p.y, p.z or 0.0] for p in points[::every]]
        extra["gcps_crs"] = crs_text(points_crs)
        if every > 1:
            extra["gcps_total"] = len(points)
        if points_crs and len(points) > 2:
            crs = points_crs
            transformer = lambda: transforms.GCPTransformer(points)  # noqa: E731
    elif rpcs is not None:
        extra["rpcs"] = dict(sorted(rpcs.to_gdal().items()))
        crs = "EPSG:4326"  # what rational polynomials are defined in
        transformer = lambda: transforms.RPCTransformer(rpcs, rpc_height=rpcs.height_off)  # noqa: E731
    if transformer is None:
        return Georeference(crs=crs_text(dataset.crs), extra=extra)

    def to_lonlat(columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        try:
            with transformer() as model:
                x, y = model.xy(rows, columns, offset="ul")
        except failures():
            return _nowhere(len(columns))
        return _to_degrees(crs, np.asarray(x), np.asarray(y))

    extra["geometry_from"] = "gcps" if points else "rpcs"
    return Georeference(crs=crs_text(crs) if points else "EPSG:4326", to_lonlat=to_lonlat, extra=extra)

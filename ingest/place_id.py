"""The cell of the pipeline's grid in which a geometry lies: what records of one place share across modalities."""

from __future__ import annotations

import math
from functools import lru_cache

from headrace.schemas.errors import MissingExtra
from headrace.schemas.pipeline import Grid
from headrace.shards.wkb import bounds


def place_id(geometry: bytes, grid: Grid) -> str | None:
    """`EPSG:32635/150/2610` for the cell of the middle of a WKB geometry's box (OGC:CRS84); None if it has no points.

    A cell is `chip` pixels of `gsd_m` metres a side; column and row count from the origin of the projection.
    """
    box = bounds(geometry)
    if box is None:
        return None
    lon, lat = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    crs = utm_of(lon, lat) if grid.crs == "utm" else grid.crs
    x, y = _project(lon, lat, crs)
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    side = grid.gsd_m * grid.chip
    return f"{crs}/{math.floor(x / side)}/{math.floor(y / side)}"


def utm_of(lon: float, lat: float) -> str:
    """EPSG code of the UTM zone: 326zz in the north, 327zz in the south. The exceptions of Norway are not made."""
    zone = min(60, max(1, int((lon + 180) // 6) + 1))
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


@lru_cache(maxsize=4096)
def _project(lon: float, lat: float, crs: str) -> tuple[float, float]:
    try:
        from rasterio.warp import transform
    except ImportError as exc:
        raise MissingExtra("rasterio", "raster", need="`grid` (place_id)") from exc
    xs, ys = transform("OGC:CRS84", crs, [lon], [lat])
    return xs[0], ys[0]

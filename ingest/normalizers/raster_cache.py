"""Room for decoded blocks, so that tiles which share a row of blocks do not decode any of them twice.

GDAL keeps decoded blocks for the whole process and forgets the longest unused. Tiles come row by row: where the blocks
under one row of tiles do not fit, the next row, or the next column, finds none of what it shares with the last. Reading
whole rows of blocks at once is no faster than tiles out of the cache (measured: tiled and striped, bands apart and
together), so tiles are read one by one, and the cache is made as large as a row of blocks needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.ingest.normalizers.raster_environment import BLOCK_CACHE_MB
from headrace.ingest.normalizers.raster_errors import rasterio_module

_MOST_BYTES = 512 << 20  #: of a record's memory limit of a gibibyte
_SPARE = 1 << 20
_BLOCK_OVERHEAD = 256  #: bytes that GDAL counts for a block besides its pixels (110 to 200)


def keep_block_rows(grids: Sequence[tuple[Any, Sequence[int]]], tile: int) -> None:
    """Size GDAL's cache for the blocks under a row of tiles of these (dataset, band numbers), read together."""
    rasterio_module()
    from rasterio._env import set_gdal_config

    needed = _SPARE + sum(block_row_bytes(dataset, indexes, tile) for dataset, indexes in grids)
    set_gdal_config("GDAL_CACHEMAX", max(BLOCK_CACHE_MB << 20, min(needed, _MOST_BYTES)))


def block_row_bytes(dataset: Any, indexes: Sequence[int], tile: int) -> int:
    """Bytes of the decoded blocks that a row of tiles touches and may touch again."""
    rows, columns = dataset.block_shapes[indexes[0] - 1]
    together = dataset.interleaving is not None and dataset.interleaving.name == "pixel"
    kinds = dataset.dtypes if together else [dataset.dtypes[i - 1] for i in indexes]
    pixel = sum(8 if kind.startswith("complex_int") else np.dtype(kind).itemsize for kind in kinds)
    down = rows if rows % tile == 0 else tile if tile % rows == 0 else tile + rows
    down = min(-(-down // rows), -(-dataset.height // rows))
    across = -(-dataset.width // columns)
    return down * across * (rows * columns * pixel + len(kinds) * _BLOCK_OVERHEAD)

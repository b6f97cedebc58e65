"""The limit of rasters: rasterio reads a row of blocks at a time with GDAL's threads, and tiles are cut from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio
from job import TILE, Job, Sums, sums_of_arrays
from rasterio.windows import Window


def begin(job: Job) -> None:
    """The imports are all."""


def run(job: Job, state: Any) -> None:
    with (
        rasterio.open(job.files[0], driver="GTiff", NUM_THREADS=job.cores) as source,
        open(job.out / "tiles.bin", "wb") as out,
    ):
        high = source.block_shapes[0][0]
        for top in range(0, source.height, high):
            rows = source.read(window=Window(0, top, source.width, min(high, source.height - top)))
            for y in range(0, rows.shape[1], TILE):
                for x in range(0, rows.shape[2], TILE):
                    out.write(np.ascontiguousarray(rows[:, y : y + TILE, x : x + TILE]).data)


def sums(job: Job, state: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)

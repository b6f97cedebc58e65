"""xbatcher over rioxarray: a generator of windows of a lazily opened raster, as in its tutorials."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import TILE, Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import rioxarray
    import xbatcher

    return rioxarray, xbatcher


def run(job: Job, state: Any) -> None:
    rioxarray, xbatcher = state
    data = rioxarray.open_rasterio(job.files[0], cache=False)
    with open(job.out / "tiles.bin", "wb") as out:
        for tile in xbatcher.BatchGenerator(data, {"y": TILE, "x": TILE, "band": data.sizes["band"]}):
            out.write(np.ascontiguousarray(tile.values).data)


def sums(job: Job, state: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)

"""Rasters and tables for the benchmarks, from seeds alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def make_raster(folder: Path, side: int) -> None:
    """A cloud-optimised GeoTIFF of four uint16 bands, deflate, 512 x 512 blocks, with overviews."""
    import rasterio
    from rasterio.io import MemoryFile
    from rasterio.shutil import copy
    from rasterio.transform import from_origin

    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    profile = {"driver": "GTiff", "count": 4, "height": side, "width": side, "dtype": "uint16", "crs": "EPSG:32635"}
    profile["transform"] = from_origin(385000, 6680000, 10, 10)
    with MemoryFile() as memory:
        with memory.open(**profile) as out:
            for band in range(1, 5):
                values = 2000 + 900 * np.sin(x / (37 * band)) * np.cos(y / 53) + rng.normal(0, 20, (side, side))
                out.write(values.astype(np.uint16), band)
        with rasterio.open(memory.name) as made:
            copy(made, folder / "a.tif", driver="COG", compress="deflate", blocksize=512)


def make_table(folder: Path, files: int, rows: int = 337_500, channels: int = 6) -> None:
    """CSV files of 25 MB: a reading a second, as a converter of 1/64 steps gives them: sums of 512 are exact in float32, in any order."""
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(4)
    for i in range(files):
        times = np.datetime64("2025-01-01T00:00:00") + np.arange(i * rows, (i + 1) * rows).astype("timedelta64[s]")
        columns = {"time": pa.array([f"{t}Z" for t in times.astype(str)])}
        for channel in range(channels):
            steps = np.cumsum(rng.integers(-9, 10, rows)) % 6000 + 100
            columns[f"c{channel}"] = pa.array((steps / 64).tolist(), pa.float64())
        csv.write_csv(pa.table(columns), folder / f"{i:03d}.csv", csv.WriteOptions(quoting_style="none"))

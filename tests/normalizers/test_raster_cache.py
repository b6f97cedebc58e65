"""The block cache: no block of a raster is decoded twice, whatever the shapes of its blocks and tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.contract import Item, PathBlob
from headrace.ingest.normalizers import raster_cache
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def bytes_read() -> int:
    """What this process has read by system calls."""
    line = Path("/proc/self/io").read_text().splitlines()[0]
    return int(line.removeprefix("rchar: "))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts reads as Linux does")
@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize(
    "blocks",
    [
        {"tiled": True, "blockxsize": 512, "blockysize": 512},
        {"tiled": True, "blockxsize": 64, "blockysize": 64},
        {"tiled": True, "blockxsize": 160, "blockysize": 96},
        {"blockysize": 100},
        {"blockysize": 1},
    ],
    ids=lambda b: "x".join(str(v) for v in b.values()),
)
def test_every_block_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: dict[str, Any], interleave: str
) -> None:
    """GDAL fetches a block's bytes when it decodes it, and the cache is exactly as large as it is said to be needed."""
    monkeypatch.setattr(raster_cache, "BLOCK_CACHE_MB", 0)
    monkeypatch.setattr(raster_cache, "_SPARE", 0)
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(1).integers(0, 1 << 16, (3, 700, 900), dtype=np.uint16)
    profile = {"driver": "GTiff", "count": 3, "height": 700, "width": 900, "dtype": "uint16", "interleave": interleave}
    with rasterio.open(path, "w", **profile, **blocks) as out:
        out.write(pixels)
    size = path.stat().st_size
    normalizer = RasterNormalizer(RasterConfig(tile=128))
    item = Item(PathBlob("a.tif", path), 0, headers={"format": "geotiff"})
    next(iter(normalizer.open(item)))  # libraries are loaded
    before = bytes_read()
    found = list(normalizer.open(item))
    assert found and not any(isinstance(f, Bad) for f in found)
    assert bytes_read() - before < 1.25 * size + 200_000


def test_the_cache_never_takes_more_than_half_of_a_records_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide:
        block_shapes = [(1024, 1024)]
        width, height = 1_000_000, 1_000_000
        dtypes = ("float64",)
        interleaving = None

    from rasterio._env import get_gdal_config

    assert raster_cache.block_row_bytes(Wide(), [1], 256) == 977 * (1024 * 1024 * 8 + 256)
    raster_cache.keep_block_rows([(Wide(), [1])], 256)
    assert get_gdal_config("GDAL_CACHEMAX") == 512 << 20
    monkeypatch.setattr(Wide, "width", 4096)
    raster_cache.keep_block_rows([(Wide(), [1])], 256)
    assert get_gdal_config("GDAL_CACHEMAX") == 256 << 20

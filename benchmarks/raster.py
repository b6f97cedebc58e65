"""Rasters to tiles of tokens, against a bare loop of rasterio over block rows with the same tokenizer.

    python benchmarks/raster.py [--quick] [--scaling] [--json] [WORK …]
    python benchmarks/raster.py --large

Two deflated GeoTIFFs of four uint16 bands: tiled with bands apart, tiled with bands together, and in strips. `--codec`
lines keep the pixels' checksum instead of tokens in the bare loop, and raw pixels in the build: what is not tokenizer.
`--large` builds one raster of 40,000 × 40,000 pixels and tells the memory that it took.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from media_race import Work, arguments, main
from peak import peak_of

from headrace.schemas.record import RecordBuilder

TILE, BANDS, FILES = 256, 4, 2
FORMS: dict[str, dict[str, Any]] = {
    "tiles-bands-apart": {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "band"},
    "tiles-bands-together": {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"},
    "strips": {"blockysize": 16, "interleave": "band"},
}
LARGE = 40_000


def make_rasters(form: str, folder: Path, side: int) -> float:
    """Waves with a little noise, `side` pixels wide and half as high in each file; in millions of values."""
    import rasterio
    from rasterio.transform import from_origin

    height = side // FILES
    profile = {"driver": "GTiff", "count": BANDS, "height": height, "width": side, "dtype": "uint16"}
    profile |= {"crs": "EPSG:32635", "compress": "deflate", "predictor": 2, "num_threads": 2, **FORMS[form]}
    for number in range(FILES):
        rng = np.random.default_rng(5 + number)
        place = from_origin(385000, 6680000 - 10 * height * number, 10, 10)
        y, x = np.mgrid[0:height, 0:side].astype(np.float32)
        with rasterio.open(folder / f"{number}.tif", "w", transform=place, **profile) as out:
            for band in range(1, BANDS + 1):
                values = 2000 + 900 * np.sin(x / (37 * band)) * np.cos(y / 53) + rng.normal(0, 20, (height, side))
                out.write(values.astype(np.uint16), band)
    return FILES * height * side * BANDS / 1e6


def bare(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """Whole rows of tiles at a time, then tokens tile by tile."""
    import rasterio
    from rasterio.windows import Window

    kept = 0
    for path in files:
        with rasterio.open(path, driver="GTiff", num_threads=threads) as src:
            names = [{"name": str(i)} for i in src.indexes]
            for row in range(0, src.height, TILE):
                height = min(TILE, src.height - row)
                pixels = src.read(window=Window(0, row, src.width, height))
                if tokenizer is None:
                    kept += int(pixels[:, ::64, ::64].sum())
                    continue
                builder = RecordBuilder("raster")
                for column in range(0, src.width, TILE):
                    tile = pixels[:, :, column : column + TILE]
                    builder.add(locator="", pixels=tile, bands=names, valid=np.ones(tile.shape[1:], np.uint8))
                kept += len(tokenizer.encode(builder.finish()).values)
    return kept


def large() -> None:
    """A raster of 3.2 GB of pixels, which compress to a tenth."""
    import rasterio
    from rasterio.windows import Window

    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        (Path(folder) / "in").mkdir()
        path = Path(folder) / "in" / "large.tif"
        profile = {"driver": "GTiff", "count": 1, "height": LARGE, "width": LARGE, "dtype": "uint16", "tiled": True}
        profile |= {"blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1, "num_threads": 2}
        profile |= {"crs": "EPSG:32635", "transform": rasterio.transform.from_origin(385000, 6680000, 10, 10)}
        noise = np.random.default_rng(8).integers(0, 2, (512, LARGE), dtype=np.uint16)  # else it is refused as a bomb
        pattern = (np.add.outer(np.arange(512), np.arange(LARGE)) % 4096).astype(np.uint16) + noise
        with rasterio.open(path, "w", **profile) as out:
            for row in range(0, LARGE, 512):
                height = min(512, LARGE - row)
                out.write(np.roll(pattern, row // 7, axis=1)[None, :height], window=Window(0, row, LARGE, height))
        document = {
            "source": {"type": "files", "root": str(path.parent)},
            "record": {"type": "raster"},
            "tokenizer": {"type": "band-pca-fsq", "fit": {"records": 200}},
        }
        pipeline = Path(folder) / "pipeline.yaml"
        pipeline.write_text(json.dumps({"dataset": str(Path(folder) / "out"), "streams": {"large": document}}))
        command = [sys.executable, "-m", "headrace", "build", str(pipeline)]
        found = peak_of([*command, "--engine", "inline", "--workers", "1", "--json"])
        told = json.loads(found.output)["streams"][0]
        if told["samples"] != (-(-LARGE // TILE)) ** 2:
            raise SystemExit(f"{told['samples']} tiles were built, {told['quarantined']} refused")
        print(
            f"{LARGE} x {LARGE} uint16, {path.stat().st_size / 2**20:,.0f} MiB on disk: {found.seconds:.1f} s,"
            f" {found.cpu:.1f} CPU s, peak {found.child / 2**20:,.0f} MiB in one process,"
            f" {found.tree / 2**20:,.0f} MiB in all {found.processes}"
        )


def works() -> list[Work]:
    """The lines of the table."""
    lines = []
    for form in FORMS:
        make = partial(make_rasters, form)
        lines.append(Work(form, "raster", "Mvalue", make, (2048, 4096), {}, bare))
        lines.append(Work(f"{form}-codec", "raster", "Mvalue", make, (2048, 4096), {}, bare, raw=True))
    return lines


if __name__ == "__main__":
    WORKS = works()
    parser = arguments(__doc__, [work.name for work in WORKS])
    parser.add_argument("--large", action="store_true", help="the memory that a very large raster takes; nothing else")
    options = parser.parse_args()
    if options.large:
        large()
    else:
        main(options, WORKS)

"""The raster normalizer: tiles of a grid of pixels with all chosen bands, their mask, their place and their time.

A record is a `tile` × `tile` window of the file's own pixel grid; at the right and lower edge it is what is left. One
item may hold several grids (pages, variables, times, granules), each with records of its own, in the file's order.
Overviews are never read. Files are read along their blocks: tiles come row by row, and decoded blocks stay in GDAL's
cache for the neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from headrace.connectors.contract import Item
from headrace.ingest.normalizers.contract import (
    Bad,
    Normalized,
    Normalizer,
    NormalizerConfig,
    blob_of,
)
from headrace.ingest.normalizers.raster_errors import rasterio_module
from headrace.ingest.normalizers.raster_files import open_file
from headrace.ingest.normalizers.raster_footprint import footprints
from headrace.ingest.normalizers.raster_layer import Layer, Tile
from headrace.ingest.normalizers.raster_open import environment
from headrace.ingest.normalizers.raster_plan import Stack, part_of, shares
from headrace.ingest.normalizers.raster_product import open_product
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.record import Modality, RecordBuilder

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 32  # so that slow files are still seen to move
_ALONE_BYTES = 4 << 20  # a tile of this size is a batch of its own, which shares its memory

Window = tuple[int, int, int, int]  #: column, row, width, height

Resampling = Literal["nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode"]


class RasterConfig(NormalizerConfig):
    """Settings of `record: {type: raster}`. All of them shape the records."""

    tile: int = Field(256, ge=16, le=4096, description="pixels along a side of a record")
    bands: list[str | int] | Literal["all"] = Field("all", description="names, or numbers from 1; `all` in file order")
    resample: Resampling = Field("bilinear", description="how bands of a product come onto its grid; classes: nearest")
    mask: Literal["auto", "scl", "qa_pixel", "none"] = Field("auto", description="class layer that tells clouds")
    grid: str | None = Field(None, description="band whose grid a product gets; by default the finest chosen one")
    max_bands: int = Field(512, ge=1, le=65_535, description="more bands in a file are refused")
    harmonize: bool = Field(True, description="take Sentinel-2's radiometric offset (baseline 04.00 and later) out")


class RasterNormalizer(Normalizer):
    """GeoTIFF, JPEG 2000, netCDF, HDF5, GRIB and ENVI, and products of several files, as tiles."""

    Config: ClassVar[type[NormalizerConfig]] = RasterConfig
    modality: ClassVar[Modality] = "raster"

    def open(self, item: Item) -> Iterator[Normalized]:
        """The tiles of one item; what cannot be read is a Bad with its window. Raises: RecordError."""
        rasterio_module()
        part, parts = part_of(item)
        with self._stack(item) as stack:
            yield from self._tiles(stack, part, parts)

    @contextmanager
    def _stack(self, item: Item) -> Iterator[Stack]:
        if isinstance(item.data, list):
            with open_product(item.data, self.config, self.limits) as stack:
                yield stack
        else:
            with open_file(blob_of(item), self.config, self.limits) as stack:
                yield stack

    def _tiles(self, stack: Stack, part: int, parts: int) -> Iterator[Normalized]:
        builder = RecordBuilder("raster")
        for share in shares(stack.sheets, self.config.tile, part, parts):
            try:
                layer = stack.open(share.sheet)
            except RecordError as exc:
                if share.first == 0:  # the sheet is lost as a whole: told once, with its beginning
                    yield from _flushed(builder)
                    yield Bad(exc.reason, exc.message, _locator(share.sheet.locator))
                continue
            for row in range(share.first, share.end):
                yield from self._row(layer, share.sheet.locator, row, builder)
        yield from _flushed(builder)

    def _row(
        self, layer: Layer, place: dict[str, Any], row: int, builder: RecordBuilder
    ) -> Iterator[Normalized]:
        """The tiles of one row of tiles, left to right."""
        size = self.config.tile
        top = row * size
        height = min(size, layer.height - top)
        windows = [(left, top, min(size, layer.width - left), height) for left in range(0, layer.width, size)]
        with environment():
            outlines = footprints(layer.description.georeference.to_lonlat, windows)
        for window, outline in zip(windows, outlines):
            locator = _locator({**place, "window": list(window)})
            try:
                tile = layer.read(*window)
            except RecordError as exc:
                yield from _flushed(builder)
                yield Bad(exc.reason, exc.message, locator)
                continue
            alone = tile.pixels.nbytes >= _ALONE_BYTES
            full = builder.payload_bytes + tile.pixels.nbytes > _BATCH_BYTES or len(builder) == _BATCH_ROWS
            if alone or full:
                yield from _flushed(builder)
            _add(builder, layer, tile, window, locator, outline)
            if alone:
                yield from _flushed(builder)


def _add(
    builder: RecordBuilder, layer: Layer, tile: Tile, window: Window, locator: str, outline: bytes | None
) -> None:
    about = layer.description
    builder.add(
        locator=locator,
        event_time=about.event_time,
        event_end=about.event_end,
        time_source=about.time_source,
        geometry=outline,
        license=about.license,
        attribution=about.attribution,
        valid_fraction=float(np.count_nonzero(tile.valid)) / tile.valid.size,
        flags=sorted({*about.flags, *tile.flags}) or None,
        transforms=about.transforms or None,
        extra=canonical_json(about.extra).decode() if about.extra else None,
        pixels=tile.pixels,
        bands=about.bands,
        valid=tile.valid,
        cloud=tile.cloud,
        crs=about.georeference.crs,
        transform=about.georeference.tile_transform(window[0], window[1]),
    )


def _flushed(builder: RecordBuilder) -> Iterator[Normalized]:
    if len(builder):
        yield builder.finish()


def _locator(place: dict[str, Any]) -> str:
    return canonical_json(place).decode()

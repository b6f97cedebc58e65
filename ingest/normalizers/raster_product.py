"""Products of several files as one raster: a SAFE folder, a STAC item with a file per band, or files of one stem.

A product is a list of bands with what its metadata says of them. The chosen bands come onto the grid of the finest one
(or of the band that `grid` names); bands that lie on it already are read as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from headrace.connectors.contract import Blob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.raster_cache import keep_block_rows
from headrace.ingest.normalizers.raster_clouds import ClassMask, wanted_kinds
from headrace.ingest.normalizers.raster_errors import translated
from headrace.ingest.normalizers.raster_files import open_admitted, open_file
from headrace.ingest.normalizers.raster_gate import DRIVERS, Admitted
from headrace.ingest.normalizers.raster_layer import Description
from headrace.ingest.normalizers.raster_open import RasterFile, environment
from headrace.ingest.normalizers.raster_plan import Stack
from headrace.ingest.normalizers.raster_safe import is_safe, safe_products
from headrace.ingest.normalizers.raster_sheets import Sheet
from headrace.ingest.normalizers.raster_sources import Product, Source
from headrace.ingest.normalizers.raster_stac import stac_of, stac_product
from headrace.ingest.normalizers.raster_stem import stem_product
from headrace.ingest.normalizers.raster_warp import BandReader, Grid, ProductFiles, ProductLayer, place_of
from headrace.schemas.errors import RecordError


@contextmanager
def open_product(blobs: Sequence[Blob], config: Any, limits: Limits) -> Iterator[Stack]:
    """The sheets of an item of several files. Raises: RecordError."""
    formats = [_format(blob) for blob in blobs]
    with ExitStack() as stack:
        files = ProductFiles(limits, config.max_bands)
        stack.callback(files.close)
        if is_safe(blobs):
            yield _stack(safe_products(blobs, config.harmonize), files, config, limits)
            return
        names = {blob.name for blob in blobs}
        rasters = [b for b, format in zip(blobs, formats) if format in DRIVERS and not _is_sidecar(b.name, names)]
        item = stac_of([blob for blob, format in zip(blobs, formats) if format in ("json", "jsonl", "text")])
        if item is not None:
            yield _stack([stac_product(item, rasters, files, config)], files, config, limits)
        elif "envi" in formats and not rasters:
            header = blobs[formats.index("envi")]
            yield stack.enter_context(_envi(header, [b for b in blobs if b is not header], config, limits))
        elif len(rasters) == 1:
            yield stack.enter_context(open_file(rasters[0], config, limits))
        elif rasters:
            yield _stack([stem_product(rasters, files)], files, config, limits)
        else:
            found = ", ".join(sorted(set(formats)))
            raise RecordError("unknown_format", f"none of {len(blobs)} files is a raster; they are {found}")


def _is_sidecar(name: str, names: set[str]) -> bool:
    """Overviews and masks beside a file are TIFFs, too, but no bands."""
    return name.lower().endswith((".ovr", ".msk")) and name[:-4] in names


def _format(blob: Blob) -> str:
    if blob.size == 0:
        return "empty"
    with blob.open() as stream:
        return sniff_stream(stream, blob.name).name


@contextmanager
def _envi(header: Blob, others: Sequence[Blob], config: Any, limits: Limits) -> Iterator[Stack]:
    """An ENVI raster: a header, and the file of the same stem that holds the pixels."""
    stem = header.name.rsplit(".", 1)[0]
    data = [b for b in others if b.name == stem or b.name.rsplit(".", 1)[0] == stem]
    data = [b for b in data if not b.name.lower().endswith((".xml", ".enp", ".txt"))]
    if len(data) != 1:
        raise RecordError("inconsistent", f"{len(data)} files could hold the pixels of {header.name}; one is right")
    admitted = Admitted("envi", "ENVI", data[0].size)
    with RasterFile(data[0], admitted, header) as file:
        with file.open() as dataset, environment():
            start = int(float(dataset.tags(ns="ENVI").get("header_offset", "0").split()[0] or 0))
            need = start + sum(dataset.width * dataset.height * _bytes(d) for d in dataset.dtypes)
        if need > admitted.size:
            message = f"the header promises {need} bytes, {data[0].name} has {admitted.size}"
            file.admitted = replace(admitted, truncated=True, damage=("truncated", message, {"byte": admitted.size}))
        with open_admitted(file, config, limits) as stack:
            yield stack


def _bytes(dtype: str) -> int:
    import numpy as np

    return np.dtype(dtype).itemsize


def _stack(products: Sequence[Product], files: ProductFiles, config: Any, limits: Limits) -> Stack:
    sheets: list[Sheet] = []
    for i, product in enumerate(products):
        try:
            grid, _ = place_of(files, _grid_source(product, files, config))
            sheets.append(Sheet(product.locator, grid.width, grid.height, order=i))
        except RecordError as exc:
            if len(products) == 1:
                raise
            sheets.append(Sheet(product.locator, error=exc, order=i))
    return Stack(sheets, lambda sheet: _layer(products[sheet.order], sheet, files, config, limits))


def _grid_source(product: Product, files: ProductFiles, config: Any) -> Source:
    """The band whose grid the product gets: the named one, else the chosen one with the smallest pixels."""
    if config.grid is not None:
        return product.find(config.grid)
    chosen = product.select(config.bands)
    if not chosen:
        raise RecordError("no_signal", "no band file came with this product")
    places = [place_of(files, source) for source in chosen]
    known = all(place.gsd_m is not None for _, place in places)
    size = [place.gsd_m or 0.0 if known else -1.0 * grid.width * grid.height for grid, place in places]
    return chosen[size.index(min(size))]


def _layer(product: Product, sheet: Sheet, files: ProductFiles, config: Any, limits: Limits) -> ProductLayer:
    if sheet.error is not None:
        raise sheet.error
    chosen = product.select(config.bands)
    if len(chosen) > config.max_bands:
        raise RecordError("too_large", f"{len(chosen)} bands; `max_bands` allows {config.max_bands}")
    grid, place = place_of(files, _grid_source(product, files, config))
    with translated("preparing the bands"), environment():
        readers = [BandReader(files, source, grid, config.resample) for source in chosen]
        classes = _classes(product, files, grid, config.mask)
    about = Description(
        bands=[reader.row() for reader in readers],
        georeference=place,
        event_time=product.event_time,
        event_end=product.event_end,
        time_source=product.time_source,
        license=product.license,
        attribution=product.attribution,
        transforms=_transforms(readers, place.gsd_m) + ([classes[1].note] if classes else []),
        flags=["truncated"] if any(reader.truncated for reader in readers) else [],
        extra={**product.extra, **place.extra},
    )
    layer = ProductLayer(readers, grid, about, classes)
    keep_block_rows([reader.blocks for reader in [*readers, *([classes[0]] if classes else [])]], config.tile)
    tile = min(config.tile, grid.width) * min(config.tile, grid.height) * len(readers) * layer.dtype.itemsize
    if tile > limits.max_bytes // 4:
        raise RecordError("too_large", f"a tile of {len(readers)} bands takes {tile} bytes")
    return layer


def _classes(product: Product, files: ProductFiles, grid: Grid, wanted: str) -> tuple[BandReader, ClassMask] | None:
    for kind in wanted_kinds(wanted):
        for source in product.sources:
            if source.is_called(kind):
                return BandReader(files, replace(source, nearest=True), grid, "nearest"), ClassMask(kind)
    return None


def _transforms(readers: Sequence[BandReader], gsd_m: float | None) -> list[str]:
    """What was done to the values, band by band."""
    import numpy as np

    notes = []
    common = np.result_type(*{np.dtype(reader.band.dtype) for reader in readers}).name
    for reader in readers:
        name = reader.source.name
        if reader.resampling:
            metres = f" {_metres(reader.native.gsd_m)} to {_metres(gsd_m)}" if reader.native.gsd_m and gsd_m else ""
            notes.append(f"{name}: {reader.resampling}{metres}")
        if reader.source.shift:
            notes.append(f"{name}: {reader.source.shift:+d} where > 0, at least 0")
        stored = reader.band.stored or reader.band.dtype
        if stored != common:
            notes.append(f"{name}: {stored} to {common}")
    return notes


def _metres(value: float | None) -> str:
    return f"{value or 0:.6g} m"

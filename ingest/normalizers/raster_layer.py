"""Reading tiles: pixels of the chosen bands, and where they are data.

A layer is what a record shows: some bands of one grid at one time. `Layer` is the contract that single files and
products of several files share; `FileLayer` is the layer of one open dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.raster_bands import Band
from headrace.ingest.normalizers.raster_clouds import ClassMask
from headrace.ingest.normalizers.raster_errors import translated
from headrace.ingest.normalizers.raster_georeference import Georeference
from headrace.ingest.normalizers.raster_open import environment

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tile:
    """One window. pixels: (bands, height, width); valid and cloud: (height, width) of 0 and 1."""

    pixels: npt.NDArray[Any]
    valid: Bytes
    cloud: Bytes | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What all tiles of a layer say of themselves."""

    bands: list[dict[str, Any]]
    georeference: Georeference
    event_time: int | None = None  #: microseconds since 1970
    event_end: int | None = None
    time_source: str | None = None
    license: str | None = None
    attribution: str | None = None
    transforms: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class Layer(Protocol):
    """One grid of pixels that can be read window by window."""

    description: Description
    width: int
    height: int

    def read(self, column: int, row: int, width: int, height: int) -> Tile:
        """The pixels of a window inside the grid. Raises: RecordError."""


class FileLayer:
    """Bands of one open rasterio dataset."""

    def __init__(
        self, dataset: Any, bands: Sequence[Band], description: Description, classes: ClassMask | None, reason: str
    ) -> None:
        """classes: a band of the same dataset that tells clouds; reason: what a failed read most likely means."""
        self.description = description
        self.width, self.height = dataset.width, dataset.height
        self._dataset, self._classes, self._reason = dataset, classes, reason
        self._indexes = [band.index for band in bands]
        self._dtype = common_dtype(bands)
        self._masked = MaskReader(dataset, bands)

    def tile_bytes(self, tile: int) -> int:
        """The pixels of the largest tile."""
        return min(tile, self.width) * min(tile, self.height) * len(self._indexes) * int(self._dtype.itemsize)

    def read(self, column: int, row: int, width: int, height: int) -> Tile:
        """One window. Raises: RecordError."""
        from rasterio.windows import Window

        window = Window(column, row, width, height)
        what = f"reading {width} x {height} pixels at column {column}, row {row}"
        with translated(what, self._reason), environment():
            pixels = self._dataset.read(self._indexes, window=window, out_dtype=self._dtype)
            valid = self._masked.read(window, pixels)
            if self._classes is None:
                return Tile(pixels, valid)
            codes = self._dataset.read(self._classes.index, window=window)
        seen, cloud = self._classes.judge(codes)
        return Tile(pixels, valid & seen, cloud)


class MaskReader:
    """Where at least one of the chosen bands is data, as the file's masks, alpha, nodata values and NaN say."""

    def __init__(self, dataset: Any, bands: Sequence[Band]) -> None:
        self._dataset, self._indexes = dataset, [band.index for band in bands]
        #: A band whose mask stands for all: that of the dataset, or the alpha band.
        self._shared = next((band.index for band in bands if band.masks & {"per_dataset", "alpha"}), None)
        self._unmasked = all("all_valid" in band.masks for band in bands)

    def read(self, window: Any, pixels: npt.NDArray[Any]) -> Bytes:
        """(height, width) of 0 and 1."""
        floating = pixels.dtype.kind in "fc"
        data = ~np.isnan(pixels) if floating else np.ones(pixels.shape, dtype=np.bool_)
        if self._shared is not None:
            valid = data.any(axis=0) & (self._dataset.read_masks(self._shared, window=window) > 0)
        elif self._unmasked:
            valid = data.any(axis=0)
        else:
            valid = (data & (self._dataset.read_masks(self._indexes, window=window) > 0)).any(axis=0)
        return np.ascontiguousarray(valid).view(np.uint8)


def common_dtype(bands: Sequence[Band]) -> Any:
    """The smallest numpy type that holds every band exactly, where there is one (numpy's own promotion)."""
    return np.result_type(*{np.dtype(band.dtype) for band in bands})


def conversions(bands: Sequence[Band]) -> list[str]:
    """What happens to values on their way into the common type, for the `transforms` column."""
    target = common_dtype(bands).name
    notes = [
        f"{band.name}: {band.stored or band.dtype} to {target}"
        for band in bands
        if (band.stored or band.dtype) != target
    ]
    # GDAL turns kelvin into degrees Celsius, and takes what it knows no element for as kelvin, too.
    kelvin = [b.name for b in bands if b.is_grib and (b.unit == "C" or b.name.startswith("unknown"))]
    return notes + [f"{name}: kelvin to degree Celsius" for name in kelvin]

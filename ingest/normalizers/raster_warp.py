"""Bands of several files on one grid: each is read as it is where it lies on the grid already, else through GDAL's
warper, as `rasterio.vrt.WarpedVRT` does it. Classes are never interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.raster_bands import Band, bands_of
from headrace.ingest.normalizers.raster_clouds import ClassMask
from headrace.ingest.normalizers.raster_errors import translated
from headrace.ingest.normalizers.raster_gate import Admitted, admit
from headrace.ingest.normalizers.raster_georeference import Georeference, georeference_of
from headrace.ingest.normalizers.raster_layer import Description, MaskReader, Tile
from headrace.ingest.normalizers.raster_open import RasterFile, environment, quiet
from headrace.ingest.normalizers.raster_sheets import refuse_dataset
from headrace.ingest.normalizers.raster_sources import Source
from headrace.schemas.errors import RecordError

_ALIGNED = 1e-3  # pixels by which two grids may differ and still be one


class ProductFiles:
    """The files of a product, each opened once when it is first needed."""

    def __init__(self, limits: Limits, max_bands: int) -> None:
        self._limits, self._max_bands = limits, max_bands
        self._stack = ExitStack()
        self._opened: dict[int, tuple[Any, list[Band], Admitted]] = {}

    def open(self, blob: Blob) -> tuple[Any, list[Band], Admitted]:
        """(dataset, bands, what the gate said) of one file. Raises: RecordError that names the file."""
        if id(blob) not in self._opened:
            try:
                admitted = admit(blob, self._limits, self._max_bands)
                file = self._stack.enter_context(RasterFile(blob, admitted))
                dataset = self._stack.enter_context(file.open())
                with translated("reading the header"), environment():
                    refuse_dataset(dataset, admitted.size, self._limits)
                    self._opened[id(blob)] = (dataset, bands_of(dataset), admitted)
            except RecordError as exc:
                raise RecordError(exc.reason, f"{blob.name}: {exc.message}") from exc
        return self._opened[id(blob)]

    def close(self) -> None:
        """Close all files."""
        self._stack.close()


@dataclass(frozen=True)
class Grid:
    """The pixels that all bands come onto."""

    width: int
    height: int
    crs: Any
    transform: Any

    @classmethod
    def of(cls, dataset: Any) -> Grid:
        return cls(dataset.width, dataset.height, dataset.crs, dataset.transform)

    def holds(self, dataset: Any) -> bool:
        """Whether a dataset's pixels are the grid's pixels."""
        if (dataset.width, dataset.height) != (self.width, self.height):
            return False
        if self.crs and dataset.crs and self.crs != dataset.crs:
            return False
        back = ~self.transform
        for column, row in ((0, 0), (self.width, 0), (0, self.height)):
            x, y = _at(dataset.transform, column, row)
            near = _at(back, x, y)
            if abs(near[0] - column) > _ALIGNED or abs(near[1] - row) > _ALIGNED:
                return False
        return True


def _at(transform: Any, column: float, row: float) -> tuple[float, float]:
    x = transform.a * column + transform.b * row + transform.c
    return x, transform.d * column + transform.e * row + transform.f


class BandReader:
    """One band on the grid."""

    def __init__(self, files: ProductFiles, source: Source, grid: Grid, resampling: str) -> None:
        from rasterio.enums import ColorInterp, Resampling
        from rasterio.vrt import WarpedVRT

        dataset, bands, admitted = files.open(source.blob)
        if source.index > len(bands):
            message = f"{source.blob.name} has {len(bands)} bands, {source.name} would be the {source.index}th"
            raise RecordError("inconsistent", message)
        self.source, self.band = source, bands[source.index - 1]
        self.native = georeference_of(dataset)
        self.truncated = admitted.truncated
        self.nodata = source.nodata if source.nodata is not None else self.band.nodata
        self.resampling: str | None = None
        self._vrt: Any = None
        self._dataset = dataset
        if not grid.holds(dataset):
            if not (grid.crs and dataset.crs) or dataset.transform.is_identity:
                sizes = f"{dataset.width} x {dataset.height} pixels, the grid {grid.width} x {grid.height}"
                raise RecordError(
                    "inconsistent", f"{source.name} has {sizes}; to be laid together both need CRS and transform"
                )
            self.resampling = "nearest" if source.nearest else resampling
            with quiet():
                self._vrt = WarpedVRT(
                    dataset, crs=grid.crs, transform=grid.transform, width=grid.width, height=grid.height,
                    resampling=Resampling[self.resampling], src_nodata=self.nodata, nodata=self.nodata,
                    # Without a nodata value only an alpha band tells where the band does not reach.
                    add_alpha=self.nodata is None and "alpha" not in self.band.masks,
                )  # fmt: skip
        seen = self.band if self._vrt is None else bands_of(self._vrt)[source.index - 1]
        self._masked = MaskReader(self._vrt or dataset, [seen])
        self._alpha: int | None = None  # rasterio's flags of a warper do not know its alpha band
        if self._vrt is not None and ColorInterp.alpha in self._vrt.colorinterp:
            self._alpha = self._vrt.colorinterp.index(ColorInterp.alpha) + 1

    def read(self, window: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """(pixels, valid) of shape (height, width), as the file holds them. Raises: RecordError."""
        what = f"reading {self.source.name} from {self.source.blob.name}"
        with translated(what, "truncated" if self.truncated else "corrupt"):
            pixels = (self._vrt or self._dataset).read([self.source.index], window=window)
            valid = self._masked.read(window, pixels).view(np.bool_)
            if self._alpha is not None:
                valid = valid & (self._vrt.read(self._alpha, window=window) > 0)
        if self.source.nodata is not None:
            valid = valid & (pixels[0] != self.source.nodata)
        return pixels[0], valid

    def row(self) -> dict[str, Any]:
        """The band as a value of the records' `bands` column."""
        source, band = self.source, self.band
        return {
            "name": source.name,
            "wavelength_nm": source.wavelength_nm or band.wavelength_nm,
            "gsd_m": self.native.gsd_m or source.gsd_m,
            "unit": source.unit or band.unit,
            "scale": band.scale if source.scale is None else source.scale,
            "offset": band.offset if source.offset is None else source.offset,
            "nodata": self.nodata,
            "resampling": self.resampling,
        }

    @property
    def blocks(self) -> tuple[Any, list[int]]:
        """The dataset that is read, and the band of it."""
        return self._vrt or self._dataset, [self.source.index]

    def close(self) -> None:
        """Close the warper; the file belongs to the product."""
        if self._vrt is not None:
            with environment():
                self._vrt.close()


class ProductLayer:
    """The chosen bands of a product on its grid."""

    def __init__(
        self, readers: Sequence[BandReader], grid: Grid, description: Description,
        classes: tuple[BandReader, ClassMask] | None,
    ) -> None:  # fmt: skip
        self.description = description
        self.width, self.height = grid.width, grid.height
        self._readers, self._classes = readers, classes
        self.dtype = np.result_type(*{np.dtype(reader.band.dtype) for reader in readers})

    def read(self, column: int, row: int, width: int, height: int) -> Tile:
        """One window. Raises: RecordError."""
        from rasterio.windows import Window

        window = Window(column, row, width, height)
        pixels = np.empty((len(self._readers), height, width), dtype=self.dtype)
        valid = np.zeros((height, width), dtype=np.bool_)
        clipped = False
        for i, reader in enumerate(self._readers):
            values, data = reader.read(window)
            valid |= data
            if reader.source.shift:
                values, below = shifted(values, reader.source.shift, reader.nodata)
                clipped = clipped or bool((below & data).any())
            pixels[i] = values
        cloud = None
        if self._classes is not None:
            codes, known = self._classes[0].read(window)
            seen, cloud = self._classes[1].judge(codes)
            valid &= seen.view(np.bool_) & known
        return Tile(pixels, valid.view(np.uint8), cloud, ("clipped",) if clipped else ())


def shifted(
    values: npt.NDArray[Any], shift: int, nodata: float | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """(values + shift where they are data, never under 0; where that clipped)."""
    if values.dtype.kind == "u" and shift < 0 and nodata == 0:
        # What is usual, in the values' own type: 0 stays 0 by itself.
        return values - np.minimum(values, values.dtype.type(-shift)), (values < -shift) & (values > 0)
    data = values != nodata if nodata is not None else np.ones(values.shape, dtype=np.bool_)
    moved = values.astype(np.int64) + shift
    below = data & (moved < 0)
    return np.where(data, np.maximum(moved, 0), values).astype(values.dtype), below


def place_of(files: ProductFiles, source: Source) -> tuple[Grid, Georeference]:
    """The grid of one band, and where it lies."""
    dataset, _, _ = files.open(source.blob)
    with translated("reading the header"), environment():
        return Grid.of(dataset), georeference_of(dataset)

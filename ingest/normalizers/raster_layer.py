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
from headrace.ingest.normalizers.raster_errors import failures, translated
from headrace.ingest.normalizers.raster_georeference import Georeference
from headrace.schemas.errors import RecordError

Bytes = npt.NDArray[np.uint8]

_MOST_TIMES_AHEAD = 32
_BYTES_AHEAD = 48 << 20
_MOST_TRIED = 16


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
        self,
        dataset: Any,
        bands: Sequence[Band],
        description: Description,
        *,
        classes: ClassMask | None = None,
        reason: str = "corrupt",
        ahead: ReadAhead | None = None,
        block: tuple[int, int] | None = None,
    ) -> None:
        """classes: a band of the same dataset that tells clouds; reason: what a failed read most likely means.

        block: (columns, rows) of what is decoded at once, where that is more than GDAL says.
        """
        self.description = description
        self.width, self.height = dataset.width, dataset.height
        self._dataset, self._classes, self._reason, self._ahead = dataset, classes, reason, ahead
        self._indexes = [band.index for band in bands]
        self._dtype = common_dtype(bands)
        self._masked = MaskReader(dataset, bands)
        rows, columns = dataset.block_shapes[self._indexes[0] - 1]
        self._broken = BrokenBlocks(*(block or (columns, rows)))

    def tile_bytes(self, tile: int) -> int:
        """The pixels of the largest tile."""
        return min(tile, self.width) * min(tile, self.height) * len(self._indexes) * int(self._dtype.itemsize)

    def read(self, column: int, row: int, width: int, height: int) -> Tile:
        """One window. Raises: RecordError."""
        from rasterio.windows import Window

        window = Window(column, row, width, height)
        known = self._broken.at(column, row, width, height)
        if known is not None:
            raise RecordError(known.reason, f"{_place(window)}: its block failed before, {known.message}")
        try:
            return self._read(window)
        except RecordError:
            for left, top in self._broken.unknown(column, row, width, height):
                try:
                    self._read(Window(left, top, 1, 1))
                except RecordError as exc:
                    self._broken.add(left, top, exc)
            raise

    def _read(self, window: Any) -> Tile:
        with translated(_place(window), self._reason):
            pixels = self._ahead.take(self._indexes, window) if self._ahead is not None else None
            if pixels is None:
                pixels = self._dataset.read(self._indexes, window=window, out_dtype=self._dtype)
            valid = self._masked.read(window, pixels)
            if self._classes is None:
                return Tile(pixels, valid)
            codes = self._dataset.read(self._classes.index, window=window)
        seen, cloud = self._classes.judge(codes)
        return Tile(pixels, valid & seen, cloud)


def _place(window: Any) -> str:
    return f"reading {window.width} x {window.height} pixels at column {window.col_off}, row {window.row_off}"


class BrokenBlocks:
    """Blocks that failed, so that each is decoded in vain once and not once for every tile that it touches."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns, self._rows = max(1, columns), max(1, rows)
        self._found: dict[tuple[int, int], RecordError] = {}

    def at(self, column: int, row: int, width: int, height: int) -> RecordError | None:
        """What is known to be wrong with a window."""
        if not self._found:
            return None
        blocks = self._blocks(column, row, width, height)
        return next((self._found[block] for block in blocks if block in self._found), None)

    def unknown(self, column: int, row: int, width: int, height: int) -> list[tuple[int, int]]:
        """A pixel of each block of a window that failed; none where there are too many to try."""
        blocks = self._blocks(column, row, width, height)
        if len(blocks) > _MOST_TRIED:
            return []
        return [(max(x * self._columns, column), max(y * self._rows, row)) for x, y in blocks]

    def add(self, column: int, row: int, error: RecordError) -> None:
        """Remember that the block which holds a pixel failed."""
        self._found[column // self._columns, row // self._rows] = error

    def _blocks(self, column: int, row: int, width: int, height: int) -> list[tuple[int, int]]:
        across = range(column // self._columns, (column + width - 1) // self._columns + 1)
        down = range(row // self._rows, (row + height - 1) // self._rows + 1)
        return [(x, y) for y in down for x in across]


class ReadAhead:
    """Reads a window for several times of one dataset at once, because files are often stored along time.

    One call for many bands also costs rasterio no more than one call for one: each looks at every band of the dataset,
    of which a year of hours has thousands. What was read ahead lies here until its time comes.
    """

    def __init__(self, dataset: Any, times: Sequence[Sequence[Band]]) -> None:
        """times: the chosen bands of each time, in the order in which they will be asked for."""
        self._dataset = dataset
        self._times = [[band.index for band in bands] for bands in times]
        self._places = {indexes[0]: i for i, indexes in enumerate(self._times) if indexes}
        dtypes = {common_dtype(bands) for bands in times if bands}
        self._dtype = dtypes.pop() if len(dtypes) == 1 else None
        item = self._dtype.itemsize if self._dtype is not None else 1
        most = max((len(indexes) for indexes in self._times), default=1)
        grid = dataset.width * dataset.height * item * max(1, most)
        self._count = min(_MOST_TIMES_AHEAD, _BYTES_AHEAD // max(1, grid))
        self._kept: dict[tuple[int, tuple[int, ...]], npt.NDArray[Any]] = {}

    def take(self, indexes: Sequence[int], window: Any) -> npt.NDArray[Any] | None:
        """The pixels of some bands that are one time; None where reading ahead does not pay or fails."""
        first = self._places.get(indexes[0])
        if self._dtype is None or self._count < 2 or first is None or self._times[first] != list(indexes):
            return None
        place = (window.col_off, window.row_off, window.width, window.height)
        if (first, place) not in self._kept:
            following = [i for i in range(first, min(first + self._count, len(self._times))) if self._times[i]]
            flat = [index for i in following for index in self._times[i]]
            # An earlier time that was never asked for again (another part's) would stay for ever.
            self._kept = {key: pixels for key, pixels in self._kept.items() if key[0] >= first}
            try:
                pixels = self._dataset.read(flat, window=window, out_dtype=self._dtype)
            except failures():
                return None  # one of them is broken: each is then read for itself
            start = 0
            for i in following:
                self._kept[i, place] = pixels[start : start + len(self._times[i])]
                start += len(self._times[i])
        return np.array(self._kept.pop((first, place)))


class MaskReader:
    """Where at least one of the chosen bands is data, as the file's masks, alpha, nodata values and NaN say."""

    def __init__(self, dataset: Any, bands: Sequence[Band]) -> None:
        self._dataset, self._indexes = dataset, [band.index for band in bands]
        #: A band whose mask stands for all: that of the dataset, or the alpha band.
        self._shared = next((band.index for band in bands if band.masks & {"per_dataset", "alpha"}), None)
        self._unmasked = all("all_valid" in band.masks for band in bands)
        self._nodata = _plain_nodata(bands)

    def read(self, window: Any, pixels: npt.NDArray[Any]) -> Bytes:
        """(height, width) of 0 and 1."""
        if pixels.dtype.kind not in "fc":
            if self._shared is not None:
                valid = self._dataset.read_masks(self._shared, window=window) > 0
            elif self._unmasked:
                return np.ones(pixels.shape[1:], dtype=np.uint8)
            elif self._nodata is not None:
                valid = (pixels != self._nodata).any(axis=0)
            else:
                valid = self._dataset.read_masks(self._indexes, window=window).any(axis=0)
            return np.ascontiguousarray(valid).view(np.uint8)
        data = ~np.isnan(pixels)
        if self._shared is not None:
            valid = data.any(axis=0) & (self._dataset.read_masks(self._shared, window=window) > 0)
        elif self._unmasked:
            valid = data.any(axis=0)
        else:
            valid = (data & (self._dataset.read_masks(self._indexes, window=window) > 0)).any(axis=0)
        return np.ascontiguousarray(valid).view(np.uint8)


def _plain_nodata(bands: Sequence[Band]) -> npt.NDArray[Any] | None:
    """The nodata values of bands of small whole numbers, shaped to be compared with their pixels; else None.

    There GDAL's own mask is that comparison. Floating point ones it compares with a tolerance, large ones otherwise.
    """
    kinds = {band.dtype for band in bands}
    if len(kinds) != 1 or any(band.masks != {"nodata"} or band.nodata is None for band in bands):
        return None
    dtype = np.dtype(kinds.pop())
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        return None
    limits = np.iinfo(dtype)
    values = [band.nodata or 0.0 for band in bands]
    if not all(value == int(value) and limits.min <= value <= limits.max for value in values if np.isfinite(value)):
        return None
    return np.array(values).astype(dtype).reshape(-1, 1, 1) if np.isfinite(values).all() else None


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

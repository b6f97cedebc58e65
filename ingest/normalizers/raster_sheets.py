"""The sheets of a raster file: every grid in it, and every time that a grid shows, in the file's order.

A TIFF has a sheet per page, a netCDF or HDF5 file one per variable, and a file whose bands show different times one
per time, so that a record shows one moment and a year of hourly fields stays a stream of small records. A sheet is a
plan: its size and where it lies, known before its pixels are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.raster_bands import Band, bands_of
from headrace.ingest.normalizers.raster_errors import translated
from headrace.ingest.normalizers.raster_gate import refuse_bomb, refuse_page, refuse_pixels
from headrace.ingest.normalizers.raster_open import RasterFile, environment
from headrace.schemas.errors import RecordError

_PLAIN_NAME = re.compile(r'^[^\x00-\x1f\x7f"\\]{1,1024}$')
_BLOCK_SHARE = 4  # a block may take this part of the memory limit


@dataclass(frozen=True)
class Sheet:
    """One grid at one time. `name`: what GDAL calls it, None for the file itself; `order`: which of its times."""

    locator: dict[str, Any] = field(default_factory=dict)
    width: int = 1
    height: int = 1
    name: str | None = None
    driver: str | None = None
    order: int = 0
    page: int | None = None
    error: RecordError | None = None
    bands: tuple[Band, ...] = ()  #: of a netCDF or HDF5 variable at this time
    wanted: list[str] | None = None  #: those of its bands that were asked for, where that is not the whole setting
    joined: tuple[Sheet, ...] = ()  #: variables whose bands make one record


@dataclass(frozen=True)
class OpenSheet:
    """A sheet that can be read: its dataset and the bands that show its time."""

    dataset: Any
    bands: list[Band]
    times: list[list[Band]]  #: the bands of all times of the dataset


class SheetReader:
    """Opens the sheets of one file; the last opened dataset stays open for the next sheet of it."""

    def __init__(self, file: RasterFile, limits: Limits, max_bands: int) -> None:
        self._file, self._limits, self._max_bands = file, limits, max_bands
        self._stack = ExitStack()
        self._opened: tuple[str | None, Any, list[list[Band]]] | None = None
        self.ahead: tuple[Any, Any] | None = None  #: a dataset, and what was read ahead of it

    def plan(self) -> list[Sheet]:
        """All sheets. Raises: RecordError if the file itself cannot be opened."""
        pages = self._file.admitted.pages
        if pages is not None and len(pages.grids) > 1:
            return [self._page_sheet(i) for i, page in enumerate(pages.pages) if i == 0 or page.is_grid]
        driver = self._file.admitted.driver
        try:
            names = self._names(driver)
        except RecordError:
            if self._file.admitted.format != "hdf5":
                raise
            driver = "HDF5"  # not all that is HDF5 is netCDF
            names = self._names(driver)
        if not names:
            return self._sheets_of({}, None, driver)
        sheets = []
        for variable, name in names:
            locator = {"variable": variable}
            try:
                sheets += self._sheets_of(locator, name, "HDF5Image" if driver == "HDF5" else driver)
            except RecordError as exc:
                sheets.append(Sheet(locator, error=exc))
        return sheets

    def _page_sheet(self, number: int) -> Sheet:
        admitted = self._file.admitted
        assert admitted.pages is not None
        page = admitted.pages.pages[number]
        locator = {"ifd": number}
        try:
            refuse_page(page, admitted.size, self._limits, self._max_bands)
        except RecordError as exc:
            return Sheet(locator, error=exc)
        name = None if number == 0 else f"GTIFF_DIR:off:{page.offset}:{self._file.path}"
        return Sheet(locator, page.width, page.height, name, page=number)

    def _names(self, driver: str) -> list[tuple[str, str]]:
        """(variable, what GDAL calls it) of every variable that is a grid; none if the file is one grid itself."""
        with self._file.open(driver=driver) as dataset:
            found = []
            for name in dataset.subdatasets if driver in ("netCDF", "HDF5") else ():
                prefix = re.match(r"(?:netcdf|hdf5):", name, re.IGNORECASE)
                rest = name[prefix.end() :].replace('"', "") if prefix else ""
                variable = rest.removeprefix(self._file.path).removeprefix(":")
                # A variable's name comes from the file: it may name a variable, and nothing else.
                if prefix and rest.startswith(self._file.path + ":") and _PLAIN_NAME.match(variable):
                    found.append((variable, name))
            if not found and dataset.count == 0:
                raise RecordError("no_signal", "no variable of two dimensions that holds numbers")
            return found

    def _sheets_of(self, locator: dict[str, Any], name: str | None, driver: str) -> list[Sheet]:
        dataset, times = self._dataset(name, driver)
        if name is not None and _is_bounds(dataset, locator["variable"]):
            return []
        sheets = []
        for order in range(len(times)):
            place = {**locator, "layer": order} if len(times) > 1 else locator
            bands = () if name is None else tuple(times[order])
            sheets.append(Sheet(place, dataset.width, dataset.height, name, driver, order, bands=bands))
        return sheets

    def open(self, sheet: Sheet) -> OpenSheet:
        """The sheet's dataset and bands, until the next call. Raises: RecordError."""
        if sheet.error is not None:
            raise sheet.error
        dataset, times = self._dataset(sheet.name, sheet.driver)
        if (dataset.width, dataset.height) != (sheet.width, sheet.height):
            raise RecordError(
                "inconsistent",
                f"the header says {sheet.width} x {sheet.height} pixels, GDAL {dataset.width} x {dataset.height}",
            )
        return OpenSheet(dataset, times[sheet.order], times)

    def _dataset(self, name: str | None, driver: str | None) -> tuple[Any, list[list[Band]]]:
        if self._opened is None or self._opened[0] != name:
            self.close()
            dataset = self._stack.enter_context(self._file.open(name, driver))
            with translated("reading the header"), environment():
                refuse_dataset(dataset, self._file.admitted.size, self._limits)
                self._opened = (name, dataset, by_time(bands_of(dataset)))
        return self._opened[1], self._opened[2]

    def another(self) -> SheetReader:
        """A reader of the same file that keeps a dataset of its own open."""
        return SheetReader(self._file, self._limits, self._max_bands)

    def close(self) -> None:
        """Close what is open."""
        self._opened = self.ahead = None
        self._stack.close()


def refuse_dataset(dataset: Any, size: int, limits: Limits) -> None:
    """Judge an open dataset of a file of `size` bytes by what reading it would take. Raises: RecordError."""
    if dataset.count == 0:
        raise RecordError("no_signal", "a raster without bands, or several in one file where one was expected")
    itemsize = max(_itemsize(dtype) for dtype in dataset.dtypes)
    refuse_bomb(dataset.width, dataset.height, dataset.count, itemsize, size, limits)
    if dataset.driver == "GRIB":
        refuse_pixels(dataset.width * dataset.height, itemsize, limits, "a GRIB grid")
    rows, columns = max(dataset.block_shapes, key=lambda shape: shape[0] * shape[1])
    together = dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1
    block = rows * columns * itemsize * together
    if block > limits.max_bytes // _BLOCK_SHARE:
        raise RecordError("too_large", f"a block of {columns} x {rows} pixels takes {block} bytes when decoded")


def by_time(bands: list[Band]) -> list[list[Band]]:
    """Bands that show the same time together, times in the order of their first band."""
    groups: dict[tuple[int | None, str], list[Band]] = {}
    for band in bands:
        key = (None, "") if band.moment is None else (band.moment.micros, band.moment.text)
        groups.setdefault(key, []).append(band)
    return list(groups.values())


def _is_bounds(dataset: Any, variable: str) -> bool:
    """CF 7.1: the edges of a coordinate's cells are a part of that coordinate, not a field of their own."""
    own = variable.rsplit("/", 1)[-1]
    return any(key.endswith(("#bounds", "#climatology")) and value == own for key, value in dataset.tags().items())


def _itemsize(dtype: str) -> int:
    import numpy as np

    return 8 if dtype.startswith("complex_int") else np.dtype(dtype).itemsize


@contextmanager
def sheets_of(file: RasterFile, limits: Limits, max_bands: int) -> Iterator[SheetReader]:
    """A reader of a file's sheets that closes what it opened."""
    reader = SheetReader(file, limits, max_bands)
    try:
        yield reader
    finally:
        reader.close()

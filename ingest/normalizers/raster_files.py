"""One file as a stack of sheets: what the header says becomes the description that all its records share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.raster_bands import Band
from headrace.ingest.normalizers.raster_cache import keep_block_rows
from headrace.ingest.normalizers.raster_clouds import ClassMask, kind_of, wanted_kinds
from headrace.ingest.normalizers.raster_errors import translated
from headrace.ingest.normalizers.raster_gate import Admitted, admit, codec_of
from headrace.ingest.normalizers.raster_georeference import georeference_of
from headrace.ingest.normalizers.raster_layer import Description, FileLayer, Layer, ReadAhead, conversions
from headrace.ingest.normalizers.raster_open import RasterFile, can_decode, environment
from headrace.ingest.normalizers.raster_plan import Stack
from headrace.ingest.normalizers.raster_selection import Wanted, select
from headrace.ingest.normalizers.raster_sheets import OpenSheet, Sheet, SheetReader, sheets_of
from headrace.ingest.normalizers.raster_times import Moment, iso_moment, tiff_moment
from headrace.ingest.normalizers.raster_variables import JoinedLayer, join_variables
from headrace.schemas.errors import RecordError

_TAG_BYTES = 1024  # of the file's own tags that go into `extra`
_SAID_ELSEWHERE = re.compile(r"#(?:spatial_ref|crs_wkt|GeoTransform|_FillValue|history)$|^NETCDF_DIM_|^TIFFTAG_.*RES")


@contextmanager
def open_file(blob: Blob, config: Any, limits: Limits) -> Iterator[Stack]:
    """The sheets of one file. Raises: RecordError."""
    admitted = admit(blob, limits, config.max_bands)
    with RasterFile(blob, admitted) as file, open_admitted(file, config, limits) as stack:
        yield stack


@contextmanager
def open_admitted(file: RasterFile, config: Any, limits: Limits) -> Iterator[Stack]:
    """The sheets of a file that passed the gate, with what is known to be lost of it as the last one."""
    admitted = file.admitted
    with sheets_of(file, limits, config.max_bands) as reader, ExitStack() as others:
        try:
            sheets: list[Sheet] = reader.plan()
        except RecordError as exc:
            raise _explained(exc, admitted) from exc
        sheets = join_variables(sheets, config.bands)
        readers: dict[str, SheetReader] = {}  # of joined variables, each keeps its own open

        def open_sheet(sheet: Sheet) -> Layer:
            if not sheet.joined:
                return _layer(reader, sheet, admitted, config, limits)
            layers = []
            for part in sheet.joined:
                variable = part.locator["variable"]
                if variable not in readers:
                    readers[variable] = reader.another()
                    others.callback(readers[variable].close)
                layers.append(_layer(readers[variable], part, admitted, config, limits))
            return JoinedLayer(sheet, layers, config.bands)

        if admitted.damage is not None:
            reason, message, where = admitted.damage
            sheets.append(Sheet({"damage": where}, error=RecordError(reason, message)))
        yield Stack(sheets, open_sheet)


def _explained(exc: RecordError, admitted: Admitted) -> RecordError:
    """An open that failed, with the reason that the header gives."""
    codec = codec_of(admitted.pages.pages[0]) if admitted.pages else None
    if exc.reason == "corrupt" and codec and not can_decode(codec):
        return RecordError(f"unsupported:{codec}", exc.message)
    if exc.reason == "corrupt" and admitted.format == "netcdf3" and not admitted.truncated:
        # Its header was read to the end: what GDAL misses is a variable that is a grid.
        return RecordError("no_signal", f"no variable that is a grid of numbers ({exc.message})")
    if exc.reason == "corrupt" and admitted.truncated:
        return RecordError("truncated", exc.message)
    return exc


def _layer(reader: SheetReader, sheet: Sheet, admitted: Admitted, config: Any, limits: Limits) -> Layer:
    page = admitted.pages.pages[sheet.page or 0] if admitted.pages else None
    truncated = admitted.truncated if page is None else page.blocks_missing > 0
    opened = reader.open(sheet)
    wanted = config.bands if sheet.wanted is None else sheet.wanted
    bands = select(opened.bands, wanted)
    if len(bands) > config.max_bands:
        raise RecordError("too_large", f"{len(bands)} bands, `max_bands` is {config.max_bands}: name some in `bands`")
    with translated("reading the header"), environment():
        classes = class_mask(opened.bands, config.mask)
        about = describe(opened, bands, truncated, classes)
        reason = "truncated" if truncated else "corrupt"
        codec = codec_of(page) if page is not None else None
        if codec and not can_decode(codec):
            reason = f"unsupported:{codec}"
        block = (page.block_width, page.block_height) if page is not None else None
        if admitted.driver == "GRIB":  # a message is decoded as a whole
            block = (sheet.width, sheet.height)
        layer = FileLayer(
            opened.dataset, bands, about,
            classes=classes, reason=reason, ahead=_ahead(reader, opened, wanted), block=block,
        )  # fmt: skip
    read = [band.index for band in bands] + ([classes.index] if classes else [])
    keep_block_rows([(opened.dataset, read)], config.tile)
    if layer.tile_bytes(config.tile) > limits.max_bytes // 4:
        raise RecordError("too_large", f"a tile of {len(bands)} bands takes {layer.tile_bytes(config.tile)} bytes")
    return layer


def _ahead(reader: SheetReader, opened: OpenSheet, wanted: Wanted) -> ReadAhead | None:
    """One for all times of a dataset."""
    if len(opened.times) < 2:
        return None
    if reader.ahead is None or reader.ahead[0] is not opened.dataset:
        chosen = []
        for bands in opened.times:
            try:
                chosen.append(select(bands, wanted))
            except RecordError:  # told when this time's turn comes
                chosen.append([])
        reader.ahead = (opened.dataset, ReadAhead(opened.dataset, chosen))
    return reader.ahead[1]


def class_mask(bands: Sequence[Band], wanted: str) -> ClassMask | None:
    """The class layer among the bands of one dataset, if the pipeline wants one."""
    for kind in wanted_kinds(wanted):
        for band in bands:
            if kind_of(band.name) == kind:
                return ClassMask(kind, band.index)
    return None


def describe(opened: OpenSheet, bands: Sequence[Band], truncated: bool, classes: ClassMask | None) -> Description:
    """What all records of a sheet say."""
    dataset = opened.dataset
    place = georeference_of(dataset)
    tags = dataset.tags()
    begin, end = _times(bands, tags, dataset)
    extra: dict[str, Any] = {"driver": dataset.driver, **place.extra}
    bits = {band.name: band.bits for band in bands if band.bits}
    if bits:
        extra["bits"] = bits
    palettes = {band.name: palette for band in bands if (palette := _palette(dataset, band.index))}
    if palettes:
        extra["palette"] = palettes
    if begin is not None and begin.micros is None:
        extra["time"] = begin.text
    kept = _tags(tags)
    if kept:
        extra["tags"] = kept
    return Description(
        bands=[band.row(place.gsd_m) for band in bands],
        georeference=place,
        event_time=begin.micros if begin else None,
        event_end=end.micros if end else None,
        time_source=begin.source if begin and begin.micros is not None else None,
        transforms=conversions(bands) + ([classes.note] if classes else []),
        flags=["truncated"] if truncated else [],
        extra=extra,
    )


def _times(bands: Sequence[Band], tags: dict[str, str], dataset: Any) -> tuple[Moment | None, Moment | None]:
    if bands and bands[0].moment is not None:
        return bands[0].moment, None
    begin = iso_moment(tags.get("NC_GLOBAL#time_coverage_start"), "netcdf:time_coverage_start")
    if begin is not None:
        return begin, iso_moment(tags.get("NC_GLOBAL#time_coverage_end"), "netcdf:time_coverage_end")
    taken = iso_moment(dataset.tags(ns="IMAGERY").get("ACQUISITIONDATETIME"), "imagery:acquisition")
    if taken is None:
        taken = iso_moment(dataset.tags(ns="ENVI").get("acquisition_time"), "envi:acquisition_time")
    return taken or tiff_moment(tags.get("TIFFTAG_DATETIME")), None


def _palette(dataset: Any, index: int) -> list[list[int]] | None:
    """Red, green, blue and alpha of every index, without the unset ones behind the last; pixels stay indices."""
    try:
        table = dataset.colormap(index)
    except ValueError:  # how rasterio says that there is none
        return None
    colours = [list(table[i]) for i in sorted(table)]
    while len(colours) > 1 and colours[-1] in ([0, 0, 0, 255], [0, 0, 0, 0]):
        colours.pop()
    return colours


def _tags(tags: dict[str, str]) -> dict[str, str]:
    """The file's own tags as far as they are short and not said elsewhere; they stand in every record."""
    kept: dict[str, str] = {}
    left = _TAG_BYTES
    for key in sorted(tags):
        cost = len(key) + len(tags[key])
        if cost <= left and not _SAID_ELSEWHERE.search(key):
            kept[key] = tags[key]
            left -= cost
    return kept

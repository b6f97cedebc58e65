"""The gate: which driver may read a file, decided from its bytes, and whether its header asks for too much.

Nothing here calls GDAL. What passes is opened with exactly one driver; what does not ends with a reason.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from headrace.connectors.contract import Blob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.raster_grib import read_messages
from headrace.ingest.normalizers.raster_hdf5 import refuse_references
from headrace.ingest.normalizers.raster_jp2 import TILE_PART_BYTES, read_codestream
from headrace.ingest.normalizers.raster_netcdf3 import read_classic_header
from headrace.ingest.normalizers.raster_tiff import Page, Pages, ReadAt, read_pages
from headrace.schemas.errors import RecordError

DRIVERS: dict[str, str] = {
    "geotiff": "GTiff", "tiff": "GTiff", "jp2-geo": "JP2OpenJPEG", "jp2": "JP2OpenJPEG", "j2k": "JP2OpenJPEG",
    "netcdf3": "netCDF", "hdf5": "netCDF", "grib": "GRIB",
}  # fmt: skip

#: A raster may be `max_ratio` times larger than its file, or take up to this many times `max_bytes`; beyond both it is
#: a bomb. Sparse rasters, of which most is absent on purpose, are honest at ratios that compression never reaches.
BOMB_FLOOR = 16
MAX_PLANES = 65_536  #: bands that GDAL makes of one netCDF variable
_FREE_TILES = 1 << 18
_BYTES_A_TILE = 64  # of the file, for each tile beyond the free ones

#: TIFF codecs that a build of GDAL may lack.
_OPTIONAL_CODECS = {
    50002: "jxl", 52546: "jxl", 34887: "lerc", 50000: "zstd", 50001: "webp", 34925: "lzma",
    34892: "lossy-jpeg", 34712: "jpeg2000", 34676: "sgilog", 34677: "sgilog24", 34661: "jbig", 32908: "thunderscan",
    32909: "pixarlog", 6: "old-jpeg",
}  # fmt: skip
_JPEG = 7
_SERVICE_TEXT = re.compile(rb"<(?:\w+:)?(GDALTileIndexDataset|GDAL_\w+|WCS_\w+|WMS_\w+|Capabilities)\b")


@dataclass(frozen=True)
class Admitted:
    """A file that may be opened.

    damage: reason, message and locator of what is known to be lost of it; usable: bytes before a cut that are better
    read without what follows.
    """

    format: str
    driver: str
    size: int
    pages: Pages | None = None
    truncated: bool = False
    damage: tuple[str, str, dict[str, int]] | None = None
    usable: int | None = None


def admit(blob: Blob, limits: Limits, max_bands: int) -> Admitted:
    """Judge one file from its header. Raises: RecordError."""
    with blob.open() as stream:
        found = sniff_stream(stream, blob.name)
        size = blob.size

        def read_at(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length)

        if found.name not in DRIVERS:
            raise _refused(found.name, read_at, size)
        driver = DRIVERS[found.name]
        if driver == "GTiff":
            return _tiff(found.name, read_at, size, limits, max_bands)
        if driver == "JP2OpenJPEG":
            return _jp2(found.name, read_at, size, limits, max_bands)
        if driver == "GRIB":
            return _grib(read_at, size, limits)
        if found.name == "netcdf3":
            return _netcdf3(read_at, size)
        refuse_references(read_at, size)
        return Admitted(found.name, driver, size)


def _refused(name: str, read_at: ReadAt, size: int) -> RecordError:
    if size == 0:
        return RecordError("empty", "the file has no bytes")
    head = read_at(0, 4096)
    if name == "vrt":
        return RecordError("unsupported:vrt", "a VRT holds no pixels of its own; it names files, which data may not do")
    if name == "wcs-xml" or (name == "xml" and _SERVICE_TEXT.search(head)):
        return RecordError("external_reference", "a service description: its pixels are on another host")
    if name == "json" and b'"stac_version"' in read_at(0, 1 << 20):
        return RecordError("external_reference", "a STAC document without its files: group them with it (rule `stac`)")
    if name == "envi":
        return RecordError("external_reference", "an ENVI header without its data file: group them (rule `stem`)")
    if name == "unknown":
        return RecordError("unknown_format", f"no known format begins with {head[:16].hex(' ')}")
    return RecordError(f"unsupported:{name}", f"{name} is not read as a raster")


def _tiff(name: str, read_at: ReadAt, size: int, limits: Limits, max_bands: int) -> Admitted:
    pages = read_pages(read_at, size)
    first = pages.pages[0]
    refuse_page(first, size, limits, max_bands)
    damage = (*pages.damage, {"ifd": len(pages.pages)}) if pages.damage else None
    return Admitted(name, "GTiff", size, pages, any(page.blocks_missing for page in pages.grids), damage)


def refuse_page(page: Page, size: int, limits: Limits, max_bands: int) -> None:
    """Judge one page of a TIFF. Raises: RecordError."""
    if page.width <= 0 or page.height <= 0 or page.samples <= 0:
        raise RecordError("corrupt", f"a page of {page.width} x {page.height} pixels with {page.samples} samples")
    if page.samples > max_bands:
        raise RecordError("too_large", f"{page.samples} samples a pixel; max_bands allows {max_bands}")
    refuse_bomb(page.width, page.height, page.samples, max(1, (page.bits + 7) // 8), size, limits)
    if page.is_hopeless(size):
        lost = f"{page.blocks_missing} of {page.blocks} blocks"
        raise RecordError("truncated", f"{lost} lie behind the end of the file at byte {size}")


def refuse_bomb(width: int, height: int, count: int, itemsize: int, size: int, limits: Limits) -> None:
    """Judge a grid by what it would become against what it is. Raises: RecordError `bomb`."""
    decoded = width * height * count * itemsize
    if decoded > BOMB_FLOOR * limits.max_bytes and decoded > limits.max_ratio * size:
        raise RecordError("bomb", f"{width} x {height} x {count} values take {decoded} bytes, its file {size}")
    tiles = -(-width // 256) * -(-height // 256)
    if tiles > _FREE_TILES and (tiles - _FREE_TILES) * _BYTES_A_TILE > size:
        raise RecordError("bomb", f"{width} x {height} pixels make {tiles} tiles out of a file of {size} bytes")


def refuse_pixels(pixels: int, itemsize: int, limits: Limits, what: str) -> None:
    """A grid that is decoded whole needs its memory at once, and a copy. Raises: RecordError `too_large`."""
    if pixels > limits.max_pixels or pixels * itemsize > limits.max_bytes // 2:
        raise RecordError("too_large", f"{what} of {pixels} pixels is decoded whole; the limit is {limits.max_pixels}")


def _grib(read_at: ReadAt, size: int, limits: Limits) -> Admitted:
    messages = read_messages(read_at, size)
    refuse_pixels(messages.points, 8, limits, "a GRIB grid")
    if messages.damage is None:
        return Admitted("grib", "GRIB", size)
    reason, message, at = messages.damage
    cut = reason == "truncated"
    # GDAL would make a band of the torn last message, and fail every read of which it is one.
    return Admitted("grib", "GRIB", size, None, cut, (reason, message, {"byte": at}), at if cut else None)


def _netcdf3(read_at: ReadAt, size: int) -> Admitted:
    header = read_classic_header(read_at, size)
    for name, shape in header.variables.items():
        planes = math.prod(shape[:-2])
        if planes > MAX_PLANES:
            raise RecordError("too_large", f"variable {name!r} has {planes} planes of its last two dimensions")
    message = f"the header promises values up to byte {header.end}, the file ends at {size}"
    if header.end > 1000 * size:
        raise RecordError("truncated", message)
    lost = ("truncated", message, {"byte": size}) if header.end > size else None
    return Admitted("netcdf3", "netCDF", size, truncated=lost is not None, damage=lost)


def _jp2(name: str, read_at: ReadAt, size: int, limits: Limits, max_bands: int) -> Admitted:
    stream = read_codestream(read_at, size)
    if stream.components > max_bands:
        raise RecordError("too_large", f"{stream.components} components; max_bands allows {max_bands}")
    tile = stream.tile_width * stream.tile_height
    if stream.tiles == 1:
        # The codec can decode a part of a single tile, but searches all of it each time.
        refuse_pixels(tile, 1, limits, "a JPEG 2000 tile")
    else:
        refuse_pixels(tile, 4 * stream.components, limits, "a JPEG 2000 tile")
    refuse_bomb(stream.width, stream.height, stream.components, 1, size, limits)
    if stream.tiles * TILE_PART_BYTES > size:
        raise RecordError("truncated", f"{stream.tiles} tiles, each with a header, do not fit into {size} bytes")
    # What is lost of a cut codestream shows when its tiles are read.
    return Admitted(name, "JP2OpenJPEG", size, truncated=stream.end is not None and stream.end > size)


def codec_of(page: Page) -> str | None:
    """The codec of a page where it is one that a build of GDAL may lack."""
    if page.compression == _JPEG and page.bits > 8:
        return "jpeg-12bit"
    return _OPTIONAL_CODECS.get(page.compression)

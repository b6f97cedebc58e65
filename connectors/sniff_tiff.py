"""Pictures or rasters: tells a GeoTIFF from a TIFF, and a georeferenced JPEG 2000 from a plain one.

Only headers are walked, nothing is decoded. Bytes that lie beyond the head are asked of a reader, if there is one.

    TIFF     [II|MM][u16 42][u32 first IFD]
      IFD    [u16 n] n × [u16 tag][u16 type][u32 count][4 B value or offset]
    BigTIFF  [II|MM][u16 43][u16 8][u16 0][u64 first IFD]
      IFD    [u64 n] n × [u16 tag][u16 type][u64 count][8 B value or offset]
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

#: Gives up to n bytes at an absolute offset; fewer at the end of the file.
ReadAt = Callable[[int, int], bytes]

#: Model pixel scale, tie points, transformation, geo keys, GDAL metadata, GDAL nodata, RPC.
_GEO_TAGS = frozenset({33550, 33922, 34264, 34735, 42112, 42113, 50844})
_BITS, _SAMPLES, _SAMPLE_FORMAT = 258, 277, 339
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PICTURE_BITS = frozenset({1, 2, 4, 6, 8, 10, 12, 14, 16})
_MAX_ENTRIES = 4096  # a real IFD has a few dozen; a hostile one claims 65,535

GEOJP2_UUID = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")  # GeoJP2 1.0.3, an embedded GeoTIFF
_WORLD_FILE_UUID = bytes.fromhex("96a9f1f1dc98402da7aed68e34451809")  # MSIG world file box
_MAX_BOXES = 256


def is_tiff(head: bytes) -> bool:
    """Whether the four first bytes are those of a TIFF or BigTIFF, in either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_geotiff(head: bytes, read_at: ReadAt) -> bool | None:
    """Whether the first directory describes a raster rather than a picture; None when it cannot be read.

    A raster has geo tags, GDAL tags, a sample count that is not 1, 3 or 4, or samples that pictures do not have.
    """
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    try:
        tags = dict(_entries(head, read_at, order, big))
        if not tags:
            return None
        if _GEO_TAGS & tags.keys():
            return True
        samples = _values(tags, _SAMPLES, read_at, order, big)
        if samples and samples[0] not in (1, 3, 4):
            return True
        if any(value not in (1, 4) for value in _values(tags, _SAMPLE_FORMAT, read_at, order, big)):
            return True
        return any(value not in _PICTURE_BITS for value in _values(tags, _BITS, read_at, order, big))
    except struct.error:
        return None


_Entry = tuple[int, int, bytes]  # type, count, the value field


def _entries(head: bytes, read_at: ReadAt, order: str, big: bool) -> Iterator[tuple[int, _Entry]]:
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    width = 8 if big else 2
    (count,) = struct.unpack(order + ("Q" if big else "H"), _exactly(read_at, start, width))
    size = 20 if big else 12
    body = read_at(start + width, min(count, _MAX_ENTRIES) * size)
    for at in range(0, len(body) - size + 1, size):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), body, at)
        yield tag, (kind, number, body[at + (12 if big else 8) : at + size])


def _values(tags: dict[int, _Entry], tag: int, read_at: ReadAt, order: str, big: bool) -> tuple[int, ...]:
    """The first 64 values of an integer tag; none if it is absent or has another type."""
    if tag not in tags:
        return ()
    kind, number, field = tags[tag]
    code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
    if code is None or number == 0:
        return ()
    number = min(number, 64)
    size = _TYPE_BYTES[kind] * number
    if size > len(field):
        (offset,) = struct.unpack(order + ("Q" if big else "I"), field)
        field = read_at(offset, size)
    number = min(number, len(field) // _TYPE_BYTES[kind])
    return struct.unpack_from(f"{order}{number}{code}", field)


def _exactly(read_at: ReadAt, offset: int, size: int) -> bytes:
    data = read_at(offset, size)
    if len(data) < size:
        raise struct.error("beyond the end")
    return data


def is_geo_jp2(head: bytes, read_at: ReadAt) -> bool:
    """Whether a JP2 file carries a GeoJP2 or world file UUID box, or GML in an association box."""
    for kind, start, end in _boxes(read_at, 0):
        if kind == b"uuid" and read_at(start, 16) in (GEOJP2_UUID, _WORLD_FILE_UUID):
            return True
        if kind == b"asoc":
            # A GMLJP2 association is labelled "gml.data" and holds its XML; 64 KiB reaches the label of any writer.
            body = read_at(start, min(end - start, 1 << 16) if end > start else 1 << 16)
            if b"gml.data" in body or b"gml.root-instance" in body:
                return True
    return False


def _boxes(read_at: ReadAt, at: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the content, first byte after it; 0 when it runs to the end) of the outer boxes."""
    for _ in range(_MAX_BOXES):
        header = read_at(at, 16)
        if len(header) < 8:
            return
        size, kind = struct.unpack_from(">I4s", header)
        start = at + 8
        if size == 1:
            if len(header) < 16:
                return
            (size,) = struct.unpack_from(">Q", header, 8)
            start = at + 16
        if size == 0:
            yield kind, start, 0
            return
        if size < start - at:
            return
        yield kind, start, at + size
        at += size

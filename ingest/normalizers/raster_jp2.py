"""The size that a JPEG 2000 codestream asks for, read from its SIZ marker before a decoder sees it.

A codec decodes tile by tile, so one huge tile is what costs memory and time: a file of ten kilobytes can ask for half
a gigapixel at once.

    JP2   n × [u32 length][4 B type] …, the codestream in box `jp2c`; length 1: [u64 length] follows, 0: to the end
    SIZ   [FF51][u16 length][u16 rsiz][u32 x][u32 y][u32 x0][u32 y0][u32 tile x][u32 tile y][u32][u32][u16 components]

Source: ITU-T T.800, A.5.1 and I.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from headrace.ingest.normalizers.raster_tiff import ReadAt
from headrace.schemas.errors import RecordError

TILE_PART_BYTES = 14  #: of a tile-part without any data: SOT, and SOD

_MAX_BOXES = 4096
_START = b"\xff\x4f\xff\x51"  # SOC, then SIZ at once


@dataclass(frozen=True)
class Codestream:
    """What SIZ says. `end`: byte after the codestream as its box promises, None where it runs to the file's end."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    components: int
    end: int | None

    @property
    def tiles(self) -> int:
        """How many tiles the grid has."""
        return -(-self.width // self.tile_width) * -(-self.height // self.tile_height)


def read_codestream(read_at: ReadAt, size: int) -> Codestream:
    """The first codestream of a JP2 or raw JPEG 2000 file. Raises: RecordError `truncated` or `corrupt`."""
    start, end = _find(read_at, size)
    head = read_at(start, 42)
    if head[:4] != _START:
        raise RecordError("corrupt", f"a codestream begins with FF4FFF51, at byte {start} stands {head[:4].hex()}")
    if len(head) < 42:
        raise RecordError("truncated", f"the file ends at byte {size}, inside the SIZ marker")
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(">8IH", head, 8)
    if not (x > x0 and y > y0 and tile_x and tile_y and components):
        raise RecordError("corrupt", f"SIZ describes nothing: image {x0},{y0} to {x},{y}, tile {tile_x} x {tile_y}")
    if tile_x0 > x0 or tile_y0 > y0 or tile_x0 + tile_x <= x0 or tile_y0 + tile_y <= y0:
        raise RecordError("corrupt", f"the first tile, {tile_x} x {tile_y} at {tile_x0},{tile_y0}, misses the image")
    width, height = x - x0, y - y0
    return Codestream(width, height, min(tile_x, width), min(tile_y, height), components, end)


def _find(read_at: ReadAt, size: int) -> tuple[int, int | None]:
    if read_at(0, 4) == _START:
        return 0, None
    at = 0
    for _ in range(_MAX_BOXES):
        header = read_at(at, 16)
        if len(header) < 8:
            break
        length, kind = struct.unpack_from(">I4s", header)
        start = at + 8
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack_from(">Q", header, 8)
            start = at + 16
        if kind == b"jp2c":
            return start, at + length if length else None
        if length == 0 or length < start - at:
            break
        at += length
    reason = "truncated" if at >= size else "corrupt"
    raise RecordError(reason, f"no codestream box: the boxes end at byte {at} of {size}")

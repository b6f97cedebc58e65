"""The messages of a GRIB file, walked by their lengths before GDAL sees them.

GDAL passes over a last message that is cut off and over bytes between messages without a word; here they are news.

    GRIB1  [GRIB][u24 length][u8 1] n × [u24 length] … [7777]
           section 1, octet 8, bit 1: a grid section follows; its octets 7-10: columns, rows
    GRIB2  [GRIB][2 B][u8 discipline][u8 2][u64 length] n × [u32 length][u8 number] … [7777]
           section 3, octets 7-10: points

Source: WMO Manual on Codes, FM 92 GRIB editions 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.ingest.normalizers.raster_tiff import ReadAt
from headrace.schemas.errors import RecordError

_SEARCH = 1 << 16  # bytes looked through at once for the next message
_MAX_SECTIONS = 1 << 16


@dataclass(frozen=True)
class Messages:
    """What a walk found: whole messages, the most points one grid has, and the damage with the byte where it lies."""

    count: int
    points: int
    damage: tuple[str, str, int] | None = None  #: reason, message, byte


def read_messages(read_at: ReadAt, size: int) -> Messages:
    """Walk all messages of a GRIB file of `size` bytes.

    Raises: RecordError `truncated` or `corrupt` if there is no whole message.
    """
    count, points, at = 0, 0, 0
    damage: tuple[str, str, int] | None = None
    while (start := _next(read_at, size, at)) is not None:
        head = read_at(start, 16)
        length = _length(head)
        end = start + length
        if length < 16:
            damage = damage or ("corrupt", f"message {count} at byte {start} says it is {length} bytes long", start)
            at = start + 4
            continue
        points = max(points, _points(read_at, head, start, min(end, size)))
        if end > size:
            damage = damage or (
                "truncated", f"message {count} at byte {start} ends at {end}, the file at {size}", start
            )  # fmt: skip
            break
        if read_at(end - 4, 4) != b"7777":
            damage = damage or ("corrupt", f"message {count} at byte {start} does not end in 7777", start)
            at = start + 4
            continue
        count += 1
        at = end
    if count == 0:
        reason, message, _ = damage or ("corrupt", "no message begins with GRIB and an edition of 1 or 2", 0)
        raise RecordError(reason, message)
    return Messages(count, points, damage)


def _next(read_at: ReadAt, size: int, at: int) -> int | None:
    """Where the next message begins; a WMO header or padding may lie between two."""
    while at < size - 8:
        block = read_at(at, _SEARCH + 8)
        found = block.find(b"GRIB")
        while found >= 0:
            if block[found + 7 : found + 8] in (b"\1", b"\2"):
                return at + found
            found = block.find(b"GRIB", found + 1)
        if len(block) <= 8:
            return None
        at += len(block) - 8
    return None


def _length(head: bytes) -> int:
    if len(head) < 16:
        return 0
    if head[7] == 2:
        return int.from_bytes(head[8:16], "big")
    length = int.from_bytes(head[4:7], "big")
    # ECMWF writes messages of 8 MiB and more in units of 120 bytes and marks that in the top bit.
    return (length & 0x7FFFFF) * 120 if length & 0x800000 else length


def _points(read_at: ReadAt, head: bytes, start: int, end: int) -> int:
    """Points of the largest grid section of a message."""
    if head[7] == 1:
        product = read_at(start + 8, 8)
        if len(product) < 8 or not product[7] & 0x80:
            return 0
        grid = read_at(start + 8 + int.from_bytes(product[:3], "big"), 10)
        return int.from_bytes(grid[6:8], "big") * int.from_bytes(grid[8:10], "big")
    points, at = 0, start + 16
    for _ in range(_MAX_SECTIONS):
        section = read_at(at, 10)
        length = int.from_bytes(section[:4], "big")
        if len(section) < 10 or length < 5 or at + length > end:
            break
        if section[4] == 3:
            points = max(points, int.from_bytes(section[6:10], "big"))
        at += length
    return points

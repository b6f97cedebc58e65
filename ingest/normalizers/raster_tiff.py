"""The directories of a TIFF, read from its bytes before GDAL sees them.

Answers three things that GDAL answers too late or not at all: how many pages (grids of their own) there are and where,
whether a page asks for so many samples that opening it would hang, and whether its blocks lie inside the file.

    TIFF     [II|MM][u16 42][u32 first IFD]
      IFD    [u16 n] n × [u16 tag][u16 type][u32 count][4 B value or offset] [u32 next IFD]
    BigTIFF  [II|MM][u16 43][u16 8][u16 0][u64 first IFD]
      IFD    [u64 n] n × [u16 tag][u16 type][u64 count][8 B value or offset] [u64 next IFD]

Left out: pixels, geo keys and every other meaning; GDAL reads those.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.schemas.errors import RecordError

#: Gives up to n bytes at an absolute offset; fewer at the end of the file.
ReadAt = Callable[[int, int], bytes]

MAX_PAGES = 65_536
_MAX_ENTRIES = 4096  # a real directory has a few dozen; a hostile one claims 2^64
_MAX_BLOCKS_CHECKED = 1 << 22  # 64 MiB of offsets and counts at most

#: BYTE SHORT LONG SBYTE SSHORT SLONG IFD LONG8 SLONG8 IFD8
_CODES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIP_OFFSETS = 254, 256, 257, 258, 259, 273
_SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR = 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS = 322, 323, 324, 325, 330
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType

_Entry = tuple[int, int, bytes]  # type, count, the value field


@dataclass(frozen=True)
class Page:
    """One directory. `blocks_missing` are blocks that the file promises beyond its own end; sparse ones are not."""

    offset: int
    width: int
    height: int
    samples: int
    bits: int
    compression: int
    subfile: int
    block_width: int
    block_height: int
    blocks: int
    blocks_missing: int

    @property
    def is_grid(self) -> bool:
        """A page of its own, not an overview or a mask of another."""
        return not self.subfile & (_REDUCED | _MASK)

    def is_hopeless(self, size: int) -> bool:
        """No block lies inside the file of `size` bytes, or it is too short to hold any number worth looking for."""
        checked = min(self.blocks, _MAX_BLOCKS_CHECKED)
        return self.blocks_missing >= checked > 0 or size < 16 * self.blocks_missing


@dataclass(frozen=True)
class Pages:
    """All directories in chain order, sub-directories behind their parent.

    `damage`: reason and message, where the chain ended early.
    """

    pages: list[Page] = field(default_factory=list)
    damage: tuple[str, str] | None = None

    @property
    def grids(self) -> list[Page]:
        """The first page and every other that is a grid of its own."""
        return [page for i, page in enumerate(self.pages) if i == 0 or page.is_grid]


def read_pages(read_at: ReadAt, size: int) -> Pages:
    """Walk the directories of a TIFF of `size` bytes.

    Raises: RecordError `truncated` or `corrupt` if not even the first directory can be read.
    """
    head = read_at(0, 16)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise RecordError("corrupt", f"a TIFF begins with II*, MM*, II+ or MM+, this one with {head[:4]!r}")
    reader = _Reader(read_at, size, "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+"))
    try:
        (at,) = struct.unpack_from(reader.order + ("Q" if reader.big else "I"), head, 8 if reader.big else 4)
    except struct.error as exc:
        raise RecordError("truncated", f"a TIFF header takes 8 bytes, BigTIFF 16; the file has {size}") from exc
    pages: list[Page] = []
    seen: set[int] = set()
    damage: tuple[str, str] | None = None
    while at and damage is None:
        if at in seen:
            damage = ("corrupt", f"directory {len(pages)} at byte {at} was met before: the chain is a loop")
        elif len(pages) >= MAX_PAGES:
            damage = ("too_large", f"more than {MAX_PAGES} directories")
        else:
            seen.add(at)
            try:
                tags, following = reader.directory(at)
                pages.append(_page(at, tags, reader))
                subs = reader.values(tags[_SUB_IFDS], 64).found.tolist() if _SUB_IFDS in tags else []
                for sub in subs:
                    if sub not in seen and sub:
                        seen.add(sub)
                        pages.append(_page(sub, reader.directory(sub)[0], reader))
                at = following
            except struct.error as exc:
                reason = "truncated" if isinstance(exc, _Ended) else "corrupt"
                damage = (reason, f"directory {len(pages)} at byte {at} cannot be read: {exc}")
                if not pages:
                    raise RecordError(*damage) from exc
    if not pages:
        raise RecordError("empty", "a TIFF without any directory holds no raster")
    return Pages(pages, damage)


def _page(offset: int, tags: dict[int, _Entry], reader: _Reader) -> Page:
    def one(tag: int, default: int) -> int:
        found: Any = reader.values(tags[tag], 1).found if tag in tags else ()
        return int(found[0]) if len(found) else default

    width, height, samples = one(_WIDTH, 0), one(_HEIGHT, 0), one(_SAMPLES, 1)
    bits = int(reader.values(tags[_BITS], 64).found.max(initial=1)) if _BITS in tags else 1
    tiled = _TILE_WIDTH in tags
    block_width = one(_TILE_WIDTH, width) if tiled else width
    block_height = one(_TILE_HEIGHT, height) if tiled else min(one(_ROWS_PER_STRIP, height) or height, height)
    blocks = -(-width // max(1, block_width)) * -(-height // max(1, block_height))
    planar = one(_PLANAR, 1)
    if planar == 2:
        blocks *= samples
    offsets = tags.get(_TILE_OFFSETS, tags.get(_STRIP_OFFSETS))
    counts = tags.get(_TILE_COUNTS, tags.get(_STRIP_COUNTS))
    compression = one(_COMPRESSION, 1)
    whole = (block_width * (1 if planar == 2 else samples) * bits + 7) // 8 * block_height if compression == 1 else None
    return Page(
        offset, width, height, samples, bits, compression, one(_SUBFILE, 0), block_width, block_height, blocks,
        _missing(
            reader.values(offsets, blocks) if offsets else None,
            reader.values(counts, blocks) if counts else None,
            blocks, reader.size, whole,
        ),
    )  # fmt: skip


def _missing(offsets: _Values | None, counts: _Values | None, blocks: int, size: int, whole: int | None) -> int:
    """How many blocks end behind the file's end. `whole`: what an uncompressed block takes at most."""
    if offsets is None:
        return blocks
    known = len(offsets.found)
    missing = offsets.promised - known  # the list of blocks itself lies behind the end
    begin = offsets.found.astype(np.float64)
    need = np.ones(known) if counts is None or len(counts.found) < known else counts.found[:known].astype(np.float64)
    if whole is not None:
        need = np.minimum(need, whole)
    return missing + int(np.count_nonzero((begin > 0) & (need > 0) & (begin + need > size)))


class _Ended(struct.error):
    """The file ends inside what was to be read."""


@dataclass(frozen=True)
class _Values:
    promised: int  #: how many the entry announces, up to the limit that was asked for
    found: Any  #: those that the file holds


class _Reader:
    """Directories and values in the file's byte order."""

    def __init__(self, read_at: ReadAt, size: int, order: str, big: bool) -> None:
        self.read_at, self.size, self.order, self.big = read_at, size, order, big
        self._word = order + ("Q" if big else "I")
        self._entry = order + ("HHQ8s" if big else "HHI4s")

    def directory(self, at: int) -> tuple[dict[int, _Entry], int]:
        """The integer entries by tag, and where the next directory lies (0: nowhere)."""
        head = self._exactly(at, 8 if self.big else 2)
        (count,) = struct.unpack(self.order + ("Q" if self.big else "H"), head)
        if count > _MAX_ENTRIES:
            raise struct.error(f"{count} entries; a real one has a few dozen")
        width = struct.calcsize(self._entry)
        body = self._exactly(at + len(head), count * width)
        tags: dict[int, _Entry] = {}
        for i in range(count):
            tag, kind, number, value = struct.unpack_from(self._entry, body, i * width)
            if kind in _CODES and number:
                tags.setdefault(tag, (kind, number, value))  # of two equal tags libtiff keeps the first
        tail = self.read_at(at + len(head) + len(body), struct.calcsize(self._word))
        # A file may end with its last directory: GDAL opens that too.
        following = struct.unpack(self._word, tail)[0] if len(tail) == struct.calcsize(self._word) else 0
        return tags, following

    def values(self, entry: _Entry, limit: int) -> _Values:
        """Up to `limit` integers of an entry."""
        kind, number, value = entry
        dtype = np.dtype(self.order + _CODES[kind])
        promised = min(number, limit, _MAX_BLOCKS_CHECKED)
        if number * dtype.itemsize > len(value):
            (offset,) = struct.unpack(self._word, value)
            value = self.read_at(offset, promised * dtype.itemsize) if offset < self.size else b""
        return _Values(promised, np.frombuffer(value, dtype, min(promised, len(value) // dtype.itemsize)))

    def _exactly(self, at: int, size: int) -> bytes:
        data = self.read_at(at, size) if at < self.size else b""
        if len(data) < size:
            raise _Ended(f"the file ends at byte {self.size}")
        return data

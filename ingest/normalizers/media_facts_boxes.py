"""Facts of the two nested containers: ISO base media (mp4, mov, 3gp, m4a) and Matroska (mkv, webm, mka).

ISO box       [u32 size][4cc] or [1][4cc][u64 size]; size 0 runs to the end of the file     ISO/IEC 14496-12
EBML element  [id, 1-4 bytes][size, 1-8 bytes, all ones = unknown]                          RFC 8794, RFC 9559
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: Top-level boxes or elements looked at; a two-hour file in one-second fragments has 14,400.
MAX_STEPS = 1 << 16
#: Bytes of one sample description or reference table that are read.
MAX_TABLE = 1 << 14

_ENCRYPTED = frozenset({b"encv", b"enca", b"enct", b"encs", b"encm", b"drms", b"drmi", b"drmt", b"aavd"})


@dataclass(frozen=True)
class TrackFacts:
    """One track."""

    tag: str | None = None  #: its codec as the container writes it: "avc1", "ac-4", "V_VP9"
    encrypted: bool = False
    external: str | None = None  #: the other file or host that its samples lie in
    size: tuple[int, int] = (0, 0)  #: width and height of the picture that the container announces
    dolby_only: bool = False  #: Dolby Vision whose base layer makes no picture by itself (profile 5)


def iso(stream: BinaryIO, size: int) -> tuple[int | None, tuple[TrackFacts, ...]]:
    """(bytes that the boxes account for, tracks in file order)."""
    end, tracks = None, []
    for kind, start, stop in _boxes(stream, 0, size):
        end = stop
        if kind == b"moov":
            inside = _boxes(stream, start, min(stop, size))
            tracks = [_iso_track(stream, t0, t1) for k, t0, t1 in inside if k == b"trak"]
    return end, tuple(tracks)


def _boxes(stream: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the content, first byte after it) of boxes that begin in [at, end)."""
    for _ in range(MAX_STEPS):
        if at + 8 > end:
            return
        stream.seek(at)
        head = stream.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack_from(">I4s", head)
        start = at + 8
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack_from(">Q", head, 8)
            start = at + 16
        elif size == 0:
            size = end - at
        if size < start - at or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            return  # not a box: bytes that someone appended
        yield kind, start, at + size
        at += size


def _child(stream: BinaryIO, span: tuple[int, int] | None, *path: bytes) -> tuple[int, int] | None:
    for name in path:
        if span is None:
            return None
        span = next(((s, e) for kind, s, e in _boxes(stream, *span) if kind == name), None)
    return span


def _iso_track(stream: BinaryIO, start: int, end: int) -> TrackFacts:
    mdia = _child(stream, (start, end), b"mdia")
    handler = _table(stream, _child(stream, mdia, b"hdlr"))[8:12]
    minf = _child(stream, mdia, b"minf")
    entry = _first_entry(stream, _child(stream, minf, b"stbl", b"stsd"))
    if len(entry) < 16:
        return TrackFacts()
    fourcc = entry[4:8]
    encrypted = fourcc in _ENCRYPTED
    if encrypted and 0 <= (at := entry.find(b"frma")) <= len(entry) - 8:
        fourcc = entry[at + 4 : at + 8]
    (reference,) = struct.unpack_from(">H", entry, 14)
    dref = _child(stream, minf, b"dinf", b"dref")
    size = struct.unpack_from(">HH", entry, 32) if handler == b"vide" and len(entry) >= 36 else (0, 0)
    return TrackFacts(_tag(fourcc), encrypted, _external(_table(stream, dref), reference), size, _dolby_only(entry))


def _dolby_only(entry: bytes) -> bool:
    """Whether a Dolby Vision record says that its base layer is compatible with nothing (compatibility id 0)."""
    at = max(entry.find(b"dvcC"), entry.find(b"dvvC"))
    if at < 0 or at + 9 > len(entry):
        return False
    return entry[at + 6] >> 1 in (5, 10) and entry[at + 8] >> 4 == 0


def _first_entry(stream: BinaryIO, span: tuple[int, int] | None) -> bytes:
    table = _table(stream, span)  # [version, flags][u32 count][entries: u32 size, 4cc, 6 reserved, u16 data reference]
    if len(table) < 16:
        return b""
    (size,) = struct.unpack_from(">I", table, 8)
    return table[8 : 8 + size]


def _external(table: bytes, reference: int) -> str | None:
    """What entry `reference` (from 1) of a dref table points at, unless it is this very file (flag 1)."""
    at = 8
    for number in range(1, reference + 1):
        if at + 12 > len(table):
            return None
        size, kind, flags = struct.unpack_from(">I4sI", table, at)
        if number == reference and not flags & 1 and kind in (b"url ", b"urn ", b"alis", b"rsrc") and size > 12:
            named = table[at + 12 : at + size].strip(b"\0")
            return named[:200].decode("latin-1") if named else None
        at += max(size, 12)
    return None


def _table(stream: BinaryIO, span: tuple[int, int] | None) -> bytes:
    if span is None:
        return b""
    stream.seek(span[0])
    return stream.read(min(span[1] - span[0], MAX_TABLE))


def _tag(raw: bytes) -> str:
    return "".join(chr(b) if 0x21 <= b < 0x7F else "" if b in (0, 0x20) else f"%{b:02x}" for b in raw)


_SEGMENT, _TRACKS, _TRACK_ENTRY, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
_TYPE, _CODEC, _ENCODINGS, _ENCODING, _ENCRYPTION = 0x83, 0x86, 0x6D80, 0x6240, 0x5035
_VIDEO, _WIDTH, _HEIGHT = 0xE0, 0xB0, 0xBA
#: Track types that libav gives a stream: video, audio, subtitle, metadata.
_STREAMED = frozenset({1, 2, 0x11, 0x21})


def matroska(stream: BinaryIO, size: int) -> tuple[int | None, tuple[TrackFacts, ...]]:
    """(bytes of the file by its last segment's size, tracks in file order); a live recording does not know its size."""
    declared, tracks = None, []
    for element, start, stop in _elements(stream, 0, size):
        declared = stop
        if element != _SEGMENT:
            continue
        for inner, i0, i1 in _elements(stream, start, size if stop is None else min(stop, size)):
            if inner == _CLUSTER or i1 is None:
                break
            if inner == _TRACKS:
                entries = _elements(stream, i0, min(i1, size))
                tracks += [_matroska_track(stream, t0, t1) for k, t0, t1 in entries if k == _TRACK_ENTRY and t1]
    return declared, tuple(track for kind, track in tracks if kind in _STREAMED)


def _elements(stream: BinaryIO, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """(id, first byte of the content, first byte after it or None if unknown) of elements that begin in [at, end)."""
    for _ in range(MAX_STEPS):
        if at >= end:
            return
        stream.seek(at)
        head = stream.read(12)
        if not head or (width := 9 - head[0].bit_length()) > 4 or len(head) <= width:
            return
        element = int.from_bytes(head[:width], "big")
        length = 9 - head[width].bit_length()
        if length > 8 or width + length > len(head):
            return
        value = int.from_bytes(head[width : width + length], "big") & ((1 << 7 * length) - 1)
        start = at + width + length
        if value == (1 << 7 * length) - 1:
            yield element, start, None
            return
        yield element, start, start + value
        at = start + value


def _matroska_track(stream: BinaryIO, start: int, end: int | None) -> tuple[int, TrackFacts]:
    kind, codec, encrypted, size = 0, None, False, {_WIDTH: 0, _HEIGHT: 0}
    for element, e0, e1 in _elements(stream, start, end or start):
        if e1 is None or e1 - e0 > MAX_TABLE:
            continue
        stream.seek(e0)
        if element == _TYPE:
            kind = int.from_bytes(stream.read(e1 - e0), "big")
        elif element == _CODEC:
            codec = _tag(stream.read(e1 - e0))
        elif element == _ENCODINGS:
            for inner, i0, i1 in _elements(stream, e0, e1):
                if inner == _ENCODING and i1 is not None:
                    encrypted |= any(k == _ENCRYPTION for k, _, _ in _elements(stream, i0, i1))
        elif element == _VIDEO:
            for inner, i0, i1 in _elements(stream, e0, e1):
                if inner in size and i1 is not None:
                    stream.seek(i0)
                    size[inner] = int.from_bytes(stream.read(min(i1 - i0, 8)), "big")
    return kind, TrackFacts(codec, encrypted, size=(size[_WIDTH], size[_HEIGHT]))

"""Sound or picture: looks into the headers of MP4, Matroska, Ogg, MPEG-TS and MPEG audio.

Each function takes the head of a file and answers from it alone; what the head does not show is not guessed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

#: Top-level boxes that a file of the ISO base media family may begin with (ISO/IEC 14496-12; QuickTime's besides).
_FIRST_BOXES = frozenset(b"ftyp moov mdat wide free skip moof styp sidx pnot emsg prft".split())
_AUDIO_BRANDS = frozenset({b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "})
_HEIF_BRANDS = frozenset(b"heic heix hevc hevx heim heis hevm hevs mif1 msf1 mif2".split())
_MAX_STEPS = 4096


def iso_media(head: bytes) -> tuple[str, bool] | None:
    """(format, audio only) of an ISO base media file: mp4, avif, heif, jxl or None.

    Audio only: an audio brand, or a movie box inside the head whose tracks are sound and not pictures.
    """
    if len(head) < 8 or head[4:8] not in _FIRST_BOXES:
        return None
    (size,) = struct.unpack_from(">I", head)
    if size != 1 and size != 0 and size < 8:
        return None
    if head[4:8] != b"ftyp":
        # `free` or `skip` alone could be any file; the others name themselves by a second known box or by their tracks.
        follows = head[size + 4 : size + 8] if 8 <= size <= len(head) - 8 else b""
        if head[4:8] in (b"free", b"skip", b"wide", b"pnot") and follows not in _FIRST_BOXES:
            return None
        return "mp4", _only_audio(head)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(size, 512, len(head)), 4))]
    if b"avif" in brands or b"avis" in brands:
        return "avif", False
    if brands[0] in _HEIF_BRANDS or (_HEIF_BRANDS & set(brands) and not {b"isom", b"mp42", b"iso2"} & set(brands)):
        return "heif", False
    if brands[0] == b"jxl ":
        return "jxl", False
    return "mp4", brands[0] in _AUDIO_BRANDS or _only_audio(head)


def _only_audio(head: bytes) -> bool:
    handlers = set()
    for kind, start, end in _iso_boxes(head, 0, len(head)):
        if kind != b"moov":
            continue
        if end > len(head):
            return False  # the rest of the tracks is out of sight
        for track, t0, t1 in _iso_boxes(head, start, end):
            if track != b"trak":
                continue
            for media, m0, m1 in _iso_boxes(head, t0, t1):
                if media == b"mdia":
                    handlers |= {head[h0 + 8 : h0 + 12] for k, h0, _ in _iso_boxes(head, m0, m1) if k == b"hdlr"}
    return b"soun" in handlers and b"vide" not in handlers


def _iso_boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MAX_STEPS):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            start = at + 16
        if size == 0:
            size = max(end, len(data)) - at
        if size < start - at:
            return
        yield kind, start, at + size
        at += size


_SEGMENT, _TRACKS, _TRACK_ENTRY, _TRACK_TYPE = 0x18538067, 0x1654AE6B, 0xAE, 0x83


def matroska_only_audio(head: bytes) -> bool:
    """Whether the Tracks element lies in the head and lists sound but no pictures (RFC 9559)."""
    types: set[int] = set()
    for outer, start, end in _ebml(head, 0, len(head)):
        if outer != _SEGMENT:
            continue
        for element, e0, e1 in _ebml(head, start, min(end, len(head))):
            if element != _TRACKS:
                continue
            if e1 > len(head):
                return False
            for entry, t0, t1 in _ebml(head, e0, e1):
                fields = _ebml(head, t0, t1) if entry == _TRACK_ENTRY else ()
                types |= {int.from_bytes(head[v0:v1], "big") for kind, v0, v1 in fields if kind == _TRACK_TYPE}
    return 2 in types and 1 not in types


def _ebml(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(id, content start, content end) of the elements in data[at:end]; an unknown size runs to the end."""
    for _ in range(_MAX_STEPS):
        if at >= end:
            return
        width = 9 - data[at].bit_length()
        if width > 4 or at + width >= end:
            return
        element = int.from_bytes(data[at : at + width], "big")
        at += width
        width = 9 - data[at].bit_length()
        if width > 8 or at + width > end:
            return
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width
        stop = len(data) if size == (1 << 7 * width) - 1 else at + size
        yield element, at, stop
        at = stop


def ogg_has_video(head: bytes) -> bool:
    """Whether a first page of a Theora, Dirac or other video stream is among the first pages."""
    return any(mark in head[:4096] for mark in (b"\x80theora", b"BBCD\0", b"\x01video\0\0\0"))


def ts_packets(head: bytes) -> bool:
    """Whether MPEG transport packets (188, 192 or 204 bytes) start in the first KiB: five sync bytes, or all."""
    for size in (188, 192, 204):
        at = head.find(b"G", 0, size * 6)
        while at >= 0:
            if head[at : at + 5 * size : size] == b"GGGGG":
                return True
            at = head.find(b"G", at + 1, size * 6)
        # A short file: every packet it holds begins with a sync byte, and there are at least two.
        whole = len(head) // size
        if 2 <= whole < 5 and head[: whole * size : size] == b"G" * whole:
            return True
    return False


_MPEG_BITRATES = {  # (version 1?, layer) -> kbit/s by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = (44100, 48000, 32000)


def mpeg_audio_frame(head: bytes, at: int) -> int:
    """Bytes of the MPEG audio frame at `at`, 0 if there is none (ISO/IEC 11172-3, 13818-3)."""
    if at + 4 > len(head) or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[at + 1] >> 3 & 3, 4 - (head[at + 1] >> 1 & 3)
    bitrate, rate, padding = head[at + 2] >> 4, head[at + 2] >> 2 & 3, head[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0
    kbits = _MPEG_BITRATES[version == 3, layer][bitrate]
    hertz = _MPEG_RATES[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    if layer == 1:
        return (12000 * kbits // hertz + padding) * 4
    return (144000 if layer == 2 or version == 3 else 72000) * kbits // hertz + padding


def adts_frame(head: bytes, at: int) -> int:
    """Bytes of the AAC ADTS frame at `at`, 0 if there is none (ISO/IEC 13818-7)."""
    if at + 7 > len(head) or head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0 or head[at + 2] >> 2 & 15 > 12:
        return 0
    size = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return size if size >= 7 else 0


_FRAMES = {"mp3": mpeg_audio_frame, "aac": adts_frame}
#: Bits that all frames of one stream share: sync, version, layer, sampling rate.
_SAME = {"mp3": (0xFF, 0xFE, 0x0C), "aac": (0xFF, 0xFE, 0xFC)}


#: The first bytes that a frame can have, found fast: a sync word, and for MPEG audio a bit rate that exists.
_FRAME_START = re.compile(rb"\xff(?=[\xe2-\xff][\x10-\xef]|[\xf0\xf1\xf8\xf9])")


def audio_frames(head: bytes, at: int) -> str | None:
    """`mp3`, `aac` or None: like frames follow one another from `at`; one is enough when the file ends with it."""
    for name in _FRAMES:
        count, end = _run(head, at, name, 3)
        if count == 3 or (count and end >= len(head) - 6):
            return name
    return None


def find_audio_frames(head: bytes, limit: int = 1 << 16) -> str | None:
    """`mp3` or `aac` if four whole, like frames in a row begin in the first `limit` bytes; junk may come before."""
    for candidate in _FRAME_START.finditer(head, 0, limit):
        for name in _FRAMES:
            count, end = _run(head, candidate.start(), name, 4)
            if count == 4 and end <= len(head):
                return name
    return None


def _run(head: bytes, at: int, name: str, most: int) -> tuple[int, int]:
    """(frames, end): how many like frames begin at `at`, at most `most`."""
    first = bytes(byte & mask for byte, mask in zip(head[at : at + 3], _SAME[name]))
    for count in range(most):
        size = _FRAMES[name](head, at)
        if not size or bytes(byte & mask for byte, mask in zip(head[at : at + 3], _SAME[name])) != first:
            return count, at
        at += size
    return most, at


def ac3_name(head: bytes) -> str | None:
    """`ac3` or `eac3` for an AC-3 sync frame (ETSI TS 102 366): bsid up to 10 is AC-3, 11 to 16 its extension."""
    if head[:2] != b"\x0bw" or len(head) < 6:
        return None
    bsid = head[5] >> 3
    return "ac3" if bsid <= 10 else "eac3" if bsid <= 16 else None

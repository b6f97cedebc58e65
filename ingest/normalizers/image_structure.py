"""Whether the bytes of an image are whole, told from the file's own structure before a pixel is decoded.

Decoders forgive much: a missing end, a wrong checksum, a tail that belongs to something else. Here each format that has
lengths, checksums or an end mark is walked once, without decoding, at the speed of `bytes.find` and `zlib.crc32`.

What is found is a finding (a flag) or damage: the byte from which on the file cannot be believed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.schemas.errors import RecordError


@dataclass(frozen=True, slots=True)
class Damage:
    """From byte `at` on the file is broken; `reason` is a code of REASONS."""

    at: int
    reason: str
    message: str


@dataclass(slots=True)
class Structure:
    """What the walk found."""

    flags: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[int, int]] = field(default_factory=list)  #: damaged parts that a picture does not need
    damage: Damage | None = None
    deep: bool = False  #: more than 8 bits per channel, which Pillow would quietly cut to 8
    progressive: bool = False

    def flag(self, name: str) -> None:
        """Add a finding once."""
        if name not in self.flags:
            self.flags.append(name)

    def trailing(self, count: int) -> None:
        """Bytes behind the end of the image."""
        if count > 0:
            self.flag("trailing_bytes")
            self.extra["trailing_bytes"] = count

    def no_trailing(self) -> None:
        """What stands behind the end belongs to the file after all."""
        if "trailing_bytes" in self.flags:
            self.flags.remove("trailing_bytes")
        self.extra.pop("trailing_bytes", None)

    def truncated(self, at: int, what: str) -> None:
        """The file ends too early."""
        if self.damage is None:
            self.damage = Damage(at, "truncated", what)


def walk(data: bytes, name: str) -> Structure:
    """The structure of a file of the sniffed format `name`. Raises: RecordError for a variant that is out of scope."""
    found = Structure()
    walker = _WALKERS.get(name)
    if walker is not None:
        walker(data, found)
    return found


_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


def _jpeg(data: bytes, found: Structure) -> None:
    """ITU-T T.81, B.1: markers with lengths up to the first scan, then entropy-coded data up to the end mark."""
    at, size = 2, len(data)
    frame = b""
    interval = 0
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > size:
            found.truncated(size, "the JPEG ends before its first scan")
            return
        marker = data[at + 1]
        if marker in (0xFF, 0x00):
            at += 1
            continue
        if marker in _ALONE or marker == 0xD8:
            at += 2
            continue
        if marker == 0xD9:
            found.truncated(at, "the JPEG has an end mark and no scan before it")
            return
        length = data[at + 2] << 8 | data[at + 3]
        if marker in _SOF:
            frame = data[at + 4 : at + 2 + length]
            if frame[:1] == b"\x0c":
                raise RecordError("unsupported:jpeg", "a JPEG of 12 bits per sample; 8 bits are supported")
            found.progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == 0xDD:
            interval = data[at + 4] << 8 | data[at + 5] if at + 6 <= size else 0
        at += 2 + length
        if marker == 0xDA:
            break
    if at > size:
        found.truncated(size, "the JPEG ends inside the header of its scan")
        return
    end = size - 2 if data.endswith(b"\xff\xd9") else data.find(b"\xff\xd9", at)
    if end < 0:
        found.truncated(size, "the JPEG has no end mark")
        return
    found.trailing(size - end - 2)
    if interval and not found.progressive:
        _count_restarts(data, at, end, frame, interval, found)


def _count_restarts(data: bytes, start: int, end: int, frame: bytes, interval: int, found: Structure) -> None:
    """T.81, B.2.4.4: a scan of all components has a marker after every `interval` units, save the last."""
    components = frame[5] if len(frame) > 5 else 0
    if components == 0 or len(frame) < 6 + 3 * components or data[start - components * 2 - 4] != components:
        return
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    sampling = [frame[7 + 3 * n] for n in range(components)]
    across = max(s >> 4 for s in sampling) if components > 1 else 1
    down = max(s & 15 for s in sampling) if components > 1 else 1
    if not across or not down or not height:
        return
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    bytes_ = np.frombuffer(data, np.uint8, end - start, start)
    after = bytes_[np.flatnonzero(bytes_[:-1] == 0xFF) + 1]
    marks = int(((after >= 0xD0) & (after <= 0xD7)).sum())
    if bool(((after == 0xC4) | (after == 0xDA)).any()):
        return  # several scans: their units are counted otherwise
    if marks < -(-units // interval) - 1:
        found.flag("missing_restarts")


def _png(data: bytes, found: Structure) -> None:
    """PNG third edition, 5.3: chunks of length, type, data and CRC, from IHDR to IEND."""
    at, size = 8, len(data)
    view = memoryview(data)
    deep = data[24:25] == b"\x10"
    frames = declared = 0
    while True:
        if at + 12 > size:
            found.truncated(at, f"the PNG ends at byte {size} without an end chunk")
            break
        length = int.from_bytes(view[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if not kind.isalpha():
            found.damage = Damage(at, "corrupt", f"no chunk begins at byte {at}, where one should: {kind.hex(' ')}")
            break
        if end > size:
            found.truncated(
                at, f"the chunk {kind.decode()} at byte {at} has {length} bytes, and the file ends before them"
            )
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            critical = not kind[0] & 0x20 or kind == b"fdAT"
            if critical and kind != b"IEND":
                found.damage = Damage(at, "checksum", f"the checksum of chunk {kind.decode()} at byte {at} is wrong")
                break
            found.flag("checksum")
            found.left_out.append((at, end))
        elif kind == b"acTL" and length >= 4:
            declared = int.from_bytes(view[at + 8 : at + 12], "big")
        elif kind == b"fcTL":
            frames += 1
        at = end
        if kind == b"IEND":
            found.trailing(size - at)
            break
    if declared and frames < declared and found.damage is None:
        found.flag("frames_missing")
    found.deep = deep


def _gif(data: bytes, found: Structure) -> None:
    """GIF89a, 12 to 27: blocks up to the trailer."""
    size = len(data)
    at = 13 + (3 << (data[10] & 7) + 1 if size > 10 and data[10] & 0x80 else 0)
    images = 0
    while True:
        if at >= size:
            if at == size and images:
                found.flag("no_trailer")  # every block is whole: only the last byte of the file is missing
            else:
                found.truncated(size, f"the GIF ends at byte {size} inside a block")
            return
        block = data[at]
        if block == 0x3B:
            found.trailing(size - at - 1)
            return
        if block == 0x21:
            at += 2
        elif block == 0x2C:
            if at + 10 > size:
                found.truncated(at, "the GIF ends inside the header of an image")
                return
            images += 1
            at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
        else:
            at += 1  # what stands between blocks is skipped by every reader
            found.flag("stray_bytes")
            continue
        while at < size and data[at]:
            at += data[at] + 1
        at += 1


def _webp(data: bytes, found: Structure) -> None:
    """RFC 9649, 2.4: the RIFF header holds the length of the file less eight."""
    declared = int.from_bytes(data[4:8], "little") + 8
    if declared > len(data):
        found.truncated(len(data), f"the WebP has {len(data)} bytes, its header says {declared}")
    else:
        found.trailing(len(data) - declared - (declared & 1))


def _jp2(data: bytes, found: Structure) -> None:
    """ISO/IEC 15444-1, I.4: boxes of length and type; the codestream box ends with an end mark."""
    at, size = 0, len(data)
    ends = False
    while at + 8 <= size:
        length, header = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = size if length == 0 else at + length
        if length and length < header:
            found.damage = Damage(at, "corrupt", f"the box at byte {at} has a length of {length}")
            return
        if data[at + 4 : at + 8] == b"jp2c":
            _codestream(data, at + header, min(end, size), found)
            ends = True
        if end > size:
            if ends and not data[at + 4 : at + 8].replace(b" ", b"x").isalnum():
                break  # what follows the picture is no box at all
            found.truncated(at, f"the box at byte {at} has {length} bytes, and the file ends before them")
            return
        at = end
    found.trailing(size - at)


def _j2k(data: bytes, found: Structure) -> None:
    _codestream(data, 0, len(data), found)


def _codestream(data: bytes, start: int, end: int, found: Structure) -> None:
    """ISO/IEC 15444-1, A.4.4 and A.5.1: SIZ holds the depth of each component, EOC ends the stream."""
    if data[start + 2 : start + 4] == b"\xff\x51":
        count = int.from_bytes(data[start + 38 : start + 40], "big")
        depths = data[start + 40 : start + 40 + 3 * count : 3]
        found.deep = count > 1 and any((depth & 0x7F) + 1 > 8 for depth in depths)
    if not data[:end].rstrip(b"\0").endswith(b"\xff\xd9"):
        found.flag("no_end_mark")


def _ico(data: bytes, found: Structure) -> None:
    """ICONDIR: entries of sixteen bytes with the size and the place of each image."""
    count = int.from_bytes(data[4:6], "little")
    for number in range(count):
        entry = data[6 + 16 * number : 22 + 16 * number]
        if len(entry) < 16:
            found.truncated(len(data), "the icon ends inside its directory")
            return
        length, start = int.from_bytes(entry[8:12], "little"), int.from_bytes(entry[12:16], "little")
        if start + length > len(data):
            found.flag("icon_beyond_end")


def _bmp(data: bytes, found: Structure) -> None:
    """BITMAPFILEHEADER: the length of the file, which many writers leave at 0."""
    declared = int.from_bytes(data[2:6], "little")
    if declared > len(data):
        found.flag("wrong_file_size")
    elif declared > 54:
        found.trailing(len(data) - declared)


_WALKERS: dict[str, Callable[[bytes, Structure], None]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "jp2": _jp2,
    "jp2-geo": _jp2,
    "j2k": _j2k,
    "ico": _ico,
    "bmp": _bmp,
}

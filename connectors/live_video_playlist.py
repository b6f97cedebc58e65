"""Reads HLS playlists (RFC 8216): text → what there is to fetch. No I/O.

Not read: low-latency parts (their segments are listed whole a moment later), I-frame playlists, subtitles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin

_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^",]*)(?:,|$)')
#: Entries of one playlist; a day of 2 s segments has 43,200.
MAX_ENTRIES = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Variant:
    """One quality of a master playlist."""

    url: str
    bandwidth: int  #: bits a second
    pixels: int
    sound_apart: bool  #: its sound is a playlist of its own


@dataclass(frozen=True)
class Piece:
    """One media segment."""

    url: str
    sequence: int
    byte_range: tuple[int, int] | None  #: (first byte, count)
    clock_us: int | None  #: EXT-X-PROGRAM-DATE-TIME of its first picture, µs since 1970 UTC
    discontinuity: bool  #: its clock or its encoding does not go on from the piece before
    init: tuple[str, tuple[int, int] | None] | None  #: EXT-X-MAP: address and byte range of the header
    encrypted: bool


@dataclass(frozen=True)
class Playlist:
    """A master playlist has variants; a media playlist has pieces."""

    variants: tuple[Variant, ...]
    pieces: tuple[Piece, ...]
    target_s: float
    ended: bool


def attributes(text: str) -> dict[str, str]:
    """`A=1,B="x,y"` → {"A": "1", "B": "x,y"}."""
    return {name: value.strip('"') for name, value in _ATTRIBUTE.findall(text)}


def parse_playlist(text: str, base: str) -> Playlist:
    """A playlist, with addresses made absolute against `base`. Raises: ValueError that says what is wrong."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != "#EXTM3U":
        raise ValueError("it does not begin with #EXTM3U")
    if len(lines) > 8 * MAX_ENTRIES:
        raise ValueError(f"it has {len(lines)} lines")
    reader = _Reader(base)
    for line in lines[1:]:
        line = line.strip()
        if line.startswith("#EXT"):
            name, _, value = line.partition(":")
            reader.tag(name, value)
        elif line and not line.startswith("#"):
            reader.address(line)
    return Playlist(tuple(reader.variants), tuple(reader.pieces), reader.target_s, reader.ended)


class _Reader:
    def __init__(self, base: str) -> None:
        self.base = base
        self.variants: list[Variant] = []
        self.pieces: list[Piece] = []
        self.target_s = 6.0
        self.ended = False
        self._sequence = 0
        self._variant: dict[str, str] | None = None
        self._clock_us: int | None = None
        self._duration_us = 0
        self._discontinuity = False
        self._range_end: dict[str, int] = {}
        self._range_text: str | None = None
        self._init: tuple[str, tuple[int, int] | None] | None = None
        self._encrypted = False

    def tag(self, name: str, value: str) -> None:
        if name == "#EXT-X-STREAM-INF":
            self._variant = attributes(value)
        elif name == "#EXT-X-TARGETDURATION":
            self.target_s = min(max(_number(name, value), 0.1), 3600)
        elif name == "#EXT-X-MEDIA-SEQUENCE":
            self._sequence = int(_number(name, value))
        elif name == "#EXTINF":
            self._duration_us = round(_number(name, value.partition(",")[0]) * 1_000_000)
        elif name == "#EXT-X-PROGRAM-DATE-TIME":
            self._clock_us = date_us(value)
        elif name == "#EXT-X-DISCONTINUITY":
            self._discontinuity = True
            self._clock_us = None
        elif name == "#EXT-X-BYTERANGE":
            self._range_text = value
        elif name == "#EXT-X-MAP":
            found = attributes(value)
            if "URI" not in found:
                raise ValueError("#EXT-X-MAP names no URI")
            place = _byte_range(found["BYTERANGE"], 0) if "BYTERANGE" in found else None
            self._init = (urljoin(self.base, found["URI"]), place)
        elif name == "#EXT-X-KEY":
            self._encrypted = attributes(value).get("METHOD", "NONE") != "NONE"
        elif name == "#EXT-X-ENDLIST":
            self.ended = True

    def address(self, line: str) -> None:
        url = urljoin(self.base, line)
        if self._variant is not None:
            width, _, height = self._variant.get("RESOLUTION", "0x0").partition("x")
            pixels = int(width) * int(height) if width.isdecimal() and height.isdecimal() else 0
            bandwidth = self._variant.get("BANDWIDTH", "0")
            apart = "AUDIO" in self._variant
            self.variants.append(Variant(url, int(bandwidth) if bandwidth.isdecimal() else 0, pixels, apart))
            self._variant = None
            return
        if len(self.pieces) >= MAX_ENTRIES:
            raise ValueError(f"it lists more than {MAX_ENTRIES} segments")
        place = None
        if self._range_text is not None:
            place = _byte_range(self._range_text, self._range_end.get(url, 0))
            self._range_end[url] = sum(place)
        sequence = self._sequence + len(self.pieces)
        self.pieces.append(
            Piece(url, sequence, place, self._clock_us, self._discontinuity, self._init, self._encrypted)
        )
        self._discontinuity = False
        self._range_text = None
        if self._clock_us is not None:  # RFC 8216, 6.3.3: dates of later segments follow from durations
            self._clock_us += self._duration_us


def date_us(value: str) -> int | None:
    """An ISO 8601 date with time zone in µs since 1970 UTC; None if it is not one."""
    try:
        when = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return None if when.tzinfo is None else (when - _EPOCH) // datetime.resolution


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError as exc:
        raise ValueError(f"{name}: {value[:40]!r} is not a number") from exc
    if not 0 <= number < 1 << 53:
        raise ValueError(f"{name}: {value[:40]!r} is out of range")
    return number


def _byte_range(text: str, default_start: int) -> tuple[int, int]:
    count, _, start = text.partition("@")
    if not count.isdecimal() or (start and not start.isdecimal()):
        raise ValueError(f"#EXT-X-BYTERANGE: {text[:40]!r} is not count@start")
    return (int(start) if start else default_start, int(count))

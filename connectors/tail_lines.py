"""Cuts a growing file into lines, in bounded memory, knowing at each line end where it stands.

A line ends at LF or CR LF. One that has no end yet waits. One that is longer than allowed is passed over, of which its
first 64 KiB are kept to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.connectors.tail_place import NEAR_BYTES, Trail

KEPT_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line without its end; for one that was too long, its first bytes. `begin`, `end`: its range with the end."""

    data: bytes
    begin: int
    end: int
    too_long: bool = False


class LineCutter:
    """Takes bytes in order and gives lines; `trail` stands behind the last line given."""

    def __init__(self, trail: Trail, max_line_bytes: int) -> None:
        self.trail = trail
        self._max = max_line_bytes
        self._buffer = bytearray()  #: bytes behind `trail`, or behind `_far` while a line is passed over
        self._far: Trail | None = None  #: how far a line that is too long has been passed over
        self._kept = b""

    @property
    def scanned(self) -> int:
        """Offset of the next byte to feed."""
        return (self._far or self.trail).at + len(self._buffer)

    def first_bytes(self) -> bytes:
        """The first bytes of the file, at most 64 of those before `scanned`."""
        return ((self._far or self.trail).first + bytes(self._buffer[:NEAR_BYTES]))[:NEAR_BYTES]

    def last_bytes(self) -> bytes:
        """The last bytes before `scanned`, at most 64: to see that the file still is what it was."""
        return ((self._far or self.trail).near + bytes(self._buffer[-NEAR_BYTES:]))[-NEAR_BYTES:]

    def feed(self, data: bytes) -> Iterator[Line]:
        """Lines that end in `data`. The trail moves with each one given, so take them all."""
        searched = len(self._buffer)
        self._buffer += data
        begin = 0
        while (found := self._buffer.find(b"\n", max(begin, searched))) >= 0:
            raw = bytes(memoryview(self._buffer)[begin : found + 1])
            begin = found + 1
            yield self._line(raw, raw[:-2] if raw.endswith(b"\r\n") else raw[:-1])
        del self._buffer[:begin]
        if len(self._buffer) > self._max or self._far is not None:
            self._pass_over()

    def finish(self) -> Iterator[Line]:
        """The last line, which has no end and will get none."""
        if self._buffer or self._far is not None:
            raw = bytes(self._buffer)
            self._buffer.clear()
            yield self._line(raw, raw)

    def _line(self, raw: bytes, content: bytes) -> Line:
        begin = self.trail.at
        if self._far is not None:
            self._far.advance(raw)
            self.trail, self._far = self._far, None
            return Line(self._kept, begin, self.trail.at, too_long=True)
        self.trail.advance(raw)
        if len(content) > self._max:
            return Line(content[:KEPT_BYTES], begin, self.trail.at, too_long=True)
        return Line(content.removeprefix(_BOM) if begin == 0 else content, begin, self.trail.at)

    def _pass_over(self) -> None:
        if self._far is None:
            self._far, self._kept = self.trail.copy(), bytes(self._buffer[:KEPT_BYTES])
        self._far.advance(bytes(self._buffer))
        self._buffer.clear()

"""Read one segment: entries, and what is damaged between them, from an offset on.

`SegmentReader.next()` never waits and never guesses: it gives an entry, a damaged range with what comes behind it, or
None where no more whole entry stands now. What None means (not yet written, torn by a crash) is the caller's to know.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.ingest.spool_disk import Opened
from headrace.ingest.spool_format import (
    ENTRY_MAGIC,
    HEAD_BYTES,
    SEGMENT_BYTES,
    Entry,
    Head,
    SegmentHeader,
    parse_body,
    parse_head,
    parse_segment_header,
)

_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `start` to `end` are not what was written; the next entry is `number`, None if none follows."""

    start: int
    end: int
    number: int | None
    open_end: bool  #: nothing valid stands behind it: it may be a write that is not finished


class SegmentReader:
    """A cursor in a segment; `offset` and `number` are those of the next entry."""

    def __init__(self, file: Opened, seed: int, offset: int, number: int) -> None:
        self._file = file
        self._seed = seed
        self.offset = offset
        self.number = number
        self._window = b""
        self._window_at = 0

    def close(self) -> None:
        self._file.close()

    def header(self) -> tuple[int, SegmentHeader] | None:
        """(version, header); None if it is damaged or not whole yet (see `size`)."""
        return parse_segment_header(self._file.read(0, SEGMENT_BYTES), self._seed)

    def size(self) -> int:
        return self._file.size()

    def next(self) -> Entry | Damage | None:
        """Moves behind an entry; stays before damage (see `skip`) and at the end."""
        at = self._at(self.offset, HEAD_BYTES)
        if at is None:
            self._window = b""  # what is written later must be read anew
            return None
        head = parse_head(self._window, at, offset=self.offset, seed=self._seed)
        if head is None:
            return self._damaged_head()
        end = self.offset + HEAD_BYTES + head.body_bytes
        at = self._at(self.offset, HEAD_BYTES + head.body_bytes)
        if at is None:
            self._window = b""
            return None
        body = memoryview(self._window)[at + HEAD_BYTES : at + HEAD_BYTES + head.body_bytes]
        entry = parse_body(head, body, end=end, seed=self._seed)
        if entry is None:
            self._window = b""
            return Damage(self.offset, end, head.number + 1, open_end=end >= self._file.size())
        self.offset, self.number = end, head.number + 1
        return entry

    def skip(self, damage: Damage) -> None:
        """Go on behind it."""
        self.offset = damage.end
        self.number = self.number if damage.number is None else damage.number

    def bytes_of(self, damage: Damage, limit: int) -> bytes:
        """The damaged bytes, at most `limit` of them."""
        return self._file.read(damage.start, min(damage.end - damage.start, limit))

    def is_zero(self, damage: Damage) -> bool:
        """Whether it holds nothing but zeros, as a file does whose size survived a power cut and whose data did not."""
        for at in range(damage.start, damage.end, _WINDOW):
            if self._file.read(at, min(_WINDOW, damage.end - at)).strip(b"\0"):
                return False
        return True

    def _at(self, offset: int, count: int) -> int | None:
        """Where `count` bytes from `offset` on begin in the window, read if need be; None if the file ends before."""
        at = offset - self._window_at
        if at < 0 or at + count > len(self._window):
            if offset + count > self._file.size():
                return None  # before anything is allocated by a length that the file cannot hold
            self._window = self._file.read(offset, max(_WINDOW, count))
            self._window_at, at = offset, 0
        return at if at + count <= len(self._window) else None

    def _damaged_head(self) -> Damage:
        """From here to the next head that is valid where it stands, or to the end."""
        self._window = b""
        size = self._file.size()
        at = self.offset + 1
        while at < size:
            chunk = self._file.read(at, _WINDOW + HEAD_BYTES)
            found = chunk.find(ENTRY_MAGIC)
            while found >= 0:
                head = self._head_at(chunk, found, at + found)
                if head is not None:
                    return Damage(self.offset, at + found, head.number, open_end=False)
                found = chunk.find(ENTRY_MAGIC, found + 1)
            at += _WINDOW
        return Damage(self.offset, size, None, open_end=True)

    def _head_at(self, chunk: bytes, found: int, offset: int) -> Head | None:
        if found + HEAD_BYTES > len(chunk):
            return None  # at the end of the file; in another chunk, the next one begins before it
        return parse_head(chunk, found, offset=offset, seed=self._seed)

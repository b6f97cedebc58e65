"""Between the camera and a reader that may be slower: a queue bounded in bytes that sheds whole segments and says so.

A camera does not wait. When what is held would exceed the bound, the segment that just came is shed, and a note of how
many went takes its place in the queue (one note, however many follow), so that the queue stays bounded and the gap is
declared where it is. One segment is always taken, however large.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from headrace.connectors.live_video_segment import Segment

#: Losses told one by one while nobody reads, and how long one may grow.
_MAX_NOTES, _MAX_REASON = 64, 600


@dataclass
class Loss:
    """Data known to be lost between two segments."""

    reason: str  #: begins with its kind and a colon
    lost: int | None = None

    @property
    def kind(self) -> str:
        """The word before the colon."""
        return self.reason.partition(":")[0]

    def add(self, reason: str, lost: int | None) -> None:
        """Tell another loss with this one."""
        self.lost = None if self.lost is None or lost is None else self.lost + lost
        if len(self.reason) < _MAX_REASON:
            self.reason += f"; then {reason}"


@dataclass
class Shed:
    """Segments that there was no room for."""

    count: int
    bytes: int
    first: str  #: when the first was shed, and the last
    last: str
    others: int = 0  #: losses of other kinds that fell into it


Entry = Segment | Loss | Shed | Exception


class Buffer:
    """One writer (the camera's thread), one reader."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = self._notes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, segment: Segment, now: str) -> bool:
        """Append a segment; False if it was shed. `now`: the time, for the note."""
        size = len(segment.data)
        with self._changed:
            fits = not self._bytes or self._bytes + size <= self.max_bytes
            last = self._entries[-1] if self._entries else None
            if fits:
                self._entries.append(segment)
                self._bytes += size
            elif isinstance(last, Shed):
                last.count, last.bytes, last.last = last.count + 1, last.bytes + size, now
            elif isinstance(last, Loss) and self._notes >= _MAX_NOTES:
                last.add("shed: and segments with it", None)
            else:
                self._note(Shed(1, size, now, now))
            self._changed.notify()
        return fits

    def note(self, entry: Loss | Exception) -> None:
        """Append a loss, or the error that ends the reading. Losses of one kind in a row are told as one."""
        with self._changed:
            last = self._entries[-1] if self._entries else None
            if not isinstance(entry, Loss) or not isinstance(last, (Loss, Shed)):
                self._note(entry)
            elif isinstance(last, Loss) and (last.kind == entry.kind or self._notes >= _MAX_NOTES):
                last.add(entry.reason, entry.lost)
            elif self._notes < _MAX_NOTES:
                self._note(entry)
            elif isinstance(last, Shed):
                last.others += 1
            self._changed.notify()

    def _note(self, entry: Loss | Shed | Exception) -> None:
        self._entries.append(entry)
        self._notes += 1

    def take(self, timeout_s: float) -> Entry | None:
        """The next entry; None if there is none within the time, or the buffer was closed."""
        with self._changed:
            if not self._entries and not self._closed:
                self._changed.wait(timeout_s)
            if self._closed or not self._entries:
                return None
            entry = self._entries.popleft()
            if isinstance(entry, Segment):
                self._bytes -= len(entry.data)
            else:
                self._notes -= 1
            return entry

    @property
    def held_bytes(self) -> int:
        """Bytes of the segments that wait."""
        return self._bytes

    @property
    def closed(self) -> bool:
        """Whether nobody reads any more."""
        return self._closed

    def close(self) -> None:
        """Wake the reader for good and let go of what is held."""
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._bytes = self._notes = 0
            self._changed.notify_all()

"""Requests between the server's thread, which fills, and the reader's, which takes and confirms; bounded in bytes.

    reserve → put → take → handed → confirm        answered with 202
                  ↘ withdraw                       answered with 503: before `take` it is gone for certain
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Request:
    """A body that was received whole, and what its sender said of it."""

    body: bytes
    items: int
    lines: bool
    key: str | None = None
    event_time: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reserved: int = 0
    taken: bool = False
    withdrawn: bool = False

    def parts(self) -> Iterator[tuple[bytes, str | None]]:
        """(payload, key) of each item. The n-th line of a body with key K has key K/n, the same when sent again."""
        if not self.lines:
            yield self.body, self.key
            return
        for number, line in enumerate(lines_of(self.body), 1):
            yield line, None if self.key is None else f"{self.key}/{number}"


def lines_of(body: bytes) -> Iterator[bytes]:
    """The lines of NDJSON that hold more than white space, without their ends."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        line = body[start:end].rstrip(b"\r")
        if line.strip():
            yield line
        start = end + 1


class Inbox:
    """Holds at most `limit` bytes, counting what is being received, waits, and is not yet confirmed."""

    def __init__(self, limit: int, confirmed: Callable[[list[Request]], None]) -> None:
        """confirmed: told of a group of requests that are on disk, from the thread that confirms."""
        self._limit = limit
        self._confirmed = confirmed
        self._change = threading.Condition()
        self._used = 0
        self._waiting: deque[Request] = deque()
        self._handed: dict[int, deque[tuple[int, Request]]] = {}

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    # -- the server's side --------------------------------------------------------------------------------------------

    def reserve(self, count: int) -> bool:
        """Whether there is room for so many bytes more; then they count as held."""
        with self._change:
            if self._used + count > self._limit:
                return False
            self._used += count
            return True

    def release(self, count: int) -> None:
        """Give back what was reserved and did not become a request."""
        with self._change:
            self._used -= count

    def put(self, request: Request) -> None:
        """Let the reader have a request; its reservation goes with it."""
        with self._change:
            self._waiting.append(request)
            self._change.notify_all()

    def withdraw(self, request: Request) -> bool:
        """Nobody waits for this request any more; whether it was not taken, and now never will be."""
        with self._change:
            if request.withdrawn:
                return not request.taken
            request.withdrawn = True
            self._used -= request.reserved
            if not request.taken:
                self._waiting.remove(request)
            return not request.taken

    # -- the reader's side --------------------------------------------------------------------------------------------

    def take(self, timeout_s: float) -> Request | None:
        """The next request, or None."""
        with self._change:
            if not self._waiting:
                self._change.wait(timeout_s)
            if not self._waiting:
                return None
            request = self._waiting.popleft()
            request.taken = True
            return request

    def begin(self, read: int) -> None:
        """A new read; what was given to the one before the last will not be confirmed any more."""
        with self._change:
            for old in [r for r in self._handed if r < read - 1]:
                del self._handed[old]

    def handed(self, request: Request, read: int, last: int) -> None:
        """The items of a request are being given to the reader's consumer; the last one is number `last` of `read`."""
        with self._change:
            self._handed.setdefault(read, deque()).append((last, request))

    def confirm(self, read: int, upto: int) -> None:
        """All items of that read up to this number are on disk."""
        done: list[Request] = []
        with self._change:
            handed = self._handed.get(read, deque())
            while handed and handed[0][0] <= upto:
                request = handed.popleft()[1]
                if not request.withdrawn:
                    request.withdrawn = True
                    self._used -= request.reserved
                    done.append(request)
            if not handed:
                self._handed.pop(read, None)
        if done:
            self._confirmed(done)

"""Which elements of an answer are new: a cursor in time with a window behind it, or a memory of what was there.

With times, an element behind the cursor is new by its time alone. One before it (it came late, or was changed) is new
if it is no older than the window and was not seen; what was seen in the window is remembered as long as this object
lives, so after a start the elements of the window come once more, under the keys they had. Without times, all of an
answer that differs from the last is compared with the memory. No input or output.

    {"time": 1762000000000000, "key": "9f…"}                  the element at the cursor
    {"time": …, "key": …, "late": "0a…"}                      one that came late; the cursor stays
    {"time": …, "key": …, "floor": …}                         nothing up to the time `floor` is wanted (`start`)
    {"poll": "77…", "n": 3}                                   the fourth element of the answer with this digest
    {…, "bad": "c4…"}                                         an answer that could not be divided
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.connectors.http_poll_divide import DIGEST_CHARS, Element
from headrace.schemas.errors import ConfigError

_MOST = 1 << 20  #: digests that are remembered
_LAST = "~"  #: sorts behind every digest


def after_time(time: int) -> dict[str, Any]:
    """The position behind everything up to a time."""
    return {"time": time, "key": _LAST, "floor": time}


class Window:
    """Goes with one reader from answer to answer."""

    def __init__(self, position: Any, *, timed: bool, lag_us: int, keep_id: bool = False, snapshot: bool = False):
        at: Mapping[str, Any] = position if isinstance(position, Mapping) else {}
        if position is not None and not isinstance(position, Mapping):
            raise ConfigError(f"{position!r} is no place of http_poll: a mapping is expected")
        self.time: int | None = at.get("time")
        self.id: str | None = at.get("id")
        self._key: str = at.get("key", "")
        self._floor: int | None = at.get("floor")
        self._poll: str | None = at.get("poll")
        self._n: int = at.get("n", -1)
        self._bad: str | None = at.get("bad")
        self._timed, self._lag_us, self._keep_id, self._snapshot = timed, lag_us, keep_id, snapshot
        self._seen: OrderedDict[str, int | None] = OrderedDict()  #: digest → time

    @property
    def since(self) -> int | None:
        """The oldest time that is still of interest; None: all of them."""
        if self.time is None:
            return None
        return max(self.time - self._lag_us, self._floor if self._floor is not None else self.time - self._lag_us)

    def fresh(self, found: Sequence[Element], ceiling: int) -> Iterator[tuple[Element, dict[str, Any]]]:
        """(element, its position) of what is new in an answer, in order.

        ceiling: the server's own time and a little; an element of a later time does not move the cursor, so that one
        wrong clock cannot hide all that comes after it.
        """
        return self._by_time(found, ceiling) if self._timed else self._by_memory(found)

    def bad(self, digest: str) -> dict[str, Any] | None:
        """The position of an answer that could not be divided; None if it was told already."""
        if digest == self._bad:
            return None
        self._bad = digest
        return {**self._place(), "bad": digest}

    # -- by time ------------------------------------------------------------------------------------------------------

    def _by_time(self, found: Sequence[Element], ceiling: int) -> Iterator[tuple[Element, dict[str, Any]]]:
        timed = sorted(((e.time, e.digest, e) for e in found if e.time is not None), key=lambda each: each[:2])
        for time, digest, element in timed:
            if time > ceiling:
                break
            if self._is_behind(time, digest):
                if self._wanted(time) and not self._saw(digest, time):
                    yield element, {**self._place(), "late": digest}
                continue
            self.time, self._key = time, digest
            self.id = element.id if self._keep_id else None
            if self._floor is not None and self._floor <= time - self._lag_us:
                self._floor = None
            if not self._saw(digest, time):  # else it was given when its time had not come yet
                self._bad = None
                yield element, self._place()
        self._forget()
        ahead = [element for time, _, element in timed if time > ceiling]
        for element in [*ahead, *(e for e in found if e.time is None)]:
            if not self._saw(element.digest, None):
                yield element, {**self._place(), "late": element.digest}

    def _is_behind(self, time: int, digest: str) -> bool:
        return self.time is not None and (time, digest) <= (self.time, self._key)

    def _wanted(self, time: int) -> bool:
        assert self.time is not None
        return time > self.time - self._lag_us and (self._floor is None or time > self._floor)

    def _forget(self) -> None:
        """Drop what no answer can bring again: it is behind the window."""
        if self.time is not None:
            limit = self.time - self._lag_us
            for digest in [d for d, time in self._seen.items() if time is not None and time <= limit]:
                del self._seen[digest]

    # -- by memory ----------------------------------------------------------------------------------------------------

    def _by_memory(self, found: Sequence[Element]) -> Iterator[tuple[Element, dict[str, Any]]]:
        poll = hashlib.sha256("".join(e.digest for e in found).encode()).hexdigest()[:DIGEST_CHARS]
        known = self._n if poll == self._poll else -1
        for n, element in enumerate(found):
            before = self._saw(element.digest, None)
            if n <= known or (before and not self._snapshot):
                continue
            self._bad = None
            self._poll, self._n = poll, n
            self.id = element.id if self._keep_id else None
            yield element, self._place()

    def _saw(self, digest: str, time: int | None) -> bool:
        """Whether a digest came before; now it has."""
        if digest in self._seen:
            return True
        self._seen[digest] = time
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)
        return False

    def _place(self) -> dict[str, Any]:
        said = {"time": self.time, "key": self._key or None, "floor": self._floor, "poll": self._poll, "id": self.id}
        out: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        return {**out, "n": self._n} if self._poll is not None else out

"""What waits between the readers of a receiver and the one that writes its spool: bounded in bytes, taken in groups."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from headrace.connectors.contract import Blob, Broken, Gap, Item

ITEM_COST = 200  #: bytes of an item in memory besides its data

Read = Item | Gap | Broken
Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class Taken(Generic[Source]):
    """What a read of a source yielded. `generation` counts the reads of that source."""

    source: Source
    generation: int
    read: Read
    cost: int


def taken(source: Source, generation: int, read: Read) -> Taken[Source]:
    """With a blob read here, so that what fails there fails the read and not the writing.

    Raises: TypeError for data that is neither bytes nor a blob.
    """
    size = 0
    if isinstance(read, Item):
        if isinstance(read.data, Blob):
            read = replace(read, data=read.data.read())
        if not isinstance(read.data, bytes):
            raise TypeError(f"a spool holds items of bytes or a blob, not {type(read.data).__name__}")
        size = len(read.data) + sum(len(name) + len(value) for name, value in read.headers.items())
    elif isinstance(read, Broken):
        size = len(read.data or b"")
    return Taken(source, generation, read, size + ITEM_COST)


class TakenQueue(Generic[Source]):
    """First in, first out; many put, one takes."""

    def __init__(self, *, limit_bytes: int, group_bytes: int, group_items: int, wait_s: float) -> None:
        """A group is ready once it has so many bytes or items, or has waited so long for more."""
        self._limit_bytes = limit_bytes
        self._group_bytes = group_bytes
        self._group_items = group_items
        self._wait_s = wait_s
        self._queue: deque[Taken[Source]] = deque()
        self._changed = threading.Condition()
        self._open = True
        self.bytes = 0

    def put(self, one: Taken[Source]) -> None:
        """Waits while there is too much; not any more once the queue is closed."""
        with self._changed:
            while self.bytes >= self._limit_bytes and self._open:
                self._changed.wait()
            self._queue.append(one)
            self.bytes += one.cost
            # Not for each one: the writer waits for the first, and then for a whole group.
            if len(self._queue) in (1, self._group_items) or self.bytes >= self._group_bytes:
                self._changed.notify_all()

    def group(self) -> list[Taken[Source]]:
        """The next group; empty if nothing came for a moment."""
        with self._changed:
            if not self._queue:
                self._changed.wait(0.1)
            if not self._queue:
                return []
            until = time.monotonic() + self._wait_s
            while (
                len(self._queue) < self._group_items
                and self.bytes < self._group_bytes
                and self._open
                and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            group: list[Taken[Source]] = []
            cost = 0
            while self._queue and len(group) < self._group_items:
                if group and cost + self._queue[0].cost > self._group_bytes:
                    break
                group.append(self._queue.popleft())
                cost += group[-1].cost
            self.bytes -= cost
            self._changed.notify_all()
        return group

    def close(self) -> None:
        """Nobody waits any more; what is in it can still be taken."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._queue.clear()
            self.bytes = 0
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._queue)

"""Where a reader stands in a growing file, so that the same bytes are found again whatever they are called by then.

    [generation, offset, inode, past, head, near]

    generation   how many files (or truncations of one) were read through before; keeps positions unique
    offset       bytes of this file that are read, always behind a line end
    inode        of the file; a renamed file keeps it, a compressed or copied one does not
    past         time of change (ns) of the newest rotated file when this one was begun: those up to it are done
    head, near   digests of the first 4 KiB and of the last 64 bytes before the offset, of what is read already

A file may be shorter than 4 KiB when it is first seen, so nothing is pinned then: `head` covers min(offset, 4096) bytes
and grows with the offset. What has been read cannot change any more without being noticed; what has not been read
need not be recognised.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

HEAD_BYTES = 4096
NEAR_BYTES = 64


@dataclass(frozen=True)
class Place:
    """A position of `tail`. `damaged`: what follows in this file cannot be read, so the next one is due."""

    generation: int
    at: int
    inode: int
    past: int
    head: str = ""
    near: str = ""
    damaged: bool = False

    @property
    def position(self) -> list[Any]:
        """As JSON."""
        plain = [self.generation, self.at, self.inode, self.past, self.head, self.near]
        return [*plain, "damaged"] if self.damaged else plain

    @classmethod
    def of(cls, position: Any) -> Place:
        """From JSON. Raises: ValueError."""
        if not isinstance(position, (list, tuple)) or len(position) not in (6, 7):
            raise ValueError(f"{position!r} is no position of a growing file")
        generation, at, inode, past, head, near = position[:6]
        return cls(generation, at, inode, past, head, near, len(position) == 7)


class Trail:
    """Digests of the bytes read so far, kept up to date as lines go by."""

    def __init__(self, at: int, head: bytes, near: bytes) -> None:
        """`head`: the first min(at, 4096) bytes of the file; `near`: the last min(at, 64) before `at`."""
        self.at = at
        self.first = head[:NEAR_BYTES]
        self.near = near
        self._head = hashlib.sha256(head)
        self._digest = self._head.hexdigest()[:16] if at else ""

    def advance(self, data: bytes) -> None:
        """Go past `data`."""
        if self.at < HEAD_BYTES and data:
            self._head.update(data[: HEAD_BYTES - self.at])
            self._digest = self._head.hexdigest()[:16]
            self.first = (self.first + data[:NEAR_BYTES])[:NEAR_BYTES]
        self.at += len(data)
        self.near = data[-NEAR_BYTES:] if len(data) >= NEAR_BYTES else (self.near + data)[-NEAR_BYTES:]

    def copy(self) -> Trail:
        """The same, to go on with by itself."""
        other = Trail(0, self.first, self.near)
        other.at, other._head, other._digest = self.at, self._head.copy(), self._digest
        return other

    def place(self, generation: int, inode: int, past: int, *, damaged: bool = False) -> Place:
        """The position here."""
        near = hashlib.sha256(self.near).hexdigest()[:8] if self.at else ""
        return Place(generation, self.at, inode, past, self._digest, near, damaged)

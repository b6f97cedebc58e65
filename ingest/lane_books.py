"""The books of a lane between two cuts: what became of the items of each split, and where its line begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.ingest.place import Place
from headrace.shards.books import SplitCounts
from headrace.shards.entry import split_digest


@dataclass
class SplitLine:
    """A split's counts since the last cut, from place (after, after_k) to (upto, upto_k)."""

    after: Any
    after_k: int
    was_open: bool  #: the last cut fell into an item
    upto: Any = None
    upto_k: int = 0
    read: int = 0  #: items taken to their end
    closed: int = 0
    quarantined: int = 0


class SplitBooks:
    """The lines of all splits touched since the last cut, in the order they were touched."""

    def __init__(self, source: str, begin: Callable[[str], tuple[Any, int]]) -> None:
        self._source = source
        self._begin = begin  #: split id → the place (position, k) at which it was cut last
        self.lines: dict[str, SplitLine] = {}

    def restart(self) -> None:
        """Begin anew after a cut."""
        self.lines = {}

    def line(self, split_id: str) -> SplitLine:
        """The split's line; a new one begins where the last cut left the split."""
        digest = split_digest(split_id)
        found = self.lines.get(digest)
        if found is None:
            position, k = self._begin(split_id)
            found = self.lines[digest] = SplitLine(position, k, was_open=k > 0, upto=position, upto_k=k)
        return found

    def reach(self, split_id: str, place: Place) -> None:
        """The walk has come to `place` in this split."""
        line = self.line(split_id)
        line.upto, line.upto_k = place.position, place.k

    def counts(self) -> Iterator[SplitCounts]:
        """The lines as the log keeps them.

        An item counts as read in the commit that first takes something of it, and as open until its end.
        """
        for digest, line in self.lines.items():
            read = line.read
            if line.upto_k > 0 and not (line.was_open and line.read == 0):
                read += 1
            if line.was_open and line.read > 0:
                read -= 1
            yield SplitCounts(
                self._source,
                digest,
                line.after,
                line.after_k,
                line.upto,
                line.upto_k,
                read,
                line.closed,
                line.quarantined,
                read - line.closed - line.quarantined,
            )

"""The books of an entry: what was read, and what became of it (DESIGN.md law 2).

Every number is what **this entry adds**, so the books of a dataset are the sums over its entries. `open` is a change:
items begun here count +1, items begun earlier and finished here count -1; its sum may never fall below zero.

    per split:   items read = closed + quarantined whole + open
    per stream:  records    = samples + quarantined + rejected by a named rule + duplicates

An item that is quarantined whole yields no record: it stands in its split's line only. Gaps are listed in the entry
beside the books, never in a sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from headrace.schemas.errors import Unbalanced
from headrace.shards.wire import Wire


@dataclass(frozen=True, slots=True)
class SplitCounts(Wire):
    """One split's line: items taken from place (after, after_k) up to place (upto, upto_k), and their fate.

    A place is (position of the last item fully taken, records already emitted of the next item). The lines of a split
    join without a hole: `after` of one is `upto` of the one before.
    """

    as_row: ClassVar[bool] = True

    source: str  #: name of the pipeline stream whose connector read it
    split: str  #: `split_digest` of the split id
    after: Any  #: position, None for the start
    after_k: int
    upto: Any
    upto_k: int
    read: int
    closed: int
    quarantined: int
    open: int = 0

    def check(self) -> None:
        """Raises: Unbalanced with the sum spelled out."""
        total = self.closed + self.quarantined + self.open
        if min(self.read, self.closed, self.quarantined) < 0 or self.read != total:
            raise Unbalanced(
                f"split {self.split} of {self.source}: {self.read} items read, but {self.closed} closed"
                f" + {self.quarantined} quarantined whole + {self.open} open = {total}"
            )


@dataclass(frozen=True, slots=True)
class StreamCounts(Wire):
    """One stream's line."""

    records: int = 0
    samples: int = 0
    quarantined: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  #: by name of the rule
    duplicates: int = 0
    tokens: int = 0  #: of the samples; 0 for raw streams

    def check(self, stream: str) -> None:
        """Raises: Unbalanced with the sum spelled out."""
        parts = [self.samples, self.quarantined, *self.rejected.values(), self.duplicates]
        if min([self.records, self.tokens, *parts]) < 0 or self.records != sum(parts):
            rules = ", ".join(f"{rule} {n}" for rule, n in sorted(self.rejected.items()))
            raise Unbalanced(
                f"stream {stream}: {self.records} records, but {self.samples} samples + {self.quarantined} quarantined"
                f" + {sum(self.rejected.values())} rejected{f' ({rules})' if rules else ''}"
                f" + {self.duplicates} duplicates = {sum(parts)}"
            )

    def plus(self, other: StreamCounts) -> StreamCounts:
        """The sum of both lines."""
        rejected = dict(self.rejected)
        for rule, n in other.rejected.items():
            rejected[rule] = rejected.get(rule, 0) + n
        return StreamCounts(
            self.records + other.records,
            self.samples + other.samples,
            self.quarantined + other.quarantined,
            rejected,
            self.duplicates + other.duplicates,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True)
class SourceCounts(Wire):
    """All splits of one source together."""

    read: int = 0
    closed: int = 0
    quarantined: int = 0
    open: int = 0

    def plus(self, line: SplitCounts | SourceCounts) -> SourceCounts:
        """The sum with a split's line."""
        return SourceCounts(
            self.read + line.read,
            self.closed + line.closed,
            self.quarantined + line.quarantined,
            self.open + line.open,
        )

    def check(self, source: str) -> None:
        """Raises: Unbalanced, also when more items were finished than were ever open."""
        total = self.closed + self.quarantined + self.open
        if self.open < 0 or self.read != total:
            raise Unbalanced(
                f"source {source}: {self.read} items read, but {self.closed} closed"
                f" + {self.quarantined} quarantined whole + {self.open} open = {total}"
                + ("; open may not be negative" if self.open < 0 else "")
            )


@dataclass(frozen=True, slots=True)
class Books(Wire):
    """The books of one entry: `splits` in the order they were read, `streams` by name."""

    splits: list[SplitCounts] = field(default_factory=list)
    streams: dict[str, StreamCounts] = field(default_factory=dict)

    def check(self) -> None:
        """Raises: Unbalanced that names the split or stream and spells the sum."""
        for line in self.splits:
            line.check()
        for stream, counts in sorted(self.streams.items()):
            counts.check(stream)


def merge(books: Iterable[Books]) -> Books:
    """The books of several cuts that are committed in one entry; split lines stay in order."""
    splits: list[SplitCounts] = []
    streams: dict[str, StreamCounts] = {}
    for one in books:
        splits.extend(one.splits)
        for stream, counts in one.streams.items():
            streams[stream] = streams.get(stream, StreamCounts()).plus(counts)
    return Books(splits, streams)

"""Do the places of splits join without a hole? For `verify`, over all entries in order.

Two chains are followed. Of each split, the lines in the books: `after` of one is `upto` of the one before. Of each
split in each stream, the ranges of the shards: a range begins where the one before ended, or at an end of a line of its
own entry (what lies between gave this stream no row). Places are compared as canonical bytes. Rows that a replay of the
quarantine added come out of turn, so their ranges are in no chain: the marks of the replay say that they come once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.schemas.canonical import canonical_json
from headrace.shards.entry import Entry

_START = canonical_json([None, 0])


class Chains:
    """Feed entries in order to `follow`; it yields what is wrong."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], bytes] = {}
        self._ranges: dict[tuple[str, str], bytes] = {}

    def follow(self, entry: Entry) -> Iterator[str]:
        """Sentences, each naming the split and the places."""
        begun: dict[str, set[bytes]] = {}
        for line in entry.books.splits:
            key = (line.source, line.split)
            after, upto = _place(line.after, line.after_k), _place(line.upto, line.upto_k)
            due = self._lines.get(key, _START)
            if after != due and key in self._lines:
                yield (
                    f"books of split {line.split} of {line.source} go on after {after.decode()},"
                    f" the line before ended at {due.decode()}"
                )
            self._lines[key] = upto
            begun.setdefault(line.split, set()).update((after, upto))
        for shard in entry.add if not entry.replayed else ():
            for r in shard.ranges:
                after, upto = _place(r.after, r.after_k), _place(r.upto, r.upto_k)
                if r.split not in begun:
                    yield f"{shard.path} has rows of split {r.split}, which no line of this entry's books names"
                due = self._ranges.get((shard.stream, r.split), after)
                if after != due and after not in begun.get(r.split, ()):
                    yield (
                        f"{shard.path}: rows of split {r.split} go on after {after.decode()},"
                        f" the rows before ended at {due.decode()}"
                    )
                self._ranges[shard.stream, r.split] = upto


def _place(position: Any, k: int) -> bytes:
    return canonical_json([position, k])

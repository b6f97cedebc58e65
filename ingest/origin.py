"""Where rows come from: the item, the place before it, and which of its outputs they are.

A batch may hold rows of many items of one split; then it has an origin for each, in row order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headrace.connectors.contract import Blob, Item, Split
from headrace.ingest.place import PlanRow


class Suspects(NamedTuple):
    """Items of one split that a step works on, as (position before the item, output number)."""

    split: Split
    items: list[tuple[str, int]]


class Origin(NamedTuple):
    """Consecutive rows of one item."""

    row: PlanRow
    item: Item
    after: str  #: canonical JSON of the position before the item
    k: int  #: output number of the first row
    rows: int

    def suspect(self, k: int) -> Suspects:
        """How the in-flight slot names output `k`."""
        return Suspects(self.row.split, [(self.after, k)])

    @property
    def object_id(self) -> str:
        """See `object_id`."""
        return object_id(self.item, self.row.split)


def object_id(item: Item, split: Split) -> str:
    """The undivided object an item comes from, relative to the source's root."""
    if "object" in item.headers:
        return item.headers["object"]
    if isinstance(item.data, Blob):
        return item.data.id
    return split.id


def sliced(origins: Sequence[Origin], begin: int, size: int) -> list[Origin]:
    """The origins of the rows [begin, begin + size)."""
    out, at = [], 0
    for origin in origins:
        low, high = max(begin, at), min(begin + size, at + origin.rows)
        if low < high:
            out.append(origin._replace(k=origin.k + low - at, rows=high - low))
        at += origin.rows
    return out

"""An unbounded source read up to what it holds now: how a tokenizer is fitted to a stream that never ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.connectors.contract import Connector, Idle, Read, Split
from headrace.ingest.place import position_key


class Frozen:
    """Reads each split to the position that `end_of` named, then ends. A split that was empty then gives nothing."""

    def __init__(self, connector: Connector, ends: dict[str, Any]) -> None:
        self._connector = connector
        self._ends = ends  #: split id → position

    def read(self, split: Split, after: Any) -> Iterator[Read]:
        """What comes after `after`, up to the end."""
        end = self._ends.get(split.id)
        if end is None:
            return
        last = position_key(end)
        for read in self._connector.read(split, after):
            if isinstance(read, Idle):
                return  # nothing more comes, so the end was trimmed away meanwhile
            yield read
            if position_key(read.position) == last:
                return


def freeze(connector: Connector) -> tuple[list[Split], dict[str, Any]]:
    """The splits of an unbounded source that hold anything, and where each ends now. Raises: SourceError."""
    splits, ends = [], {}
    for split in connector.splits():
        end = connector.end_of(split)
        if end is not None:
            splits.append(split)
            ends[split.id] = end
    return splits, ends

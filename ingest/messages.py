"""Messages of live sources as items, and what a walk reads them from: the queue of a lane, or the source itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.connectors.contract import Connector, Idle, Item, Read, Split
from headrace.connectors.sniff import sniff
from headrace.ingest.feed import Feed
from headrace.ingest.place import position_key
from headrace.ingest.walk import STEP_BYTES, STEP_ITEMS

_QUOTE = '"'
_SNIFFED = 1 << 16  # bytes by which a format is told


def named(item: Item, split: Split) -> Item:
    """The item with an object of its own (two equal messages are two records), and the format of its bytes."""
    data, position, headers = item.data, item.position, dict(item.headers)
    if "object" not in headers:
        headers["object"] = f"{split.id}@{position_key(position).strip(_QUOTE)}"
    if "format" not in headers and isinstance(data, bytes):
        headers["format"] = _format(data)
    return Item(data, position, item.key, item.event_time, headers)


def _format(data: bytes) -> str:
    """The name of a payload's format; most messages are one JSON object, which is seen without a search."""
    if data[:1] == b"{" and data[-1:] == b"}" and b"\n" not in data:
        return "json"
    return sniff(data[:_SNIFFED], "").name


class Queued:
    """Reads a feed, with an idle tick where it has nothing. Items that are there already come together; none waits."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def read(self, split: Split, after: Any) -> Iterator[Read | list[Item]]:
        """As `Reads.read`; the feed knows where it stands."""
        while True:
            together: list[Item] = []
            data = self._feed.take(STEP_ITEMS, STEP_BYTES)
            for datum in data:
                if isinstance(datum, Item):
                    together.append(named(datum, split))
                    continue
                if together:
                    yield together
                    together = []
                yield datum
            if together:
                yield together
            elif data:
                continue
            elif self._feed.ended:
                return
            else:
                yield Idle()


class Straight:
    """Reads a live source itself, one message at a time."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    def read(self, split: Split, after: Any) -> Iterator[Read]:
        """As `Connector.read`."""
        for read in self._connector.read(split, after):
            yield named(read, split) if isinstance(read, Item) else read

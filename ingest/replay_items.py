"""The items of a replay: read from their source again, or made of the bytes that the quarantine kept.

A bounded source comes first, if it still is what was planned: it gives the item with all that its connector says of it.
Where it does not, and for live sources, which would be read from their very beginning, the kept bytes make the item.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from headrace.connectors.containers import plain_name
from headrace.connectors.contract import Blob, Broken, Connector, Idle, Item, Read, Split
from headrace.connectors.expand import KINDS
from headrace.connectors.sniff import sniff
from headrace.ingest.messages import named
from headrace.ingest.origin import Suspects
from headrace.ingest.place import position_key
from headrace.ingest.replay_rows import Group
from headrace.ingest.walk import KEEP_BYTES, InFlight
from headrace.schemas.canonical import canonical_json, sha256_hex
from headrace.schemas.errors import ConfigError, HeadraceError, RecordError, SourceError
from headrace.shards.entry import QuarantineInfo, split_digest
from headrace.shards.quarantine import read_quarantine
from headrace.shards.store import Store

_SNIFFED = 1 << 16  # bytes by which a format is told
_MOST_IDLE = 20  #: idle ticks of about half a second, after which a live source has no more


class KeptBytes:
    """The raw bytes of rows. One file is open at a time, for rows come file by file."""

    def __init__(self, store: Store, files: Iterable[QuarantineInfo]) -> None:
        self._store = store
        self._files = {file.path: file for file in files}
        self._open: tuple[str, list[pa.RecordBatch]] | None = None

    def of(self, place: tuple[str, int]) -> bytes:
        """The bytes of a row that has all of them. Raises: ShardError, StorageError."""
        path, number = place
        if self._open is None or self._open[0] != path:
            self._open = (path, list(read_quarantine(self._store, self._files[path])))
        for batch in self._open[1]:
            if number < batch.num_rows:
                return bytes(batch.column("raw")[number].as_py())
            number -= batch.num_rows
        raise ValueError(f"{path} has no row {place[1]}")


def kept_item(group: Group, raw: bytes, *, live: bool) -> Item:
    """The item of kept bytes: what its connector said besides (a time, rights) is not there any more."""
    item = Item(raw, json.loads(group.position), headers={"object": group.uri})
    if live:
        return named(item, Split(group.split, group.pin))
    name = group.uri.rpartition("/")[2]
    for kind in KINDS:  # the bytes are kept as they were decompressed
        name = plain_name(name, kind)
    found = sniff(raw[:_SNIFFED], name, lambda offset, size: raw[offset : offset + size])
    return Item(raw, item.position, headers={**item.headers, "format": found.name})


class SourceItems:
    """Reads a split from its beginning and gives the items that were asked for; `failure` says why it gave no more."""

    def __init__(self, connector: Connector, slot: InFlight, convicted: dict[tuple[str, str, int, str], str]) -> None:
        self._connector = connector
        self._slot = slot
        self._convicted = convicted
        self.failure: tuple[str, str] | None = None  #: (reason, message)

    def read(self, split: Split, groups: list[Group], *, live: bool) -> Iterator[tuple[Group, Item | Broken]]:
        """Items in the order of the source, each with its group."""
        self.failure = None
        wanted: dict[str, list[Group]] = {}
        for group in groups:
            wanted.setdefault(group.position, []).append(group)
        reads = self._guarded(split)
        idle = 0
        while wanted:
            got = next(reads, None)
            if got is None:
                self.failure = self.failure or ("io_error", f"{split.id} has nothing at this position any more")
                return
            idle = idle + 1 if isinstance(got, Idle) else 0
            if idle > _MOST_IDLE:
                self.failure = ("io_error", f"{split.id} does not go back to this position any more")
                return
            if not isinstance(got, (Item, Broken)):
                continue
            for group in wanted.pop(position_key(got.position), ()):
                item = named(got, split) if live and isinstance(got, Item) else got
                if isinstance(item, Item) and not _same(item, group):
                    self.failure = ("io_error", f"{split.id} has other bytes at this position now")
                    continue
                yield group, item

    def _guarded(self, split: Split) -> Iterator[Read]:
        """What the connector reads, with word left of who reads; ends at the first failure."""
        key = source_key(split)
        reason = self._convicted.get((split_digest(split.id), key, 0, "read"))
        if reason is not None:
            self.failure = (reason, f"reading {split.id} ended its process")
            return
        reads = iter(self._connector.read(split, None))
        while True:
            self._slot.enter("read", [Suspects(split, [(key, 0)])])
            try:
                got = next(reads, None)
            except MemoryError:
                self._slot.out_of_memory()
                raise
            except RecordError as exc:
                self.failure = (exc.reason, exc.message)
                return
            except ConfigError:
                raise
            except (HeadraceError, OSError) as exc:
                self.failure = ("io_error", f"its source cannot be read again: {exc}")
                return
            finally:
                self._slot.leave()
            if got is None:
                return
            yield got


def source_key(split: Split) -> str:
    """Names the reading of a split in a conviction, in place of a position before."""
    return canonical_json({"source": split.id}).decode()


def _same(item: Item, group: Group) -> bool:
    """Whether an item has the bytes that were refused, as far as that is known."""
    if group.sha256 is None:
        return True
    data = item.data
    try:
        if isinstance(data, Blob):
            return data.size > KEEP_BYTES or sha256_hex(data.read()) == group.sha256
    except (OSError, SourceError):
        return True  # decoding will say what is wrong with it
    return not isinstance(data, (bytes, bytearray, memoryview)) or sha256_hex(bytes(data)) == group.sha256

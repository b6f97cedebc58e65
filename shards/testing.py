"""Doubles for tests of whatever uses shards: a store in memory that fails on cue, and small streams to put into it.

    store = MemoryStore()
    lane = LaneDouble(store, log, "tide")        # a writer that numbers its items 1, 2, 3 …
    log.append(lane.cut(rows=10, bad=2))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from headrace.schemas.errors import StorageError
from headrace.schemas.sample import sample_schema
from headrace.shards.books import Books, SplitCounts, StreamCounts
from headrace.shards.entry import Entry, Place, PlaceMove, Range, StreamSettings, split_digest
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import QuarantineWriter
from headrace.shards.store import Missing, Store, check_name
from headrace.shards.writer import ShardWriter, shard_metadata


class Killed(BaseException):
    """The process is dead: nothing but the test may catch this."""


#: What happens to one `put_new`: nothing special; an error before or after it took effect; death before or after.
Fault = Literal["none", "refused", "lost reply", "killed before", "killed after"]


class MemoryStore:
    """`Store` in a dictionary. `fault(name)` is asked at every publication."""

    def __init__(self, fault: Callable[[str], Fault] | None = None, files: dict[str, bytes] | None = None) -> None:
        self.url = "memory://test"
        self.options: Mapping[str, Any] = {}
        self.files = {} if files is None else files  #: shared by stores of several processes
        self.fault = fault or (lambda name: "none")

    def put_new(self, name: str, data: bytes) -> bool:
        check_name(name)
        fault = self.fault(name)
        if fault == "killed before":
            raise Killed(name)
        if fault == "refused":
            raise StorageError(f"cannot write {name}: no space left on the device")
        taken = name in self.files
        self.files.setdefault(name, bytes(data))
        if fault == "killed after":
            raise Killed(name)
        if fault == "lost reply":
            raise StorageError(f"cannot write {name}: connection lost")
        return not taken or self.files[name] == data

    def writer(self, name: str) -> MemoryWriter:
        return MemoryWriter(self, check_name(name))

    def get(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise Missing(f"cannot read {name}: it does not exist") from None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self.get(name)[offset : offset + length]
        if len(data) != length:
            raise StorageError(f"cannot read {name}: it ends before byte {offset + length}")
        return data

    def size(self, name: str) -> int:
        return len(self.get(name))

    def exists(self, name: str) -> bool:
        return name in self.files

    def list(self, prefix: str = "") -> Iterator[str]:
        return iter(sorted(n for n in self.files if n.startswith(prefix)))

    def leftovers(self) -> Iterator[tuple[str, str]]:
        return iter(())

    def drop_leftover(self, name: str, token: str) -> None:
        raise StorageError(f"{token!r} is not a temporary file")

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

    def local_path(self, name: str) -> str | None:
        return None


class MemoryWriter:
    """`StoreWriter` of a `MemoryStore`."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store, self._name, self._data = store, name, bytearray()

    def write(self, data: bytes | memoryview) -> int:
        self._data += data
        return len(data)

    def tell(self) -> int:
        return len(self._data)

    def close(self) -> bool:
        return self._store.put_new(self._name, bytes(self._data))

    def abort(self) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


def settings_of(stream: str, tokens: Literal["uint16", "uint32"] | None = "uint16", **detail: Any) -> StreamSettings:
    """Settings of a small text stream; another `detail` is another stream digest."""
    digest = hashlib.sha256(repr((stream, tokens, sorted(detail.items()))).encode()).hexdigest()
    fingerprint = None if tokens is None else hashlib.sha256(b"tokenizer").hexdigest()
    return StreamSettings(digest, "text", tokenizer=fingerprint, tokens=tokens, detail=detail)


def schema_of(stream: str, settings: StreamSettings) -> pa.Schema:
    """The schema of that stream's shards."""
    metadata = shard_metadata(stream, settings.digest, settings.tokenizer)
    return sample_schema(settings.modality, settings.tokens, metadata)  # type: ignore[arg-type]


def sample_batch(schema: pa.Schema, split: str, numbers: range, *, length: int = 40, **columns: Any) -> pa.RecordBatch:
    """Samples number `numbers` of a split: each a function of split and number alone, of 0 to 2 × `length` tokens."""
    rows = []
    for n in numbers:
        digest = hashlib.sha256(f"{split} {n}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        row: dict[str, Any] = {f.name: None for f in schema}
        row.update(
            record_id=digest[:16],
            source="files",
            uri=f"{split}.txt",
            split=split,
            position=str(n + 1),
            content_sha256=digest,
            fold="validation" if digest[0] < 16 else "train",
            group_id=f"g{n // 3}",
            locator=f'{{"line":{n}}}',
            license="CC-BY-4.0" if n % 2 else "NOASSERTION",
            event_time=1_700_000_000_000_000 + n if n % 5 else None,
            flags=["truncated"] if n % 7 == 0 else [] if n % 7 == 1 else None,
            error=float(n % 4) if n % 3 else None,
            clip_fraction=0.25,
        )
        count = int(random.integers(0, 2 * length + 1))
        if "tokens" in schema.names:
            row["tokens"] = random.integers(0, 50_000, count).tolist()
        else:
            row["text"] = "é" * count
        row.update({name: value(n) if callable(value) else value for name, value in columns.items()})
        rows.append(row)
    return pa.RecordBatch.from_pylist(rows, schema=schema)


class LaneDouble:
    """Writes what a lane of one split would: items 1, 2, 3 …, each one record, position = its number."""

    def __init__(
        self,
        store: Store,
        log: CommitLog,
        stream: str,
        *,
        lane: int = 0,
        split: str = "a",
        length: int = 40,
        **columns: Any,
    ) -> None:
        self.store, self.log, self.stream, self.lane, self.split = store, log, stream, lane, split
        self._length, self._columns = length, columns

    @property
    def place(self) -> Place | None:
        """Where the log has the lane."""
        return self.log.state.place(self.stream, self.lane, split_digest(self.split))

    def cut(self, rows: int, bad: int = 0, *, after: Place | None = None) -> Entry:
        """Write the next `rows` samples, and `bad` items to quarantine; gives back the entry to append."""
        begin = after or self.place
        first = begin.position if begin else 0
        store, epoch, digest = self.store, self.log.state.epoch, split_digest(self.split)
        schema = schema_of(self.stream, self.log.state.settings[self.stream])
        start, upto = begin.position if begin else None, first + rows + bad
        add, quarantine = [], []
        if rows:
            with ShardWriter(store, self.stream, self.lane, epoch, schema) as writer:
                numbers = range(first, first + rows)
                writer.append(sample_batch(schema, self.split, numbers, length=self._length, **self._columns))
                add.append(writer.close([Range(digest, start, 0, upto, 0, rows)]))
        if bad:
            with QuarantineWriter(store, self.stream, epoch) as spoiled:
                for n in range(first + rows, upto):
                    spoiled.add(
                        reason="corrupt", message=f"item {n} is bad", stage="normalize", whole=True, source="files",
                        uri=f"{self.split}.txt", split=self.split, position=n + 1, raw=f"bad {n}".encode() * 9,
                    )  # fmt: skip
                quarantine.append(spoiled.close())
        return Entry(
            kind="commit",
            add=add,
            quarantine=quarantine,
            places=[PlaceMove(self.stream, self.lane, Place(position=upto), begin, digest)],
            books=Books(
                [SplitCounts(self.stream, digest, start, 0, upto, 0, rows + bad, rows, bad)],
                {self.stream: StreamCounts(rows, rows, tokens=sum(s.tokens for s in add))},
            ),
        )

"""A dataset at one version, for reading: what `headrace.open` gives.

    data = Dataset.open("out")                     # the head; or version=42, or version="<digest>"
    for batch in data.batches("tide"):             # Arrow, in address order: lane, seq; deleted samples left out
        …
    data.sample("tide", lane=7, seq=1234)

A version is a fixed prefix of the log, so what one reads does not change while others write. `name` cites it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import ShardError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.entry import QuarantineInfo, ShardInfo, StreamSettings
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import read_quarantine
from headrace.shards.reader import ShardReader
from headrace.shards.spans import clipped, count, inside, numbers, without
from headrace.shards.state import State
from headrace.shards.store import Missing, Store, open_store
from headrace.shards.vocabularies import vocabulary_of

_NO_END = 1 << 62


@dataclass(frozen=True)
class StreamInfo:
    """One stream in numbers. `rows` are readable samples; `bytes` and `tokens` are those of its live shards."""

    name: str
    rows: int
    tokens: int
    bytes: int
    lanes: int
    shards: int
    deleted: int
    settings: StreamSettings


@dataclass(frozen=True)
class Located:
    """A block with its addresses: row i of `batch` is (stream, lane, seqs[i]); deleted rows are included."""

    shard: ShardInfo
    block: int
    seqs: npt.NDArray[np.int64]
    batch: pa.RecordBatch


class Dataset:
    """Reads one version: the one that `state` is of, or without it the newest.

    Raises: Missing if there is no log; BrokenLog, FormatTooNew, StorageError.
    """

    def __init__(self, store: Store, state: State | None = None) -> None:
        self.store = store
        self.state = CommitLog(store).replay() if state is None else state
        if self.state.v == 0:
            raise Missing(f"no dataset at {store.url}: it has no log")

    @classmethod
    def open(
        cls, url: str | Store, version: int | str | None = None, options: Mapping[str, Any] | None = None
    ) -> Dataset:
        """The dataset at `url`: its newest version, version n, or the one whose digest begins with `version`.

        Raises: StorageError if there is none; BrokenLog, FormatTooNew, LogError.
        """
        store = open_store(url, options) if isinstance(url, str) else url
        return cls(store, CommitLog(store).replay(version))

    @property
    def version(self) -> int:
        """The version that is pinned."""
        return self.state.v

    @property
    def name(self) -> str:
        """`<dataset>@<digest>`: cites exactly this content."""
        return f"{self.store.url.rstrip('/').rpartition('/')[2]}@{self.state.digest}"

    def streams(self) -> dict[str, StreamInfo]:
        """Every stream by name."""
        return {name: self._info(name, settings) for name, settings in sorted(self.state.settings.items())}

    def select(self, pattern: str) -> list[str]:
        """Stream names for a name, or for `name@*`: all versions of it. Raises: KeyError if there is none."""
        base = pattern.removesuffix("@*")
        names = [
            n for n in self.state.settings if n == pattern or (base != pattern and n.partition("@")[0] == base)
        ]
        if not names:
            raise KeyError(f"no stream {pattern!r}; there are {sorted(self.state.settings)}")
        return sorted(names, key=lambda n: (len(n), n))

    def vocabulary(self) -> Vocabulary:
        """The unified vocabulary over its tokenizers. Raises: TokenizerError if its file was changed; StorageError."""
        return vocabulary_of(self.store, self.state)

    def schema(self, stream: str) -> pa.Schema:
        """The schema of a stream's batches with its metadata. Raises: KeyError if it has no samples yet, ShardError."""
        for shard in self.state.live_shards(stream):
            return ShardReader(self.store, shard).schema
        raise KeyError(f"the stream {stream!r} has no samples yet")

    def batches(
        self, stream: str, columns: Sequence[str] | None = None, *, lane: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Samples in address order (lane, seq), deleted ones left out; `name@*` reads all versions in turn.

        Raises: KeyError for an unknown stream; ShardError naming shard, block and offset; StorageError.
        """
        for name in self.select(stream):
            for found in self.located(name, lane=lane):
                batch = found.batch if columns is None else found.batch.select(list(columns))
                gone = inside(found.seqs, self.state.deleted.get((name, found.shard.lane), []))
                if gone.any():
                    batch = batch.filter(pa.array((~gone).tolist(), type=pa.bool_()))
                if batch.num_rows:
                    yield batch

    def located(
        self, stream: str, *, lane: int | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[Located]:
        """Every block that holds a seq of [start, stop), whole and with its addresses, deleted rows included.

        Where all blocks of a shard were read, its tail is checked too. Raises: ShardError, StorageError.
        """
        end = _NO_END if stop is None else stop
        for shard in self.state.live_shards(stream):
            if lane not in (None, shard.lane) or shard.stop_seq <= start or shard.first_seq >= end:
                continue
            reader = self._reader(shard)
            seqs = numbers(shard.first_seq, shard.stop_seq, shard.missing)
            row, whole = 0, True
            for number, block in enumerate(shard.blocks):
                own = seqs[row : row + block.rows]
                row += block.rows
                if own[-1] < start or own[0] >= end:
                    whole = False
                    continue
                yield Located(shard, number, own, reader.block(number))
            if whole:
                reader.check_tail()

    def sample(self, stream: str, lane: int, seq: int) -> pa.RecordBatch:
        """One sample as a batch of one row. Raises: KeyError if there is none, or it was deleted; ShardError."""
        found = self.state.locate(stream, lane, seq)
        if found is None or inside(np.array([seq]), self.state.deleted.get((stream, lane), []))[0]:
            end = self.state.next_seq.get((stream, lane), 0)
            what = "was deleted" if seq in range(end) else f"does not exist: the lane holds 0 to {end - 1}"
            raise KeyError(f"sample {stream}/L{lane:04d}/{seq} {what}")
        shard, row = found
        return self._reader(shard).row(row)

    def quarantine(self, stream: str | None = None) -> Iterator[tuple[QuarantineInfo, pa.RecordBatch]]:
        """Quarantined rows, file by file. Raises: ShardError, StorageError."""
        for info in self.state.quarantine.values():
            if stream in (None, info.stream):
                for batch in read_quarantine(self.store, info):
                    yield info, batch

    def newer(self) -> Dataset | None:
        """The dataset at its newest version, None if that is this one. This one stays as it is."""
        state = CommitLog(self.store).replay()
        return Dataset(self.store, state) if state.v > self.state.v else None

    def _reader(self, shard: ShardInfo) -> ShardReader:
        try:
            return ShardReader(self.store, shard)
        except Missing as exc:
            erased = " (it was erased after this version)" if shard.path in self.state.doomed else ""
            raise ShardError(f"{shard.path} is missing{erased}") from exc

    def _info(self, name: str, settings: StreamSettings) -> StreamInfo:
        shards = self.state.live_shards(name)
        hidden = 0
        for shard in shards:
            gone = clipped(self.state.deleted.get((name, shard.lane), []), shard.first_seq, shard.stop_seq)
            hidden += count(without(gone, shard.missing))
        return StreamInfo(
            name=name,
            rows=sum(s.rows for s in shards) - hidden,
            tokens=sum(s.tokens for s in shards),
            bytes=sum(s.bytes for s in shards),
            lanes=len({s.lane for s in shards}),
            shards=len(shards),
            deleted=sum(count(spans) for (stream, _), spans in self.state.deleted.items() if stream == name),
            settings=settings,
        )

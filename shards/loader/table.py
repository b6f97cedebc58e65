"""The block table of one component at one version: all that is known without opening a shard.

One row a block, in the order of addresses: stream, lane, sequence number. It is what is shuffled, read and checked as
one, so a loader's memory grows with the number of blocks (a few MiB each) and never with that of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headrace.shards.entry import ShardInfo, Span
from headrace.shards.spans import inside, merged, numbers
from headrace.shards.state import State

Longs = npt.NDArray[np.int64]

_COLUMNS = ("shard", "offset", "length", "rows", "tokens", "first_row", "stream", "lane", "first_seq")
_Row = tuple[int, int, int, int, int, int, int, int, int, int]


@dataclass(frozen=True)
class ShardFile:
    """What is needed of a shard to read and check one of its blocks."""

    stream: int  #: index into `BlockTable.streams`
    lane: int
    path: str
    sha256: str
    bytes: int
    first_seq: int
    stop_seq: int
    head_bytes: int
    head_xxh3: str
    missing: tuple[Span, ...]


@dataclass(frozen=True)
class BlockTable:
    """Columns over blocks, int64 but `xxh3` (uint64); `first_row` counts rows from the start of the shard."""

    streams: list[str]
    tokens_as: list[str | None]  #: uint16 or uint32 of each stream; None for raw ones
    shards: list[ShardFile]
    shard: Longs
    offset: Longs
    length: Longs
    rows: Longs
    tokens: Longs
    first_row: Longs
    stream: Longs  #: index into `streams`
    lane: Longs
    first_seq: Longs  #: of the first row; the others follow, unless the shard misses some
    xxh3: npt.NDArray[np.uint64]
    hidden: Mapping[tuple[str, int], list[Span]] = field(default_factory=dict)  #: sequence numbers that are left out
    version: int = 0  #: of the dataset

    def __len__(self) -> int:
        return len(self.offset)

    def seqs(self, block: int) -> Longs:
        """The sequence number of each row of a block."""
        shard, first, rows = self.shards[self.shard[block]], int(self.first_row[block]), int(self.rows[block])
        if not shard.missing:
            return np.arange(rows, dtype=np.int64) + self.first_seq[block]
        return numbers(shard.first_seq, shard.stop_seq, shard.missing)[first : first + rows]

    def shown(self, block: int, seqs: Longs) -> npt.NDArray[np.bool_] | None:
        """Which rows of a block are read, None for all: not the deleted ones, nor those of an earlier era."""
        shard = self.shards[self.shard[block]]
        spans = self.hidden.get((self.streams[shard.stream], shard.lane))
        if not spans:
            return None
        gone = inside(seqs, spans)
        return ~gone if gone.any() else None


def block_table(state: State, streams: Sequence[str], since: Mapping[tuple[str, int], int] | None = None) -> BlockTable:
    """The table of `streams` at the version of `state`; with `since` only what is numbered from there on, by lane."""
    shards: list[ShardFile] = []
    columns: list[list[_Row]] = []
    hidden = {key: spans for key, spans in state.deleted.items() if key[0] in streams}
    for number, stream in enumerate(streams):
        for info in state.live_shards(stream):
            start = (since or {}).get((stream, info.lane), 0)
            if info.stop_seq <= start:
                continue
            if info.first_seq < start:  # a rewritten shard that reaches back into an earlier era
                key = (stream, info.lane)
                hidden[key] = merged([Span(0, start), *hidden.get(key, [])])
            columns.append(_rows_of(info, len(shards), number))
            shards.append(_file(info, number))
    flat = np.array([row for rows in columns for row in rows], dtype=np.uint64).reshape(-1, len(_COLUMNS) + 1)
    longs = {name: flat[:, i].astype(np.int64) for i, name in enumerate(_COLUMNS)}
    return BlockTable(
        list(streams),
        [state.settings[name].tokens for name in streams],
        shards,
        **longs,
        xxh3=np.ascontiguousarray(flat[:, -1]),
        hidden=hidden,
        version=state.v,
    )


def _rows_of(info: ShardInfo, shard: int, stream: int) -> list[_Row]:
    rows, first = [], 0
    seqs = numbers(info.first_seq, info.stop_seq, info.missing) if info.missing else None
    for b in info.blocks:
        seq = info.first_seq + first if seqs is None else int(seqs[first])
        rows.append((shard, b.offset, b.length, b.rows, b.tokens, first, stream, info.lane, seq, int(b.xxh3, 16)))
        first += b.rows
    return rows


def _file(info: ShardInfo, stream: int) -> ShardFile:
    return ShardFile(
        stream,
        info.lane,
        info.path,
        info.sha256,
        info.bytes,
        info.first_seq,
        info.stop_seq,
        info.head_bytes,
        info.head_xxh3,
        tuple(info.missing),
    )

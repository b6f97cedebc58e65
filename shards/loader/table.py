"""The block table of one component at one version: all that is known without opening a shard.

One row a block, in the order of addresses: stream, lane, sequence number. It is what is shuffled, read and checked as
one, so a loader's memory grows with the number of blocks (a few MiB each) and never with that of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headrace.shards.entry import ShardInfo, Span
from headrace.shards.spans import inside, merged, numbers
from headrace.shards.state import State

Longs = npt.NDArray[np.int64]


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

    @classmethod
    def of(cls, info: ShardInfo, stream: int) -> Self:
        """Of a shard in the log."""
        place = stream, info.lane, info.path, info.sha256, info.bytes, info.first_seq, info.stop_seq
        return cls(*place, info.head_bytes, info.head_xxh3, tuple(info.missing))


@dataclass(frozen=True)
class Columns:
    """One entry a block, int64 but `xxh3` (uint64)."""

    shard: Longs  #: index into the shards
    offset: Longs  #: of the block's bytes in the file
    length: Longs
    rows: Longs
    tokens: Longs
    first_row: Longs  #: counted from the start of the shard
    stream: Longs  #: index into the streams
    lane: Longs
    first_seq: Longs  #: of the first row; the others follow, unless the shard misses some
    xxh3: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, shards: Sequence[ShardInfo], first: int, stream: int) -> Columns:
        """Of shards of one stream, the first of which has index `first`."""
        table: list[tuple[int, ...]] = []
        for number, info in enumerate(shards, first):
            row = 0
            seqs = numbers(info.first_seq, info.stop_seq, info.missing) if info.missing else None
            for b in info.blocks:
                seq = info.first_seq + row if seqs is None else int(seqs[row])
                place = number, b.offset, b.length, b.rows, b.tokens, row, stream, info.lane, seq, int(b.xxh3, 16)
                table.append(place)
                row += b.rows
        names = [f.name for f in fields(Columns)]
        flat = np.array(table, dtype=np.uint64).reshape(-1, len(names))
        longs = {name: flat[:, i].astype(np.int64) for i, name in enumerate(names[:-1])}
        return Columns(**longs, xxh3=np.ascontiguousarray(flat[:, -1]))

    def placed(self, shard: int, stream: int) -> Columns:
        """The blocks of one shard, with its indices."""
        return replace(self, shard=np.full(len(self), shard, np.int64), stream=np.full(len(self), stream, np.int64))

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True)
class BlockTable(Columns):
    """The columns in the order of addresses, and what they point to."""

    streams: list[str] = field(default_factory=list)
    tokens_as: Sequence[str | None] = ()  #: uint16 or uint32 of each stream; None for raw ones
    shards: list[ShardFile] = field(default_factory=list)
    hidden: Mapping[tuple[str, int], list[Span]] = field(default_factory=dict)  #: sequence numbers that are left out
    version: int = 0  #: of the dataset

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
    parts = [Columns.of([], 0, 0)]
    for number, stream in enumerate(streams):
        live = state.live_shards(stream)
        parts.append(Columns.of(live, len(shards), number))
        shards += [ShardFile.of(info, number) for info in live]
    hidden = {key: spans for key, spans in state.deleted.items() if key[0] in streams}
    tokens = [state.settings[name].tokens for name in streams]
    return table_of(list(streams), tokens, shards, parts, hidden, since or {}, state.v)


def table_of(
    streams: list[str],
    tokens_as: Sequence[str | None],
    shards: list[ShardFile],
    parts: list[Columns],
    hidden: Mapping[tuple[str, int], list[Span]],
    since: Mapping[tuple[str, int], int],
    version: int,
) -> BlockTable:
    """Columns in any order → the table, without the blocks that lie before `since`, by lane.

    `parts` is emptied: column by column, so that a large table is in memory once.
    """
    held = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Columns)}
    parts.clear()
    stream, lane, first_seq, rows = (_one(held, name) for name in ("stream", "lane", "first_seq", "rows"))
    left_out = dict(hidden)
    keep = np.ones(len(stream), np.bool_)
    if since:
        reach, shard = first_seq + rows, _one(held, "shard")
        for number, file in enumerate(shards):
            if file.missing:  # its rows are not numbered one by one: the end of the shard is far enough
                reach = np.where(shard == number, file.stop_seq, reach)
        for (name, number), start in since.items():
            if name in streams and start:
                mine = (stream == streams.index(name)) & (lane == number)
                keep &= ~mine | (reach > start)
                left_out[name, number] = merged([Span(0, start), *left_out.get((name, number), [])])
    order = None if keep.all() and _ascending(stream, lane, first_seq) else np.flatnonzero(keep)
    if order is not None:
        order = order[np.lexsort((first_seq[order], lane[order], stream[order]))]
    taken = {}
    for name in list(held):
        column = _one(held, name)
        taken[name] = column if order is None else column[order]
        del held[name], column
    return BlockTable(
        **taken, streams=streams, tokens_as=tokens_as, shards=shards, hidden=left_out, version=version
    )


def _one(held: dict[str, list[npt.NDArray[Any]]], name: str) -> npt.NDArray[Any]:
    """The parts of a column as one, in place of them."""
    if len(held[name]) != 1:
        held[name] = [np.concatenate(held[name])]
    return held[name][0]


def _ascending(*keys: Longs) -> bool:
    """Whether rows come in the order of the first key, then the second, …, no two of them equal."""
    rising = np.zeros(max(len(keys[0]) - 1, 0), np.bool_)
    for key in reversed(keys):
        step = key[1:] - key[:-1]
        rising = (step > 0) | ((step == 0) & rising)
    return bool(rising.all())

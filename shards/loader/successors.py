"""Where the rows of a pinned block lie once its shard is gone: in a newer version, under the same addresses.

A compaction copies blocks byte for byte into larger files, or joins neighbours; an erasure writes a shard again without
some rows. Either way a sample keeps its stream, lane and sequence number, so whoever pinned an older version finds
every row again, but for those that were erased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import ShardError
from headrace.shards.loader.table import BlockTable, Longs


def successors(newer: BlockTable, table: BlockTable, block: int) -> list[tuple[int, Longs, Longs]]:
    """Blocks of `newer` that hold rows of `block`: (block, its rows, the rows of `block` that they are)."""
    seqs, stream = table.seqs(block), table.streams[int(table.stream[block])]
    mine = newer.lane == table.lane[block]
    mine &= newer.stream == (newer.streams.index(stream) if stream in newer.streams else -1)
    there = np.flatnonzero(mine)
    first = newer.first_seq[there]
    begin = max(int(np.searchsorted(first, seqs[0], side="right")) - 1, 0)
    end = int(np.searchsorted(first, seqs[-1], side="right"))
    found = []
    for number in there[begin:end].tolist():
        _, theirs, ours = np.intersect1d(newer.seqs(number), seqs, assume_unique=True, return_indices=True)
        if len(ours):
            found.append((number, theirs, ours))
    return found


def gathered(
    newer: BlockTable, table: BlockTable, block: int, read: Callable[[int], pa.RecordBatch]
) -> pa.RecordBatch:
    """The rows of `block`, as many as ever; `read` gives a block of `newer`, checked. It has rows that are shown.

    Rows that were erased and that the pinned version hid already are null. Raises: ShardError for other erased rows;
    whatever `read` raises.
    """
    seqs = table.seqs(block)
    places = np.full(len(seqs), -1, np.int64)  # in the blocks of `newer` end to end
    parts: list[pa.RecordBatch] = []
    held = 0
    for number, theirs, ours in successors(newer, table, block):
        batch = read(number)
        places[ours] = held + theirs
        parts.append(batch)
        held += batch.num_rows
    gone = places < 0
    shown = table.shown(block, seqs)
    lost = gone if shown is None else gone & shown
    if lost.any():
        raise ShardError(_erased(table, block, seqs[lost]))
    if len(parts) == 1 and (np.diff(places) == 1).all():
        return parts[0].slice(int(places[0]), len(places))
    rows: Sequence[int | None] = [None if place < 0 else place for place in places.tolist()]
    joined = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    return joined.take(pa.array(rows, pa.int64()))


def _erased(table: BlockTable, block: int, seqs: npt.NDArray[np.int64]) -> str:
    shard = table.shards[int(table.shard[block])]
    where = f"{table.streams[shard.stream]}/L{shard.lane:04d}"
    return (
        f"{shard.path} is missing, and {len(seqs)} of its samples ({where}/{int(seqs[0])} the first) were erased after"
        " this version was pinned; begin again with a newer version, or skip such blocks (`on_bad`)"
    )

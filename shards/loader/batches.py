"""Rows → batches of B rows. Rows come in slabs of many at once, and a batch is a view of a slab wherever it can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.shards.loader.table import Longs

#: One entry a segment, in the order of `cu_seqlens`: which part of which sample it is. In padding `seq` is -1.
SEGMENT = np.dtype(
    [
        ("source", np.int16),  # index into the loader's sources
        ("stream", np.int16),  # index into the streams of that source
        ("lane", np.int32),
        ("seq", np.int64),
        ("offset", np.int64),  # of the first token in the sample's body
    ]
)


@dataclass(frozen=True)
class Slab:
    """Rows in order, as flat arrays.

    edges: where rows begin, and the end; arrays start at the first. starts: int32, where segments begin in the same
    count, and the end. first: which segment each row begins with, and the end. records: one row each, for rows that are
    a sample.
    """

    arrays: dict[str, npt.NDArray[Any]]
    edges: list[int]
    starts: npt.NDArray[np.int32]
    first: list[int]
    segments: npt.NDArray[Any]
    records: pa.RecordBatch | None = None

    def __len__(self) -> int:
        return len(self.edges) - 1

    def rows(self, start: int, stop: int) -> Slab:
        """Rows [start, stop): views."""
        low, high = self.edges[start] - self.edges[0], self.edges[stop] - self.edges[0]
        a, b = self.first[start] - self.first[0], self.first[stop] - self.first[0]
        return Slab(
            {name: array[low:high] for name, array in self.arrays.items()},
            self.edges[start : stop + 1],
            self.starts[a : b + 1],
            self.first[start : stop + 1],
            self.segments[a:b],
            None if self.records is None else self.records.slice(start, stop - start),
        )


def joined(slabs: Sequence[Slab]) -> Slab:
    """The rows of several slabs, one after the other."""
    if len(slabs) == 1:
        return slabs[0]
    edges, first, starts = [0], [0], []
    for slab in slabs:
        starts.append(slab.starts[:-1] + np.int32(edges[-1] - slab.edges[0]))
        move, turn = edges[-1] - slab.edges[0], first[-1] - slab.first[0]
        edges += [e + move for e in slab.edges[1:]]
        first += [f + turn for f in slab.first[1:]]
    starts.append(np.array([edges[-1]], np.int32))
    records = [s.records for s in slabs if s.records is not None]
    return Slab(
        {name: np.concatenate([s.arrays[name] for s in slabs]) for name in slabs[0].arrays},
        edges,
        np.concatenate(starts),
        first,
        np.concatenate([s.segments for s in slabs]),
        pa.Table.from_batches(records).combine_chunks().to_batches()[0] if records else None,
    )


def interleaved(slabs: Sequence[tuple[Slab, Longs]], rows: int) -> Slab:
    """`rows` rows, of which each slab holds those that its numbers say, ascending."""
    if len(slabs) == 1:
        return slabs[0][0]
    owner = np.empty(rows, np.int64)
    for i, (_, places) in enumerate(slabs):
        owner[places] = i
    taken = [0] * len(slabs)
    parts = []
    begin = 0
    for stop in [*(np.flatnonzero(np.diff(owner)) + 1).tolist(), rows]:
        i = int(owner[begin])
        parts.append(slabs[i][0].rows(taken[i], taken[i] + stop - begin))
        taken[i] += stop - begin
        begin = stop
    return joined(parts)


class Queue:
    """Slabs in, slabs of exactly n rows out."""

    def __init__(self) -> None:
        self._slabs: deque[Slab] = deque()
        self._taken = 0
        self.rows = 0

    def put(self, slab: Slab) -> None:
        """Append rows."""
        if len(slab):
            self._slabs.append(slab)
            self.rows += len(slab)

    def take(self, rows: int) -> Slab:
        """The next `rows` rows; there must be as many."""
        parts = []
        self.rows -= rows
        while rows:
            slab = self._slabs[0]
            count = min(rows, len(slab) - self._taken)
            parts.append(slab.rows(self._taken, self._taken + count))
            self._taken, rows = self._taken + count, rows - count
            if self._taken == len(slab):
                self._slabs.popleft()
                self._taken = 0
        return joined(parts)

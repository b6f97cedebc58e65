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

#: One entry a segment: which part of which sample stands where. In padding `seq` is -1.
SEGMENT = np.dtype(
    [
        ("row", np.int32),  # of the batch
        ("start", np.int32),  # in the row
        ("source", np.int16),  # index into the loader's sources
        ("stream", np.int16),  # index into the streams of that source
        ("lane", np.int32),
        ("seq", np.int64),
        ("offset", np.int64),  # of the first token in the sample's body
    ]
)


@dataclass(frozen=True)
class Slab:
    """Rows in order. Row i is [ends[i-1], ends[i]) of every array; `segments` are sorted by (row, start).

    first: where in `segments` each row begins, and the end. records: one row each, for rows that are a sample.
    """

    arrays: dict[str, npt.NDArray[Any]]
    ends: Longs
    segments: npt.NDArray[Any]
    first: Longs
    records: pa.RecordBatch | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def rows(self, start: int, stop: int) -> Slab:
        """Rows [start, stop): views."""
        a = int(self.ends[start - 1]) if start else 0
        b = int(self.ends[stop - 1])
        low, high = int(self.first[start]), int(self.first[stop])
        segments = self.segments[low:high]
        if start and len(segments):
            segments = segments.copy()
            segments["row"] -= start
        return Slab(
            {name: array[a:b] for name, array in self.arrays.items()},
            self.ends[start:stop] - a,
            segments,
            self.first[start : stop + 1] - low,
            None if self.records is None else self.records.slice(start, stop - start),
        )


def joined(slabs: Sequence[Slab]) -> Slab:
    """The rows of several slabs, one after the other."""
    if len(slabs) == 1:
        return slabs[0]
    parts, ends, first, row, at, segment = [], [], [np.zeros(1, np.int64)], 0, 0, 0
    for slab in slabs:
        moved = slab.segments.copy()
        moved["row"] += row
        parts.append(moved)
        ends.append(slab.ends + at)
        first.append(slab.first[1:] + segment)
        row, at, segment = row + len(slab), at + int(slab.ends[-1]), segment + len(moved)
    records = [s.records for s in slabs if s.records is not None]
    return Slab(
        {name: np.concatenate([s.arrays[name] for s in slabs]) for name in slabs[0].arrays},
        np.concatenate(ends),
        np.concatenate(parts),
        np.concatenate(first),
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

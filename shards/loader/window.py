"""A window: blocks that are read together, and their documents in training order.

The blocks of a pass are permuted, then cut into windows of about `window_bytes`; the rows of a window are permuted
among themselves. Each block is fetched and hashed once, when it enters the window, so shuffling costs no reading.
Everything here is a function of the pinned version, the settings and the keys: every rank finds the same.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import ConfigError, ShardError
from headrace.shards.loader.blocks import Blocks, Bodies
from headrace.shards.loader.permutation import permutation
from headrace.shards.loader.table import BlockTable, Longs

_REQUESTS = 8  # blocks of an object store that are fetched at once


@dataclass(frozen=True)
class Course:
    """The blocks of one pass over a table, window by window."""

    order: Longs  #: block numbers
    first: Longs  #: where in `order` each window begins, and the end

    def __len__(self) -> int:
        return len(self.first) - 1

    def window(self, number: int) -> Longs:
        """The blocks of a window."""
        return self.order[self.first[number] : self.first[number + 1]]


def course(table: BlockTable, window_bytes: int | None, key: int | None) -> Course:
    """The windows of a pass: blocks in the order of `key` (None: of addresses); one window with `window_bytes` None."""
    order = np.arange(len(table), dtype=np.int64) if key is None else permutation(len(table), key)
    if window_bytes is None or not len(table):
        return Course(order, np.array([0, len(table)] if len(table) else [0], np.int64))
    lengths = table.length[order]
    number = (np.cumsum(lengths) - lengths) // window_bytes
    first = np.flatnonzero(np.diff(number, prepend=-1))
    return Course(order, np.append(first, len(table)).astype(np.int64))


class Window:
    """The documents of some blocks. Arrays have one entry a document, in training order.

    block: index into `numbers`; row: row of that block; lengths: tokens of the body (empty until read for `eager`
    False); stream: index into the table's streams.
    """

    def __init__(
        self,
        blocks: Blocks,
        numbers: Longs,
        key: int | None,
        *,
        eager: bool,
        fold: str | None = None,
        skip: Collection[int] = (),
        tolerant: bool = False,
    ) -> None:
        """Read (unless `eager` is False) and order. With `tolerant` a bad block is left out and named in `bad`.

        Raises: ShardError, StorageError.
        """
        self.blocks, self.numbers = blocks, numbers
        self.bad: list[tuple[int, str]] = []
        self._skip, self._tolerant = set(skip), tolerant
        self._bodies: dict[int, Bodies] = {}
        self._held: dict[int, npt.NDArray[Any]] = {}
        self.kind = blocks.kind
        table = blocks.table
        hidden = {i: table.shown(n, table.seqs(n)) for i, n in enumerate(numbers.tolist()) if n not in self._skip}
        chosen = [i for i, shown in hidden.items() if shown is None or shown.any()]
        folds: dict[int, npt.NDArray[np.bool_]] = {}
        if eager or fold is not None:
            chosen = self._read(chosen, eager, fold, folds)
        rows: list[Longs] = []
        for i in chosen:
            shown = hidden[i]
            if i in folds:
                shown = folds[i] if shown is None else shown & folds[i]
            rows.append(np.arange(table.rows[int(numbers[i])]) if shown is None else np.flatnonzero(shown))
        counts = [len(r) for r in rows]
        block = np.repeat(np.asarray(chosen, np.int64), counts)
        row = np.concatenate(rows) if rows else np.empty(0, np.int64)
        turn = np.arange(len(row)) if key is None else permutation(len(row), key)
        self.block, self.row = block[turn], row[turn].astype(np.int64)
        self.stream = table.stream[numbers][self.block]
        self._holes = any(table.shards[s].missing for s in np.unique(table.shard[numbers]).tolist())
        self.lengths, self.starts = np.empty(0, np.int64), np.empty(0, np.int64)
        if eager:
            parts = [self._bodies[i] for i in chosen]
            self.lengths = np.concatenate([b.lengths[r] for b, r in zip(parts, rows)] or [self.lengths])[turn]
            self.starts = np.concatenate([b.starts[r] for b, r in zip(parts, rows)] or [self.starts])[turn]

    def __len__(self) -> int:
        return len(self.row)

    def close(self) -> None:
        """Its memory may go. What was given out stays readable."""
        for number in self.numbers.tolist():
            self.blocks.release(number)

    def bodies(self, block: int) -> Bodies:
        """The tokens of one of its blocks. Raises: ShardError, StorageError."""
        found = self._bodies.get(block)
        if found is None:
            found = self._bodies[block] = self.blocks.bodies(int(self.numbers[block]))
        return found

    def held(self, blocks: list[int]) -> list[npt.NDArray[Any]]:
        """The bodies of each of these blocks, all of one dtype: uint32 where any stream has that."""
        for i in blocks:
            if i not in self._held:
                self._held[i] = self.bodies(i).values.astype(self.kind, copy=False)
        return [self._held[i] for i in blocks]

    def measure(self, documents: Longs) -> tuple[Longs, Longs]:
        """(starts, lengths) of these documents' bodies in their blocks; reads the blocks if need be."""
        if len(self.lengths):
            return self.starts[documents], self.lengths[documents]
        block, row = self.block[documents], self.row[documents]
        starts, lengths = np.empty(len(row), np.int64), np.empty(len(row), np.int64)
        for i in np.unique(block).tolist():
            mine, bodies = block == i, self.bodies(i)
            starts[mine], lengths[mine] = bodies.starts[row[mine]], bodies.lengths[row[mine]]
        return starts, lengths

    def records(self, documents: Longs, columns: list[str]) -> pa.RecordBatch:
        """These columns of these documents, in order. Raises: ConfigError for one there is not; as `bodies`."""
        block, row = self.block[documents], self.row[documents]
        read = {i: self.blocks.batch(int(self.numbers[i])) for i in np.unique(block).tolist()}
        for batch in read.values():
            if unknown := sorted(set(columns) - set(batch.schema.names)):
                have = ", ".join(batch.schema.names)
                raise ConfigError(f"there is no column {unknown[0]!r}; there are {have}", field="columns")
        read = {i: batch.select(columns) for i, batch in read.items()}
        slices = [read[i].slice(r, 1) for i, r in zip(block.tolist(), row.tolist())]
        return pa.Table.from_batches(slices).combine_chunks().to_batches()[0]

    def addresses(self, documents: Longs) -> tuple[Longs, Longs]:
        """(lane, seq) of these documents."""
        table = self.blocks.table
        block, row = self.numbers[self.block[documents]], self.row[documents]
        seqs = table.first_seq[block] + row
        if self._holes:
            for i, number in enumerate(block.tolist()):
                seqs[i] = table.seqs(number)[row[i]]
        return table.lane[block], seqs

    def _read(
        self, chosen: list[int], eager: bool, fold: str | None, folds: dict[int, npt.NDArray[np.bool_]]
    ) -> list[int]:
        def one(i: int) -> str | None:
            number = int(self.numbers[i])
            try:
                if eager:
                    self._bodies[i] = self.blocks.bodies(number)
                    self.blocks.release(number)  # hashed; its documents are read later, one here and one there
                if fold is not None:
                    mask = pc.equal(self.blocks.batch(number).column("fold"), fold)
                    folds[i] = np.asarray(mask.cast(pa.uint8()).to_pylist(), np.bool_)
            except ShardError as exc:
                if not self._tolerant:
                    raise
                return str(exc)
            return None

        if self.blocks.remote:
            with ThreadPoolExecutor(_REQUESTS) as pool:
                found = list(pool.map(one, chosen))
        else:
            found = [one(i) for i in chosen]
        self.bad = [(int(self.numbers[i]), why) for i, why in zip(chosen, found) if why is not None]
        return [i for i, why in zip(chosen, found) if why is None]

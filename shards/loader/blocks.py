"""Blocks → checked rows. Where a byte differs from the log, the error names shard, block and place.

Local files are mapped (or read, with `mapped=False`); from other stores a block is one ranged request, kept in the
node's cache if there is one. At most `MOST_OPEN` shards are open at a time; what a batch still looks at stays mapped.
A shard that was compacted away since the version was pinned is read from what replaced it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import ShardError
from headrace.shards.loader.cache import NodeCache
from headrace.shards.loader.successors import gathered
from headrace.shards.loader.table import BlockTable, Longs, ShardFile, block_table
from headrace.shards.log import CommitLog
from headrace.shards.reader import CheckedFile
from headrace.shards.store import Missing, Store

MOST_OPEN = 128


@dataclass(frozen=True)
class Bodies:
    """The token lists of a block: row i is values[starts[i] : starts[i] + lengths[i]], of the stream's dtype."""

    values: npt.NDArray[np.generic]
    starts: Longs
    lengths: Longs


class Blocks:
    """Reads the blocks of one table. Safe to use from several threads."""

    def __init__(self, store: Store, table: BlockTable, *, mapped: bool = True, cache: NodeCache | None = None) -> None:
        self.table = table
        self.kind: np.dtype[Any] = np.dtype(np.uint32 if "uint32" in table.tokens_as else np.uint16)
        self._store = store
        self._mapped = mapped
        self._cache = cache
        self._lock = threading.Lock()
        self._open: OrderedDict[int, tuple[CheckedFile, pa.Schema]] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}
        self._newer: Blocks | None = None

    @property
    def remote(self) -> bool:
        """Whether a block costs a request."""
        return not self.table.shards or self._store.local_path(self.table.shards[0].path) is None

    def batch(self, block: int) -> pa.RecordBatch:
        """All columns of a block. Raises: ShardError naming shard, block and byte; StorageError."""
        try:
            return self._read(block)
        except Missing as exc:
            gone = exc
        newer = self._newer
        while True:
            if newer is not None:
                try:
                    return gathered(newer.table, self.table, block, newer._read)
                except Missing as exc:  # compacted once more
                    gone = exc
            newer = self._newest(self.table if newer is None else newer.table, gone)

    def _read(self, block: int) -> pa.RecordBatch:
        table = self.table
        number = int(table.shard[block])
        shard = table.shards[number]
        file, schema = self._file(number, shard)
        what = f"the block of rows {int(table.first_row[block])} to {int(table.first_row[block] + table.rows[block])}"
        offset, length, xxh3 = int(table.offset[block]), int(table.length[block]), f"{int(table.xxh3[block]):016x}"
        data = None if self._cache is None else self._cache.find(shard.sha256, offset, length, xxh3)
        if data is None:
            data = file.part(what, offset, length, xxh3)
            if self._cache is not None:
                self._cache.keep(shard.sha256, offset, data)
        return file.batch(what, offset, data, schema, int(table.rows[block]))

    def bodies(self, block: int) -> Bodies:
        """The tokens of a block. Raises: as `batch`."""
        column = self.batch(block).column("tokens")
        kind = np.uint16 if pa.types.is_uint16(column.type.value_type) else np.uint32
        _, raw = column.buffers()[:2]
        offsets = np.frombuffer(raw, np.int64)[column.offset : column.offset + len(column) + 1]
        child = column.values
        held = child.buffers()[1]
        values = np.frombuffer(held, kind)[child.offset : child.offset + len(child)] if held else np.empty(0, kind)
        held_tokens = int(offsets[-1] - offsets[0])
        if held_tokens != int(self.table.tokens[block]) and not column.null_count:
            path = self.table.shards[int(self.table.shard[block])].path
            raise ShardError(f"{path}: a block holds {held_tokens} tokens, the log says {self.table.tokens[block]}")
        return Bodies(values, offsets[:-1], np.diff(offsets))

    def release(self, block: int) -> None:
        """The process need not hold the pages of a block for now; whatever still looks at it may go on."""
        number = int(self.table.shard[block])
        with self._lock:
            found = self._open.get(number)
        if found is not None:
            found[0].release(int(self.table.offset[block]), int(self.table.length[block]))

    def close(self) -> None:
        """Forget the open files. Batches given out stay readable."""
        with self._lock:
            self._open.clear()
            self._newer = None

    def _newest(self, known: BlockTable, gone: Missing) -> Blocks:
        """The blocks of the newest version. Raises: ShardError if `known` is of that version."""
        state = CommitLog(self._store).replay()
        if state.v <= known.version:
            raise ShardError(f"a shard is missing, and no later version replaced it: {gone}") from gone
        table = block_table(state, self.table.streams)
        newer = Blocks(self._store, table, mapped=self._mapped, cache=self._cache)
        with self._lock:
            self._newer = newer
        return newer

    def _file(self, number: int, shard: ShardFile) -> tuple[CheckedFile, pa.Schema]:
        with self._lock:
            opening = self._opening.setdefault(number, threading.Lock())
        with opening:  # blocks of one shard are read at once, and its head should be asked for once
            with self._lock:
                found = self._open.get(number)
                if found is not None:
                    self._open.move_to_end(number)
                    return found
            file = CheckedFile(self._store, shard.path, shard.bytes, mapped=self._mapped)
            opened = file, file.schema(shard.head_bytes, shard.head_xxh3)
            with self._lock:
                self._open[number] = opened
                while len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
        return opened

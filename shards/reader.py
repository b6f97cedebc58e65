"""One shard file → record batches, every byte checked against the log before it is used.

The log lists head, blocks and tail of a file with their XXH3-64, so a block costs one read (a mapping of a local file,
a ranged request elsewhere) and nothing unchecked is ever parsed: the footer in the file is for other Arrow readers.
"""

from __future__ import annotations

import hashlib
import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate

import pyarrow as pa
import xxhash

from headrace.schemas.errors import ShardError, StorageError
from headrace.shards.entry import ShardInfo
from headrace.shards.ipc import read_schema
from headrace.shards.store import Missing, Store

_CHUNK = 8 << 20


class CheckedFile:
    """The bytes of one shard file; a part is given out only if it hashes to what the log says."""

    def __init__(self, store: Store, path: str, size: int, *, mapped: bool = True) -> None:
        """Open it; `mapped` False reads local files with pread too.

        That is for places where mappings are scarce (some parallel file systems) or where a failing disk should give an
        error and not SIGBUS. Raises: ShardError if the file has another size; Missing, StorageError.
        """
        self.path = path
        self._store = store
        self._pages: mmap.mmap | None = None
        self._map: pa.Buffer | None = None
        local = store.local_path(path) if mapped else None
        found = store.size(path)
        if found != size:
            raise ShardError(f"{path}: {found} bytes, the log says {size}")
        if local is not None:
            try:
                with open(local, "rb") as f:
                    self._pages = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
                self._map = pa.py_buffer(self._pages)
            except FileNotFoundError as exc:
                raise Missing(f"cannot map {local}: it does not exist") from exc
            except OSError as exc:
                raise StorageError(f"cannot map {local}: {exc.strerror}") from exc

    def part(self, what: str, offset: int, length: int, xxh3: str) -> pa.Buffer:
        """`length` bytes from `offset`. Raises: ShardError naming file, part and offset; StorageError."""
        data = self.bytes(offset, length)
        found = xxhash.xxh3_64_hexdigest(data)
        if found != xxh3:
            raise ShardError(
                f"{self.path}: {what} (bytes {offset} to {offset + length}) was altered:"
                f" XXH3 {found}, the log says {xxh3}"
            )
        return data

    def schema(self, head_bytes: int, head_xxh3: str) -> pa.Schema:
        """The schema in the head of the file. Raises: ShardError."""
        data = self.part("head", 0, head_bytes, head_xxh3)
        try:
            return read_schema(data.to_pybytes())
        except (ValueError, pa.ArrowException) as exc:
            raise ShardError(f"{self.path}: the head is not an Arrow schema: {exc}") from exc

    def batch(self, what: str, offset: int, data: pa.Buffer, schema: pa.Schema, rows: int) -> pa.RecordBatch:
        """The record batch in `data`, a checked part. Raises: ShardError."""
        try:
            batch = pa.ipc.read_record_batch(data, schema)
            batch.validate()
        except (ValueError, pa.ArrowException) as exc:
            raise ShardError(f"{self.path}: {what} at byte {offset} is not a record batch: {exc}") from exc
        if batch.num_rows != rows:
            raise ShardError(
                f"{self.path}: {what} at byte {offset} holds {batch.num_rows} rows, the log says {rows}"
            )
        return batch

    def release(self, offset: int, length: int) -> None:
        """These pages of a mapping need not stay in this process's memory: what looks at them still may, and finds them
        in the page cache."""
        if self._pages is not None:
            start = offset - offset % mmap.PAGESIZE
            self._pages.madvise(mmap.MADV_DONTNEED, start, offset + length - start)

    def bytes(self, offset: int, length: int) -> pa.Buffer:
        """Unchecked: a view of the mapping, or read. Raises: StorageError."""
        if self._map is not None:
            return self._map.slice(offset, length)
        return pa.py_buffer(self._store.get_range(self.path, offset, length))


class ShardReader:
    """Reads one shard as the log describes it. Batches of a mapped file are views of it and keep the mapping alive."""

    def __init__(self, store: Store, info: ShardInfo, *, mapped: bool = True) -> None:
        """As `CheckedFile`."""
        self.info = info
        self._file = CheckedFile(store, info.path, info.bytes, mapped=mapped)
        self._starts = [0, *accumulate(b.rows for b in info.blocks)]

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema with its metadata. Raises: ShardError."""
        return self._file.schema(self.info.head_bytes, self.info.head_xxh3)

    def block(self, number: int) -> pa.RecordBatch:
        """Record batch `number`, checked. Raises: ShardError naming shard, block and offset."""
        block = self.info.blocks[number]
        what = f"block {number}"
        data = self._file.part(what, block.offset, block.length, block.xxh3)
        return self._file.batch(what, block.offset, data, self.schema, block.rows)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All blocks in order, then the tail checked: a whole pass has seen every byte. Raises: ShardError."""
        for number in range(len(self.info.blocks)):
            batch = self.block(number)
            yield batch if columns is None else batch.select(list(columns))
        self.check_tail()

    def row(self, row: int) -> pa.RecordBatch:
        """One row as a batch. Raises: ShardError, IndexError."""
        if not 0 <= row < self.info.rows:
            raise IndexError(f"{self.info.path} has {self.info.rows} rows, not {row}")
        number = bisect_right(self._starts, row) - 1
        return self.block(number).slice(row - self._starts[number], 1)

    def check_tail(self) -> None:
        """Check the bytes after the last block. Raises: ShardError."""
        last = self.info.blocks[-1]
        start = last.offset + last.length
        self._file.part("tail", start, self.info.bytes - start, self.info.tail_xxh3)

    def check_whole(self) -> None:
        """Check the sha256 of the whole file. Raises: ShardError."""
        state = hashlib.sha256()
        for start in range(0, self.info.bytes, _CHUNK):
            state.update(self._file.bytes(start, min(_CHUNK, self.info.bytes - start)))
        if state.hexdigest() != self.info.sha256:
            raise ShardError(
                f"{self.info.path}: its bytes hash to {state.hexdigest()[:12]}…, the log says {self.info.sha256[:12]}…"
            )

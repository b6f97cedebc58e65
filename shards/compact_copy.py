"""Several shards of one lane → one file with the same record batches.

A block is copied byte for byte, and keeps its length, rows, tokens and XXH3; only its offset is another. Every byte is
checked against the log on its way, so damage is told and never spread. Head: that of the first shard (all have the
same). Tail: made for the new offsets. With `block_bytes` neighbouring blocks are joined whole, never divided, as long
as their rows stay under it; a block that finds no partner is still copied.

The new shard has the first shard's first sequence number, and misses what the old ones missed, together with the
numbers of whole shards that were erased between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pyarrow as pa
import xxhash

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ShardError, StorageError
from headrace.shards.entry import Block, Range, ShardInfo, Span
from headrace.shards.ipc import BlockEncoder, read_schema, tail
from headrace.shards.names import shard_name
from headrace.shards.plain_arrays import row_sizes
from headrace.shards.spans import merged
from headrace.shards.store import Store

#: Remote shards up to this size are fetched with one request, larger ones block by block.
_FETCH_BYTES = 32 << 20
_MARK = b"\xff\xff\xff\xff"  # an Arrow message begins with it, and with the length of its metadata


def merged_shard(
    store: Store, shards: Sequence[ShardInfo], epoch: int, *, block_bytes: int | None = None, number: int = 0
) -> ShardInfo:
    """Write the shard that stands for `shards` (one lane's neighbours, in order) and describe it.

    Raises: ShardError if a byte differs from what the log says; Missing, StorageError; ValueError if they are unlike.
    """
    first = shards[0]
    if any((s.stream, s.lane, s.head_xxh3) != (first.stream, first.lane, first.head_xxh3) for s in shards):
        raise ValueError(f"{[s.path for s in shards]} are not of one lane and schema")
    if any(b.first_seq < a.stop_seq for a, b in pairwise(shards)):
        raise ValueError(f"{[s.path for s in shards]} are not in order")
    path = shard_name(first.stream, first.lane, epoch, number)
    content = _Content(store, first)
    with _Copy(store, path, content.head(), block_bytes) as copy:
        for shard in shards:
            content = content if shard is first else _Content(store, shard)
            for block, data in content.blocks():
                copy.add(block, data, shard.path)
        return copy.close(shards)


def joined_ranges(ranges: Iterable[Range]) -> list[Range]:
    """The ranges in order, neighbours of one split joined where one begins at the very place where the other ended."""
    out: list[Range] = []
    for r in ranges:
        if out and out[-1].split == r.split and _key(out[-1].upto, out[-1].upto_k) == _key(r.after, r.after_k):
            out[-1] = replace(out[-1], upto=r.upto, upto_k=r.upto_k, rows=out[-1].rows + r.rows)
        else:
            out.append(r)
    return out


def _key(position: object, k: int) -> bytes:
    return canonical_json([position, k])


class _Content:
    """The checked bytes of one shard. Local files are read with pread: a failing disk gives an error, not SIGBUS."""

    def __init__(self, store: Store, info: ShardInfo) -> None:
        self._store, self._info = store, info
        size = store.size(info.path)
        if size != info.bytes:
            raise ShardError(f"{info.path}: {size} bytes, the log says {info.bytes}")
        self._whole = store.get(info.path) if store.local_path(info.path) is None and size <= _FETCH_BYTES else None

    def head(self) -> bytes:
        return self._part("head", 0, self._info.head_bytes, self._info.head_xxh3)

    def blocks(self) -> Iterator[tuple[Block, bytes]]:
        for number, block in enumerate(self._info.blocks):
            yield block, self._part(f"block {number}", block.offset, block.length, block.xxh3)

    def _part(self, what: str, offset: int, length: int, xxh3: str) -> bytes:
        if self._whole is None:
            data = self._store.get_range(self._info.path, offset, length)
        else:
            data = self._whole[offset : offset + length]
        found = xxhash.xxh3_64_hexdigest(data)
        if found != xxh3:
            raise ShardError(
                f"{self._info.path}: {what} (bytes {offset} to {offset + length}) was altered:"
                f" XXH3 {found}, the log says {xxh3}"
            )
        return data


@dataclass
class _Pending:
    """Blocks that may be joined: the bytes of the only one, and the rows of all."""

    block: Block
    data: bytes
    batches: list[pa.RecordBatch]
    tokens: int
    size: int


class _Copy:
    """The new file, block by block."""

    def __init__(self, store: Store, path: str, head: bytes, block_bytes: int | None) -> None:
        self.path = path
        self._schema = read_schema(head)
        self._encoder = BlockEncoder(self._schema)
        self._target = block_bytes
        self._pending: _Pending | None = None
        self._blocks: list[Block] = []
        self._footer: list[tuple[int, int, int]] = []
        self._sha256 = hashlib.sha256()
        self._file = store.writer(path)
        self._write(head)

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.abort()

    def add(self, block: Block, data: bytes, path: str) -> None:
        """The next block, of the shard at `path`."""
        if data[:4] != _MARK:
            raise ShardError(f"{path}: the block at byte {block.offset} does not begin as an Arrow message does")
        if self._target is None or 2 * block.length > self._target:
            self._flush()
            self._verbatim(block, data)
            return
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(data), self._schema)
            batch.validate()
        except (ValueError, pa.ArrowException) as exc:
            raise ShardError(f"{path}: the block at byte {block.offset} is not a record batch: {exc}") from exc
        size = sum(int(row_sizes(column).sum()) for column in batch.columns)
        if self._pending is None or self._pending.size + size > self._target:
            self._flush()
            self._pending = _Pending(block, data, [batch], block.tokens, size)
        else:
            self._pending.batches.append(batch)
            self._pending.tokens += block.tokens
            self._pending.size += size

    def close(self, shards: Sequence[ShardInfo]) -> ShardInfo:
        """Publish the file as what stands for `shards`."""
        self._flush()
        first, last = shards[0], tail(self._schema, self._footer)
        self._write(last)
        size = self._file.tell()
        if not self._file.close():
            raise StorageError(f"{self.path} exists already, though its name was made for this attempt")
        holes = [Span(a.stop_seq, b.first_seq) for a, b in pairwise(shards)]
        return ShardInfo(
            stream=first.stream,
            lane=first.lane,
            path=self.path,
            sha256=self._sha256.hexdigest(),
            bytes=size,
            rows=sum(s.rows for s in shards),
            tokens=sum(s.tokens for s in shards),
            head_bytes=first.head_bytes,
            head_xxh3=first.head_xxh3,
            tail_xxh3=xxhash.xxh3_64_hexdigest(last),
            blocks=self._blocks,
            ranges=joined_ranges(r for s in shards for r in s.ranges),
            first_seq=first.first_seq,
            missing=merged([*(m for s in shards for m in s.missing), *holes]),
        )

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if len(pending.batches) == 1:
            self._verbatim(pending.block, pending.data)
            return
        columns = [pa.concat_arrays([b.column(i) for b in pending.batches]) for i in range(len(self._schema))]
        metadata_bytes, parts = self._encoder.encode(columns)
        data = b"".join(parts)
        made = Block(0, len(data), len(columns[0]), pending.tokens, xxhash.xxh3_64_hexdigest(data))
        self._put(made, data, metadata_bytes)

    def _verbatim(self, block: Block, data: bytes) -> None:
        self._put(block, data, 8 + int.from_bytes(data[4:8], "little"))

    def _put(self, block: Block, data: bytes, metadata_bytes: int) -> None:
        offset = self._file.tell()
        self._write(data)
        self._blocks.append(replace(block, offset=offset))
        self._footer.append((offset, metadata_bytes, len(data) - metadata_bytes))

    def _write(self, part: bytes) -> None:
        self._sha256.update(part)
        self._file.write(part)

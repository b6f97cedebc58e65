"""Sample batches → one shard file: an Arrow IPC file cut into blocks by data alone.

The bytes of a shard are a pure function of its rows and its schema (metadata included). A block takes rows, of one or
several consecutive splits, until the next would take it over 4 MiB; a larger row is a block of its own. How the rows
were batched does not matter. The name is random, so that a repeated attempt never meets an earlier one.

Works in a process that knows nothing of the log: `ShardInfo.to_json()` travels to whoever commits it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash

from headrace.schemas.errors import StorageError
from headrace.shards.entry import Block, Range, ShardInfo
from headrace.shards.ipc import BlockEncoder, head, tail
from headrace.shards.names import shard_name
from headrace.shards.plain_arrays import row_sizes
from headrace.shards.store import Store
from headrace.shards.writer_behind import WriteBehind

TARGET_BLOCK_BYTES = 4 << 20


class ShardWriter:
    """Writes one shard; `close` publishes it, `abort` (or leaving a `with` block by an exception) leaves nothing.

    `schema` is `schemas.sample.sample_schema(modality, tokens, metadata)`, with the stream's settings in the metadata
    (see `shard_metadata`).
    """

    def __init__(
        self,
        store: Store,
        stream: str,
        lane: int,
        epoch: int,
        schema: pa.Schema,
        *,
        number: int = 0,
        target_block_bytes: int = TARGET_BLOCK_BYTES,
    ) -> None:
        self.stream, self.lane, self.schema = stream, lane, schema
        self.path = shard_name(stream, lane, epoch, number)
        self.rows = 0  #: appended so far
        self.data_bytes = 0  #: size of the appended rows, a function of the rows alone: what may decide a cut
        self._target = target_block_bytes
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._encoder = BlockEncoder(schema)
        self._tokens_at = schema.get_field_index("tokens")
        self._blocks: list[tuple[int, int, int, int]] = []  #: offset, length, rows, tokens
        self._footer: list[tuple[int, int, int]] = []
        self._file = store.writer(self.path)
        self._out = WriteBehind(self._file)
        first = head(schema)
        self._head = (len(first), xxhash.xxh3_64_hexdigest(first))
        self._out.write(first)

    def append(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch. Raises: ValueError if its columns are not the schema's; StorageError."""
        if batch.schema.names != self.schema.names or batch.schema.types != self.schema.types:
            raise ValueError(f"shard of {self.stream}: the batch has the columns {batch.schema}, not {self.schema}")
        if not batch.num_rows:
            return
        sizes = np.zeros(batch.num_rows, np.int64)
        for field, column in zip(self.schema, batch.columns):
            if not field.nullable and column.null_count:
                raise ValueError(f"shard of {self.stream}: column `{field.name}` may not be null")
            sizes += row_sizes(column)
        start = 0
        for row, size in enumerate(sizes.tolist()):
            if self._pending_bytes and self._pending_bytes + size > self._target:
                self._keep(batch, start, row)
                self._flush(more=True)
                start = row
            self._pending_bytes += size
        self._keep(batch, start, batch.num_rows)
        self.rows += batch.num_rows
        self.data_bytes += int(sizes.sum())

    def close(self, ranges: Sequence[Range]) -> ShardInfo:
        """Publish the file. `ranges` say in row order which places of which splits the rows came from.

        Raises: ValueError if there are no rows, or not as many as the ranges say; StorageError.
        """
        told = sum(r.rows for r in ranges)
        if not self.rows or told != self.rows:
            self.abort()
            raise ValueError(f"{self.path}: {self.rows} rows were appended, the ranges say {told}")
        self._flush(more=False)
        last = tail(self.schema, self._footer)
        self._out.write(last)
        blocks = [Block(*told, checksum) for told, checksum in zip(self._blocks, self._out.finish())]
        if not self._file.close():
            raise StorageError(f"{self.path} exists already, though its name was made for this attempt")
        return ShardInfo(
            stream=self.stream,
            lane=self.lane,
            path=self.path,
            sha256=self._out.hexdigest(),
            bytes=self._out.size,
            rows=self.rows,
            tokens=sum(b.tokens for b in blocks),
            head_bytes=self._head[0],
            head_xxh3=self._head[1],
            tail_xxh3=xxhash.xxh3_64_hexdigest(last),
            blocks=blocks,
            ranges=list(ranges),
        )

    def abort(self) -> None:
        """Leave nothing behind. Harmless after `close`."""
        self._out.abort()
        self._file.abort()

    @property
    def seconds_behind(self) -> float:
        """CPU seconds of writing that were not the caller's; known after `close`."""
        return self._out.seconds

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    def _keep(self, batch: pa.RecordBatch, start: int, stop: int) -> None:
        if stop > start:
            self._pending.append(batch.slice(start, stop - start))

    def _flush(self, *, more: bool) -> None:
        batches, self._pending, self._pending_bytes = self._pending, [], 0
        if not batches:
            return
        columns: list[pa.Array] = (
            batches[0].columns
            if len(batches) == 1
            else [pa.concat_arrays([b.column(i) for b in batches]) for i in range(len(self.schema))]
        )
        tokens = len(columns[self._tokens_at].flatten()) if self._tokens_at >= 0 else 0
        metadata_bytes, parts = self._encoder.encode(columns)
        offset = self._out.size
        self._out.block(parts, more=more)
        length = self._out.size - offset
        self._blocks.append((offset, length, len(columns[0]), tokens))
        self._footer.append((offset, metadata_bytes, length - metadata_bytes))


def shard_metadata(stream: str, digest: str, tokenizer: str | None, **more: str) -> dict[str, str]:
    """Schema metadata of a stream's shards, for `sample_schema`: the stream, its digest, its tokenizer, and `more`."""
    named = {"stream": stream, "stream_digest": digest, "tokenizer": tokenizer or "", **more}
    return {f"headrace.{key}": value for key, value in sorted(named.items())}

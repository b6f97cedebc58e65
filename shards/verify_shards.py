"""Every byte and row of the live shards: the part of `verify` that reads data, and makes the content digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import ShardError, StorageError
from headrace.schemas.sample import ContentDigest
from headrace.shards.dataset import Dataset, Located
from headrace.shards.entry import ShardInfo, split_digest
from headrace.shards.reader import ShardReader
from headrace.shards.spans import clipped, inside, numbers
from headrace.shards.verify_catalogue import AddProblem, CatalogueCheck

#: Record ids of a stream are compared for doubles up to this many rows (8 bytes each in memory).
_MAX_IDS = 50_000_000


class ShardCheck:
    """Feed it the shards of a stream in address order with `check`, then `end_stream`; `digest` is of all live rows."""

    def __init__(
        self, dataset: Dataset, catalogue: CatalogueCheck, add: AddProblem, note: Callable[[str], None]
    ) -> None:
        self.digest = ContentDigest()
        self._dataset, self._catalogue, self._add, self._note = dataset, catalogue, add, note
        self._ids: list[npt.NDArray[np.uint64]] = []
        self._rows = self._tokens = self._hidden_tokens = 0
        self._whole = True

    def check(self, shard: ShardInfo) -> None:
        """Checksums, schema, every row and its split, token counts."""
        self._tokens += shard.tokens
        try:
            reader = ShardReader(self._dataset.store, shard, mapped=False)
            self._check_schema(shard, reader.schema)
        except (ShardError, StorageError) as exc:
            self._problem(shard, "head", str(exc))
            return
        try:
            reader.check_whole()
        except (ShardError, StorageError) as exc:
            self._problem(shard, "sha256", str(exc))
        deleted = clipped(
            self._dataset.state.deleted.get((shard.stream, shard.lane), []), shard.first_seq, shard.stop_seq
        )
        seqs = numbers(shard.first_seq, shard.stop_seq, shard.missing)
        row = 0
        for number, block in enumerate(shard.blocks):
            own = seqs[row : row + block.rows]
            try:
                batch = reader.block(number)
                batch.validate(full=True)
            except (ShardError, StorageError, pa.ArrowException) as exc:
                self._problem(shard, f"block {number} at byte {block.offset}", str(exc))
            else:
                self._check_block(shard, number, row, own, batch, inside(own, deleted))
            row += block.rows
        try:
            reader.check_tail()
        except (ShardError, StorageError) as exc:
            self._problem(shard, "tail", str(exc))

    def end_stream(self, stream: str) -> None:
        """Sums over the stream's shards: tokens against the books, record ids against each other."""
        told = self._dataset.state.streams.get(stream)
        erased = self._dataset.state.deleted_tokens.get(stream, 0) - self._hidden_tokens
        if told and self._whole and told.tokens != self._tokens + erased:
            sums = f"shards hold {self._tokens} and {erased} were erased"
            self._add("log", stream, f"the books say {told.tokens} tokens, {sums}")
        if self._rows > _MAX_IDS:
            self._note(f"{stream}: {self._rows} rows are too many to compare their ids")
        elif self._ids:
            values = np.sort(np.concatenate(self._ids))
            if doubles := int((values[1:] == values[:-1]).sum()):
                self._note(f"{stream}: {doubles} record ids stand more than once")
        self._ids, self._rows, self._tokens, self._hidden_tokens, self._whole = [], 0, 0, 0, True

    def _check_block(
        self,
        shard: ShardInfo,
        number: int,
        first_row: int,
        seqs: npt.NDArray[np.int64],
        batch: pa.RecordBatch,
        gone: npt.NDArray[np.bool_],
    ) -> None:
        lengths = _lengths(batch)
        told = shard.blocks[number].tokens
        if int(lengths.sum()) != told:
            self._problem(shard, f"block {number}", f"{int(lengths.sum())} tokens, the log says {told}")
        for sentence in _strangers(shard, first_row, batch.column("split")):
            self._problem(shard, f"block {number}", sentence)
        self._hidden_tokens += int(lengths[gone].sum())
        live = batch.filter(pa.array((~gone).tolist(), type=pa.bool_())) if gone.any() else batch
        self.digest.add(shard.stream, live)
        self._rows += live.num_rows
        if self._rows <= _MAX_IDS and live.num_rows:
            self._ids.append(np.frombuffer(b"".join(live.column("record_id").to_pylist()), np.uint64)[::2])
        self._catalogue.add(Located(shard, number, seqs, batch))

    def _check_schema(self, shard: ShardInfo, schema: pa.Schema) -> None:
        settings = self._dataset.state.settings[shard.stream]
        metadata = {k.decode(): v.decode("utf-8", "replace") for k, v in (schema.metadata or {}).items()}
        for name, want in (
            ("stream", shard.stream),
            ("stream_digest", settings.digest),
            ("modality", settings.modality),
            ("tokenizer", settings.tokenizer or ""),
            ("schema", str(settings.schema_version)),
        ):
            have = metadata.get(f"headrace.{name}")
            if have != want:
                self._problem(shard, "schema", f"its metadata says {name} {have!r}, the log says {want!r}")

    def _problem(self, shard: ShardInfo, place: str, message: str) -> None:
        self._whole = False
        self._add(shard.path, place, message)


def _strangers(shard: ShardInfo, first_row: int, splits: pa.Array) -> Iterator[str]:
    """Rows whose split is not the one that the shard's ranges name for them."""
    encoded = pc.dictionary_encode(splits)
    digests = np.array([split_digest(split) for split in encoded.dictionary.to_pylist()])
    owners = digests[np.frombuffer(encoded.indices.buffers()[1], np.int32)[: len(splits)]] if len(digests) else digests
    at = 0
    for r in shard.ranges:
        low, high = max(at - first_row, 0), min(at + r.rows - first_row, len(splits))
        at += r.rows
        if low < high and (owners[low:high] != r.split).any():
            row = low + int((owners[low:high] != r.split).argmax())
            yield f"row {row} is of split {owners[row]}, the log says {r.split}"
        if at >= first_row + len(splits):
            return


def _lengths(batch: pa.RecordBatch) -> Any:
    if "tokens" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64)
    column = batch.column("tokens")
    return np.diff(np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1])

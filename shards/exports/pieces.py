"""A dataset as an export reads it: block after block in address order, every byte checked, what is left out counted.

Address order is (lane, seq). A piece is what is kept of one block: deleted samples, samples of another fold and, where
the format cannot hold them, samples without tokens are taken out. Reading can begin at any address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import ShardError
from headrace.schemas.record import PAYLOAD_COLUMN, modality_of
from headrace.shards.dataset import Dataset
from headrace.shards.entry import ShardInfo
from headrace.shards.exports.columns import bools, list_arrays
from headrace.shards.exports.totals import Totals, sum_of
from headrace.shards.reader import ShardReader
from headrace.shards.spans import inside, numbers
from headrace.shards.store import Missing

Address = tuple[int, int]  #: (lane, seq) within a stream


@dataclass(frozen=True)
class Piece:
    """Rows of one block: row i is (stream, `lane`, `seqs[i]`). `empty` are those left out for having no tokens."""

    stream: str
    lane: int
    seqs: npt.NDArray[np.int64]
    batch: pa.RecordBatch
    empty: npt.NDArray[np.int64]
    read_bytes: int  #: of the block in its shard

    @property
    def rows(self) -> int:
        return len(self.seqs)

    @property
    def has_tokens(self) -> bool:
        return "tokens" in self.batch.schema.names

    @cached_property
    def content(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """(values, offsets): row i is `values[offsets[i]:offsets[i+1]]`: its tokens, or the bytes of a raw payload."""
        if self.has_tokens:
            return list_arrays(self.batch.column("tokens"))
        values, offsets = list_arrays(self.batch.column(PAYLOAD_COLUMN[modality_of(self.batch)]))
        return values.view(np.uint8), offsets * values.itemsize

    def totals(self, start: int, stop: int) -> Totals:
        """Samples, values and their sum over the rows [start, stop), as the dataset has them."""
        values, offsets = self.content
        part = values[int(offsets[start]) : int(offsets[stop])]
        return Totals(stop - start, len(part), sum_of(part))


def pieces(
    dataset: Dataset, stream: str, *, fold: str = "all", skip_empty: bool = False, begin: Address = (0, 0)
) -> Iterator[Piece]:
    """The samples of one stream from the block that holds `begin` on: a run that goes on meets the very pieces again.

    A piece may have no rows, so that its block is seen to be read.

    Raises: ShardError naming shard, block and offset, also for a shard that is missing; StorageError.
    """
    for shard in dataset.state.live_shards(stream):
        if (shard.lane, shard.stop_seq) <= begin:
            continue
        first = begin[1] if shard.lane == begin[0] else 0
        deleted = dataset.state.deleted.get((stream, shard.lane), [])
        reader = _open(dataset, shard)
        seqs = numbers(shard.first_seq, shard.stop_seq, shard.missing)
        row = 0
        for number, block in enumerate(shard.blocks):
            own = seqs[row : row + block.rows]
            row += block.rows
            if own[-1] < first:
                continue
            batch = reader.block(number)
            keep = ~inside(own, deleted)
            if fold != "all":
                keep &= np.array([told == fold for told in batch.column("fold").to_pylist()], np.bool_)
            empty = np.empty(0, np.int64)
            if skip_empty and "tokens" in batch.schema.names:
                hollow = np.diff(list_arrays(batch.column("tokens"))[1]) == 0
                empty = own[keep & hollow]
                keep &= ~hollow
            if not keep.all():
                batch, own = _kept(batch, keep), own[keep]
            yield Piece(stream, shard.lane, own, batch, empty, block.length)
        reader.check_tail()


def _open(dataset: Dataset, shard: ShardInfo) -> ShardReader:
    try:
        return ShardReader(dataset.store, shard)
    except Missing as exc:
        erased = " (it was erased after this version)" if shard.path in dataset.state.doomed else ""
        raise ShardError(f"{shard.path} is missing{erased}") from exc


def _kept(batch: pa.RecordBatch, keep: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    rows = np.flatnonzero(keep)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return batch.slice(int(rows[0]), len(rows))  # no copy
    return batch.filter(bools(keep))

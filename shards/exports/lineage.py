"""Where each sample came from, beside formats that hold tokens and nothing else.

`OUT/<stream>/lineage/000000.parquet`, a row for each sample in the order of the tokens:

    address (stream, lane, seq) · record_id, content_sha256 (hex) · source, uri, position, locator · license,
    attribution · event_time, group_id, fold · shard, index (sample number in it) · offset, length (tokens, marks
    included, within the shard)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.shards.exports.columns import hexed, int64s, repeated
from headrace.shards.exports.contract import FileLine
from headrace.shards.exports.outfile import OutFile
from headrace.shards.exports.parquet_file import ParquetFile
from headrace.shards.exports.pieces import Piece

_TAKEN = ("source", "uri", "position", "locator", "license", "attribution", "event_time", "group_id", "fold")


class Lineage:
    """One file of lineage being written: that of shard number `shard` or of a part of it."""

    def __init__(
        self,
        out: Path,
        stream: str,
        number: int,
        work: Path,
        *,
        shard: int | None = None,
        index: int = 0,
        offset: int = 0,
    ) -> None:
        """`index` and `offset` are the samples and tokens of the shard that are in files before this one."""
        self._shard = number if shard is None else shard
        self._index, self._offset = index, offset
        self._file = OutFile(out, f"{stream}/lineage/{number:06d}.parquet", work / "lineage")
        self._parquet: ParquetFile | None = None

    def add(self, piece: Piece, start: int, stop: int, lengths: npt.NDArray[np.int64]) -> None:
        """Rows [start, stop) of a piece, written as `lengths` tokens each."""
        batch, rows = piece.batch.slice(start, stop - start), stop - start
        offsets = self._offset + np.cumsum(lengths) - lengths
        columns: dict[str, pa.Array] = {
            "stream": repeated(piece.stream, rows),
            "lane": int64s(np.full(rows, piece.lane)),
            "seq": int64s(piece.seqs[start:stop]),
            "record_id": hexed(batch.column("record_id")),
            "content_sha256": hexed(batch.column("content_sha256")),
            **{name: batch.column(name) for name in _TAKEN},
            "shard": int64s(np.full(rows, self._shard)),
            "index": int64s(np.arange(self._index, self._index + rows)),
            "offset": int64s(offsets),
            "length": int64s(lengths),
        }
        made = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        if self._parquet is None:
            self._parquet = ParquetFile(self._file, made.schema)
        self._parquet.add(made)
        self._index += rows
        self._offset += int(lengths.sum())

    def close(self) -> FileLine:
        """Publish it. Raises: StorageError."""
        if self._parquet is not None:
            self._parquet.close()
        return self._file.publish()

"""Parquet: `SELECT … FROM 'OUT/<stream>/*.parquet'`, or `load_dataset("OUT", "<stream>")`.

    OUT/<stream>/<stream>-00000.parquet …      columns as in the shards, address first; zstd, checksums on pages;
                                               the size of a file is that of its rows before compression
    OUT/README.md                              says to Hugging Face's loader which files are which stream
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import StorageError
from headrace.schemas.record import PAYLOAD_COLUMN
from headrace.shards.exports.columns import list_arrays
from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.mds import written
from headrace.shards.exports.outfile import OutFile
from headrace.shards.exports.parquet_file import ParquetFile
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan
from headrace.shards.exports.tables import table_rows, table_schema
from headrace.shards.exports.totals import Totals, sum_of
from headrace.shards.plain_arrays import row_sizes

Rows = tuple[pa.RecordBatch, npt.NDArray[np.int64], Piece]

class ParquetSink:
    """Writes one stream; see the module."""

    def __init__(self, plan: StreamPlan, out: Path, work: Path) -> None:
        self._plan, self._out, self._work = plan, out, work
        self._schema = table_schema(plan).with_metadata(plan.schema.metadata)
        self._limit = plan.options.shard_bytes or 0
        self._number = 0
        self._file: OutFile | None = None
        self._parquet: ParquetFile | None = None
        self._size = 0
        self._totals = Totals()

    def restore(self, shards: int, open: dict[str, int]) -> None:
        self._number = shards

    def encode(self, piece: Piece) -> Rows:
        batch = table_rows(piece, self._plan, self._schema)
        return batch, sizes_of(batch), piece

    def add(self, rows: Rows, start: int) -> int:
        batch, sizes, piece = rows
        if self._file is None or self._parquet is None:
            path = f"{self._plan.name}/{self._plan.name}-{self._number:05d}.parquet"
            self._file = OutFile(self._out, path, self._work / "parquet")
            self._parquet = ParquetFile(self._file, self._schema)
        stop = fitting(sizes, start, self._limit - self._size, empty=not self._totals.samples)
        if stop > start:
            self._parquet.add(batch.slice(start, stop - start))
            self._size += int(sizes[start:stop].sum())
            self._totals = self._totals.plus(written(self._plan, piece, start, stop))
        return stop

    def cut(self, last: bool) -> Cut:
        if self._file is None or self._parquet is None:
            return Cut([])
        file, parquet, totals = self._file, self._parquet, self._totals
        self._file, self._parquet, self._size, self._totals = None, None, 0, Totals()
        self._number += 1
        with file:
            parquet.close()
            return Cut([file.publish(lambda path: read_parquet(path, main_column(self._plan)), totals)])

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        return []


def sizes_of(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes of each row, uncompressed: a function of its values alone."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += row_sizes(column)
    return sizes


def fitting(sizes: npt.NDArray[np.int64], start: int, left: int, *, empty: bool) -> int:
    """How far rows from `start` on fit into `left` bytes; one always fits into what is `empty`."""
    stop = start + int(np.searchsorted(np.cumsum(sizes[start:]), left, side="right"))
    return start + 1 if stop == start and empty else stop


def main_column(plan: StreamPlan) -> str:
    """The column that holds a sample's tokens or payload."""
    return "tokens" if plan.marks is not None else PAYLOAD_COLUMN[plan.settings.modality]  # type: ignore[index]


def totals_of(batch: pa.RecordBatch, main: str) -> Totals:
    """Totals of a batch that was read back."""
    values, _ = list_arrays(batch.column(main))
    if main != "tokens":
        values = values.view(np.uint8)
    return Totals(batch.num_rows, len(values), sum_of(values))


def read_parquet(path: Path, main: str) -> Totals:
    """Totals of a file, its pages checked. Raises: StorageError."""
    import pyarrow.parquet as pq

    totals = Totals()
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            for batch in file.iter_batches(columns=[main], use_threads=False):
                totals = totals.plus(totals_of(batch, main))
    except (pa.ArrowException, OSError) as exc:
        raise StorageError(f"{path} cannot be read back: {exc}") from exc
    return totals


def readme(streams: Sequence[tuple[str, str]], fold: str, about: Sequence[str]) -> bytes:
    """README.md with the `configs` that Hugging Face's loader reads: a configuration for each stream.

    `streams` are (name, glob of its files); `about` are lines for people.
    """
    split = "train" if fold == "all" else fold
    lines: list[Any] = ["---", "configs:"]
    for name, files in streams:
        lines += [f'- config_name: "{name}"', "  data_files:", f"  - split: {split}", f'    path: "{files}"']
    return "\n".join([*lines, "---", "", *about, ""]).encode()

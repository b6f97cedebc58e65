"""Catalogue rows equal the shards' rows: the part of `verify` that reads the catalogue.

The shards' rows come in address order, and so stand the rows of every catalogue file; a running digest on either side
is compared in the end, and nothing is held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import StorageError
from headrace.shards.additions import Additions
from headrace.shards.catalogue import (
    SCHEMA,
    CatalogueFile,
    catalogue_files,
    catalogue_rows,
    read_catalogue,
    written_at,
)
from headrace.shards.dataset import Dataset, Located
from headrace.shards.plain_arrays import Flat, flatten

AddProblem = Callable[[str, str, str], None]  #: (file, place, message)


class CatalogueCheck:
    """Feed it every block of the dataset in address order with `add`, then `finish`."""

    def __init__(self, dataset: Dataset, add: AddProblem) -> None:
        self._dataset, self._add = dataset, add
        self._known = Additions(dataset.store, dataset.state)
        self._files: list[CatalogueFile] = []
        upto = 0
        for file in catalogue_files(dataset.store):
            if file.start > dataset.version:
                continue  # of later versions than the pinned one
            if file.start != upto + 1:
                add(file.name, "name", f"the file before ends with entry {upto}: update the catalogue again")
            self._files.append(file)
            upto = file.stop
        self._made = {file: _RowsDigest() for file in self._files}

    def add(self, found: Located) -> None:
        """The rows of one block."""
        if not self._files:
            return
        rows = catalogue_rows(found, self._dataset, self._known)
        for file in self._files:
            own = rows.filter((pc.field("version") >= file.start) & (pc.field("version") <= file.stop))
            if own.num_rows:
                self._made[file].add(own)

    def finish(self) -> int:
        """Compare, and give back how many rows the catalogue has."""
        total = 0
        for file in self._files:
            try:
                table = read_catalogue(self._dataset.store, file)
                total += table.num_rows
                if written_at(self._dataset.store, file) != self._dataset.version and self._is_of_other_version(file):
                    continue
                if table.schema.names != SCHEMA.names or table.schema.types != SCHEMA.types:
                    self._add(file.name, "schema", f"has the columns {table.schema.names}")
                    continue
                kept = _RowsDigest()
                for batch in table.to_batches():
                    kept.add(batch)
                if kept.finish() != self._made[file].finish():
                    self._add(file.name, "rows", "differ from the samples in the shards: update the catalogue again")
            except (ValueError, StorageError) as exc:
                self._add(file.name, "", str(exc))
        return total

    def _is_of_other_version(self, file: CatalogueFile) -> bool:
        """Whether it may rightly differ: the catalogue is of the head, and the pinned version is older.

        Or samples were encoded again since: the next writer's update follows.
        """
        written = written_at(self._dataset.store, file)
        again = max((a.last_v for a in self._dataset.state.engines.again.values()), default=0)
        return file.stop > self._dataset.version or written > self._dataset.version or written < again


class _RowsDigest:
    """A digest of rows in order, however they are batched."""

    _ROWS = 8192

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self._pending: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        self._rows += batch.num_rows
        while self._rows >= self._ROWS:
            self._flush(self._ROWS)

    def finish(self) -> str:
        if self._rows:
            self._flush(self._rows)
        return self._state.hexdigest()

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending)
        for column in table.slice(0, rows).columns:
            flat = Flat()
            flatten(pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0), flat)
            for buffer in flat.buffers:
                self._state.update(np.ascontiguousarray(buffer).reshape(-1).view(np.uint8).data)
        self._pending = table.slice(rows).to_batches()
        self._rows -= rows

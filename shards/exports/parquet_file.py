"""A Parquet file written group by group in bounded memory, with checksums on its pages."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headrace.shards.exports.outfile import OutFile

GROUP_BYTES = 16 << 20
_GROUP_ROWS = 65_536


class ParquetFile:
    """Appends batches to an `OutFile`. What it writes follows from the batches and their borders alone."""

    def __init__(self, out: OutFile, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, "store_schema": True}
        # A dictionary of token ids or payloads costs time and memory, and saves nothing.
        options["use_dictionary"] = [field.name for field in schema if pa.types.is_string(field.type)]
        self._out = out
        self._writer = pq.ParquetWriter(pa.PythonFile(out, mode="w"), schema, **options)
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = self._pending_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append a batch. Raises: StorageError."""
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        self._pending_rows += batch.num_rows
        if self._pending_bytes >= GROUP_BYTES or self._pending_rows >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the footer; the file itself stays open."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending))
            self._pending, self._pending_bytes, self._pending_rows = [], 0, 0

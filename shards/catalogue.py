"""The catalogue: one Parquet row per sample, for DuckDB, Polars, mixing by SQL and lineage joins.

`catalogue/<from>-<to>.parquet` holds the samples that the entries `from` to `to` added, in address order; the ranges of
the files are disjoint and leave no entry out. It is derived from committed shards: lost or broken, it is made again.
Deleted samples are not in it: a file is rewritten after a deletion that concerns it.

Only the writer of a dataset updates its catalogue (with each checkpoint and at the end of a build).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import StorageError
from headrace.shards.additions import Additions
from headrace.shards.dataset import Dataset, Located
from headrace.shards.plain_arrays import row_sizes
from headrace.shards.sealing import ROOM, check_sealed, seal_bytes
from headrace.shards.spans import inside
from headrace.shards.store import Store
from headrace.shards.wkb import bounds

TIME = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.binary(16)),
        pa.field("stream", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("lane", pa.int32()),
        pa.field("seq", pa.int64()),
        pa.field("version", pa.int64()),  # the log entry that added it
        pa.field("length", pa.int64()),  # tokens; null for raw streams
        pa.field("bytes", pa.int64()),  # of the sample in its shard
        pa.field("source", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("split", pa.string()),
        pa.field("position", pa.string()),
        pa.field("locator", pa.string()),
        pa.field("content_sha256", pa.binary(32)),
        pa.field("parent_id", pa.binary(16)),
        pa.field("group_id", pa.string()),
        pa.field("fold", pa.string()),
        pa.field("license", pa.string()),
        pa.field("attribution", pa.string()),
        pa.field("event_time", TIME),
        pa.field("event_end", TIME),
        pa.field("place_id", pa.string()),
        pa.field("west", pa.float64()),  # of the geometry, OGC:CRS84
        pa.field("south", pa.float64()),
        pa.field("east", pa.float64()),
        pa.field("north", pa.float64()),
        pa.field("error", pa.float32()),
        pa.field("clip_fraction", pa.float32()),
        pa.field("valid_fraction", pa.float32()),
        pa.field("flags", pa.list_(pa.string())),
    ]
)
_MADE = {"stream", "modality", "lane", "seq", "version", "length", "bytes", "west", "south", "east", "north"}

#: A file is cut at the first entry border after this many rows.
FILE_ROWS = 1_000_000
_GROUP_ROWS = 65_536

_NAME = re.compile(r"catalogue/(\d{20})-(\d{20})\.parquet")


@dataclass(frozen=True, order=True)
class CatalogueFile:
    """A catalogue file: entries `start` to `stop`, both included."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"catalogue/{self.start:020d}-{self.stop:020d}.parquet"


def catalogue_files(store: Store) -> list[CatalogueFile]:
    """The files there are, in order. Raises: StorageError."""
    matches = (_NAME.fullmatch(name) for name in store.list("catalogue/"))
    return sorted(CatalogueFile(int(m.group(1)), int(m.group(2))) for m in matches if m)


def update_catalogue(dataset: Dataset, *, check: bool = False) -> list[CatalogueFile]:
    """Bring the catalogue up to the dataset's version; gives back the files that were written.

    Files that overlap, or hold samples deleted since, are written again; with `check` every byte of the others is
    checked and broken ones are written again too. Raises: StorageError, ShardError.
    """
    store, state = dataset.store, dataset.state
    written, upto = [], 0
    redo: list[CatalogueFile] = []
    for file in catalogue_files(store):
        if file.start != upto + 1 or file.stop < file.start or file.stop > state.v:
            store.delete(file.name)  # overlaps another, leaves a hole, or is of a version that is not there
            continue
        if not _is_current(dataset, file, check):
            redo.append(file)
        upto = file.stop
    for file in redo:
        store.delete(file.name)
        _write(dataset, file)
        written.append(file)
    for file in _due(dataset, upto + 1):
        _write(dataset, file)
        written.append(file)
    return written


def read_catalogue(store: Store, file: CatalogueFile, columns: list[str] | None = None) -> pa.Table:
    """A catalogue file, its digest checked. Raises: ValueError if a bit was changed; StorageError."""
    import pyarrow.parquet as pq

    data = store.get(file.name)
    check_sealed(data)
    try:
        return pq.read_table(
            pa.BufferReader(data), columns=columns, page_checksum_verification=True, use_threads=False, pre_buffer=False
        )
    except (pa.ArrowException, OSError) as exc:
        raise ValueError(f"not a Parquet file: {exc}") from exc


def catalogue_rows(found: Located, dataset: Dataset, known: Additions) -> pa.RecordBatch:
    """The catalogue rows of one block, deleted samples left out. `known` is of this dataset. Raises: BrokenLog."""
    batch, shard = found.batch, found.shard
    rows = batch.num_rows
    key = (shard.stream, shard.lane)
    origins = known.of_lane(key, int(found.seqs[0]), int(found.seqs[-1]) + 1)
    starts = np.array([first for first, _ in origins])
    versions = np.array([v for _, v in origins])[np.searchsorted(starts, found.seqs, side="right") - 1]
    sizes = np.zeros(rows, np.int64)
    for column in batch.columns:
        sizes += row_sizes(column)
    if "tokens" in batch.schema.names:
        length = batch.column("tokens").value_lengths().cast(pa.int64())
    else:
        length = pa.nulls(rows, pa.int64())
    made: dict[str, pa.Array] = {
        "stream": _repeat(shard.stream, rows),
        "modality": _repeat(dataset.state.settings[shard.stream].modality, rows),
        "lane": _numbers(np.full(rows, shard.lane, np.int32)),
        "seq": _numbers(found.seqs),
        "version": _numbers(versions.astype(np.int64)),
        "length": length,
        "bytes": _numbers(sizes),
    }
    made.update(_boxes(batch))
    columns = [made[f.name] if f.name in _MADE else batch.column(f.name).cast(f.type) for f in SCHEMA]
    table = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    gone = inside(found.seqs, dataset.state.deleted.get(key, []))
    return table.filter(pa.array((~gone).tolist(), type=pa.bool_())) if gone.any() else table


def rows_of(dataset: Dataset, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Catalogue rows of the entries `start` to `stop`, both included, in address order."""
    known = Additions(dataset.store, dataset.state)
    for stream, lane in sorted(dataset.state.origins):
        first = known.added_after((stream, lane), start - 1)
        last = known.added_after((stream, lane), stop)
        if first == last:
            continue
        for found in dataset.located(stream, lane=lane, start=first, stop=last):
            rows = catalogue_rows(found, dataset, known)
            if found.seqs[0] < first or found.seqs[-1] >= last:
                rows = rows.filter((pc.field("version") >= start) & (pc.field("version") <= stop))
            if rows.num_rows:
                yield rows


def _due(dataset: Dataset, start: int) -> Iterator[CatalogueFile]:
    """The files that would cover the entries from `start` on, cut by rows: roughly so where shards were merged."""
    added: dict[int, int] = {}
    for key, origins in dataset.state.origins.items():
        ends = [first for first, _ in origins[1:]] + [dataset.state.next_seq[key]]
        for (first, v), end in zip(origins, ends):
            if v >= start:
                added[v] = added.get(v, 0) + end - first
    rows = 0
    for v in sorted(added):
        rows += added[v]
        if rows >= FILE_ROWS:
            yield CatalogueFile(start, v)
            start, rows = v + 1, 0
    if rows:
        yield CatalogueFile(start, dataset.state.v)


def _is_current(dataset: Dataset, file: CatalogueFile, check: bool) -> bool:
    known = Additions(dataset.store, dataset.state)
    changed = [v for key, v in dataset.state.changed.items() if known.may_hold(key, file.start, file.stop)]
    try:
        if check:
            check_sealed(dataset.store.get(file.name))
        return written_at(dataset.store, file) >= max(changed, default=0)
    except ValueError:
        return False  # broken: it is written again


def written_at(store: Store, file: CatalogueFile) -> int:
    """The version of the dataset that a file was written at: later deletions are not in it.

    Reads the footer only. Raises: ValueError if there is none; StorageError.
    """
    import pyarrow.parquet as pq

    size = store.size(file.name)
    if size < 12:
        raise ValueError(f"{file.name} has {size} bytes: not a Parquet file")
    length = int.from_bytes(store.get_range(file.name, size - 8, 4), "little")  # Parquet: footer, its length, PAR1
    footer = store.get_range(file.name, max(size - 8 - length, 0), min(length + 8, size))
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer)).metadata or {}
        return int(metadata[b"headrace.asof"])
    except (KeyError, OSError, pa.ArrowException) as exc:
        raise ValueError(f"{file.name}: not a catalogue file: {exc}") from exc


def _write(dataset: Dataset, file: CatalogueFile) -> None:
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, "store_schema": True}
    with pq.ParquetWriter(sink, SCHEMA, **options) as writer:
        pending: list[pa.RecordBatch] = []
        for rows in rows_of(dataset, file.start, file.stop):
            pending.append(rows)
            if sum(p.num_rows for p in pending) >= _GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(pending))
                pending = []
        if pending:
            writer.write_table(pa.Table.from_batches(pending))
        writer.add_key_value_metadata(
            {"headrace.seal": ROOM, "headrace.asof": str(dataset.version), "headrace.dataset": dataset.state.digest}
        )
    if not dataset.store.put_new(file.name, seal_bytes(sink.getvalue().to_pybytes())):
        raise StorageError(f"{file.name} appeared meanwhile: another process updates this catalogue")


def _boxes(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    names = ("west", "south", "east", "north")
    if batch.column("geometry").null_count == batch.num_rows:
        return {name: pa.nulls(batch.num_rows, pa.float64()) for name in names}
    boxes = [None if g is None else _box(g) for g in batch.column("geometry").to_pylist()]
    return {name: pa.array([None if b is None else b[i] for b in boxes], pa.float64()) for i, name in enumerate(names)}


def _box(geometry: bytes) -> tuple[float, float, float, float] | None:
    try:
        return bounds(geometry)
    except ValueError:
        return None  # the shard has the bytes as they came; a box that is not there misleads nobody


def _repeat(value: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), rows)


def _numbers(values: Any) -> pa.Array:
    kind = pa.int32() if values.dtype == np.int32 else pa.int64()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])

"""Parquet as chunks: row group by row group, a batch at a time, with what a file asks for checked before it gets it.

Text columns stay dictionaries while they are read, so a megabyte that every row refers to is held once. Checksums of
pages are verified where the file has them. In a row group that cannot be read to its end the columns are read one by
one: what decodes before the damage is kept, the rest is quarantined by column and range, and the next row group goes
on.

A file is refused before its pages are read where a row group declares more than `max_ratio` times the file's size, and
while they are read where they grow beyond that (both only above 256 MiB, so that well compressed tables pass).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers import sensor_wkb
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.sensor_columns import check_names, distinct, storage, value_type
from headrace.ingest.normalizers.sensor_table import Chunk
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

FLOOR = 256 << 20  #: decoded bytes that no ratio forbids
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1 << 16
SALVAGE_ROWS = 1024
MAX_SALVAGE = 256 << 20  #: declared bytes of a damaged row group that is still read column by column


_CUT = ("too short", "unexpected end", "file size is", "only read", "read out of bounds", "truncated")


@contextmanager
def arrow_errors(what: str) -> Iterator[None]:
    """Turns what Arrow raises into RecordError."""
    try:
        yield
    except RecordError:
        raise
    except pa.ArrowNotImplementedError as exc:
        raise RecordError(_form(what), f"{what}: {_short(exc)}") from exc
    except (MemoryError, pa.ArrowCapacityError) as exc:
        raise RecordError("too_large", f"{what} asks for more memory than there is: {_short(exc)}") from exc
    except UnicodeDecodeError as exc:
        raise RecordError(
            "bad_encoding", f"{what}: a name in its schema is not UTF-8 (byte {exc.start}: {exc.reason})"
        ) from exc
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        IndexError,
        KeyError,
        TypeError,
        struct.error,
    ) as exc:
        raise RecordError(_reason(str(exc), what), f"{what}: {_short(exc)}") from exc


def _form(what: str) -> str:
    return "unsupported:parquet" if "Parquet" in what else "unsupported:arrow"


def _reason(message: str, what: str) -> str:
    """What a message of Arrow's means: its classes do not tell damage from what is not built in."""
    lowered = message.lower()
    if "checksum" in lowered or "crc" in lowered:
        return "checksum"
    if "codec value" in lowered or "future metadataversion" in lowered:
        return "corrupt"
    if any(word in lowered for word in ("unsupported", "not supported", "not implemented", "not yet implemented")):
        return _form(what)
    if any(word in lowered for word in _CUT):
        return "truncated"
    return "corrupt"


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]


class ParquetTable:
    """The chunks of one Parquet file. `bad`: what its chunks could not give, filled as they are read."""

    def __init__(self, blob: Blob, limits: Limits) -> None:
        import pyarrow.parquet as pq

        self._size = blob.size
        self.max_text = max(FLOOR, limits.max_ratio * blob.size)
        self._limits = limits
        self._stream = None if blob.local_path() else blob.open()
        self.bad: list[Bad] = []
        self._points: dict[str, int | None] = {}
        try:
            with arrow_errors("the Parquet file"):
                source: Any = blob.local_path() or pa.PythonFile(self._stream, mode="r")
                options: dict[str, Any] = {
                    "page_checksum_verification": True,
                    "pre_buffer": False,
                    "buffer_size": 1 << 20,
                    "thrift_string_size_limit": 64 << 20,
                    "thrift_container_size_limit": 1 << 20,
                }
                footer = pq.ParquetFile(source, **options)
                self._check_declared(footer.metadata)
                check_names(footer.schema_arrow)
                old = any(footer.schema.column(i).physical_type == "INT96" for i in range(len(footer.schema)))
                self._geo, degrees = _geometries(footer)
                self._file = pq.ParquetFile(
                    source,
                    **options,
                    read_dictionary=[name for name in _dictionaries(footer) if name not in self._geo],
                    coerce_int96_timestamp_unit="us" if old else None,
                )
                self.schema = self._file.schema_arrow
                self._sparse = _expanding(footer.metadata)
        except RecordError:
            self.close()
            raise
        self._names = distinct(self.schema.names)
        self.flags: tuple[str, ...] = ("int96_microseconds",) if old else ()
        self.units = {f"{name}.{axis}": "deg" for name in degrees for axis in "xy"}
        self.position = (f"{degrees[0]}.y", f"{degrees[0]}.x") if degrees else None

    def close(self) -> None:
        """Close the stream of a blob that is no local file."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> ParquetTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_declared(self, metadata: Any) -> None:
        allowed = max(FLOOR, self._limits.max_ratio * self._size)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            declared = max(
                group.total_byte_size,
                sum(max(0, group.column(i).total_uncompressed_size) for i in range(group.num_columns)),
            )
            if group.num_rows < 0 or declared < 0:
                raise RecordError("corrupt", f"row group {index} declares {group.num_rows} rows and {declared} bytes")
            if declared > allowed:
                raise RecordError(
                    "bomb",
                    f"row group {index} declares {declared} bytes in a file of {self._size}, more than {allowed}",
                )

    def chunks(self) -> Iterator[Chunk]:
        """All rows. Raises: RecordError where nothing of the rest can be read."""
        row = 0
        decoded = 0
        allowed = max(FLOOR, self._limits.max_ratio * self._size)
        for index in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(index)
            size = max(1, group.total_byte_size) // max(1, group.num_rows)
            batch_rows = SALVAGE_ROWS if self._sparse else min(BATCH_ROWS, max(256, BATCH_BYTES // max(1, size)))
            done = 0
            try:
                with arrow_errors(f"row group {index} of the Parquet file"):
                    for batch in self._file.iter_batches(batch_rows, row_groups=[index], use_threads=False):
                        batch.validate(full=True)
                        decoded += batch.nbytes
                        if decoded > allowed:
                            raise RecordError(
                                "bomb",
                                f"{decoded} bytes came out of a file of {self._size}; at most {allowed} are read",
                            )
                        yield self._chunk(batch, row + done)
                        done += batch.num_rows
                if done < group.num_rows:
                    raise RecordError("truncated", f"row group {index} has {done} of {group.num_rows} rows")
            except RecordError as exc:
                if exc.reason in ("bomb", "too_large"):
                    raise
                yield from self._salvaged(index, row, done, exc)
            row += max(done, group.num_rows)

    def _chunk(self, batch: pa.RecordBatch, row: int, damaged: Mapping[str, int] | None = None) -> Chunk:
        arrays, fields = [], []
        for field, array, unique in zip(batch.schema, batch.columns, self._names):
            field = field.with_name(unique)
            if field.name in self._geo and pa.types.is_binary(value_type(field.type)):
                for name, column in self._geometry(field.name, storage(array)):
                    arrays.append(column)
                    fields.append(pa.field(name, column.type))
            else:
                arrays.append(array)
                fields.append(field)
        rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
        whole = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        return Chunk(whole, rows, raw=lambda i: ({"row": row + i}, None), damaged=damaged or {})

    def _geometry(self, name: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
        """A column of points as numbers (`name.x`, `name.y` …), any other as WKT; decided by the first chunk."""
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        points = sensor_wkb.points(array) if self._points.get(name, 1) is not None else None
        if name not in self._points:
            self._points[name] = len(points) if points is not None else None
        count = self._points[name]
        if count is None:
            texts = [None if v is None else sensor_wkb.to_wkt(v) for v in array.to_pylist()]
            yield name, pa.array(texts, pa.string())
            return
        if points is None or len(points) != count:
            if array.null_count < len(array):
                raise RecordError("wrong_type", f"column {name!r} held points only, now it holds other geometries")
            points = [np.full(len(array), np.nan)] * count
        for axis, values in zip("xyzm", points):
            yield (
                f"{name}.{axis}",
                pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]),
            )

    def _salvaged(self, index: int, row: int, done: int, cause: RecordError) -> Iterator[Chunk]:
        """What can be read of a damaged row group after its first `done` rows, column by column."""
        group = self._file.metadata.row_group(index)
        rows = group.num_rows
        if (
            group.total_byte_size > MAX_SALVAGE
            or rows <= done
            or rows > MAX_SALVAGE // 64
            or self._names != self.schema.names
        ):
            self._lost(cause, {"row": row + done, "rows": max(1, rows - done)})
            return
        columns: dict[str, pa.Array] = {}
        failures: dict[str, RecordError] = {}
        for name in self.schema.names:
            columns[name], failure = self._column(index, name, rows)
            if failure is not None:
                failures[name] = failure
        longest = max((len(a) for a in columns.values()), default=0)
        if longest <= done:
            self._lost(cause, {"row": row + done, "rows": rows - done})
            return
        for name, failure in failures.items():
            good = max(done, len(columns[name]))
            if good < rows:
                self._lost(failure, {"column": name, "row": row + good, "rows": rows - good})
        damaged = {name: len(a) - done for name, a in columns.items() if len(a) < longest}
        arrays = [
            pa.concat_arrays([a, pa.nulls(longest - len(a), a.type)]) if len(a) < longest else a
            for a in columns.values()
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema([f.with_nullable(True) for f in self.schema]))
        for start in range(done, longest, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            yield self._chunk(
                part, row + start, {name: max(0, good - (start - done)) for name, good in damaged.items()}
            )

    def _column(self, index: int, name: str, rows: int) -> tuple[pa.Array, RecordError | None]:
        """(the rows of a column before its damage, the damage)."""
        parts: list[pa.Array] = []
        kind = self.schema.field(name).type
        failure: RecordError | None = None
        try:
            with arrow_errors(f"column {name!r} of row group {index} of the Parquet file"):
                for batch in self._file.iter_batches(
                    SALVAGE_ROWS, row_groups=[index], columns=[name], use_threads=False
                ):
                    batch.validate(full=True)
                    parts.append(batch.column(0))
        except RecordError as exc:
            failure = exc
        array = pa.concat_arrays(parts) if parts else pa.array([], kind)
        if failure is None and len(array) < rows:
            failure = RecordError("truncated", f"column {name!r} of row group {index} has {len(array)} of {rows} rows")
        return array, failure

    def _lost(self, cause: RecordError, place: Mapping[str, Any]) -> None:
        self.bad.append(Bad(cause.reason, cause.message, canonical_json(dict(place)).decode()))


def _dictionaries(file: Any) -> list[str]:
    """Top-level text columns whose pages are all plain or dictionary pages: only these can stay dictionaries."""
    fits = {"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"}
    texts = {f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_binary(f.type)}
    for index in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(index)
        for i in range(group.num_columns):
            column = group.column(i)
            if not set(column.encodings) <= fits:
                texts.discard(column.path_in_schema)
    return sorted(texts)


def _expanding(metadata: Any) -> bool:
    """Whether a column's encoding lets a few bytes stand for a long value in every row: prefixes of the one before."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return any("DELTA_BYTE_ARRAY" in g.column(i).encodings for g in groups for i in range(g.num_columns))


def _geometries(file: Any) -> tuple[list[str], list[str]]:
    """(columns of WKB, those of them in longitude and latitude), by Parquet's own types, geoarrow, and GeoParquet."""
    from headrace.ingest.normalizers import strict_json

    found: dict[str, bool] = {}
    for i in range(len(file.schema)):
        column = file.schema.column(i)
        logical = str(column.logical_type)
        if logical.startswith(("Geometry", "Geography")):
            found[column.path] = "crs=)" in logical or "crs=," in logical or "OGC:CRS84" in logical
    for field in file.schema_arrow:
        if (field.metadata or {}).get(b"ARROW:extension:name") == b"geoarrow.wkb":
            found.setdefault(field.name, False)
    try:
        columns = strict_json.loads((file.metadata.metadata or {})[b"geo"])["columns"]
        for name, column in columns.items():
            if name in file.schema_arrow.names and column.get("encoding") == "WKB":
                found[name] = "crs" not in column  # GeoParquet 1.1: no crs means OGC:CRS84
    except (RecordError, KeyError, TypeError, AttributeError):
        pass  # no note, or a broken one: the columns stay bytes
    names = [name for name in found if name in file.schema_arrow.names]
    return names, [name for name in names if found[name]]

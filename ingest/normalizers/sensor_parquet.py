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

        self._size = blob.size
        self.max_text = max(FLOOR, limits.max_ratio * blob.size)
        self._limits = limits
        self._stream = None if blob.local_path() else blob.open()
        self._source: Any = blob.local_path() or pa.PythonFile(self._stream, mode="r")
        self.bad: list[Bad] = []
        self._points: dict[str, int | None] = {}
        try:
            with arrow_errors("the Parquet file"):
                footer = self._open()
                self._check_declared(footer.metadata)
                check_names(footer.schema_arrow)
                columns = [footer.schema.column(i) for i in range(len(footer.schema))]
                self._old = any(column.physical_type == "INT96" for column in columns)
                self._geo, degrees = _geometries(footer)
                texts = [f.name for f in footer.schema_arrow if _is_text(f.type) and f.name not in self._geo]
                self._file = self._open(read_dictionary=texts)
                self.schema = self._file.schema_arrow
        except RecordError:
            self.close()
            raise
        self._coded = bool(texts)  #: text columns are read as dictionaries
        self._names = distinct(self.schema.names)
        self.flags: tuple[str, ...] = ("int96_microseconds",) if self._old else ()
        self.units = {f"{name}.{axis}": "deg" for name in degrees for axis in "xy"}
        self.position = (f"{degrees[0]}.y", f"{degrees[0]}.x") if degrees else None

    def _open(self, **options: Any) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(
            self._source,
            page_checksum_verification=True,
            pre_buffer=False,
            buffer_size=1 << 20,
            thrift_string_size_limit=64 << 20,
            thrift_container_size_limit=1 << 20,
            coerce_int96_timestamp_unit="us",
            **options,
        )

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
        # Nothing below a row group is looked at: pyarrow ends the process where the metadata of a column are broken.
        allowed = max(FLOOR, self._limits.max_ratio * self._size)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            declared = group.total_byte_size
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
        self._decoded = 0
        for index in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(index).num_rows
            done = 0
            while True:
                try:
                    for chunk in self._group(index, row):
                        yield chunk
                        done += len(chunk.rows)
                    if done < rows:
                        raise RecordError("truncated", f"row group {index} has {done} of {rows} rows")
                except RecordError as exc:
                    if exc.reason.startswith("unsupported") and self._coded and done == 0:
                        # The DELTA encodings of text cannot be read as dictionaries. Their prefixes let few bytes stand
                        # for a long value in every row, so such a file is read in small batches.
                        self._coded = False
                        self._file = self._open()
                        continue
                    if exc.reason in ("bomb", "too_large"):
                        raise
                    yield from self._salvaged(index, row, done, exc)
                break
            row += max(done, rows)

    def _group(self, index: int, row: int) -> Iterator[Chunk]:
        group = self._file.metadata.row_group(index)
        size = max(1, group.total_byte_size) // max(1, group.num_rows)
        batch_rows = min(BATCH_ROWS, max(256, BATCH_BYTES // max(1, size)))
        if not self._coded and any(_is_text(field.type) for field in self.schema):
            batch_rows = min(batch_rows, SALVAGE_ROWS)
        allowed = max(FLOOR, self._limits.max_ratio * self._size)
        with arrow_errors(f"row group {index} of the Parquet file"):
            for batch in self._file.iter_batches(batch_rows, row_groups=[index], use_threads=False):
                batch.validate(full=True)
                self._decoded += batch.nbytes
                if self._decoded > allowed:
                    message = f"{self._decoded} bytes came out of a file of {self._size}; at most {allowed} are read"
                    raise RecordError("bomb", message)
                yield self._chunk(batch, row)
                row += batch.num_rows

    def _chunk(self, batch: pa.RecordBatch, row: int, damaged: Mapping[str, int] | None = None) -> Chunk:
        arrays, fields = [], []
        for field, array, unique in zip(batch.schema, batch.columns, self._names):
            field = field.with_name(unique)
            if field.name in self._geo and pa.types.is_binary(value_type(field.type)):
                for name, column in self._geometry(field.name, storage(array), row):
                    arrays.append(column)
                    fields.append(pa.field(name, column.type))
            else:
                arrays.append(array)
                fields.append(field)
        rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
        whole = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        return Chunk(whole, rows, raw=lambda i: ({"row": row + i}, None), damaged=damaged or {})

    def _geometry(self, name: str, array: pa.Array, row: int) -> Iterator[tuple[str, pa.Array]]:
        """A column of points as numbers (`name.x`, `name.y` …), any other as WKT; decided by the first chunk.

        A value that does not fit is null and in quarantine; the others of its row stay.
        """
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        points = sensor_wkb.points(array) if self._points.get(name, 1) is not None else None
        if name not in self._points:
            self._points[name] = len(points) if points is not None else None
        count = self._points[name]
        if count is None:
            yield name, pa.array([self._wkt(name, v, row + i) for i, v in enumerate(array.to_pylist())], pa.string())
            return
        if points is None or len(points) != count:
            points = [np.full(len(array), np.nan) for _ in range(count)]
            for i in range(len(array)):
                alone = sensor_wkb.points(array.slice(i, 1))
                if alone is not None and len(alone) == count:
                    for axis, values in zip(points, alone):
                        axis[i] = values[0]
                elif array[i].is_valid:
                    self._misfit(name, row + i, "wrong_type", "it is no point as the others in its column are")
        for letter, values in zip("xyzm", points):
            data = pa.py_buffer(np.ascontiguousarray(values))
            yield f"{name}.{letter}", pa.Array.from_buffers(pa.float64(), len(values), [None, data])

    def _wkt(self, name: str, value: bytes | None, row: int) -> str | None:
        if value is None:
            return None
        try:
            return sensor_wkb.to_wkt(value)
        except RecordError as exc:
            self._misfit(name, row, exc.reason, exc.message)
            return None

    def _misfit(self, name: str, row: int, reason: str, why: str) -> None:
        locator = canonical_json({"column": name, "row": row}).decode()
        self.bad.append(Bad(reason, f"{name} of row {row}: {why}", locator))

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
        try:
            with arrow_errors(f"column {name!r} of row group {index} of the Parquet file"):
                array = pa.concat_arrays(parts) if parts else pa.array([], kind)
        except RecordError as exc:
            return parts[0], exc
        if failure is None and len(array) < rows:
            failure = RecordError("truncated", f"column {name!r} of row group {index} has {len(array)} of {rows} rows")
        return array, failure

    def _lost(self, cause: RecordError, place: Mapping[str, Any]) -> None:
        self.bad.append(Bad(cause.reason, cause.message, canonical_json(dict(place)).decode()))


def _is_text(kind: pa.DataType) -> bool:
    inner = value_type(kind)
    return bool(pa.types.is_string(inner) or pa.types.is_binary(inner))


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

"""Text out of tables: CSV and TSV, Parquet, Arrow files and streams, and record batches from a connector.

With a text column (named, or one of `text`, `content`, `body`) every row is a record and the other cells go to `extra`.
A CSV file without one is a document as it stands: cells without their header would say less.
A row that does not parse, or has too many or too few cells, costs one row.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.text_batch import Document
from headrace.ingest.normalizers.text_fields import AUTO_FIELDS, FieldPicker
from headrace.schemas.errors import RecordError

_DELIMITERS = ",;\t|"
_MAX_RESTARTS = 64  # an unclosed quote makes the parser read to the end, so starting again is bounded
_MAX_CELL = (1 << 31) - 1


def text_column(header: list[str], field: str | None) -> str | None:
    """The column that holds the text; None: the file is one document. Raises: RecordError `missing_field`."""
    if field is None:
        return next((name for name in AUTO_FIELDS if name in header), None)
    if field not in header:
        raise RecordError("missing_field", f"no column `{field}`; there are {', '.join(f'`{n}`' for n in header[:16])}")
    return field


def delimiter_of(text: str, name: str) -> str:
    """The delimiter of a table: the candidate that splits the first rows into the most columns, all rows alike."""
    if name == "tsv":
        return "\t"
    sample = text[: 1 << 16]
    best, columns = ",", 1
    for candidate in _DELIMITERS:
        try:
            reader = csv.reader(io.StringIO(sample, newline=""), delimiter=candidate)
            widths = [len(row) for _, row in zip(range(21), reader) if row]
        except csv.Error:
            continue
        if len(sample) < len(text) and len(widths) < 21:
            widths = widths[:-1]  # the sample may end inside a row
        if widths and len(set(widths)) == 1 and widths[0] > columns:
            best, columns = candidate, widths[0]
    return best


def header_of(text: str, delimiter: str, columns: tuple[str, ...] | None) -> list[str]:
    """The column names: those given, else the first row. Raises: RecordError `invalid_row`."""
    if columns is not None:
        return list(columns)
    try:
        header = next(csv.reader(io.StringIO(text[: 1 << 20], newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as exc:
        raise RecordError("invalid_row", f"the header does not parse: {exc}") from exc
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise RecordError("invalid_row", f"two columns are named {sorted(twice)[0]!r}; name them with `columns`")
    return header


def from_csv(
    text: str, delimiter: str, header: list[str], has_header: bool, picker: FieldPicker
) -> Iterator[Document | Bad]:
    """One record per row. The locator counts rows from 0, without the header."""
    for number, (row, raw, problem) in enumerate(_rows(text, delimiter), -1 if has_header else 0):
        if number < 0:
            continue
        locator = f'{{"row":{number}}}'
        try:
            if problem is not None:
                raise RecordError("invalid_row", problem)
            if len(row) != len(header):
                raise RecordError("invalid_row", f"{len(row)} cells, the header has {len(header)}")
            found, columns = picker.from_row(dict(zip(header, row)))
        except RecordError as exc:
            yield Bad(exc.reason, f"row {number}: {exc.message}", locator, raw.encode())
            continue
        yield locator, found, columns


def _rows(text: str, delimiter: str) -> Iterator[tuple[list[str], str, str | None]]:
    """(cells, source, problem) of every row that is not blank; quoted cells may hold line ends.

    Where the quoting breaks, the row's first line alone is taken for broken and reading goes on behind it.
    """
    csv.field_size_limit(_MAX_CELL)
    lines = list(io.StringIO(text, newline=""))
    at = 0
    restarts = 0
    while at < len(lines):
        reader = csv.reader(itertools.islice(lines, at, None), delimiter=delimiter, strict=True)
        first = start = at
        try:
            for row in reader:
                end = first + reader.line_num
                if row:
                    yield row, "".join(lines[start:end]), None
                start = end
            return
        except csv.Error as exc:
            restarts += 1
            stop = len(lines) if restarts > _MAX_RESTARTS else start + 1
            what = str(exc) if stop == start + 1 else f"{exc}; after {_MAX_RESTARTS} such rows the rest is refused"
            yield [], "".join(lines[start:stop]), what
            at = stop


def from_table(table: pa.RecordBatch, first_row: int, picker: FieldPicker) -> Iterator[Document | Bad]:
    """One record per row of a record batch; `first_row` is the row's number in its object."""
    for number, row in enumerate(table.to_pylist(), first_row):
        locator = f'{{"row":{number}}}'
        try:
            found, columns = picker.from_row(row)
        except RecordError as exc:
            yield Bad(exc.reason, f"row {number}: {exc.message}", locator, None)
            continue
        yield locator, found, columns


def from_columnar(
    blob: Blob, name: str, field: str | None, picker: FieldPicker, limits: Limits
) -> Iterator[Document | Bad]:
    """One record per row of a Parquet file, or an Arrow file or stream. Raises: RecordError."""
    from headrace.ingest.normalizers.sensor_ipc import IpcTable  # these bring pyarrow.compute and .parquet
    from headrace.ingest.normalizers.sensor_parquet import ParquetTable

    table: Any = ParquetTable(blob, limits) if name == "parquet" else IpcTable(blob, limits, file=name == "arrow_file")
    with table:
        if field is None and text_column(table.schema.names, None) is None:
            names = ", ".join(f"`{each}`" for each in table.schema.names[:16])
            raise RecordError("missing_field", f"no column {', '.join(AUTO_FIELDS)}; name one of {names} as `field`")
        told = 0
        for chunk in table.chunks():
            whole = min(chunk.damaged.values(), default=len(chunk.rows))  # what is behind it is told by the table
            yield from from_table(chunk.batch.slice(0, whole), int(chunk.rows[0]) if len(chunk.rows) else 0, picker)
            for bad in getattr(table, "bad", [])[told:]:
                told += 1
                yield bad

"""JSON readings: lines, and documents that hold tables.

A line is an object, an array (its items are named c0, c1 …) or a single value. A bad line costs one line. A document is
an array of rows; or an object in which, at most three levels deep, lists of rows or columns of one length are found:

    {"station": "x", "hourly": {"time": […], "t": […]}, "hourly_units": {"t": "°C"}}     columns, with units beside them
    {"meta": {…}, "data": [{"t": 1, "v": 2}, …]}                                          rows

Each table is read by itself; what is in none of them becomes one record of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers import strict_json
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_objects import jsonable
from headrace.ingest.normalizers.sensor_records import Row, RowTable
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.ingest.normalizers.sensor_units import to_ucum
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Events = Iterator[Draft | Bad]

MAX_LINE = 64 << 20
MAX_DOCUMENT = 128 << 20  #: bytes; a document must be parsed whole
_DEPTH = 3


def lines_of(blob: Blob) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line. Raises: RecordError `too_large`."""
    at = 0
    with blob.open() as stream:
        while line := stream.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise RecordError("too_large", f"the line at byte {at} is longer than {MAX_LINE} bytes")
            yield at, line.removeprefix(b"\xef\xbb\xbf") if at == 0 else line
            at += len(line)


def lines_in(batch: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    """The same from a connector's batch of the columns `line` and `byte`."""
    for line, at in zip(batch.column("line"), batch.column("byte").to_pylist()):
        raw = line.as_py()
        yield at, raw.encode() if isinstance(raw, str) else raw or b""


def json_lines(lines: Iterator[tuple[int, bytes]], config: SensorConfig) -> Events:
    """The records of JSON Lines."""
    table = RowTable(config, row_key="byte")
    ordinal = 0
    try:
        for at, line in lines:
            if not line.strip():
                continue
            try:
                value = strict_json.loads(line)
            except RecordError as exc:
                cut = (
                    not line.endswith(b"\n") and exc.reason == "invalid_json" and line.lstrip().startswith((b"{", b"["))
                )
                reason = "truncated" if cut else exc.reason
                table.add_bad(
                    BadRow(ordinal, reason, f"the line at byte {at}: {exc.message}", {"byte": at}, line[:MAX_RAW])
                )
            else:
                yield from table.add(Row(at, _object(value), {"byte": at}, line[:MAX_RAW], ordinal=ordinal))
            ordinal += 1
    except RecordError:
        yield from table.finish(("truncated",))
        raise
    yield from table.finish()


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        return {f"c{i}": item for i, item in enumerate(value)}
    return {"value": value}


@dataclass(frozen=True)
class _Table:
    path: str
    rows: Iterator[Mapping[str, Any]]
    units: Mapping[str, str]


def json_document(blob: Blob, config: SensorConfig, limits: Limits) -> Events:
    """The records of one JSON document."""
    if blob.size > min(MAX_DOCUMENT, limits.max_bytes):
        raise RecordError(
            "too_large", f"a JSON document of {blob.size} bytes must be parsed whole; at most {MAX_DOCUMENT} are read"
        )
    data = blob.read().removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise RecordError("empty", "a JSON document of blanks")
    if data.lstrip()[:1] == b"[":
        yield from _elements(data, config)
        return
    tables: list[_Table] = []
    rest = _without_tables(strict_json.loads(data), "", tables, 0)
    if not tables:
        yield from _rows(_Table("", iter([_object(rest)]), {}), config)
        return
    for table in tables:
        yield from _rows(table, config)
    if rest and config.keeps_text:
        text = canonical_json(jsonable(rest)).decode()
        yield Draft("text", {"locator": canonical_json({"document": True}).decode(), "text": f"{text}\n"}, 0)


def _elements(data: bytes, config: SensorConfig) -> Events:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError("bad_encoding", f"byte {exc.start} of the JSON text is not UTF-8") from exc
    strict_json.refuse_depth(data)
    table = RowTable(config, row_key="item")
    try:
        for ordinal, (start, end) in enumerate(strict_json.elements(text)):
            element = text[start:end].encode()
            try:
                value = strict_json.loads(element)
            except RecordError as exc:
                table.add_bad(
                    BadRow(
                        ordinal, exc.reason, f"element {ordinal}: {exc.message}", {"item": ordinal}, element[:MAX_RAW]
                    )
                )
                continue
            yield from table.add(Row(ordinal, _object(value), {"item": ordinal}, element[:MAX_RAW], ordinal=ordinal))
    except RecordError:
        yield from table.finish(("truncated",))
        raise
    yield from table.finish()


def _rows(table: _Table, config: SensorConfig) -> Events:
    place = {"path": table.path} if table.path else {}
    rows = RowTable(config, row_key="item", place=place, units=table.units)
    for ordinal, value in enumerate(table.rows):
        yield from rows.add(Row(ordinal, value, {**place, "item": ordinal}, ordinal=ordinal))
    yield from rows.finish()


def _without_tables(value: Any, path: str, tables: list[_Table], depth: int) -> Any:
    """The value without the tables in it, which are appended to `tables`."""
    if not isinstance(value, Mapping) or depth > _DEPTH:
        return value
    columns = {k: v for k, v in value.items() if isinstance(v, list) and _is_column(v)}
    length = max((len(v) for v in columns.values()), default=0)
    columns = {k: v for k, v in columns.items() if len(v) == length}
    if len(columns) >= 2 and length >= 2:
        tables.append(_Table(path, _transposed(columns), {}))
        return _without_tables({k: v for k, v in value.items() if k not in columns}, path, tables, depth)
    out: dict[str, Any] = {}
    for key, inner in value.items():
        where = f"{path}.{key}" if path else key
        if isinstance(inner, list) and len(inner) >= 1 and all(isinstance(v, (dict, list)) for v in inner):
            tables.append(_Table(where, (_object(v) for v in inner), {}))
            continue
        before = len(tables)
        rest = _without_tables(inner, where, tables, depth + 1)
        units = value.get(f"{key}_units")
        if len(tables) > before and isinstance(units, Mapping):
            known = {name: to_ucum(unit) for name, unit in units.items() if isinstance(unit, str)}
            tables[before] = _Table(where, tables[before].rows, {n: u for n, u in known.items() if u is not None})
        if len(tables) == before or rest:
            out[key] = rest
    return out


def _is_column(values: list[Any]) -> bool:
    return all(v is None or isinstance(v, (int, float, str)) for v in values)


def _transposed(columns: Mapping[str, list[Any]]) -> Iterator[Mapping[str, Any]]:
    for row in zip(*columns.values()):
        yield dict(zip(columns, row))

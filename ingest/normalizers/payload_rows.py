"""Values out of payloads as the rows that JSON would give: what lies between a decoder and the records.

A decoder gives `Decoded` values and bad rows; here they become sensor records (as lines of JSON do) or texts.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_objects import jsonable
from headrace.ingest.normalizers.sensor_plain import bytes_as_text
from headrace.ingest.normalizers.sensor_records import Row, RowTable
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.ingest.normalizers.text_batch import Document
from headrace.ingest.normalizers.text_fields import FieldPicker
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

MAX_DEPTH = 64
MAX_DEVICES = 10_000  #: series of an item that are told apart


@dataclass(frozen=True)
class Decoded:
    """One value of a payload. `ordinal`: its number in the item; `locator`: where it stood.

    t: its time in ns where the format has one of its own. device: the series that it belongs to, then.
    """

    ordinal: int
    locator: Mapping[str, Any]
    value: Any
    data: bytes | None = None
    t: int | None = None
    device: str | None = None


Rows = Iterator[Decoded | BadRow]


def sensor_events(rows: Rows, config: SensorConfig, *, time_source: str | None = None) -> Iterator[Draft | Bad]:
    """The records of rows; after damage those that are open get the flag `truncated`.

    time_source: what the rows' own times are called; None: the time is a field. Rows of each device are apart.
    """
    tables: dict[str | None, RowTable] = {}

    def table_of(device: str | None) -> RowTable:
        if device not in tables:
            if len(tables) >= MAX_DEVICES:
                raise RecordError("too_large", f"more than {MAX_DEVICES} series in one item")
            tables[device] = RowTable(config, row_key="item", time_source=time_source, device=device)
        return tables[device]

    try:
        for row in rows:
            if isinstance(row, BadRow):
                table_of(None).add_bad(row)
                continue
            raw = None if row.data is None else row.data[:MAX_RAW]
            try:
                value = _object(plain(row.value, numbers=True))
            except RecordError as exc:
                table_of(None).add_bad(BadRow(row.ordinal, exc.reason, exc.message, row.locator, raw))
                continue
            place = Row(row.ordinal, value, row.locator, raw, row.t, ordinal=row.ordinal)
            yield from table_of(row.device).add(place)
    except RecordError:
        for table in tables.values():
            yield from table.finish(("truncated",))
        raise
    for table in tables.values():
        yield from table.finish()


def text_documents(rows: Rows, picker: FieldPicker) -> Iterator[Document | Bad]:
    """One document a row, its fields picked as those of a JSON object."""
    for row in rows:
        locator = canonical_json(row.locator).decode()
        if isinstance(row, BadRow):
            yield Bad(row.reason, row.message, locator, row.data)
            continue
        try:
            text, columns = picker.from_json(canonical_json(jsonable(plain(row.value, numbers=False))))
        except RecordError as exc:
            yield Bad(exc.reason, exc.message, locator, row.data)
            continue
        yield locator, text, columns


def plain(value: Any, *, numbers: bool, depth: int = 0) -> Any:
    """A value as JSON has it: bytes as text or `base64:…`, times as ISO 8601; decimals as numbers or as they print.

    Raises: RecordError where it is nested too deep.
    """
    kind = type(value)
    if kind in (str, int, float, bool) or value is None:
        return value
    if depth > MAX_DEPTH:
        raise RecordError("unsupported:nesting", f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {str(key): plain(inner, numbers=numbers, depth=depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, numbers=numbers, depth=depth + 1) for inner in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes_as_text(bytes(value))
    if isinstance(value, Decimal):
        if not numbers:
            return str(value)
        return int(value) if value == value.to_integral_value() and abs(value) < 1 << 63 else float(value)
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            return value.isoformat()
        return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, (dt.date, dt.time, uuid.UUID)):
        return str(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    return jsonable(value)  # NumPy arrays and scalars


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        return {f"c{i}": item for i, item in enumerate(value)}
    return {"value": value}

"""Rows of text become draft batches, column by column: many short documents would spend their time in row objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.text_divide import divide
from headrace.schemas.canonical import canonical_json
from headrace.schemas.record import TIME, draft_schema

MAX_BYTES = 8 << 20
MAX_ROWS = 8192

_SCHEMA = draft_schema("text")

Document = tuple[str, str, dict[str, Any]]  #: locator, text, other columns
Row = Document  #: one that is a record as it stands


class Records(NamedTuple):
    """How the documents of one object become records; one that is longer than `max_chars` is divided.

    Documents of one object belong to groups of their own, `object_id#locator`, where they bring no id; the parts of a
    divided one stay together. The locator `{}` is the whole object, whose group the engine names.
    """

    max_chars: int
    object_id: str
    group: bool  #: False: the engine gives each row of the item its group, so only parts need one
    flags: tuple[str, ...] = ()  #: findings that hold for the whole object

    def of(self, locator: str, text: str, columns: dict[str, Any]) -> Sequence[Row]:
        """The rows of one document; `columns` are draft or text columns, None where unknown."""
        if self.flags:
            columns["flags"] = list(dict.fromkeys([*self.flags, *(columns.get("flags") or [])]))
        if "\0" in text:
            columns["flags"] = [*(columns.get("flags") or []), "nul"]
        short = len(text) <= self.max_chars
        if (self.group or not short) and locator != "{}" and columns.get("group_id") is None:
            columns["group_id"] = f"{self.object_id}#{locator}"
        if short:
            return ((locator, text, columns),)
        parts = list(divide([text], self.max_chars))
        rows, at = [], 0
        for number, part in enumerate(parts):
            rows.append(part_row(locator, part, at, number, len(parts), columns))
            at += len(part)
        return rows


def part_row(locator: str, text: str, at: int, part: int, parts: int, columns: dict[str, Any]) -> Row:
    """One part of a divided document, which begins at character `at` of it."""
    place = canonical_json({**json.loads(locator), "chars": [at, at + len(text)]}).decode()
    return place, text, {**columns, "part": part, "parts": parts}


class TextBatch:
    """Collects rows until they are enough for a draft batch."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        """True when it should be finished."""
        return self._bytes >= MAX_BYTES or len(self._rows) >= MAX_ROWS

    def add(self, rows: Iterable[Row]) -> None:
        """The rows of one document."""
        for row in rows:
            self._rows.append(row)
            self._bytes += len(row[1]) if row[1].isascii() else 3 * len(row[1])  # an upper bound for nearly all text

    def finish(self) -> pa.RecordBatch:
        """The batch of what was added; the builder is empty afterwards."""
        rows, self._rows, self._bytes = self._rows, [], 0
        return text_batch(rows)


def text_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """The draft batch of these rows."""
    names = {name for _, _, columns in rows for name in columns}  # most columns stay empty
    arrays = []
    for field in _SCHEMA:
        if field.name == "locator":
            arrays.append(pa.array([row[0] for row in rows], pa.string()))
        elif field.name == "text":
            arrays.append(pa.array([row[1] for row in rows], pa.large_string()))
        elif field.name in names:
            kind = pa.int64() if field.type == TIME else field.type
            column = pa.array([row[2].get(field.name) for row in rows], kind)
            arrays.append(column.cast(field.type) if field.type == TIME else column)
        else:
            arrays.append(pa.nulls(len(rows), field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def batched(documents: Iterable[Document | Bad], records: Records) -> Iterator[Normalized]:
    """Draft batches of documents; what was bad among them follows the batch in which it would have stood."""
    batch = TextBatch()
    bad: list[Bad] = []
    for document in documents:
        if isinstance(document, Bad):
            bad.append(document)
            continue
        batch.add(records.of(*document))
        if batch.full:
            yield batch.finish()
            yield from bad
            bad.clear()
    if len(batch):
        yield batch.finish()
    yield from bad


def placed(batch: pa.RecordBatch, place: dict[str, Any]) -> pa.RecordBatch:
    """A draft batch whose locators also say where in the item their object is."""
    locators = [canonical_json({**place, **json.loads(old)}).decode() for old in batch.column("locator").to_pylist()]
    columns = [
        pa.array(locators, pa.string()) if field.name == "locator" else batch.column(field.name)
        for field in batch.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

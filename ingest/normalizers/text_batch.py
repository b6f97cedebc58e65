"""Rows of text become draft batches, column by column: many short documents would spend their time in row objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.text_divide import divide
from headrace.schemas.canonical import canonical_json
from headrace.schemas.record import TIME, draft_schema

MAX_BYTES = 8 << 20
MAX_ROWS = 8192

_SCHEMA = draft_schema("text")

Document = tuple[str, str, dict[str, Any]]  #: locator, text, other columns


class TextBatch:
    """Collects documents and makes draft batches; divides a document that is longer than `max_chars`.

    Documents of one object belong to groups of their own, `object_id#locator`, where they bring no id; the parts of a
    divided one stay together. The locator `{}` is the whole object, whose group the engine names.
    """

    def __init__(self, max_chars: int, object_id: str, *, group: bool, flags: tuple[str, ...] = ()) -> None:
        self._max_chars = max_chars
        self._flags = flags  # findings that hold for the whole object
        self._object_id = object_id
        self._group = group  # False: the engine gives each row of the item its group, so only parts need one
        self._clear()

    def _clear(self) -> None:
        self._bytes = 0
        self._locators: list[str] = []
        self._texts: list[str] = []
        self._columns: dict[str, dict[int, Any]] = {}  # name → row → value; most columns stay empty

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def full(self) -> bool:
        """True when it should be finished."""
        return self._bytes >= MAX_BYTES or len(self._texts) >= MAX_ROWS

    def add(self, locator: str, text: str, columns: dict[str, Any]) -> None:
        """One document; `columns` are draft or text columns, None where unknown."""
        if self._flags:
            columns["flags"] = list(dict.fromkeys([*self._flags, *(columns.get("flags") or [])]))
        if "\0" in text:
            columns["flags"] = [*(columns.get("flags") or []), "nul"]
        short = len(text) <= self._max_chars
        if (self._group or not short) and locator != "{}" and columns.get("group_id") is None:
            columns["group_id"] = f"{self._object_id}#{locator}"
        if short:
            self._add(locator, text, columns)
            return
        parts = list(divide([text], self._max_chars))
        at = 0
        for number, part in enumerate(parts):
            self.add_part(locator, part, at, number, len(parts), columns)
            at += len(part)

    def add_part(self, locator: str, text: str, at: int, part: int, parts: int, columns: dict[str, Any]) -> None:
        """One part of a divided document, which begins at character `at` of it."""
        place = canonical_json({**json.loads(locator), "chars": [at, at + len(text)]}).decode()
        self._add(place, text, {**columns, "part": part, "parts": parts})

    def _add(self, locator: str, text: str, columns: dict[str, Any]) -> None:
        row = len(self._texts)
        self._locators.append(locator)
        self._texts.append(text)
        self._bytes += len(text) if text.isascii() else 3 * len(text)  # an upper bound for nearly all text
        for name, value in columns.items():
            if value is not None:
                self._columns.setdefault(name, {})[row] = value

    def finish(self) -> pa.RecordBatch:
        """The batch of what was added; the builder is empty afterwards."""
        count = len(self._texts)
        arrays = []
        for field in _SCHEMA:
            if field.name == "locator":
                arrays.append(pa.array(self._locators, pa.string()))
            elif field.name == "text":
                arrays.append(pa.array(self._texts, pa.large_string()))
            elif field.name in self._columns:
                values = self._columns[field.name]
                kind = pa.int64() if field.type == TIME else field.type
                column = pa.array([values.get(row) for row in range(count)], kind)
                arrays.append(column.cast(field.type) if field.type == TIME else column)
            else:
                arrays.append(pa.nulls(count, field.type))
        self._clear()
        return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def batched(documents: Iterable[Document | Bad], batch: TextBatch) -> Iterator[Normalized]:
    """Draft batches of documents; what was bad among them follows the batch in which it would have stood."""
    bad: list[Bad] = []
    for document in documents:
        if isinstance(document, Bad):
            bad.append(document)
            continue
        batch.add(*document)
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

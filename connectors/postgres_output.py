"""pgoutput, the server's own form of logical replication: its messages, and the places of the rows they hold.

    position   ["0/16B3748", 2]   the third change of the transaction whose commit record is at 0/16B3748
               "0/16B37A0"        everything before this place in the log: after the last row of a transaction, a start

The last row of a transaction is known by the commit that follows it, so each row waits for the next message. Its
position then is the end of the transaction, which is also what the server may be told once it is durable.

Source: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html (version 1)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.connectors.contract import Broken, Item, Position
from headrace.connectors.postgres_config import Operation
from headrace.connectors.postgres_values import row_json, type_name
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, SourceError

#: Microseconds from 1970 to 2000, where the server's times begin.
EPOCH_US = 946_684_800_000_000
_LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")
#: A value that was too large to be sent again, for it did not change.
_UNCHANGED = object()
_NULL, _SAME = b"nu"
_SIZE = struct.Struct(">i")


def parse_lsn(text: str) -> int:
    """A place in the log as a number."""
    found = _LSN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no place in a PostgreSQL log: such as 0/16B3748 is meant")
    return int(found[1], 16) << 32 | int(found[2], 16)


def show_lsn(lsn: int) -> str:
    """A place in the log as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_position(position: Position) -> tuple[int, int]:
    """(place in the log to begin at, changes of the transaction there that are done). Raises: ConfigError."""
    if isinstance(position, str):
        return parse_lsn(position), 0
    if isinstance(position, list | tuple) and len(position) == 2:
        lsn, index = position
        if isinstance(lsn, str) and type(index) is int and index >= 0:
            return parse_lsn(lsn), index + 1
    raise ConfigError(f"{position!r} is no position in a replication slot: 0/16B3748 or [0/16B3748, 2] is meant")


@dataclass(frozen=True, slots=True)
class Mark:
    """A message that somebody wrote into the log beside all tables."""

    lsn: int
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _Relation:
    name: str
    columns: tuple[tuple[str, int, bool], ...]  #: (name, type, part of the replica identity)
    schema: str


class _Message:
    """A cursor over the bytes of one message; numbers are big-endian."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 1

    def number(self, form: str) -> int:
        at = self._at
        self._at += struct.calcsize(form)
        return int(struct.unpack_from(form, self._data, at)[0])

    def take(self, count: int) -> bytes:
        at, self._at = self._at, self._at + count
        return self._data[at : self._at]

    def letter(self) -> str:
        return self.take(1).decode("latin-1")

    def values(self) -> list[Any]:
        """The columns of a row: None for NULL, the text, or _UNCHANGED."""
        data, at = self._data, self._at + 2
        values: list[Any] = []
        for _ in range(int.from_bytes(data[self._at : at], "big")):
            kind = data[at]
            at += 1
            if kind == _NULL:
                values.append(None)
            elif kind == _SAME:
                values.append(_UNCHANGED)
            else:
                (size,) = _SIZE.unpack_from(data, at)
                at += 4 + size
                values.append(data[at - size : at])
        if at > len(data):
            raise IndexError(f"{at} bytes are told of, {len(data)} are there")
        self._at = at
        return values

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        at, self._at = self._at, end + 1
        return self._data[at:end].decode("utf-8", "backslashreplace")


class Decoder:
    """Turns messages into items. `done` changes of the transaction that commits at `begin` are left out."""

    def __init__(self, operations: tuple[Operation, ...], begin: int = 0, done: int = 0) -> None:
        self._operations = frozenset(operations)
        self._begin, self._done = begin, done
        self._relations: dict[int, _Relation] = {}
        self._types: dict[int, str] = {}
        self._commit = 0
        self._time_us = 0
        self._index = 0
        self._held: tuple[int, Any] | None = None
        self.inside = False  #: between the beginning and the commit of a transaction

    def feed(self, data: bytes) -> Iterator[Item | Broken | Mark]:
        """What a message completes. Raises: SourceError for a message that is none of pgoutput."""
        try:
            yield from self._feed(data[:1], _Message(data))
        except (struct.error, IndexError, KeyError) as exc:
            raise SourceError(f"postgres: a message of kind {data[:1]!r} that cannot be read ({exc!r})") from exc

    def _feed(self, kind: bytes, message: _Message) -> Iterator[Item | Broken | Mark]:
        if kind == b"B":
            self._commit, self._time_us = message.number(">Q"), message.number(">q") + EPOCH_US
            self._index, self.inside = 0, True
        elif kind == b"C":
            message.take(9)
            yield from self._release(show_lsn(message.number(">Q")))
            self.inside = False
        elif kind == b"R":
            self._relation(message)
        elif kind == b"Y":
            oid, schema, name = message.number(">I"), message.text(), message.text()
            self._types[oid] = f"{schema}.{name}" if schema else name
        elif kind in b"IUD":
            yield from self._change(kind, message)
        elif kind == b"M":
            message.take(1)
            lsn, prefix = message.number(">Q"), message.text()
            yield Mark(lsn, prefix, message.take(message.number(">I")))

    def _relation(self, message: _Message) -> None:
        oid, schema, name = message.number(">I"), message.text(), message.text()
        message.take(1)
        columns = []
        for _ in range(message.number(">h")):
            key = bool(message.number(">B") & 1)
            column, type_oid = message.text(), message.number(">I")
            message.take(4)
            columns.append((column, type_oid, key))
        described = [[column, type_name(type_oid, self._types)] for column, type_oid, _ in columns]
        text = canonical_json(described).decode()
        self._relations[oid] = _Relation(f"{schema or 'pg_catalog'}.{name}", tuple(columns), text)

    def _change(self, kind: bytes, message: _Message) -> Iterator[Item | Broken | Mark]:
        relation = self._relations[message.number(">I")]
        old, new, old_is_key = None, None, False
        part = message.letter()
        if part in "KO":
            old, old_is_key = message.values(), part == "K"
            part = "" if kind == b"D" else message.letter()
        if part == "N":
            new = message.values()
        index, self._index = self._index, self._index + 1
        operation = {b"I": "insert", b"U": "update", b"D": "delete"}[kind]
        if operation not in self._operations or (self._commit == self._begin and index < self._done):
            return
        yield from self._release(None)
        self._held = (index, self._read(relation, operation, new, old, old_is_key))

    def _read(self, relation: _Relation, operation: str, new: Any, old: Any, old_is_key: bool) -> Any:
        """(payload, headers, or the bytes of a row that is no UTF-8)."""
        headers = {
            "format": "json", "media_type": "application/json", "postgres.relation": relation.name,
            "postgres.operation": operation, "postgres.schema": relation.schema,
        }  # fmt: skip
        row, unsent = [], []
        for n, (name, oid, key) in enumerate(relation.columns):
            value = (new or old)[n]
            if value is _UNCHANGED and old is not None and not old_is_key:
                value = old[n]  # the whole old row came too
            if value is _UNCHANGED:
                unsent.append(name)
            elif new is not None or key or not old_is_key:
                row.append((name, oid, value))
        if unsent:
            headers["postgres.unchanged"] = canonical_json(unsent).decode()
        try:
            return row_json(row), headers
        except UnicodeDecodeError as exc:
            name = next(name for name, _, value in row if value is not None and not _is_text(value))
            said = f"a {operation} of {relation.name}: column {name} is not UTF-8 ({exc.object[exc.start:exc.end]!r})"
            return said, b"\0".join(value or b"" for _, _, value in row)

    def _release(self, end: str | None) -> Iterator[Item | Broken]:
        """The row that waited, placed at the end of its transaction or at its own place in it."""
        if self._held is None:
            return
        (index, (payload, more)), self._held = self._held, None
        position = end or [show_lsn(self._commit), index]
        if isinstance(payload, bytes):
            yield Item(payload, position, None, self._time_us, more)
        else:
            locator = canonical_json({"change": index, "commit": show_lsn(self._commit)}).decode()
            yield Broken("bad_encoding", payload, position, locator, more)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True

"""The connector `postgres_table`: rows of a table, in the order of a column that only grows.

For tables that are not replicated, and for what was in them before a slot was made. A row is read when its cursor
value is behind the place that was read and no transaction can still write a smaller one: commits do not come in the
order in which cursor values are chosen, so reading simply up to the largest value would leave rows out for good.

The rule: at time t the largest value m is noted. At t + settle_s the transactions that write now are noted. When the
last of them has ended, every row up to m is there. It holds if a transaction writes first within settle_s of choosing
its value; after that it may take as long as it likes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.connectors.contract import Broken, Connector, Idle, Item, Lag, Position, Read, Split
from headrace.connectors.postgres_client import Questions, Wire
from headrace.connectors.postgres_config import TableConfig
from headrace.connectors.postgres_slot import system_of
from headrace.connectors.postgres_values import row_json, type_name
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, SourceChanged

_IDLE_S = 0.5
_MOST_COUNTED = 100_000
_TIMESTAMPTZ = "timestamp with time zone"


@dataclass(frozen=True, slots=True)
class _Table:
    """The table as it is now."""

    oid: int
    name: str
    relation: str  #: what SQL reads from: the table as `t`
    places: tuple[tuple[str, str], ...]  #: (column in SQL, type) of cursor and id


class PostgresTable(Connector):
    """Rows of a PostgreSQL table, by a column that only grows."""

    Config = TableConfig
    bounded = False
    replay = "window"
    example = "{type: postgres_table, host: db.example.org, database: tides, username: u, table: levels, cursor: id}"

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self._questions = Questions(config)
        self._closed = False

    def describe(self) -> str:
        return f"postgres {self.config.database}, table {self.config.table}"

    def close(self) -> None:
        self._closed = True
        self._questions.close()

    # -- listing ------------------------------------------------------------------------------------------------------

    def splits(self) -> list[Split]:
        return [Split(self.config.table, self._pin(self._table()))]

    def probe(self) -> None:
        table = self._table()
        self._questions.ask(f"SELECT 1 FROM {table.relation} LIMIT 1", what=f"reading {table.name}")

    def _pin(self, table: _Table) -> str:
        return f"{system_of(self._questions)[0]}:{table.oid}"

    def _table(self) -> _Table:
        """Raises: ConfigError for a table that cannot be read in order without losing rows."""
        config = self.config
        where = f"{config.source}: table {config.table}"
        ((oid,),) = self._questions.ask("SELECT to_regclass(%s)::oid::bigint", (config.table,))
        if oid is None:
            raise ConfigError(f"{where} is not there, or its schema may not be used")
        columns = {
            name: (number, kind, required)
            for name, number, kind, required in self._questions.ask(
                "SELECT attname, attnum, format_type(atttypid, NULL), attnotnull FROM pg_attribute "
                "WHERE attrelid = %s::oid AND attnum > 0 AND NOT attisdropped",
                (oid,),
            )
        }
        wanted = [config.cursor, *([config.id] if config.id else [])]
        absent = [name for name in [*wanted, *config.columns] if name not in columns]
        if absent:
            raise ConfigError(f"{where} has no column {', '.join(absent)}: there are {', '.join(columns)}")
        for name in wanted:
            if not columns[name][2]:
                raise ConfigError(f"{where}: column {name} may be NULL: such rows would never be read; set NOT NULL")
        numbers = [columns[name][0] for name in wanted]
        unique = self._questions.ask(
            "SELECT 1 FROM pg_index WHERE indrelid = %s::oid AND indisunique AND indisvalid AND indpred IS NULL "
            "AND indexprs IS NULL AND (indkey::int2[])[0:indnkeyatts - 1] <@ %s::int2[]",
            (oid, numbers),
        )
        if not unique:
            names = ", ".join(wanted)
            raise ConfigError(f"{where}: no unique index says that ({names}) tells rows apart: set `id` to a column")
        ((schema, name),) = self._questions.ask(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = %s::oid",
            (oid,),
        )
        places = tuple((f"t.{_quoted(column)}", columns[column][1]) for column in wanted)
        return _Table(oid, f"{schema}.{name}", f"{_quoted(schema)}.{_quoted(name)} AS t", places)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        table = self._table()
        pin = self._pin(table)
        if split.pin is not None and split.pin != pin:
            raise SourceChanged(
                f"{self.config.source}: table {self.config.table} is another one: its system:oid is {pin}, and was "
                f"{split.pin}"
            )
        at = _place(after, table)
        wire = Wire(self.config, patience_s=6 * self.config.timeout_s)
        try:
            while not self._closed:
                limit = yield from self._settled(table, at)
                while limit is not None:
                    count = 0
                    for read in self._rows(wire, table, at, limit):
                        count, at = count + 1, list(read.position)
                        yield read
                    if count < self.config.batch_rows:
                        break
        finally:
            wire.close()

    def _settled(self, table: _Table, at: list[str] | None) -> Generator[Idle, None, list[str] | None]:
        """Idle ticks until new rows are there and none can come before them; gives the last one's place."""
        config = self.config
        limit = self._largest(table, at)
        if limit is None:
            yield from self._ticks(config.poll_s)
            return None
        yield from self._ticks(config.settle_s)
        writers = self._writers()
        while writers:
            yield from self._ticks(min(config.poll_s, _IDLE_S))
            if self._closed:
                return None
            writers &= self._writers()
        return limit

    def _writers(self) -> set[str]:
        """The transactions that have written something and have not ended, prepared ones too.

        Each holds a lock on its own id from before its first write until its rows can be seen. A snapshot would not do:
        it stops at the last transaction that has ended, and does not tell of running ones behind that.
        """
        sql = "SELECT transactionid::text FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock'"
        return {id for (id,) in self._questions.ask(sql, what="asking who writes")}

    def _ticks(self, seconds: float) -> Iterator[Idle]:
        end = time.monotonic() + seconds
        while not self._closed and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _IDLE_S))
            yield Idle()

    def _rows(self, wire: Wire, table: _Table, at: list[str] | None, limit: list[str]) -> Iterator[Item | Broken]:
        names = ", ".join(name for name, _ in table.places)
        kinds = [kind for _, kind in table.places]
        wanted = ", ".join(f"t.{_quoted(name)}" for name in self.config.columns) or "t.*"
        values = [*limit, *(at or [])]

        def tuple_from(first: int) -> str:
            return ", ".join(f"${first + n}::text::{kind}" for n, kind in enumerate(kinds))

        where = f"({names}) <= ({tuple_from(1)})"
        if at is not None:
            where += f" AND ({names}) > ({tuple_from(1 + len(kinds))})"
        sql = (
            f"SELECT {', '.join(f'{name}::text' for name, _ in table.places)}, {wanted} FROM {table.relation} "
            f"WHERE {where} ORDER BY {names} LIMIT {self.config.batch_rows}"
        )
        for row in wire.rows(sql.encode(), [value.encode() for value in values]):
            yield self._read(row, table)

    def _read(self, row: Any, table: _Table) -> Item | Broken:
        first = len(table.places)
        try:
            position = [row.get_value(0, n).decode() for n in range(first)]
        except UnicodeDecodeError as exc:
            raise ConfigError(f"{self.config.source}: {table.name}: cursor value {exc.object!r} is no UTF-8") from exc
        columns = [(row.fname(n).decode(), row.ftype(n), row.get_value(0, n)) for n in range(first, row.nfields)]
        time_us = _time_us(position[0]) if table.places[0][1] == _TIMESTAMPTZ else None
        headers = {
            "format": "json", "media_type": "application/json", "postgres.relation": table.name,
            "postgres.schema": canonical_json([[name, type_name(oid, {})] for name, oid, _ in columns]).decode(),
        }  # fmt: skip
        try:
            return Item(row_json(columns), position, None, time_us, headers)
        except UnicodeDecodeError as exc:
            said = f"a row of {table.name} at {position} is not UTF-8 ({exc.object[exc.start : exc.end]!r})"
            raw = b"\0".join(value or b"" for _, _, value in columns)
            return Broken("bad_encoding", said, position, canonical_json({"place": position}).decode(), raw)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _largest(self, table: _Table, after: list[str] | None = None) -> list[str] | None:
        """The last row's place, if it comes after `after`."""
        where, values = self._beyond(table, after)
        return self._last(table, where, values)

    def _beyond(self, table: _Table, after: list[str] | None) -> tuple[str, list[Any]]:
        """A condition for rows behind a place."""
        if after is None:
            return "true", []
        names = ", ".join(name for name, _ in table.places)
        kinds = ", ".join(f"%s::text::{kind}" for _, kind in table.places)
        return f"({names}) > ({kinds})", list(after)

    def _last(self, table: _Table, where: str, values: list[Any]) -> list[str] | None:
        names = ", ".join(f"{name}::text" for name, _ in table.places)
        order = ", ".join(f"{name} DESC" for name, _ in table.places)
        sql = f"SELECT {names} FROM {table.relation} WHERE {where} ORDER BY {order} LIMIT 1"
        rows = self._questions.ask(sql, values, what=f"asking {table.name} for its end")
        return list(rows[0]) if rows else None

    def start_of(self, split: Split) -> Position:
        if self.config.start == "earliest":
            return None
        table = self._table()
        if self.config.start == "latest":
            return self._largest(table)
        if table.places[0][1] != _TIMESTAMPTZ:
            raise ConfigError(
                f"{self.config.source}: start is a time, but the cursor {self.config.cursor} is {table.places[0][1]}: "
                f"earliest or latest, or a cursor of type {_TIMESTAMPTZ}, is meant"
            )
        return self._last(table, f"{table.places[0][0]} < %s", [datetime.fromisoformat(self.config.start)])

    def end_of(self, split: Split) -> Position:
        return self._largest(self._table())

    def lag(self, split: Split, after: Position) -> Lag:
        """Rows behind, counted up to 100,000."""
        table = self._table()
        where, values = self._beyond(table, _place(after, table))
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {table.relation} WHERE {where} LIMIT {_MOST_COUNTED}) AS behind"
        ((count,),) = self._questions.ask(sql, values, what="counting rows")
        return Lag(records=count)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _place(position: Position, table: _Table) -> list[str] | None:
    """Cursor values as text. Raises: ConfigError."""
    if position is None:
        return None
    values = list(position) if isinstance(position, list | tuple) else []
    if len(values) != len(table.places) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{position!r} is no place in {table.name}: a list of {len(table.places)} texts is meant")
    return values


def _time_us(text: str) -> int | None:
    """Microseconds of a timestamp that the server wrote in UTC; None for one that no calendar here holds."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None  # infinity, before Christ, after the year 9999
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

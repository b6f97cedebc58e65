"""Talking to PostgreSQL: connections with deadlines, small questions, and its errors as ours.

psycopg speaks no replication and reads whole results; so rows and replication messages come through libpq itself
(psycopg.pq), with every wait bounded by a poll on its socket.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from headrace.connectors.postgres_config import ServerConfig
from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra, SourceError

#: SQLSTATEs, or classes of them, that no retry mends, with what would be right.
#: Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSED = {
    "28": "check username and password, and pg_hba.conf",
    "3D": "check database",
    "42501": "the role needs that privilege; for a slot it needs REPLICATION",
    "42P01": "check the name, and its schema",
    "42703": "check the column's name",
    "42704": "create it first; a publication must be older than the first change that is read",
    "42601": "this version of PostgreSQL may not know it",
    "0A000": "PostgreSQL 14 or newer is needed",
    "53400": "raise max_replication_slots, or drop a slot that nobody reads",
    "55000": "wal_level must be logical, and the slot one of pgoutput",
}
#: Others that pass, with what helps.
_PASSING = {
    "55006": "one reader at a time; of one that died the server learns after wal_sender_timeout",
    "53300": "raise max_wal_senders or max_connections",
}


def psycopg() -> Any:
    """The library. Raises: MissingExtra."""
    try:
        import psycopg
    except ImportError as exc:
        raise MissingExtra("psycopg", "postgres", need="a source of PostgreSQL") from exc
    return psycopg


def error_of(what: str, text: str, sqlstate: str | None) -> HeadraceError:
    """Our error for one of the server's or of libpq's."""
    said = " ".join(text.split())
    for code, remedy in _REFUSED.items():
        if sqlstate is not None and sqlstate.startswith(code):
            return ConfigError(f"{what}: {said}; {remedy}")
    helps = _PASSING.get(sqlstate or "")
    return SourceError(f"{what}: {said}" + (f"; {helps}" if helps else ""))


def connect(config: ServerConfig, **more: Any) -> Any:
    """A connection in autocommit mode. Raises: SourceError, ConfigError, MissingExtra."""
    library = psycopg()
    try:
        return library.connect(autocommit=True, **config.connection() | more)
    except library.Error as exc:
        text = str(exc)
        # Of a connection that fails libpq keeps the text and drops the code. In other languages than English this is
        # an error that is tried again, until its time is up.
        refused = {
            "authentication failed": "28P01", "no pg_hba.conf entry": "28000", "does not exist": "3D000",
            "to start walsender": "42501", "permission denied": "42501",
        }  # fmt: skip
        sqlstate: str | None = next((code for part, code in refused.items() if part in text), None)
        raise error_of(f"{config.source}: connecting", text, sqlstate) from exc


class Questions:
    """Small questions over one connection, which is made when needed. Every method may be called from any thread."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._connection: Any = None

    def ask(self, sql: str, parameters: Sequence[Any] = (), *, what: str = "asking") -> list[tuple[Any, ...]]:
        """All rows. Raises: SourceError, ConfigError."""
        library = psycopg()
        with self._lock:
            while True:
                kept = self._connection is not None
                if self._connection is None:
                    timeout_ms = round(self._config.timeout_s * 1000)
                    self._connection = connect(self._config)
                    self._connection.execute(f"SET statement_timeout = {timeout_ms}")
                try:
                    rows: list[tuple[Any, ...]] = self._connection.execute(sql, parameters).fetchall()
                    return rows
                except library.Error as exc:
                    if self._connection.broken:
                        self._connection = None
                        if kept:
                            continue  # it was cut while nobody used it, which says nothing of the server as it is now
                    raise error_of(f"{self._config.source}: {what}", str(exc), exc.sqlstate) from exc

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class Wire:
    """One connection at the level of libpq. It belongs to one thread at a time."""

    def __init__(self, config: ServerConfig, patience_s: float | None = None, **more: Any) -> None:
        self._source = config.source
        self._timeout_s = patience_s or config.timeout_s
        self._connection = connect(config, **more)
        self.pg = self._connection.pgconn
        if self.pg.parameter_status(b"server_encoding") == b"SQL_ASCII":
            # Such a server checks nothing when it stores, but would fail here, and with it every row that follows.
            self._connection.execute("SET client_encoding TO 'SQL_ASCII'")
        self._poll = select.poll()
        self._poll.register(self.pg.socket, select.POLLIN)
        self.pg.nonblocking = 1

    def close(self) -> None:
        self._connection.close()

    def command(self, sql: str) -> Any:
        """The result of one statement in the simple protocol. Raises: SourceError, ConfigError."""
        with self.translated(sql.split(" ", 1)[0]):
            self.pg.send_query(sql.encode())
            return self._next_result(sql.split(" (", 1)[0])

    def rows(self, sql: bytes, parameters: Sequence[bytes | None]) -> Iterator[Any]:
        """Results of one row each, as they come: values as text, never more than one row in memory."""
        with self.translated("reading rows"):
            self.pg.send_query_params(sql, parameters)
            self.pg.set_single_row_mode()
            while True:
                result = self._next_result("reading rows")
                if result is None:
                    return
                if result.ntuples:
                    yield result

    def readable(self, timeout_s: float) -> bool:
        """Whether something came in time."""
        return bool(self._poll.poll(max(timeout_s, 0) * 1000))

    def answered(self, deadline: float) -> bool:
        """Whether a result is there before `deadline`, a time of the monotonic clock."""
        while self.pg.flush() or self.pg.is_busy():
            if self.readable(deadline - time.monotonic()):
                self.pg.consume_input()
            elif time.monotonic() >= deadline:
                return False
        return True

    def _next_result(self, what: str) -> Any:
        if not self.answered(time.monotonic() + self._timeout_s):
            raise SourceError(f"{self._source}: {what}: no answer within {self._timeout_s:g} s")
        return self.checked(self.pg.get_result(), what)

    def checked(self, result: Any, what: str) -> Any:
        """The result, if it is none of an error."""
        library = psycopg()
        status, fields = library.pq.ExecStatus, library.pq.DiagnosticField
        if result is not None and result.status in (status.FATAL_ERROR, status.BAD_RESPONSE, status.NONFATAL_ERROR):
            code = result.error_field(fields.SQLSTATE)
            text = result.get_error_message()
            raise error_of(f"{self._source}: {what}", text, code.decode() if code else None)
        return result

    def translated(self, what: str) -> _Translated:
        """Errors of libpq itself become ours."""
        return _Translated(f"{self._source}: {what}")


class _Translated:
    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: Any) -> None:
        if isinstance(exc, Exception) and isinstance(exc, psycopg().Error):
            raise error_of(self._what, str(exc), getattr(exc, "sqlstate", None)) from exc

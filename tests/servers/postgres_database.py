"""A database to test on, with the table `tide`, its publication, and connectors that read it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Item, Split
from headrace.connectors.postgres import Postgres
from headrace.connectors.postgres_config import SlotConfig, TableConfig
from headrace.connectors.postgres_output import parse_lsn
from headrace.connectors.postgres_table import PostgresTable
from headrace.connectors.testing import take
from headrace.schemas.errors import HeadraceError

from .postgres import PostgresServer

pytest.importorskip("psycopg", reason="needs psycopg (headrace[postgres])")

ROLE, CANARY = "wheel", "canary-of-the-wheel"
ADD_ROLE = f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{CANARY}'"


def running(**settings: str) -> Iterator[PostgresServer]:
    """The server of a fixture, with the role that the connectors log in as."""
    with PostgresServer(**settings) as server:
        server.run(ADD_ROLE)
        yield server


class Database:
    """A database, the table `tide (id, level, note)` in it, its publication and the settings of a slot."""

    def __init__(self, server: PostgresServer, encoding: str = "UTF8") -> None:
        self.server = server
        self.name = f"d{uuid.uuid4().hex[:10]}"
        server.run(f"CREATE DATABASE {self.name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        self.run(
            "CREATE TABLE tide (id bigserial PRIMARY KEY, level numeric, note text)",
            f"GRANT SELECT ON tide TO {ROLE}",
            "CREATE PUBLICATION tides FOR TABLE tide",
        )
        self.slot = f"s_{self.name}"
        self._made: list[Any] = []

    def run(self, *statements: str) -> list[Any]:
        return self.server.run(*statements, database=self.name)

    def settings(self, **more: Any) -> dict[str, Any]:
        told: dict[str, Any] = {
            "host": "127.0.0.1", "port": self.server.port, "database": self.name, "username": ROLE, "password": CANARY,
            "timeout_s": 3,
        }  # fmt: skip
        return told | more

    def slotted(self, **more: Any) -> Postgres:
        """A connector on the slot, which is made."""
        told = {"slot": self.slot, "publications": "tides", "create_slot": True} | more
        return self._keep(Postgres(SlotConfig.model_validate(self.settings(**told))))

    def table(self, **more: Any) -> PostgresTable:
        told = {"table": "tide", "cursor": "id", "settle_s": 0, "poll_s": 0.05} | more
        return self._keep(PostgresTable(TableConfig.model_validate(self.settings(**told))))

    def _keep(self, connector: Any) -> Any:
        self._made.append(connector)
        return connector

    def confirmed(self) -> int:
        sql = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        return parse_lsn(self.run(sql)[0][0])

    def drop(self) -> None:
        for connector in self._made:
            connector.close()
        slots = f"SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = '{self.name}'"
        for _, pid in self.server.run(slots):
            if pid is not None:
                self.server.run(f"SELECT pg_terminate_backend({pid})")
        until(lambda: not any(pid for _, pid in self.server.run(slots)))
        for name, _ in self.server.run(slots):
            self.server.run(f"SELECT pg_drop_replication_slot('{name}')")
        self.server.run(f"DROP DATABASE {self.name} WITH (FORCE)")


def until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def only(connector: Any) -> Split:
    (split,) = connector.splits()
    return split


def reads(connector: Any, after: Any, most: int = 1_000_000) -> list[Any]:
    return list(take(connector, only(connector), after, most))


def rows(found: list[Any]) -> list[Any]:
    return [json.loads(read.data) for read in found if isinstance(read, Item)]


def ids(found: list[Any]) -> list[int]:
    return [row["id"] for row in rows(found)]


def raised(connector: Any, after: Any, seconds: float = 20) -> HeadraceError:
    """The error that ends a read."""
    deadline = time.monotonic() + seconds
    try:
        for _ in connector.read(only(connector), after):
            assert time.monotonic() < deadline, f"no error within {seconds} s"
    except HeadraceError as exc:
        assert CANARY not in str(exc)
        return exc
    raise AssertionError("the read ended")

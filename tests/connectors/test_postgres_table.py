"""The connector `postgres_table` on a real server: order, late commits, places."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Idle
from headrace.schemas.errors import ConfigError, SourceChanged

from ..servers.postgres import PostgresServer
from ..servers.postgres_database import (
    ROLE,
    Database,
    ids,
    only,
    reads,
    rows,
    running,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that the tests of this file share; each has a database of its own."""
    yield from running(wal_sender_timeout="3s")


@pytest.fixture
def db(server: PostgresServer) -> Iterator[Database]:
    """A new database with the table `tide`."""
    made = Database(server)
    yield made
    made.drop()


# -- tables -----------------------------------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_the_cursor_and_changed_ones_again(db: Database) -> None:
    db.run(
        "CREATE TABLE log (id int PRIMARY KEY, at timestamptz NOT NULL, note text)",
        f"GRANT SELECT ON log TO {ROLE}",
        "INSERT INTO log SELECT g, '2024-01-01+00'::timestamptz + (g / 3) * interval '1 second', 'n' "
        "FROM generate_series(1, 20) g",
    )
    connector = db.table(table="log", cursor="at", id="id", batch_rows=4)
    found = reads(connector, None)
    assert ids(found) == list(range(1, 21)), "rows of one time, over several batches"
    assert found[0].event_time == 1_704_067_200_000_000
    assert connector.end_of(only(connector)) == found[-1].position == ["2024-01-01 00:00:06+00", "20"]
    for n in (0, 7, 18):
        assert ids(reads(connector, found[n].position)) == list(range(n + 2, 21))
    db.run("UPDATE log SET note = 'new', at = '2024-02-01' WHERE id = 3")
    again = reads(connector, found[-1].position)
    assert [row["note"] for row in rows(again)] == ["new"]


def test_a_row_that_commits_late_is_not_passed_by(db: Database) -> None:
    connector = db.table()
    late = db.server.connect(db.name)
    late.execute("BEGIN")
    late.execute("INSERT INTO tide (note) VALUES ('late')")
    db.run("INSERT INTO tide (note) VALUES ('early')")
    reader = connector.read(only(connector), None)
    for _ in range(6):
        assert isinstance(next(reader), Idle), "a row that has one before it in an open transaction was given"
    late.execute("COMMIT")
    late.close()
    found: list[Any] = []
    while len(found) < 2:
        read = next(reader)
        found += [] if isinstance(read, Idle) else [read]
    reader.close()
    assert [row["note"] for row in rows(found)] == ["late", "early"]


def test_a_value_chosen_before_the_first_write_is_waited_for(db: Database) -> None:
    connector = db.table(settle_s=1.5)
    # The first value of 32 is logged and makes its transaction a writer; the next one is not.
    db.run("SELECT nextval('tide_id_seq')")
    slow = db.server.connect(db.name)
    slow.execute("BEGIN")
    ((number,),) = slow.execute("SELECT nextval('tide_id_seq')").fetchall()
    db.run("INSERT INTO tide (note) VALUES ('early')")
    reader = connector.read(only(connector), None)
    assert isinstance(next(reader), Idle)
    slow.execute("INSERT INTO tide VALUES (%s, 0, 'late')", (number,))
    time.sleep(2.5)
    for _ in range(4):
        assert isinstance(next(reader), Idle)
    slow.execute("COMMIT")
    slow.close()
    found: list[Any] = []
    while len(found) < 2:
        read = next(reader)
        found += [] if isinstance(read, Idle) else [read]
    reader.close()
    assert [row["note"] for row in rows(found)] == ["late", "early"]


def test_rows_of_many_writers_at_once_are_each_read_once(db: Database) -> None:
    """Writers draw a value, wait, write, wait, and commit or give up; settle_s covers the first wait alone."""
    connector = db.table(settle_s=0.6)
    committed: list[int] = []

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with db.server.connect(db.name) as connection:
            for _ in range(9):
                connection.execute("BEGIN")
                ((number,),) = connection.execute("SELECT nextval('tide_id_seq')").fetchall()
                time.sleep(chance.random() * 0.1)
                connection.execute("INSERT INTO tide (id) VALUES (%s)", (number,))
                time.sleep(chance.random() * 1.2)
                keep = chance.random() < 0.8
                connection.execute("COMMIT" if keep else "ROLLBACK")
                if keep:
                    committed.append(number)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    got: list[int] = []
    reader = connector.read(only(connector), None)
    deadline = time.monotonic() + 60
    while any(thread.is_alive() for thread in threads) or len(got) < len(committed):
        got += ids([next(reader)])
        assert time.monotonic() < deadline, f"{sorted(set(committed) - set(got))} were passed by"
    reader.close()
    assert got == sorted(committed)
    assert len(committed) > 30


def test_a_table_that_cannot_be_read_in_order_is_refused(db: Database) -> None:
    db.run(
        "CREATE TABLE loose (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), maybe int UNIQUE)",
        "CREATE UNIQUE INDEX ON loose (at) WHERE id > 5",
    )
    for settings, said in (
        ({"table": "nothing"}, "is not there"),
        ({"cursor": "no"}, "has no column no"),
        ({"table": "loose", "cursor": "at"}, "no unique index"),
        ({"table": "loose", "cursor": "maybe"}, "may be NULL"),
        ({"columns": ["id", "nope"]}, "has no column nope"),
    ):
        with pytest.raises(ConfigError, match=said):
            db.table(**settings).probe()


def test_chosen_columns_odd_names_and_start(db: Database) -> None:
    db.run(
        'CREATE SCHEMA "Odd one"',
        'CREATE TABLE "Odd one"."T" ("Id ""x""" int PRIMARY KEY, at timestamptz NOT NULL UNIQUE, b text)',
        f'GRANT USAGE ON SCHEMA "Odd one" TO {ROLE}',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA "Odd one" TO {ROLE}',
        """INSERT INTO "Odd one"."T" SELECT g, '2024-01-01+00'::timestamptz + g * interval '1 hour' """
        "FROM generate_series(1, 9) g",
    )
    told = {"table": '"Odd one"."T"', "columns": 'Id "x"'}
    connector = db.table(**told, cursor='Id "x"')
    assert [row['Id "x"'] for row in rows(reads(connector, None))] == list(range(1, 10))
    assert connector.start_of(only(connector)) is None
    latest = db.table(**told, cursor='Id "x"', start="latest")
    assert latest.start_of(only(latest)) == ["9"]
    assert latest.lag(only(latest), ["4"]).records == 5
    timed = {"cursor": "at", "id": 'Id "x"', "start": "2024-01-01T07:30:00+02:00"}
    by_time = db.table(**told, **timed)
    assert len(reads(by_time, by_time.start_of(only(by_time)))) == 4, "05:30 UTC: hours 6 to 9"
    with pytest.raises(ConfigError, match="start is a time"):
        db.table(**told, cursor='Id "x"', start="2024-01-01T00:00:00Z").start_of(only(connector))


def test_a_table_made_anew_has_changed(db: Database) -> None:
    connector = db.table()
    split = only(connector)
    db.run("DROP TABLE tide", "CREATE TABLE tide (id bigint PRIMARY KEY)")
    with pytest.raises(SourceChanged, match="another one"):
        next(connector.read(split, None))
    with pytest.raises(ConfigError, match="no place in"):
        next(connector.read(only(connector), ["1", "2"]))


def test_times_that_only_the_server_has_are_no_event_times(db: Database) -> None:
    db.run(
        "CREATE TABLE log (at timestamptz PRIMARY KEY)", f"GRANT SELECT ON log TO {ROLE}",
        "INSERT INTO log VALUES ('-infinity'), ('0044-03-15 BC'), ('2024-01-01 00:00:00.5+00'), ('20000-01-01'), "
        "('infinity')",
    )  # fmt: skip
    found = reads(db.table(table="log", cursor="at"), None)
    assert [item.event_time for item in found] == [None, None, 1_704_067_200_500_000, None, None]
    assert ids_after(db, found) == [4, 3, 2, 1, 0]


def ids_after(db: Database, found: list[Any]) -> list[int]:
    connector = db.table(table="log", cursor="at")
    return [len(reads(connector, item.position)) for item in found]

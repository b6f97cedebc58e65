"""The connectors of PostgreSQL when the server or the reader is killed, cut off or frozen; and what it is told."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Gap, Idle, Item, Split
from headrace.connectors.postgres_output import parse_lsn, parse_position
from headrace.schemas.errors import HeadraceError, SourceChanged, SourceError

from ..servers.postgres import PostgresServer
from ..servers.postgres_database import (
    ADD_ROLE,
    CANARY,
    Database,
    ids,
    only,
    raised,
    reads,
    running,
    until,
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


# -- what is durable --------------------------------------------------------------------------------------------------


def test_the_server_is_told_only_what_was_acknowledged(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide (note) SELECT g::text FROM generate_series(1, 4) g", "INSERT INTO tide VALUES (100)")
    reader = connector.read(only(connector), after)
    items = [next(reader) for _ in range(5)]
    for _ in range(3):
        assert isinstance(next(reader), Idle)
    assert db.confirmed() == parse_lsn(after), "told before anything was acknowledged"
    connector.ack(only(connector), items[1].position)  # in the middle of a transaction: only what came before it
    begin, _ = parse_position(items[1].position)
    until(lambda: db.confirmed() == begin)
    connector.ack(only(connector), items[3].position)
    until(lambda: db.confirmed() == parse_lsn(items[3].position))
    reader.close()
    # What was not acknowledged comes again, to any reader, from any place that is committed.
    assert ids(reads(db.slotted(), items[3].position)) == [100]


def test_an_acknowledgement_between_two_reads_reaches_the_server(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide VALUES (1)")
    (item,) = reads(connector, after)
    connector.ack(only(connector), item.position)
    assert db.confirmed() == parse_lsn(after)
    assert reads(connector, item.position) == []
    until(lambda: db.confirmed() == parse_lsn(item.position))


def test_the_log_of_other_tables_is_let_go_by_a_mark_and_nothing_is_taken_for_lost(db: Database) -> None:
    db.run("CREATE TABLE busy (x text)")
    connector = db.slotted(heartbeat_mib=1)
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide VALUES (1)")
    reader = connector.read(only(connector), after)
    item = next(reader)
    assert isinstance(item, Item)
    fill = "INSERT INTO busy SELECT repeat(md5(random()::text), 60) FROM generate_series(1, 2000)"
    db.run(fill)
    for _ in range(6):
        assert isinstance(next(reader), Idle)
    assert db.confirmed() == parse_lsn(after), "moved on with an item that is not durable"
    connector.ack(only(connector), item.position)
    deadline = time.monotonic() + 20
    while db.confirmed() < parse_lsn(item.position) + (1 << 20):
        assert isinstance(next(reader), Idle)
        assert time.monotonic() < deadline, "the log of other tables is kept for us"
    reader.close()
    db.run("INSERT INTO tide VALUES (2)")
    found = reads(db.slotted(), item.position)
    assert ids(found) == [2]
    assert len(found) == 1, f"a slot that we moved on was taken for lost: {found}"
    # An older place, as of a dataset that was set back, is told that something is missing.
    gap, *rest = reads(db.slotted(), after)
    assert (gap.reason, gap.lost, ids(rest)) == ("slot_moved", None, [2])


def test_a_row_that_is_not_durable_holds_the_marks_back(db: Database) -> None:
    db.run("CREATE TABLE busy (x text)")
    connector = db.slotted(heartbeat_mib=1)
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide VALUES (1)", "INSERT INTO tide VALUES (2)")
    reader = connector.read(only(connector), after)
    first, second = next(reader), next(reader)
    connector.ack(only(connector), first.position)
    db.run("INSERT INTO busy SELECT repeat(md5(random()::text), 60) FROM generate_series(1, 2000)")
    for _ in range(8):
        assert isinstance(next(reader), Idle)
    assert db.confirmed() == parse_lsn(first.position)
    reader.close()
    assert ids(reads(db.slotted(), first.position)) == [2]
    assert second.position != first.position


def test_a_slot_that_somebody_else_moved_on_is_a_gap(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide VALUES (1)")
    (first,) = reads(connector, after)
    db.run("INSERT INTO tide VALUES (2)")
    db.run(f"SELECT pg_replication_slot_advance('{db.slot}', pg_current_wal_flush_lsn())")
    # With nothing behind it, and with a row behind it.
    (gap,) = _until_gap(connector, first.position)
    assert gap == Gap("slot_moved", gap.position)
    db.run("INSERT INTO tide VALUES (3)")
    found = reads(connector, first.position)
    assert isinstance(found[0], Gap)
    assert ids(found) == [3]
    assert ids(reads(connector, found[0].position)) == [3], "the gap is a place to go on from"
    assert len(reads(connector, found[0].position)) == 1


def _until_gap(connector: Any, after: Any) -> list[Gap]:
    reader = connector.read(only(connector), after)
    try:
        for _ in range(40):
            read = next(reader)
            if isinstance(read, Gap):
                return [read]
    finally:
        reader.close()
    return []


def test_a_slot_made_anew_under_its_name_is_a_gap(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide VALUES (1)")
    (first,) = reads(connector, after)
    db.run(f"SELECT pg_drop_replication_slot('{db.slot}')", "INSERT INTO tide VALUES (2)")
    error = raised(connector, first.position)
    assert isinstance(error, SourceChanged), "create_slot makes no slot where one was read before"
    assert "is gone" in str(error)
    db.run(f"SELECT pg_create_logical_replication_slot('{db.slot}', 'pgoutput')", "INSERT INTO tide VALUES (3)")
    found = reads(connector, first.position)
    assert (found[0].reason, ids(found)) == ("slot_moved", [3])


def test_a_slot_whose_log_was_removed_has_changed() -> None:
    small = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with PostgresServer(**small) as server:
        server.run(ADD_ROLE)
        db = Database(server)
        connector = db.slotted()
        after = connector.start_of(only(connector))
        db.run("CREATE TABLE busy (x text)")
        for _ in range(3):
            fill = "INSERT INTO busy SELECT repeat(md5(random()::text), 60) FROM generate_series(1, 9000)"
            db.run(fill, "SELECT pg_switch_wal()", "CHECKPOINT")
        error = raised(connector, after)
        assert isinstance(error, SourceChanged)
        assert "max_slot_wal_keep_size" in str(error)
        connector.close()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_server_killed_while_it_is_read_gives_the_rest_after_its_restart() -> None:
    with PostgresServer() as server:
        server.run(ADD_ROLE)
        db = Database(server)
        connector = db.slotted()
        after = connector.start_of(only(connector))
        got: list[int] = []
        for turn in range(3):
            db.run(f"INSERT INTO tide SELECT g FROM generate_series({1 + 500 * turn}, {500 * turn + 500}) g")
            reader = connector.read(only(connector), after)
            for _ in range(200 + 60 * turn):
                read = next(reader)
                assert isinstance(read, Item), read
                got, after = [*got, json.loads(read.data)["id"]], read.position
            if turn == 1:
                connector.ack(only(connector), after)
            server.kill()
            with pytest.raises(SourceError):
                for _ in range(5000):
                    read = next(reader)
                    if isinstance(read, Item):
                        got, after = [*got, json.loads(read.data)["id"]], read.position
            with pytest.raises(SourceError):
                next(connector.read(Split(db.slot), after))
            with pytest.raises(SourceError):
                connector.probe()
            server.restart()
        got += ids(reads(connector, after))
        assert got == list(range(1, 1501))
        connector.close()


def test_an_operator_can_shut_the_server_down_while_it_is_read() -> None:
    with PostgresServer() as server:
        server.run(ADD_ROLE)
        db = Database(server)
        connector = db.slotted()
        after = connector.start_of(only(connector))
        db.run("INSERT INTO tide VALUES (1), (2)")
        ended: list[Exception] = []
        items: list[Any] = []

        def follow() -> None:
            try:
                for read in connector.read(Split(db.slot), after):
                    items.append(read)
            except HeadraceError as exc:
                ended.append(exc)

        thread = threading.Thread(target=follow)
        thread.start()
        until(lambda: len(items) > 3)
        connector.ack(Split(db.slot), items[0].position)  # the second row stays unconfirmed
        time.sleep(0.5)
        server.stop(20)
        thread.join(10)
        assert len(ended) == 1
        assert isinstance(ended[0], SourceError)
        server.restart()
        assert ids(reads(connector, items[0].position)) == [2]
        connector.close()


def test_a_cut_connection_is_an_error_and_reading_goes_on(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide SELECT g FROM generate_series(1, 50) g")
    reader = connector.read(only(connector), after)
    found = [next(reader) for _ in range(10)]
    db.run(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{db.slot}'")
    with pytest.raises(SourceError):
        while True:
            found.append(next(reader))
    found = [read for read in found if isinstance(read, Item)]
    until(lambda: not db.run(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{db.slot}' AND active"))
    assert ids(found) + ids(reads(connector, found[-1].position)) == list(range(1, 51))


def test_a_server_that_hangs_is_an_error(db: Database) -> None:
    connector = db.slotted(timeout_s=1)
    reader = connector.read(only(connector), connector.start_of(only(connector)))
    assert isinstance(next(reader), Idle)
    table = db.table(timeout_s=1)
    frozen = db.server.freeze()
    try:
        with pytest.raises(SourceError, match="said nothing"):
            for _ in range(40):
                next(reader)
        reader.close()
        with pytest.raises(SourceError):
            next(table.read(Split("tide"), None))
    finally:
        db.server.thaw(frozen)


def test_a_consumer_that_waits_keeps_its_connection(db: Database) -> None:
    """The server of these tests cuts off who says nothing for 3 s."""
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide (note) SELECT repeat('w', 20000) FROM generate_series(1, 1000)")  # more than buffers hold
    reader = connector.read(only(connector), after)
    first = [next(reader), next(reader)]
    time.sleep(4.5)
    rest = [next(reader) for _ in range(998)]
    reader.close()
    assert ids([*first, *rest]) == list(range(1, 1001))


def test_a_slot_has_one_reader_at_a_time(db: Database) -> None:
    connector, other = db.slotted(), db.slotted()
    after = connector.start_of(only(connector))
    reader = connector.read(only(connector), after)
    next(reader)
    error = raised(other, after)
    assert type(error) is SourceError
    assert "one reader at a time" in str(error)
    reader.close()
    assert reads(other, after) == []


# -- exactly once -----------------------------------------------------------------------------------------------------


_READER = """
import json, sys, time
task = json.load(sys.stdin)
sys.path[:0] = [p for p in task["path"] if p not in sys.path]
from headrace.connectors.contract import Item, Split
from headrace.connectors.registry import connector_class
from headrace.schemas.errors import SourceError
cls = connector_class(task["type"])
connector = cls(cls.Config.model_validate(task["settings"]))
split, after = Split(*task["split"]), task["after"]
with open(task["out"], "a", buffering=1) as out:
    while True:
        try:
            for read in connector.read(split, after):
                if isinstance(read, Item):
                    out.write(json.dumps([read.position, json.loads(read.data)["id"]]) + "\\n")
                    after = read.position
                    if task["ack"] and json.loads(read.data)["id"] % 7 == 0:
                        connector.ack(split, after)
                    time.sleep(0.0005)
        except SourceError:
            time.sleep(0.1)
"""


@pytest.mark.parametrize("kind", ["slot", "table"])
def test_reader_and_server_killed_again_and_again_give_each_row_once(kind: str, tmp_path: Path) -> None:
    """The file stands for the dataset: a line holds a row and its position, so they are durable together."""
    total, step = 1600, 800
    with PostgresServer(wal_sender_timeout="2s") as server:
        server.run(ADD_ROLE)
        db = Database(server)
        connector = db.slotted() if kind == "slot" else db.table(batch_rows=50)
        split, after = only(connector), connector.start_of(only(connector))
        out = tmp_path / "dataset"
        out.touch()
        settings = {**connector.config.model_dump(mode="json"), "password": CANARY}
        type_name = "headrace.connectors.postgres:Postgres"
        if kind == "table":
            type_name = "headrace.connectors.postgres_table:PostgresTable"
        chance = random.Random(11)
        lines: list[Any] = []
        written = kills = 0
        while len(lines) < total:
            if written - len(lines) < step and written < total:
                # One transaction of many rows, then several of one.
                sql = f"INSERT INTO tide SELECT g FROM generate_series({written + 1}, {written + step - 5}) g"
                db.run(sql, *[f"INSERT INTO tide VALUES ({written + step - 5 + n})" for n in range(1, 6)])
                written += step
            task = {
                "path": [os.path.abspath(p) for p in sys.path], "type": type_name, "settings": settings,
                "out": str(out), "after": lines[-1][0] if lines else after,
                "split": [split.id, split.pin], "ack": kind == "slot",
            }  # fmt: skip
            child = subprocess.Popen([sys.executable, "-c", _READER], stdin=subprocess.PIPE, text=True)
            assert child.stdin is not None
            child.stdin.write(json.dumps(task))
            child.stdin.close()
            aim = min(written, len(lines) + chance.randrange(1, 700))
            while (done := len(out.read_bytes().splitlines())) < aim:
                assert child.poll() is None, "the reader ended by itself"
                if done > len(lines) and chance.random() < 0.05 and kills < 5:
                    server.kill()
                    server.restart()
                    kills += 1
                time.sleep(0.02)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
            text = out.read_text()
            out.write_text(text[: text.rfind("\n") + 1])  # a torn line was not committed
            lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert kills >= 4
        assert [line[1] for line in lines] == list(range(1, total + 1))
        connector.close()

"""The connector `postgres` on a real server: its rows, its places, and what may be set up wrong."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Broken, Item, Split
from headrace.connectors.postgres import Postgres
from headrace.connectors.postgres_config import SlotConfig, TableConfig
from headrace.connectors.postgres_output import Decoder, parse_position
from headrace.connectors.postgres_table import PostgresTable
from headrace.connectors.postgres_values import value_json
from headrace.connectors.testing import ConnectorKit, take
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

from ..servers.postgres import PostgresServer
from ..servers.postgres_database import (
    ADD_ROLE,
    CANARY,
    ROLE,
    Database,
    ids,
    only,
    raised,
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


# -- the kit ----------------------------------------------------------------------------------------------------------


class Kit(ConnectorKit):
    """What both connectors share: a password that the kit's fresh process can read, and few places."""

    resume_points = 6
    database: Database

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _database(cls, server: PostgresServer) -> Iterator[None]:
        made = Database(server)
        # The kit hands settings to another process as JSON, where a secret is stars: so a role of that password.
        server.run(f"CREATE ROLE {made.name} LOGIN REPLICATION PASSWORD '**********'")
        made.run(f"GRANT SELECT ON tide TO {made.name}")
        made.slotted().start_of(Split(made.slot))
        made.run(
            "INSERT INTO tide (level, note) SELECT g / 10.0, 'é' || g FROM generate_series(1, 7) g",
            "INSERT INTO tide (note) VALUES (NULL), ('')",
            "UPDATE tide SET level = -1 WHERE id IN (2, 3)",
            "BEGIN; INSERT INTO tide (note) VALUES ('a'); DELETE FROM tide WHERE id = 1; COMMIT",
        )
        cls.database = made
        yield
        made.drop()
        server.run(f"DROP ROLE {made.name}")


class TestSlotKit(Kit):
    def make(self) -> Postgres:
        told = {"username": self.database.name, "password": "**********", "heartbeat_mib": 0}
        return self.database.slotted(**told)


class TestTableKit(Kit):
    def make(self) -> PostgresTable:
        return self.database.table(username=self.database.name, password="**********", batch_rows=4)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_values_become_strict_json_and_nothing_is_rounded(db: Database) -> None:
    db.run(
        "CREATE TYPE mood AS ENUM ('calm')",
        "CREATE TABLE every (id int PRIMARY KEY, n numeric, big int8, f8 float8, f4 float4, b bool, raw bytea, j json, "
        "jb jsonb, t timestamp, tz timestamptz, d date, u uuid, i interval, m mood, txt text, v varchar(9))",
        f"GRANT SELECT ON every TO {ROLE}",
        "ALTER PUBLICATION tides ADD TABLE every",
    )
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run(
        "SET timezone = 'Asia/Tokyo'",
        "INSERT INTO every VALUES (1, 12345678901234567890.10, 9223372036854775807, 0.1, 0.1, false, '\\x00ff', "
        "'{\"a\" : [1, null]}', '{\"z\": 1.10}', '2024-02-29 12:00:00.5', '2024-02-29 12:00:00+00', '2024-02-29', "
        "'6F9619FF-8B86-D011-B42D-00CF4FC964FF', '1 day 2 hours', 'calm', E'\"\\n\\u0001é', '')",
        "INSERT INTO every (id, f8, f4, t, tz, d) "
        "VALUES (2, 'NaN', '-Infinity', 'infinity', '0044-03-15 00:00:00+00 BC', '-infinity')",
    )
    expected = [
        {
            "id": 1, "n": "12345678901234567890.10", "big": 9223372036854775807, "f8": 0.1, "f4": 0.1, "b": False,
            "raw": base64.b64encode(b"\x00\xff").decode(), "j": {"a": [1, None]}, "jb": {"z": 1.1},
            "t": "2024-02-29T12:00:00.5", "tz": "2024-02-29T12:00:00+00:00", "d": "2024-02-29",
            "u": "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "i": "P1DT2H", "m": "calm", "txt": '"\n\x01é', "v": "",
        },
        {
            "id": 2, "n": None, "big": None, "f8": "NaN", "f4": "-Infinity", "b": None, "raw": None, "j": None,
            "jb": None, "t": "infinity", "tz": "0044-03-15 00:00:00+00 BC", "d": "-infinity", "u": None,
            "i": None, "m": None, "txt": None, "v": None,
        },
    ]  # fmt: skip
    found = reads(connector, after)
    assert rows(found) == expected
    assert b'"jb":{"z": 1.10}' in found[0].data, "JSON stands as the server has it"
    schema = dict(json.loads(found[0].headers["postgres.schema"]))
    assert (schema["n"], schema["m"], schema["tz"]) == ("numeric", "public.mood", "timestamptz")
    assert found[0].headers["postgres.relation"] == "public.every"
    assert rows(reads(db.table(table="every"), None)) == expected


def test_arrays_agree_with_the_servers_own_json(db: Database) -> None:
    arrays = [
        r"""'{"a,b","q\"","back\\slash",NULL,"NULL","",plain,"{}"," s "}'::text[]""",
        "'{{1,2},{3,NULL}}'::int4[]", "'{}'::int8[]", "'{t,f}'::bool[]", "'{1.5,-2e300}'::float8[]",
        """ARRAY['{"a": [1, "}"]}'::jsonb, 'null'::jsonb]""", "'{{{x}}}'::varchar[]",
    ]  # fmt: skip
    for array in arrays:
        sql = f"SELECT pg_typeof(a)::oid::int, a::text, to_json(a)::text FROM (SELECT {array} AS a) x"
        ((oid, text, wanted),) = db.run(sql)
        assert json.loads(value_json(oid, text)) == json.loads(wanted), array
    assert value_json(1007, "[0:1]={1,2}") == '"[0:1]={1,2}"', "bounds of its own would be lost"


def test_operations_are_named_and_those_not_wanted_are_left_out(db: Database) -> None:
    everything = db.slotted(operations=["insert", "update", "delete"])
    after = everything.start_of(only(everything))
    db.run("INSERT INTO tide VALUES (1, 1, 'a')", "UPDATE tide SET note = 'b'", "DELETE FROM tide", "TRUNCATE tide")
    found = reads(everything, after)
    assert [item.headers["postgres.operation"] for item in found] == ["insert", "update", "delete"]
    assert rows(found) == [{"id": 1, "level": "1", "note": "a"}, {"id": 1, "level": "1", "note": "b"}, {"id": 1}]
    usual = db.slotted()
    assert [item.position for item in reads(usual, after)] == [item.position for item in found[:2]]
    deletes = db.slotted(operations="delete")
    assert rows(reads(deletes, after)) == [{"id": 1}]


def test_a_large_value_that_did_not_change_is_named_and_comes_with_the_full_identity(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run(
        "ALTER TABLE tide ALTER note SET STORAGE EXTERNAL",
        "INSERT INTO tide VALUES (1, 1, repeat('x', 100000))",
        "UPDATE tide SET level = 2",
        "ALTER TABLE tide REPLICA IDENTITY FULL",
        "UPDATE tide SET level = 3",
    )
    first, second, third = reads(connector, after)
    assert len(json.loads(first.data)["note"]) == 100_000
    assert json.loads(second.data) == {"id": 1, "level": "2"}
    assert second.headers["postgres.unchanged"] == '["note"]'
    assert json.loads(third.data) == {"id": 1, "level": "3", "note": "x" * 100_000}
    assert "postgres.unchanged" not in third.headers


def test_the_time_is_that_of_the_commit(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    ((before,),) = db.run("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    db.run("INSERT INTO tide VALUES (1)")
    ((later,),) = db.run("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    (item,) = reads(connector, after)
    assert before <= item.event_time <= later


def test_a_row_that_is_no_utf8_is_one_broken_row(server: PostgresServer) -> None:
    db = Database(server, "SQL_ASCII")
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide VALUES (1, 1, 'a'), (2, 2, E'\\xff\\xfe'), (3, 3, 'c')")
    for source, begin in ((connector, after), (db.table(), None)):
        found = reads(source, begin)
        assert [type(read) for read in found] == [Item, Broken, Item]
        assert (found[1].reason, b"\xff\xfe" in found[1].data) == ("bad_encoding", True)
        assert ids(found) == [1, 3]
    db.drop()


def test_a_large_row_and_a_large_transaction_flow_through_little_memory(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    db.run("INSERT INTO tide (note) SELECT repeat('z', 400000) FROM generate_series(1, 150)")  # 60 MB
    split = only(connector)
    before, highest, count = _resident(), 0, 0
    for read in take(connector, split, after, 1000):
        if count == 3:
            time.sleep(1)
        count += len(read.data) > 400_000
        highest, after = max(highest, _resident()), read.position
    assert count == 150
    assert highest - before < 24 << 20
    db.run("INSERT INTO tide (note) VALUES (repeat('y', 20000000))")
    (item,) = reads(connector, after)
    assert len(item.data) > 20_000_000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_torn_message_is_an_error_of_the_source() -> None:
    begin = b"B" + bytes(20)
    for torn in (b"I\0\0\0\7N\0\1t\0\0\0\4ab", begin[:9], b"R\0\0\0\1pub"):
        decoder = Decoder(("insert",))
        with pytest.raises((SourceError, ValueError)):
            list(decoder.feed(torn))


@pytest.mark.parametrize("position", [7, "x", "0/1/2", ["0/1"], ["0/1", -1], ["0/1", True], [1, 2], None])
def test_a_foreign_position_is_refused(position: Any) -> None:
    with pytest.raises(ConfigError):
        parse_position(position)


# -- ends -------------------------------------------------------------------------------------------------------------


def test_end_and_lag_follow_the_log(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    assert connector.end_of(only(connector)) is None
    db.run("INSERT INTO tide VALUES (1), (2)", "CREATE TABLE other (x int)")
    end = connector.end_of(only(connector))
    found = reads(connector, after)
    assert end == found[-1].position
    behind = connector.lag(only(connector), after).bytes
    assert behind > connector.lag(only(connector), found[0].position).bytes > 0
    assert connector.lag(only(connector), end).bytes < behind


def test_a_place_behind_the_end_of_the_log_has_changed(db: Database) -> None:
    connector = db.slotted()
    connector.start_of(only(connector))
    error = raised(connector, "7F/0")
    assert isinstance(error, SourceChanged)
    assert "backup" in str(error)


def test_another_server_under_the_same_name_has_changed(db: Database) -> None:
    connector = db.slotted()
    after = connector.start_of(only(connector))
    split = only(connector)
    assert split.pin is not None
    system, timeline, slot = split.pin.split(":")
    for pin in (f"1{system}:{timeline}:{slot}", f"{system}:9:{slot}"):
        with pytest.raises(SourceChanged, match="system:timeline:slot"):
            next(connector.read(Split(split.id, pin), after))


# -- what is set up wrong ---------------------------------------------------------------------------------------------


def test_a_right_setup_is_probed_without_complaint(db: Database) -> None:
    db.slotted().probe()
    db.table().probe()


def test_a_wrong_password_database_or_host_is_named_without_the_password(db: Database) -> None:
    for settings, kind in (
        ({"password": CANARY + "x"}, ConfigError),
        ({"username": "nobody-here"}, ConfigError),
        ({"database": "no_such"}, ConfigError),
        ({"port": 1}, SourceError),
    ):
        for connector in (db.slotted(**settings), db.table(**settings)):
            with pytest.raises(kind) as caught:
                connector.probe()
            assert CANARY not in str(caught.value) + repr(connector.config)


def test_a_missing_publication_slot_or_right_is_named_with_its_remedy(db: Database) -> None:
    cases = [
        (db.slotted(publications=["tides", "nothing"]), r"publication nothing: run CREATE PUBLICATION"),
        (db.slotted(create_slot=False), "pg_create_logical_replication_slot"),
    ]
    for connector, said in cases:
        with pytest.raises(ConfigError, match=said):
            connector.probe()
    with pytest.raises(ConfigError, match="pg_create_logical_replication_slot"):
        db.slotted(create_slot=False).start_of(Split(db.slot))
    db.run("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    try:
        plain = db.slotted(username="plain", password="plain")
        with pytest.raises(ConfigError, match="REPLICATION"):
            plain.probe()
        with pytest.raises(ConfigError, match="REPLICATION"):
            plain.start_of(Split(db.slot))
        with pytest.raises(ConfigError, match="permission"):
            db.table(username="plain", password="plain").probe()
    finally:
        db.run("DROP ROLE plain")


def test_a_slot_of_another_kind_is_refused(db: Database) -> None:
    db.run(f"SELECT pg_create_logical_replication_slot('{db.slot}', 'test_decoding')")
    with pytest.raises(ConfigError, match="pgoutput is expected"):
        db.slotted().probe()


def test_a_server_without_logical_replication_is_refused() -> None:
    with PostgresServer(wal_level="replica") as server:
        server.run(ADD_ROLE)
        db = Database(server)
        connector = db.slotted()
        with pytest.raises(ConfigError, match="wal_level"):
            connector.probe()
        with pytest.raises(ConfigError, match="wal_level"):
            connector.start_of(Split(db.slot))
        connector.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slot": "Wrong-Name"}, "lower-case"),
        ({"operations": ["truncate"]}, "insert"),
        ({"publications": []}, "at least 1"),
        ({"tls_key": "k.pem"}, "belong together"),
        ({"sloot": 1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any], said: str) -> None:
    right = {"database": "d", "username": "u", "slot": "s", "publications": "p"}
    with pytest.raises(ValueError, match=said):
        SlotConfig.model_validate(right | settings)


def test_a_password_goes_in_the_clear_to_this_machine_only() -> None:
    def mode(**told: Any) -> str:
        said: str = TableConfig(database="d", username="u", table="t", cursor="c", **told).connection()["sslmode"]
        return said

    assert [mode(host=host) for host in ("localhost", "127.0.0.1", "/run/postgresql")] == ["prefer"] * 3
    assert mode(host="db.example.org") == "require"
    assert mode(host="db.example.org", sslmode="verify-full") == "verify-full"

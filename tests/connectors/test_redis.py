"""Redis Streams on a real server: the kit, what entries become, trimming, and the arithmetic of gaps."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.connectors.contract import Broken, Connector, Gap, Idle, Item, Lag, Split
from headrace.connectors.redis_entry import Entry, before, behind, id_of_key, key_of_id, parse_position, read_entry
from headrace.connectors.redis_gaps import Place, step
from headrace.connectors.redis_link import RedisLink
from headrace.connectors.redis_streams import RedisStreams
from headrace.connectors.testing import ConnectorKit, take
from headrace.schemas.errors import ConfigError, SourceChanged

from ..servers.redis import RedisServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Any:
    client = server.client()
    client.flushall()
    return client


def source(server: RedisServer, *streams: str, port: int | None = None, **settings: Any) -> RedisStreams:
    url = f"redis://127.0.0.1:{port}" if port else server.url
    settings = {"idle_s": 0.02, **settings}
    return RedisStreams(RedisStreams.Config(url=url, streams=streams, **settings))


def until_idle(connector: Connector, split: Split, after: Any = None) -> list[Any]:
    return list(take(connector, split, after, 1 << 30))


def data(reads: list[Any]) -> list[bytes]:
    return [read.data for read in reads if isinstance(read, Item)]


def gaps(reads: list[Any]) -> list[tuple[str, int | None]]:
    return [(read.reason, read.lost) for read in reads if isinstance(read, Gap)]


# -- the kit ----------------------------------------------------------------------------------------------------------


class TestStreams(ConnectorKit):
    """Plain streams, one with a deleted entry, one with entries that cannot be read."""

    resume_points = 8

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def filled(cls, server: RedisServer) -> None:
        cls.server = server
        client = server.client()
        client.flushall()
        for n in range(120):
            client.xadd("kit:a", {"data": b"%d" % n, "n": n})
        ids = [client.xadd("kit:b", {"x": f"å{n}", "y": "ü"}) for n in range(40)]
        client.xdel("kit:b", ids[7], ids[20])
        for n in range(20):
            client.xadd("kit:c", {b"x": b"\xff" if n % 3 == 0 else b"ok", "y": "1"}, id=f"{n}-1")

    def make(self) -> Connector:
        return source(self.server, "kit:*", batch=16)


# -- payload, key, headers --------------------------------------------------------------------------------------------


def entry(*fields: bytes) -> Entry:
    return Entry((1_700_000_000_000, 3), fields)


def test_the_only_field_is_the_payload() -> None:
    item = read_entry(entry(b"whatever", b"\xff\x00"), None, None)
    assert item == Item(b"\xff\x00", "1700000000000-3", None, 1_700_000_000_000_000, {})


def test_a_usual_field_is_the_payload_and_the_others_are_headers_that_cannot_pass_for_ours() -> None:
    fields = (b"n", b"1", b"payload", b"bytes", b"object", b"forged", b"Content-Type", b"text/plain; charset=utf-8")
    item = read_entry(entry(*fields), None, b"n")
    assert isinstance(item, Item)
    assert (item.data, item.key) == (b"bytes", "1")
    assert item.headers["field.object"] == "forged"
    assert "object" not in item.headers
    assert item.headers["media_type"] == "text/plain"


def test_an_entry_without_a_usual_field_is_json() -> None:
    item = read_entry(entry(b"b", "å".encode(), b"a", b"1"), None, None)
    assert isinstance(item, Item)
    assert json.loads(item.data) == {"a": "1", "b": "å"}
    assert item.headers == {"format": "json"}


@pytest.mark.parametrize(
    ("fields", "payload", "reason"),
    [
        ((b"a", b"\xff", b"b", b"1"), None, "bad_encoding"),
        ((b"a", b"1", b"a", b"2"), None, "inconsistent"),
        ((b"a", b"1", b"b", b"2"), b"c", "missing_field"),
    ],
)
def test_an_entry_that_cannot_be_an_item_is_broken_and_keeps_its_bytes(
    fields: tuple[bytes, ...], payload: bytes | None, reason: str
) -> None:
    read = read_entry(entry(*fields), payload, None)
    assert isinstance(read, Broken)
    assert (read.reason, read.position) == (reason, "1700000000000-3")
    assert read.data == b"".join(b"%d:%b," % (len(f), f) for f in fields)


def test_an_id_that_is_a_counter_is_no_time() -> None:
    assert read_entry(Entry((5, 1), (b"a", b"1")), None, None).event_time is None  # type: ignore[union-attr]


@pytest.mark.parametrize("key", [b"sensors:temp/1", b"/etc", b"50%", b"\xff\x00a", "fjärd".encode(), b"a b\n", b""])
def test_any_key_is_a_split_id_and_back(key: bytes) -> None:
    id = id_of_key(key)
    assert key_of_id(id) == key
    assert not id.startswith("/")


def test_repeated_fields_and_empty_and_binary_values_arrive(server: RedisServer, client: Any) -> None:
    client.execute_command("XADD", "s", "1-1", "data", "", "tag", "a", "tag", "b")
    client.xadd("s", {"data": bytes(range(256))})
    with closing(source(server, "s")) as connector:
        reads = until_idle(connector, Split("s"))
    assert data(reads) == [b"", bytes(range(256))]


# -- splits and where they begin --------------------------------------------------------------------------------------


def test_splits_are_streams_by_name_or_glob_and_named_ones_may_come_later(server: RedisServer, client: Any) -> None:
    for name in ("s:1", "s:2", "other"):
        client.xadd(name, {"a": 1})
    client.set("s:3", "no stream")
    with closing(source(server, "s:*", "later")) as connector:
        assert [split.id for split in connector.splits()] == ["later", "s:1", "s:2"]
        connector.probe()
        later = connector.read(Split("later"), connector.start_of(Split("later")))
        assert next(later) == Idle()
        client.xadd("later", {"a": "first"})
        assert next(r for r in later if not isinstance(r, Idle)).data == b"first"  # type: ignore[union-attr]
        later.close()  # type: ignore[attr-defined]


def test_a_key_of_another_type_is_a_setting_to_correct(server: RedisServer, client: Any) -> None:
    client.set("s", "no stream")
    with closing(source(server, "s")) as connector:
        with pytest.raises(ConfigError, match=r"streams.*not a string"):
            connector.probe()
        with pytest.raises(ConfigError, match="A stream is expected"):
            next(iter(connector.read(Split("s"), None)))


def test_it_begins_at_the_earliest_the_latest_or_a_time(server: RedisServer, client: Any) -> None:
    for n in range(10):
        client.xadd("s", {"a": n}, id=f"{1_700_000_000_000 + n * 1000}-0")
    got = {}
    for start in ("earliest", "latest", "2023-11-14T22:13:25Z", "2023-11-14T23:13:25.5+01:00"):
        with closing(source(server, "s", start=start)) as connector:
            got[start] = data(until_idle(connector, Split("s"), connector.start_of(Split("s"))))
    assert [len(found) for found in got.values()] == [10, 0, 5, 4]
    with pytest.raises(ValueError, match="with its zone"):
        RedisStreams.Config(url=server.url, streams=("s",), start="2023-11-14T22:13:25")


def test_end_and_lag_tell_how_much_is_left(server: RedisServer, client: Any) -> None:
    with closing(source(server, "s", batch=4)) as connector:
        assert connector.end_of(Split("s")) is None
        ids = [client.xadd("s", {"a": n}, id=f"{1_700_000_000_000 + n * 1000}-0").decode() for n in range(10)]
        assert connector.end_of(Split("s")) == ids[-1]
        assert connector.lag(Split("s"), None) == Lag(records=10)
        assert connector.lag(Split("s"), ids[3]) == Lag(seconds=6.0)
        until_idle(connector, Split("s"))
        client.xadd("s", {"a": 10}, id="1700000010000-0")
        assert connector.lag(Split("s"), ids[-1]) == Lag(records=1, seconds=1.0)
        assert connector.lag(Split("s"), "1700000010000-0") == Lag(records=0, seconds=0.0)


# -- what is lost -----------------------------------------------------------------------------------------------------


def test_trimming_that_we_watch_is_counted(server: RedisServer, client: Any) -> None:
    with closing(source(server, "s")) as connector:
        reads = connector.read(Split("s"), None)
        client.xadd("s", {"a": 0})
        assert next(reads).data == b"0"  # type: ignore[union-attr]
        with client.pipeline(transaction=True) as pipe:
            for n in range(1, 21):
                pipe.xadd("s", {"a": n}, maxlen=5, approximate=False)
            pipe.execute()
        found: list[Any] = [r for r in itertools.islice(reads, 6) if not isinstance(r, Idle)]
        assert gaps(found) == [("trimmed", 15)]
        assert isinstance(found[0], Gap)
        assert data(found) == [b"16", b"17", b"18", b"19", b"20"]
        client.xadd("s", {"a": 21}, maxlen=1, approximate=False)  # trims only what was read
        assert next(r for r in reads if not isinstance(r, Idle)).data == b"21"  # type: ignore[union-attr]
        reads.close()  # type: ignore[attr-defined]


def test_trimming_while_we_were_away_is_a_gap_of_unknown_size(server: RedisServer, client: Any) -> None:
    ids = [client.xadd("s", {"a": n}, id=f"{n + 1}-0").decode() for n in range(10)]
    client.xtrim("s", maxlen=4, approximate=False)
    with closing(source(server, "s")) as connector:
        reads = until_idle(connector, Split("s"), ids[2])
        assert gaps(reads) == [("trimmed", None)]
        assert data(reads) == [b"6", b"7", b"8", b"9"]
        # The gap is passed once: reading on after it gives what follows, before it the gap again.
        assert gaps(until_idle(connector, Split("s"), reads[0].position)) == []
        assert gaps(until_idle(connector, Split("s"), ids[5])) == [("trimmed", None)]
        assert gaps(until_idle(connector, Split("s"), ids[6])) == []
        # Between neighbouring ids nothing can have been.
        assert gaps(until_idle(connector, Split("s"), f"6-{(1 << 64) - 1}")) == []


def test_a_stream_that_was_emptied_is_a_gap_and_goes_on(server: RedisServer, client: Any) -> None:
    ids = [client.xadd("s", {"a": n}).decode() for n in range(10)]
    client.xtrim("s", maxlen=0)
    with closing(source(server, "s")) as connector:
        reads = until_idle(connector, Split("s"), ids[2])
        assert gaps(reads) == [("trimmed", None)]
        assert gaps(until_idle(connector, Split("s"), ids[9])) == []  # all of it had been read
        client.xadd("s", {"a": "new"})
        assert data(until_idle(connector, Split("s"), reads[0].position)) == [b"new"]


def test_deleted_entries_are_a_gap_where_they_were(server: RedisServer, client: Any) -> None:
    ids = [client.xadd("s", {"a": n}).decode() for n in range(10)]
    client.xdel("s", ids[4], ids[9])
    with closing(source(server, "s", batch=2)) as connector:
        reads = until_idle(connector, Split("s"), ids[0])
        assert [r.reason if isinstance(r, Gap) else r.data for r in reads[-2:]] == [b"8", "deleted"]
        client.xadd("s", {"a": 10})
        assert [r.data for r in until_idle(connector, Split("s"), reads[-1].position)] == [b"10"]


def test_what_was_trimmed_before_the_start_was_resolved_is_no_gap(server: RedisServer, client: Any) -> None:
    for n in range(10):
        client.xadd("s", {"a": n}, maxlen=5, approximate=False)
    with closing(source(server, "s")) as connector:
        start = connector.start_of(Split("s"))
        assert gaps(until_idle(connector, Split("s"), start)) == []
        client.xtrim("s", maxlen=2, approximate=False)
        assert gaps(until_idle(connector, Split("s"), start)) == [("trimmed", None)]


@pytest.mark.parametrize("again", [["9-1"], [f"{n}-1" for n in range(100, 120)]], ids=["lower", "higher"])
def test_a_stream_deleted_and_made_anew_is_another_source(server: RedisServer, client: Any, again: list[str]) -> None:
    for n in range(10, 20):
        client.xadd("s", {"a": n}, id=f"{n}-1")
    client.delete("s")
    with closing(source(server, "s")) as connector:
        with pytest.raises(SourceChanged, match="is gone"):
            next(iter(connector.read(Split("s"), "15-1")))
        for id in again:
            client.xadd("s", {"a": id}, id=id)
        with pytest.raises(SourceChanged, match="made anew"):
            next(iter(connector.read(Split("s"), "15-1")))


def test_no_history_of_trims_and_deletions_is_silent_and_counts_are_exact(server: RedisServer, client: Any) -> None:
    """Random histories against an account of every entry: what is missing lies in a gap, what is not does not."""
    random_ = random.Random(20261124)
    with closing(source(server, "s")) as connector:
        link = connector._link
        for _ in range(60):
            client.delete("s")
            play(random_, client, link)


def play(random_: random.Random, client: Any, link: RedisLink) -> None:
    """One history: random writes, trims, deletions, reads and restarts of the reader."""
    ever: list[tuple[int, int]] = []
    given: set[tuple[int, int]] = set()
    told: list[tuple[tuple[int, int], int | None]] = []
    place, trimmed_only, restarted = Place((0, 0), False, 0), True, False
    deletions = random_.random() < 0.5
    committed = [Place((0, 0))]
    for _ in range(random_.randint(5, 40)):
        do = random_.random()
        if do < 0.45 or not ever:
            for _ in range(random_.randint(1, 6)):
                id = ((ever[-1][0] if ever else 0) + random_.randint(1, 3), random_.randint(0, 2))
                client.xadd("s", {"a": 1}, id=f"{id[0]}-{id[1]}")
                ever.append(id)
        elif do < 0.6:
            client.xtrim("s", maxlen=random_.randint(0, 8), approximate=False)
        elif do < 0.7 and deletions:
            id = random_.choice(ever)
            trimmed_only = trimmed_only and not client.xdel("s", f"{id[0]}-{id[1]}")
        elif do < 0.75:
            # The reader dies and goes on from a position that it had given.
            again = random_.choice(committed)
            given = {id for id in given if again.id is not None and id <= again.id}
            told = [gap for gap in told if again.id is not None and gap[0] <= again.id]
            committed = committed[: committed.index(again) + 1]
            place, restarted = Place(again.id, again.was_entry), True
        else:
            shown = link.snapshot(b"s", place.id, random_.choice([1, 2, 3, 50]))
            if shown is not None:
                found, place = step(place, shown, "s")
                for index, one in enumerate([*shown.entries, None]):
                    for at, gap in found:
                        if at == index:
                            id, was_entry = parse_position(gap.position)
                            assert committed[-1].id is None or id > committed[-1].id, "a gap goes back"
                            told.append((id, gap.lost))
                            committed.append(Place(id, was_entry))
                    if one is not None:
                        given.add(one.id)
                        committed.append(Place(one.id, True))
    while (shown := link.snapshot(b"s", place.id, 3)) is not None:
        found, place = step(place, shown, "s")
        given.update(one.id for one in shown.entries)
        told += [(parse_position(gap.position)[0], gap.lost) for _, gap in found]
        if shown.complete:
            break
    missing = set(ever) - given
    for id in missing:
        assert any(gap[0] >= id for gap in told), f"{id} is missing and no gap reaches it: {told}"
    known = [lost for _, lost in told if lost is not None]
    assert all(lost > 0 for lost in known)
    if not restarted:
        assert sum(known) <= len(missing)
        assert bool(missing) == bool(told), (missing, told)
        if trimmed_only:
            assert sum(lost if lost is not None else -1000 for _, lost in told) == len(missing)


def test_counts_stay_exact_while_a_producer_writes_and_trims(server: RedisServer, client: Any) -> None:
    total = 3000
    client.xadd("s", {"a": 0})

    def produce() -> None:
        own = server.client()
        for n in range(1, total, 3):
            with own.pipeline(transaction=False) as pipe:
                for value in range(n, min(n + 3, total)):
                    pipe.xadd("s", {"a": value}, maxlen=4, approximate=False)
                pipe.execute()

    with closing(source(server, "s", batch=3)) as connector:
        reads = connector.read(Split("s"), "~0-0")
        found = [next(reads)]
        producer = threading.Thread(target=produce)
        producer.start()
        while data(found)[-1:] != [b"%d" % (total - 1)]:
            found.append(next(reads))
        producer.join()
        reads.close()  # type: ignore[attr-defined]
    lost = [count for _, count in gaps(found)]
    # Until a read has reached the end once, the count is not known; it has, before the producer began.
    assert None not in lost
    assert len(data(found)) + sum(count or 0 for count in lost) == total
    assert lost, "the producer was too slow: nothing was trimmed unread"


def test_ids_have_neighbours() -> None:
    most = (1 << 64) - 1
    for id in [(0, 1), (5, 0), (5, most), (7, 3)]:
        assert behind(before(id)) == id
        assert before(behind(id)) == id
    assert before((0, 0)) == (0, 0)

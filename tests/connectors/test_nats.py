"""NATS JetStream on a real server: the kit, what messages become, retention and deletion."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.connectors.contract import Connector, Gap, Item, Lag, Read, Split
from headrace.connectors.nats_config import overlap
from headrace.connectors.nats_jetstream import NatsJetStream
from headrace.connectors.nats_pull import Api, Puller, parse_ack
from headrace.connectors.nats_wire import Message
from headrace.connectors.testing import ConnectorKit, take
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

from ..servers.nats import Admin, NatsServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def admin(server: NatsServer) -> Iterator[Admin]:
    with closing(server.admin()) as admin:
        yield admin


def source(server: NatsServer, stream: str = "S", port: int | None = None, **settings: Any) -> NatsJetStream:
    urls = f"nats://127.0.0.1:{port}" if port else server.url
    return NatsJetStream(NatsJetStream.Config(urls=urls, stream=stream, **{"idle_s": 0.02, **settings}))


def until_idle(connector: Connector, split: Split, after: Any = None) -> list[Any]:
    return list(take(connector, split, after, 1 << 30))


def data(reads: list[Any]) -> list[bytes]:
    return [read.data for read in reads if isinstance(read, Item)]


def gaps(reads: list[Any]) -> list[tuple[Any, int | None]]:
    return [(read.position, read.lost) for read in reads if isinstance(read, Gap)]


def only(connector: Connector) -> Split:
    (split,) = connector.splits()
    return split


# -- the kit ----------------------------------------------------------------------------------------------------------


class TestStream(ConnectorKit):
    """A whole stream with deleted messages, and the same by subjects."""

    resume_points = 16
    settings: dict[str, Any] = {}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def filled(cls, server: NatsServer) -> None:
        cls.server = server
        with closing(server.admin()) as admin:
            admin.create("KIT", "kit.>")
            for n in range(150):
                admin.publish(f"kit.{'ab'[n % 2]}", b"%d" % n, b"Nats-Msg-Id: m%d\r\n" % n)
            for seq in (5, 6, 77, 150):
                admin.ask("STREAM.MSG.DELETE.KIT", {"seq": seq})

    def make(self) -> Connector:
        return source(self.server, "KIT", **self.settings)


class TestSubjects(TestStream):
    settings = {"subjects": ["kit.a", "kit.b"], "batch": 16}


# -- what messages become ---------------------------------------------------------------------------------------------


def test_a_message_is_an_item_with_key_time_subject_and_headers(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    before = time.time_ns() // 1000
    head = b"Nats-Msg-Id: id-1\r\nA: 1\r\nA: 2\r\nobject: forged\r\nB: \xff\r\nContent-Type: image/PNG\r\n"
    admin.publish("s.x", b"\x00\xff", head)
    admin.publish("s.empty", b"")
    with closing(source(server)) as connector:
        split = only(connector)
        one, two = until_idle(connector, split)
    assert (one.data, one.position, one.key) == (b"\x00\xff", 1, "id-1")
    assert before <= one.event_time <= time.time_ns() // 1000
    assert one.headers == {
        "Nats-Msg-Id": "id-1", "A": "1, 2", "header.object": "forged", "B": "\\xff", "Content-Type": "image/PNG",
        "subject": "s.x", "media_type": "image/png",
    }  # fmt: skip
    assert (two.data, two.position, two.key, dict(two.headers)) == (b"", 2, None, {"subject": "s.empty"})
    assert split.id == "S"
    assert split.pin is not None
    assert split.pin.startswith("20")


def test_a_subject_that_is_not_utf8_stops_nothing(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    admin.publish(b"s.\xff\xfe", b"odd")
    admin.publish("s.b", b"next")
    with closing(source(server)) as connector:
        reads = until_idle(connector, only(connector))
    assert data(reads) == [b"odd", b"next"]
    assert reads[0].headers["subject"] == "s.\\xff\\xfe"


def test_the_reply_subject_is_understood_in_both_forms() -> None:
    assert parse_ack(b"$JS.ACK.S.c.1.17.3.1700000000000000001.5") == (17, 3, 1_700_000_000_000_000_001)
    assert parse_ack(b"$JS.ACK.hub.acc.S.c.1.17.3.1700000000000000001.5.x1") == (17, 3, 1_700_000_000_000_000_001)
    assert parse_ack(b"$JS.ACK.S.c.1.x.3.17.5") is None
    assert parse_ack(b"other") is None


def test_messages_of_the_largest_size_arrive(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    size = 1 << 20  # the server's max_payload
    for n in range(5):
        admin.publish("s.x", b"%d" % n + bytes(size - 1))
    with closing(source(server)) as connector:
        reads = data(until_idle(connector, only(connector)))
    assert [(read[:1], len(read)) for read in reads] == [(b"%d" % n, size) for n in range(5)]


# -- splits, beginnings, ends -----------------------------------------------------------------------------------------


def test_subjects_are_splits_that_must_not_overlap(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    for n in range(20):
        admin.publish(f"s.{'ab'[n % 2]}.{n}", b"%d" % n)
    with closing(source(server, subjects=["s.b.>", "s.a.*"])) as connector:
        found = {split.id: data(until_idle(connector, split)) for split in connector.splits()}
    assert found == {"S:s.a.*": [b"%d" % n for n in range(0, 20, 2)], "S:s.b.>": [b"%d" % n for n in range(1, 20, 2)]}
    with pytest.raises(ValueError, match=r"s\.\*\.1 and s\.a\.> overlap"):
        source(server, subjects=["s.a.>", "s.*.1"])


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [("a.b", "a.b", True), ("a.*", "a.b", True), ("a.*", "*.b", True), ("a.>", "a", False), ("a.>", "a.b.c", True),
     ("a", "b", False), ("a.b", "a", False), (">", "a.b", True), ("a.*.c", "a.b.d", False), ("a.*", "a.b.>", False)],
)  # fmt: skip
def test_two_filters_overlap_where_a_subject_matches_both(one: str, other: str, wanted: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is wanted


def test_it_begins_at_the_earliest_the_latest_or_a_time(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    for n in range(4):
        admin.publish("s.x", b"%d" % n)
    time.sleep(0.05)
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{time.time_ns() // 1000 % 1_000_000:06}Z"
    time.sleep(0.05)
    for n in range(4, 6):
        admin.publish("s.y", b"%d" % n)
    admin.ask("STREAM.PURGE.S", {"seq": 3})
    for settings in ({}, {"subjects": ["s.*"]}):
        got = {}
        for start in ("earliest", "latest", moment, "2999-01-01T00:00:00Z"):
            with closing(source(server, start=start, **settings)) as connector:
                split = only(connector)
                reads = until_idle(connector, split, connector.start_of(split))
                got[start] = data(reads)
                assert gaps(reads) == []
        assert list(got.values()) == [[b"2", b"3", b"4", b"5"], [], [b"4", b"5"], []]
    with pytest.raises(ValueError, match="with its zone"):
        source(server, start="2026-01-01")


def test_end_and_lag_count_what_is_left(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    with closing(source(server, subjects=["s.a", "s.b"])) as filtered, closing(source(server)) as whole:
        a, b = filtered.splits()
        split = only(whole)
        assert (whole.end_of(split), filtered.end_of(a)) == (None, None)
        for n in range(10):
            admin.publish("s.a" if n < 6 else "s.b", b"%d" % n)
        assert (whole.end_of(split), filtered.end_of(a), filtered.end_of(b)) == (10, 6, 10)
        assert whole.lag(split, None) == Lag(records=10)
        assert whole.lag(split, 4) == Lag(records=6)
        assert filtered.lag(a, 4) == Lag(records=2)
        admin.ask("STREAM.MSG.DELETE.S", {"seq": 6})
        assert whole.lag(split, 4) == Lag(records=5)
        assert whole.lag(split, 10) == Lag(records=0)


# -- what is lost -----------------------------------------------------------------------------------------------------


def test_retention_that_passed_us_is_a_counted_gap(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>", max_msgs=10)
    admin.publish_all("s.x", [b"%d" % n for n in range(1, 31)])
    with closing(source(server)) as connector:
        split = only(connector)
        reads = until_idle(connector, split, 5)
        assert gaps(reads) == [(20, 15)]
        assert data(reads) == [b"%d" % n for n in range(21, 31)]
        assert gaps(until_idle(connector, split, 20)) == []
        assert gaps(until_idle(connector, split)) == []  # never begun: nothing of ours was lost
        admin.ask("STREAM.PURGE.S")
        assert gaps(until_idle(connector, split, 28)) == [(30, 2)]


def test_with_a_filter_other_subjects_make_no_gap_and_retention_makes_one_of_unknown_size(
    server: NatsServer, admin: Admin
) -> None:
    admin.create("S", "s.>", max_msgs=20)
    for n in range(1, 19):
        admin.publish("s.ours" if n % 6 == 0 else "s.theirs", b"%d" % n)
    admin.ask("STREAM.MSG.DELETE.S", {"seq": 8})
    with closing(source(server, subjects=["s.ours"])) as connector:
        split = only(connector)
        assert [r.position for r in until_idle(connector, split)] == [6, 12, 18]
        admin.publish_all("s.theirs", [b"x"] * 18)  # the first that is left is now 17
        reads = until_idle(connector, split, 12)
        assert gaps(reads) == [(16, None)]
        assert [r.position for r in reads] == [16, 18]
        assert gaps(until_idle(connector, split, 16)) == []
        admin.publish_all("s.theirs", [b"x"] * 30)  # nothing of ours is left
        assert [(r.position, r.lost) for r in until_idle(connector, split, 18)] == [(46, None)]


def test_with_a_filter_retention_that_passes_a_busy_reader_is_a_gap(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>", max_msgs=5)
    admin.publish_all("s.ours", [b"1", b"2"])
    with closing(source(server, subjects=["s.ours"])) as connector:
        reads = connector.read(only(connector), None)
        assert data([next(reads), next(reads)]) == [b"1", b"2"]
        admin.publish_all("s.ours", [b"lost"])
        admin.publish_all("s.theirs", [b"x"] * 5)
        admin.publish("s.ours", b"9")
        found = [next(reads), next(reads)]
        assert gaps(found) == [(4, None)]
        assert data(found) == [b"9"]
        reads.close()  # type: ignore[attr-defined]


class Scripted:
    """A wire that gives the messages of a script, and counts the consumers that are made."""

    url, max_payload = "nats://script", 1 << 20

    def __init__(self, pulls: list[list[tuple[bytes, bytes]]]) -> None:
        self._pulls, self._now, self._sids, self.made = pulls, [], 0, 0

    def request(self, subject: str, payload: bytes) -> Message:
        self.made += "CONSUMER.CREATE" in subject
        return Message(b"", 0, b"", b"", b'{"name": "c%d"}' % self.made)

    def new_inbox(self) -> str:
        return "inbox"

    def subscribe(self, subject: str) -> int:
        self._sids += 1
        return self._sids

    def unsubscribe(self, sid: int) -> None:
        pass

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        if ".MSG.NEXT." in subject:
            self._now = self._pulls.pop(0)

    def next(self, deadline: float) -> Message:
        reply, head = self._now.pop(0)
        return Message(b"s", self._sids, reply, head, b"")


def ack(seq: int, delivery: int) -> tuple[bytes, bytes]:
    return b"$JS.ACK.S.c.1.%d.%d.5.0" % (seq, delivery), b""


@pytest.mark.parametrize(
    ("pulls", "wanted", "consumers"),
    [
        ([[ack(1, 1), ack(3, 3)], [ack(2, 1), ack(3, 2), (b"", b"NATS/1.0 404 No Messages")]], [1, 2, 3], 2),
        ([[ack(1, 1), (b"", b"NATS/1.0 408 Timeout\r\nNats-Pending-Messages: 2")],
          [ack(2, 1), (b"", b"NATS/1.0 404")]], [1, 2], 2),
        ([[ack(1, 1), (b"", b"NATS/1.0 409 Leadership Change")], [ack(2, 1), (b"", b"NATS/1.0 404")]], [1, 2], 2),
        ([[ack(1, 1), (b"", b"NATS/1.0 409 Message Size Exceeds MaxBytes")], [ack(2, 2), (b"", b"NATS/1.0 404")]],
         [1, 2], 1),
    ],
    ids=["hole", "counted", "moved", "large"],
)  # fmt: skip
def test_a_message_lost_between_servers_makes_a_new_consumer(
    pulls: list[Any], wanted: list[int], consumers: int
) -> None:
    wire: Any = Scripted(pulls)
    puller, out = Puller(Api(wire, None), "S", None, 4, 5), [0]
    for _ in range(len(pulls)):
        out += [one.seq for one in puller.pull(out[-1])]
    assert out[1:] == wanted
    assert wire.made == consumers


def test_a_filtered_reader_at_the_end_takes_no_others_for_its_own_losses(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>", max_msgs=300)
    admin.publish("s.ours", b"0")
    with closing(source(server, subjects=["s.ours"])) as connector:
        found: list[Read] = []
        reads = connector.read(only(connector), None)
        for n in range(1, 4):
            admin.publish_all("s.theirs", [b"x"] * 250)
            deadline = time.monotonic() + 2.3  # a look is taken
            while time.monotonic() < deadline:
                found.append(next(reads))
            admin.publish("s.ours", b"%d" % n)
        while data(found)[-1] != b"3":
            found.append(next(reads))
        reads.close()  # type: ignore[attr-defined]
    assert gaps(found) == []
    assert data(found) == [b"0", b"1", b"2", b"3"]


def test_random_histories_account_for_every_sequence(server: NatsServer, admin: Admin) -> None:
    """Writes, deletions, purges and restarts of the reader: items and gaps tile the sequences without overlap."""
    random_ = random.Random(11)
    for _ in range(12):
        admin.create("S", "s.>", max_msgs=random_.choice([-1, 12]))
        top, place, account = 0, 0, []
        with closing(source(server, batch=5)) as connector:
            split = only(connector)
            for _ in range(12):
                for _ in range(random_.randint(0, 8)):
                    top = admin.publish("s.x", b"x")
                if top and random_.random() < 0.5:
                    which = json.dumps({"seq": random_.randint(1, top)}).encode()
                    admin._request(b"$JS.API.STREAM.MSG.DELETE.S", which)  # it may be gone already
                if top and random_.random() < 0.1:
                    admin.ask("STREAM.PURGE.S", {"seq": random_.randint(1, top)})
                for read in take(connector, split, place, random_.randint(1, 20)):
                    account.append((read.position, read.lost if isinstance(read, Gap) else 1))
                    place = read.position
            for read in until_idle(connector, split, place):
                account.append((read.position, read.lost if isinstance(read, Gap) else 1))
        reached = 0
        for position, count in account:
            assert position == reached + count
            reached = position
        assert reached == top


def test_a_stream_deleted_or_made_anew_is_another_source(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    admin.publish("s.x", b"1")
    with closing(source(server)) as connector:
        split = only(connector)
        reads = connector.read(split, None)
        assert isinstance(next(reads), Item)
        admin.delete("S")
        with pytest.raises(SourceError):
            for _ in reads:
                pass
        with pytest.raises(SourceChanged, match="is gone"):
            next(iter(connector.read(split, 1)))
        admin.create("S", "s.>")
        admin.publish_all("s.x", [b"a", b"b"])
        with pytest.raises(SourceChanged, match="was created at"):
            next(iter(connector.read(split, 1)))
        assert data(until_idle(connector, only(connector))) == [b"a", b"b"]
        with pytest.raises(SourceChanged, match="lost its newest writes"):
            next(iter(connector.read(only(connector), 3)))


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_a_retention_that_lets_messages_vanish_is_refused(server: NatsServer, admin: Admin, retention: str) -> None:
    admin.create("S", "s.>", retention=retention)
    with closing(source(server)) as connector:
        with pytest.raises(ConfigError, match=f"`{retention}`.*`limits` is expected"):
            connector.probe()
        with pytest.raises(ConfigError, match="`limits` is expected"):
            list(connector.splits())
    admin.delete("S")
    with closing(source(server)) as connector, pytest.raises(ConfigError, match="has no stream of this name"):
        connector.probe()


def test_nothing_is_left_on_the_server(server: NatsServer, admin: Admin) -> None:
    admin.create("S", "s.>")
    admin.publish("s.x", b"1")
    with closing(source(server, start="2020-01-01T00:00:00Z", subjects=["s.*"])) as connector:
        split = only(connector)
        connector.start_of(split)
        connector.lag(split, 0)
        until_idle(connector, split)
        time.sleep(0.1)
        assert admin.ask("STREAM.INFO.S")["state"]["consumer_count"] == 0

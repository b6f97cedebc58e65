"""RabbitMQ streams on a real broker: the kit, what messages become, retention, where reading begins and ends."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.connectors.contract import Connector, Gap, Idle, Item, Lag, Split
from headrace.connectors.rabbitmq import RabbitStreams
from headrace.connectors.rabbitmq_message import Place, shown, time_us
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.errors import ConfigError, SourceChanged

from ..servers.rabbitmq import Admin, RabbitServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    with RabbitServer() as running:
        yield running


@pytest.fixture
def admin(server: RabbitServer) -> Iterator[Admin]:
    with server.admin() as admin:
        yield admin


def source(server: RabbitServer, streams: Any = "s", port: int | None = None, **settings: Any) -> RabbitStreams:
    urls = f"amqp{'s' if server.tls else ''}://127.0.0.1:{port or server.port}"
    more = {"streams": streams, "idle_s": 0.1, **settings}
    return RabbitStreams(RabbitStreams.Config.model_validate({"urls": urls, **more}))


def only(connector: Connector) -> Split:
    (split,) = connector.splits()
    return split


def until_idle(connector: Connector, after: Any = None, split: Split | None = None) -> list[Any]:
    """What comes until nothing came for a while: on a busy machine one idle tick says little."""
    out: list[Any] = []
    quiet = 0
    for read in connector.read(split or only(connector), after):
        quiet = quiet + 1 if isinstance(read, Idle) else 0
        if quiet == 6:
            break
        out += [] if isinstance(read, Idle) else [read]
    return out


def data(reads: list[Any]) -> list[bytes]:
    return [read.data for read in reads if isinstance(read, Item)]


def offsets(reads: list[Any]) -> list[int]:
    return [Place.of(read.position).offset for read in reads if isinstance(read, Item)]


def gaps(reads: list[Any]) -> list[tuple[str, Any, int | None]]:
    return [(read.reason, read.position, read.lost) for read in reads if isinstance(read, Gap)]


#: Segments of some 15 messages of 300 bytes, of which about 20 kB are kept.
SMALL = {"max_length_bytes": 20_000, "stream_max_segment_size_bytes": 5000}


def padded(numbers: range) -> list[bytes]:
    return [b"%d " % n + bytes(300) for n in numbers]


# -- the kit ----------------------------------------------------------------------------------------------------------


class TestStreams(ConnectorKit):
    """Two partitions of a super stream, small segments whose borders take offsets of their own."""

    resume_points = 6

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def filled(cls, server: RabbitServer) -> None:
        cls.server = server
        with server.admin() as admin:
            for part in range(2):
                admin.stream(f"kit-{part}", stream_max_segment_size_bytes=5000)
                for n in range(60):
                    admin.publish(f"kit-{part}", [b"%d" % n + bytes(200)], message_id=f"m{n}", timestamp=1_700_000_000)

    def make(self) -> Connector:
        return source(self.server, (), super_streams={"kit": 2}, idle_s=0.4)


# -- what messages become ---------------------------------------------------------------------------------------------


def test_a_message_is_an_item_with_key_time_and_headers(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    headers = {"a": "1", "object": "forged", "n": 7, "yes": True, "raw": b"\xff"}
    admin.publish(
        "s", [b"\x00\xff"], message_id="id-1", timestamp=1_700_000_000, content_type="image/PNG; q=1",
        headers={**headers, "when": datetime.datetime(2026, 1, 2, 3, 4, 5)}, app_id="buoy",
    )  # fmt: skip
    admin.publish("s", [b""])
    admin.publish("s", [b"{}"], content_type="application/json", timestamp=1_700_000_000,
                  headers={"timestamp_in_ms": 1_700_000_000_123})  # fmt: skip
    with closing(source(server)) as connector:
        one, two, three = until_idle(connector)
        assert connector.describe() == f"rabbitmq amqp://127.0.0.1:{server.port} / s"
    assert (one.data, one.key, one.event_time) == (b"\x00\xff", "id-1", 1_700_000_000_000_000)
    assert one.position.startswith("0-")
    assert dict(one.headers) == {
        "a": "1", "header.object": "forged", "n": "7", "yes": "true",
        "raw": one.headers["raw"], "when": "2026-01-02T03:04:05+00:00", "property.app_id": "buoy",
        "media_type": "image/png", "format": "png", "routing_key": "s",
    }  # fmt: skip
    assert (two.data, two.key, two.event_time, dict(two.headers)) == (b"", None, None, {"routing_key": "s"})
    assert (three.event_time, three.headers["format"]) == (1_700_000_000_123_000, "json")


def test_stamps_that_are_no_times_are_none() -> None:
    class Properties:
        timestamp: Any = None

    for stamp, headers, expected in (
        (None, {"timestamp_in_ms": 5}, None),
        (1 << 60, {}, None),
        (1_700_000_000, {"timestamp_in_ms": 1_800_000_000_000}, 1_700_000_000_000_000),
        (0, {}, 0),
    ):
        Properties.timestamp = stamp
        assert time_us(Properties, headers) == expected


def test_values_of_tables_are_shown_as_text() -> None:
    assert shown({"b": [1.5, None, {"c": b"\xffx"}], "a": True}) == '{"a": true, "b": [1.5, null, {"c": "\\\\xffx"}]}'


def test_bytes_of_any_kind_and_size_arrive(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    bodies = [b"", b"\xff\xfe\x00", bytes(range(256)) * 4, bytes(9 << 20), b"last"]
    admin.publish("s", bodies)
    with closing(source(server)) as connector:
        assert data(until_idle(connector)) == bodies


def test_a_slow_consumer_of_large_messages_stays_in_bounded_memory(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    size, count = 4 << 20, 60
    for n in range(count):
        admin.publish("s", [bytes([n]) * size])
    with closing(source(server, timeout_s=60)) as connector:
        reads = connector.read(only(connector), None)
        taken, highest, begun = 0, 0, resident()
        for read in reads:
            if isinstance(read, Item):
                assert read.data[:1] == bytes([taken])
                taken += 1
                if taken < 10:
                    time.sleep(0.1)
                highest = max(highest, resident() - begun)
            if taken == count:
                break
        reads.close()  # type: ignore[attr-defined]
    assert highest < 64 << 20, f"memory grew by {highest >> 20} MiB while {count * size >> 20} MiB waited"


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


# -- splits -----------------------------------------------------------------------------------------------------------


def test_streams_and_partitions_are_splits_each_once(server: RabbitServer, admin: Admin) -> None:
    for name in ("a", "sup-0", "sup-1", "höyry/1"):
        admin.stream(name)
        admin.publish(name, [name.encode()])
    with closing(source(server, ["a", "sup-0", "höyry/1"], super_streams={"sup": 2})) as connector:
        connector.probe()
        found = {split.id: data(until_idle(connector, None, split)) for split in connector.splits()}
    assert found == {n: [n.encode()] for n in ("a", "sup-0", "sup-1", "höyry/1")}


def test_settings_that_cannot_be_meant_are_refused() -> None:
    good = {"urls": "amqp://h:1", "streams": "s"}
    for change, said in (
        ({"urls": "amqp://me:sesame@h"}, "use `user`"),
        ({"urls": "amqp://h/vhost"}, "use `user`"),
        ({"urls": "http://h"}, "amqps"),
        ({"streams": []}, "at least one"),
        ({"streams": ""}, "1 to 255"),
        ({"super_streams": {"x": 0}}, "partitions"),
        ({"cert_file": "x"}, "belong together"),
        ({"start": "noon"}, "ISO 8601"),
        ({"prefetch": 0}, "prefetch"),
    ):
        with pytest.raises(ValueError, match=said):
            RabbitStreams.Config.model_validate({**good, **change})
    with pytest.raises(ConfigError, match="not a position"):
        Place.of(5)


# -- queues that cannot be read ---------------------------------------------------------------------------------------


def test_a_queue_that_is_absent_or_no_stream_is_refused(server: RabbitServer, admin: Admin) -> None:
    admin.channel.queue_declare("classic", durable=True)
    admin.channel.queue_declare("quorum", durable=True, arguments={"x-queue-type": "quorum"})
    admin.publish("classic", [b"1"])
    for name, said in (("classic", "of type stream"), ("quorum", "of type stream"), ("nowhere", "no queue of this")):
        with closing(source(server, name)) as connector:
            with pytest.raises(ConfigError, match=said) as caught:
                connector.probe()
            assert caught.value.value == name
            with pytest.raises(ConfigError, match=said):
                next(iter(connector.read(only(connector), None)))
            with pytest.raises(ConfigError, match=said):
                connector.end_of(only(connector))
    assert admin.channel.queue_declare("classic", passive=True).method.message_count == 1


def test_a_stream_that_was_deleted_is_gone(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    admin.publish("s", [b"1", b"2"])
    with closing(source(server)) as connector:
        last = until_idle(connector)[-1].position
        admin.channel.queue_delete("s")
        with pytest.raises(SourceChanged, match="is gone, of which we had read offset 1"):
            next(iter(connector.read(only(connector), last)))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_stream_that_was_made_anew_is_not_taken_for_the_old_one(
    server: RabbitServer, admin: Admin, count: int
) -> None:
    admin.stream("s")
    admin.publish("s", [b"1", b"2"])
    with closing(source(server, timeout_s=1)) as connector:
        last = until_idle(connector)[-1].position
        admin.stream("s")
        admin.publish("s", [b"new %d" % n for n in range(count)])
        said = "is empty" if count == 0 else "ends at offset 0" if count == 1 else "holds another message at offset 1"
        deadline = time.monotonic() + 15
        with pytest.raises(SourceChanged, match=said):
            for _ in connector.read(only(connector), last):
                assert time.monotonic() < deadline, "nothing was noticed"


# -- retention --------------------------------------------------------------------------------------------------------


def test_what_retention_took_is_a_gap_with_the_offsets_that_are_lost(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s", **SMALL)
    admin.publish("s", padded(range(20)))
    with closing(source(server)) as connector:
        split = only(connector)
        begun = until_idle(connector)
        assert data(begun) == padded(range(20))
        admin.publish("s", padded(range(20, 300)))
        time.sleep(0.5)
        rest = until_idle(connector, begun[9].position)
        (gap,) = gaps(rest)
        first = offsets(rest)[0]
        assert gap == ("retention", f"~{first - 1}", first - 1 - offsets(begun)[9])
        assert rest[0].position == gap[1], "the gap comes before what is left"
        # What is left is the tail, without holes in the data; from the gap's own position on it is the same.
        numbers = [int(body.split()[0]) for body in data(rest)]
        assert numbers == list(range(numbers[0], 300))
        assert until_idle(connector, gap[1]) == rest[1:]
        assert until_idle(connector, rest[-1].position) == []
        # Who begins now misses nothing that was there.
        assert gaps(until_idle(connector, connector.start_of(split))) == []
        assert gaps(until_idle(connector)) == []


def test_a_reader_that_retention_overtakes_while_it_reads_says_so(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s", **SMALL)
    admin.publish("s", padded(range(30)))
    with closing(source(server, prefetch=1, idle_s=0.5)) as connector:
        reads = connector.read(only(connector), None)
        out = [next(reads) for _ in range(3)]  # type: ignore[call-overload]
        admin.publish("s", padded(range(30, 400)))
        time.sleep(0.5)
        while not isinstance(read := next(reads), Idle):  # type: ignore[call-overload]
            out.append(read)
        reads.close()  # type: ignore[attr-defined]
    numbers = [int(body.split()[0]) for body in data(out)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 399
    holes = [(a, b) for a, b in itertools.pairwise(numbers) if b != a + 1]
    assert len(holes) == len(gaps(out))
    for (_, _, lost), (a, b) in zip(gaps(out), holes):
        assert lost is not None
        assert lost >= b - a - 1, "the broker's own offsets may be counted, but no message is left out"


def test_offsets_that_the_broker_took_for_itself_are_no_gap(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s", stream_max_segment_size_bytes=5000)
    admin.publish("s", padded(range(100)))
    with closing(source(server)) as connector:
        reads = until_idle(connector)
    assert data(reads) == padded(range(100))
    assert gaps(reads) == []
    assert offsets(reads)[-1] > 99, "there were borders of segments, which take offsets"


# -- beginnings, ends, lag --------------------------------------------------------------------------------------------


def test_start_end_and_lag_name_the_places_that_they_promise(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    with closing(source(server)) as connector:
        split = only(connector)
        assert connector.start_of(split) is None
        assert connector.end_of(split) is None
        assert connector.lag(split, None) == Lag(records=0)
    admin.publish("s", [b"%d" % n for n in range(10)])
    time.sleep(1.1)
    between = datetime.datetime.now(datetime.UTC).isoformat()
    time.sleep(1.1)
    admin.publish("s", [b"%d" % n for n in range(10, 15)])
    with closing(source(server)) as connector:
        assert connector.start_of(split) == "~-1"
        end = connector.end_of(split)
        assert end.startswith("14-")
        assert connector.lag(split, end) == Lag(records=0)
        assert connector.lag(split, None) == Lag(records=15)
        reads = until_idle(connector)
        assert connector.lag(split, reads[4].position) == Lag(records=10)
        assert reads[-1].position == end
    for start, first in (("latest", None), (between, 10), ("2001-01-01T00:00:00Z", 0), ("2999-01-01T00:00:00Z", None)):
        with closing(source(server, start=start)) as connector:
            begun = data(until_idle(connector, connector.start_of(split)))
            assert begun == ([] if first is None else [b"%d" % n for n in range(first, 15)])


def test_idle_ticks_come_while_nothing_does_and_news_end_them(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    with closing(source(server, idle_s=0.3)) as connector:
        reads = connector.read(only(connector), None)
        begun = time.monotonic()
        assert isinstance(next(reads), Idle)  # type: ignore[call-overload]
        assert time.monotonic() - begun < 2
        admin.publish("s", [b"news"])
        while isinstance(read := next(reads), Idle):  # type: ignore[call-overload]
            pass
        assert read.data == b"news"
        reads.close()  # type: ignore[attr-defined]

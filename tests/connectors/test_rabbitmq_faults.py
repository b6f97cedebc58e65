"""RabbitMQ streams when the broker dies, networks break, many read at once, and passwords are wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.connectors.contract import Connector, Idle, Item, Read, Split
from headrace.connectors.rabbitmq import RabbitStreams
from headrace.connectors.rabbitmq_message import Place
from headrace.connectors.testing import open_files
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

from ..servers.process import free_port
from ..servers.proxy import TcpProxy
from ..servers.rabbitmq import Admin, RabbitServer
from .test_rabbitmq import data, only, source, until_idle

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    port = free_port()
    config = f"stream.listeners.tcp.1 = 127.0.0.1:{port}\nstream.advertised_host = 127.0.0.1\n"
    config += f"stream.advertised_port = {port}"
    with RabbitServer(config, plugins="rabbitmq_stream") as running:
        running.stream_port = port  # type: ignore[attr-defined]
        yield running


@pytest.fixture
def admin(server: RabbitServer) -> Iterator[Admin]:
    with server.admin() as admin:
        yield admin


def read_on(connector: Connector, split: Split, wanted: int, sabotage: Any = None) -> list[Read]:
    """Reads as the engine does: after an error a pause, then again from the last position; fails after 90 s."""
    out: list[Read] = []
    after, deadline = None, time.monotonic() + 90
    while len(out) < wanted:
        assert time.monotonic() < deadline, f"{len(out)} of {wanted} reads came"
        try:
            for read in connector.read(split, after):
                if not isinstance(read, Idle):
                    out.append(read)
                    after = read.position
                    if sabotage is not None:
                        sabotage(len(out))
                if len(out) == wanted or time.monotonic() > deadline:
                    break
        except SourceChanged:
            raise
        except SourceError:
            time.sleep(0.05)
    return out


def test_a_broker_killed_and_restarted_in_the_middle_loses_and_doubles_nothing(server: RabbitServer) -> None:
    wanted = [b"%d" % n for n in range(2000)]
    with server.admin() as admin:
        admin.stream("killed")
        admin.publish("killed", wanted)
    server.settle()

    def sabotage(count: int) -> None:
        if count == 300:
            server.restart()  # SIGKILL first; all that was confirmed is there again

    with closing(source(server, "killed")) as connector:
        reads = read_on(connector, only(connector), 2000, sabotage)
    assert data(reads) == wanted
    assert len(reads) == 2000


def test_a_broker_that_is_away_is_said_to_be(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    with TcpProxy(server.port) as proxy:
        proxy.refuse()
        reached = pytest.raises(SourceError, match=f"{proxy.port}: no RabbitMQ broker can be reached")
        with closing(source(server, port=proxy.port)) as connector, reached:
            connector.probe()
        urls = (f"amqp://127.0.0.1:{proxy.port}", f"amqp://127.0.0.1:{server.port}")
        with closing(RabbitStreams(RabbitStreams.Config(urls=urls, streams=("s",)))) as connector:
            connector.probe()
    with closing(source(server, port=free_port())) as connector, pytest.raises(SourceError, match="Connection refused"):
        connector.probe()


def test_cut_and_half_answered_connections_lose_and_double_nothing(server: RabbitServer, admin: Admin) -> None:
    wanted = [b"%d" % n * 50 for n in range(1500)]
    admin.stream("s")
    admin.publish("s", wanted)
    with TcpProxy(server.port) as proxy, closing(source(server, port=proxy.port)) as connector:

        def sabotage(count: int) -> None:
            if count % 100 == 0:
                [proxy.cut, proxy.drop_next_reply, lambda: proxy.cut_after(10_000)][count // 100 % 3]()

        assert data(read_on(connector, only(connector), 1500, sabotage)) == wanted
        assert proxy.accepted >= 6


@pytest.mark.chaos
def test_a_half_open_connection_is_noticed_by_heartbeats(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    admin.publish("s", [b"1"])
    with TcpProxy(server.port) as proxy, closing(source(server, port=proxy.port, timeout_s=1)) as connector:
        reads = connector.read(only(connector), None)
        assert isinstance(next(reads), Item)  # type: ignore[call-overload]
        proxy.freeze()
        begun = time.monotonic()
        with pytest.raises(SourceError, match="silent for longer than 1 s"):
            for _ in reads:
                pass
        assert time.monotonic() - begun < 12
        proxy.thaw()
        assert data(until_idle(connector)) == [b"1"]


@pytest.mark.chaos
def test_a_consumer_that_slept_too_long_goes_on_by_itself(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    wanted = [b"%d" % n for n in range(600)]
    admin.publish("s", wanted)
    out: list[bytes] = []
    with TcpProxy(server.port) as proxy, closing(source(server, port=proxy.port, timeout_s=1)) as connector:
        for read in connector.read(only(connector), None):
            if isinstance(read, Item):
                out.append(read.data)
                if len(out) == 100:
                    time.sleep(0.6)  # longer than the broker may be left without a word
                    proxy.cut()
            if len(out) == 600:
                break
    assert out == wanted


@pytest.mark.chaos
def test_closing_wakes_readers_and_leaves_neither_threads_nor_files(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    threads_before, files_before = threading.active_count(), open_files()
    connector = source(server, idle_s=0.5)
    split = only(connector)
    raised: list[Exception] = []

    def reader() -> None:
        try:
            for _ in connector.read(split, None):
                pass
        except SourceError as exc:
            raised.append(exc)

    threads = [threading.Thread(target=reader) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    connector.close()
    for thread in threads:
        thread.join(5)
    assert len(raised) == 5
    assert all("closed" in str(exc) for exc in raised)
    assert threading.active_count() == threads_before
    assert open_files() <= files_before
    with pytest.raises(SourceError, match="was closed"):
        connector.probe()


def test_many_partitions_are_read_at_once_by_one_connector(server: RabbitServer, admin: Admin) -> None:
    for part in range(8):
        admin.stream(f"many-{part}")
        admin.publish(f"many-{part}", [b"%d" % n for n in range(part, 400, 8)])
    found: dict[str, list[bytes]] = {}
    with closing(source(server, (), super_streams={"many": 8})) as connector:

        def reader(split: Split) -> None:
            found[split.id] = data(read_on(connector, split, 50))

        threads = [threading.Thread(target=reader, args=(split,)) for split in connector.splits()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {f"many-{p}": [b"%d" % n for n in range(p, 400, 8)] for p in range(8)}


@pytest.mark.chaos
def test_deleting_the_stream_while_it_is_read_parks_it(server: RabbitServer, admin: Admin) -> None:
    admin.stream("s")
    admin.publish("s", [b"1"])
    with closing(source(server)) as connector:
        reads = connector.read(only(connector), None)
        last = next(reads).position  # type: ignore[call-overload]
        admin.channel.queue_delete("s")
        with pytest.raises(SourceError, match="ended the reading"):
            for _ in reads:
                pass
        with pytest.raises(SourceChanged, match="is gone"):
            next(iter(connector.read(only(connector), last)))


def test_messages_that_the_broker_cannot_give_park_the_split_with_a_reason(server: RabbitServer, admin: Admin) -> None:
    """Bytes that are no AMQP 1.0 message, published over the stream protocol: the broker fails on them."""
    rstream = pytest.importorskip("rstream")
    import asyncio

    async def publish() -> None:
        producer = rstream.Producer("127.0.0.1", port=server.stream_port, username="guest", password="guest")  # type: ignore[attr-defined]
        async with producer:
            await producer.send_wait("s", rstream.AMQPMessage(body=b"good"))
            await producer.send_wait("s", b"\x01 no AMQP message")

    admin.stream("s")
    asyncio.run(publish())
    errors: list[Exception] = []
    out: list[Any] = []
    with closing(source(server, prefetch=1)) as connector:
        while len(errors) < 3:
            try:
                for read in connector.read(only(connector), out[-1].position if out else None):
                    out += [read] if isinstance(read, Item) else []
            except (SourceError, ConfigError) as exc:
                errors.append(exc)
    assert data(out) in ([b"good"], [])
    assert [type(e) for e in errors[-2:]][-1] is ConfigError
    assert "again and again" in str(errors[-1])


# -- credentials ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[RabbitServer]:
    with RabbitServer(user="me", password="sesame-open", tls=True) as running:
        with running.admin() as admin:
            admin.stream("s")
            admin.publish("s", [b"1"])
        yield running


@pytest.mark.chaos
def test_passwords_are_checked_and_never_shown(guarded: RabbitServer) -> None:
    right = {"user": "me", "password": "sesame-open", "ca_file": guarded.ca}
    with closing(source(guarded, **right)) as connector:
        connector.probe()
        assert data(until_idle(connector)) == [b"1"]
        shown = repr(connector.config) + connector.describe() + connector.config.model_dump_json()
        assert "sesame" not in shown
    for settings, said in (
        ({"password": "sesame-wrong"}, "refuses the user or the password"),
        ({"user": "you"}, "refuses the user or the password"),
        ({"user": "guest", "password": None}, "refuses the user or the password"),
        ({"vhost": "other"}, "virtual host"),
    ):
        wrong = {**right, **settings}
        with closing(source(guarded, **wrong)) as connector, pytest.raises(ConfigError, match=said) as caught:
            connector.probe()
        told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        assert "sesame" not in told


@pytest.mark.chaos
def test_tls_is_verified(guarded: RabbitServer) -> None:
    login = {"user": "me", "password": "sesame-open"}
    with closing(source(guarded, **login)) as connector, pytest.raises(SourceError, match=r"(?i)certificate"):
        connector.probe()
    nowhere = {**login, "ca_file": "/nowhere.pem"}
    with closing(source(guarded, **nowhere)) as connector, pytest.raises(ConfigError, match="nowhere"):
        connector.probe()


def test_positions_are_what_the_page_says() -> None:
    assert Place.of("41-9f3c2a1b") == Place(41, "9f3c2a1b")
    assert Place.of("~-1") == Place(-1)
    for wrong in (None, 7, "41", "41-9F3C2A1B", "~", "-1-00000000", {"offset": 3}):
        with pytest.raises(ConfigError, match="not a position"):
            Place.of(wrong)

"""Redis Streams when servers die, networks break, many read at once, and passwords are wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headrace.connectors.contract import Connector, Idle, Item, Read, Split
from headrace.connectors.redis_streams import RedisStreams
from headrace.schemas.errors import ConfigError, SourceError

from ..servers.proxy import TcpProxy
from ..servers.redis import RedisServer
from .test_redis import data, source, until_idle

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


# -- servers that die, networks that break ----------------------------------------------------------------------------


def read_on(connector: Connector, split: Split, wanted: int, sabotage: Any = None) -> list[Read]:
    """Reads as the engine does: after an error a pause, then again from the last position; fails after 30 s."""
    out: list[Read] = []
    after, deadline = None, time.monotonic() + 30
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
        except SourceError:
            time.sleep(0.05)
    return out


def test_a_server_killed_and_restarted_in_the_middle_loses_and_doubles_nothing(
    server: RedisServer, client: Any
) -> None:
    wanted = [b"%d" % n for n in range(2000)]
    with client.pipeline() as pipe:
        for value in wanted[:1000]:
            pipe.xadd("s", {"a": value})
        pipe.execute()

    def sabotage(count: int) -> None:
        if count in (300, 1000, 1500):
            server.restart()
        if count == 1000:
            again = server.client()
            with again.pipeline() as pipe:
                for value in wanted[1000:]:
                    pipe.xadd("s", {"a": value})
                pipe.execute()

    with closing(source(server, "s")) as connector:
        reads = read_on(connector, Split("s"), 2000, sabotage)
    assert data(reads) == wanted


def test_cut_and_half_answered_connections_lose_and_double_nothing(server: RedisServer, client: Any) -> None:
    wanted = [b"%d" % n * 50 for n in range(1500)]
    with client.pipeline() as pipe:
        for value in wanted:
            pipe.xadd("s", {"a": value})
        pipe.execute()
    with TcpProxy(server.port) as proxy, closing(source(server, "s", port=proxy.port)) as connector:

        def sabotage(count: int) -> None:
            if count % 100 == 0:
                [proxy.cut, proxy.drop_next_reply, lambda: proxy.cut_after(10_000)][count // 100 % 3]()

        assert data(read_on(connector, Split("s"), 1500, sabotage)) == wanted
        assert proxy.accepted >= 10


def test_a_half_open_connection_is_noticed_within_the_timeout(server: RedisServer, client: Any) -> None:
    client.xadd("s", {"a": 1})
    with TcpProxy(server.port) as proxy, closing(source(server, "s", port=proxy.port, timeout_s=1)) as connector:
        reads = connector.read(Split("s"), None)
        assert isinstance(next(reads), Item)
        proxy.freeze()
        begun = time.monotonic()
        with pytest.raises(SourceError, match="did not answer within 1 s"):
            for _ in reads:
                pass
        assert time.monotonic() - begun < 4
        proxy.thaw()
        client.xadd("s", {"a": 2})
        assert data(until_idle(connector, Split("s"))) == [b"1", b"2"]


def test_an_unreachable_server_is_named(server: RedisServer) -> None:
    with TcpProxy(server.port) as proxy, closing(source(server, "s", port=proxy.port)) as connector:
        proxy.refuse()
        with pytest.raises(SourceError, match=f"redis://127.0.0.1:{proxy.port}"):
            connector.probe()


def test_closing_wakes_readers_and_leaves_no_thread(server: RedisServer, client: Any) -> None:
    connector = source(server, "s")
    before_ = threading.active_count()
    raised: list[BaseException] = []

    def reader() -> None:
        try:
            for _ in connector.read(Split("s"), None):
                pass
        except SourceError as exc:
            raised.append(exc)

    threads = [threading.Thread(target=reader) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    connector.close()
    for thread in threads:
        thread.join(3)
    assert len(raised) == 5
    assert threading.active_count() == before_


# -- many at once, large, slow ----------------------------------------------------------------------------------------


def test_a_hundred_splits_are_read_at_once_by_one_connector(server: RedisServer, client: Any) -> None:
    with client.pipeline() as pipe:
        for n in range(2000):
            pipe.xadd(f"many:{n % 100}", {"a": n})
        pipe.execute()
    found: dict[str, list[bytes]] = {}
    with closing(source(server, "many:*")) as connector:

        def reader(split: Split) -> None:
            found[split.id] = data(read_on(connector, split, 20))

        threads = [threading.Thread(target=reader, args=(split,)) for split in connector.splits()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {f"many:{s}": [b"%d" % n for n in range(s, 2000, 100)] for s in range(100)}


def test_large_entries_are_asked_for_one_by_one(server: RedisServer, client: Any) -> None:
    for _ in range(300):
        client.xadd("s", {"a": b"small"})
    for n in range(12):
        client.xadd("s", {"a": b"%02d" % n + bytes(6 << 20)})
    with TcpProxy(server.port) as proxy, closing(source(server, "s", port=proxy.port)) as connector:
        reads = connector.read(Split("s"), None)
        for _ in range(303):
            read = next(reads)
        asked = proxy.to_client
        for _ in range(9):
            read = next(reads)
            assert proxy.to_client - asked <= 30 << 20, "more than was needed came over the network"
            asked = proxy.to_client
        assert isinstance(read, Item)
        assert read.data == b"11" + bytes(6 << 20)
        reads.close()  # type: ignore[attr-defined]


# -- credentials ------------------------------------------------------------------------------------------------------


def test_passwords_are_checked_and_never_shown() -> None:
    with RedisServer(password="open sesame") as guarded:
        guarded.client().xadd("s", {"a": 1})
        with closing(source(guarded, "s", password="open sesame")) as connector:
            connector.probe()
            assert data(until_idle(connector, Split("s"))) == [b"1"]
            assert "sesame" not in repr(connector.config) + connector.describe() + connector.config.model_dump_json()
        for wrong in ({"password": "close sesame"}, {}, {"username": "nobody", "password": "open sesame"}):
            with closing(source(guarded, "s", **wrong)) as connector, pytest.raises(ConfigError) as caught:
                connector.probe()
            assert "sesame" not in str(caught.value)
            assert "`password`" in str(caught.value)
    with pytest.raises(ValueError, match="may stand in the URL") as refused:
        RedisStreams.Config(url="redis://:sesame@127.0.0.1", streams=("s",))
    assert refused.value is not None


def test_a_user_who_may_only_read_is_enough(server: RedisServer, client: Any) -> None:
    commands = "+xinfo +xrange +xrevrange +xread +type +scan +multi +exec +ping"
    client.execute_command(*f"ACL SETUSER reader on >pw ~s {commands}".split())
    client.execute_command("ACL", "SETUSER", "stranger", "on", ">pw", "~s", "+ping", "+scan", "+type")
    client.xadd("s", {"a": 1})
    with closing(source(server, "s", username="reader", password="pw")) as connector:
        connector.probe()
        assert data(until_idle(connector, Split("s"))) == [b"1"]
    with (
        closing(source(server, "s", username="stranger", password="pw")) as connector,
        pytest.raises(ConfigError, match="needs the commands"),
    ):
        connector.probe()


def test_tls_is_verified() -> None:
    with RedisServer(tls=True) as secret:
        secret.client().xadd("s", {"a": 1})
        with closing(source(secret, "s", ca_file=secret.ca)) as connector:
            assert data(until_idle(connector, Split("s"))) == [b"1"]
        with closing(source(secret, "s")) as connector, pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
            connector.probe()
        with closing(source(secret, "s", ca_file="absent")) as connector, pytest.raises(ConfigError, match="absent"):
            connector.probe()

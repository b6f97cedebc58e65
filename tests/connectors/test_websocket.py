"""The connector `websocket` against the websockets package's own server, in a process that is killed and comes back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.connectors.contract import Broken, Gap, Idle, Item, Read, Split
from headrace.connectors.registry import connector_class, guarantee_of
from headrace.connectors.testing_receivers import Child, ReceiverKit, Sender, numbered
from headrace.connectors.websocket import WebSocket
from headrace.schemas.errors import ConfigError, RateLimited, SourceError

from ..servers.proxy import TcpProxy
from ..servers.websocket import WebSocketServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[WebSocketServer]:
    with WebSocketServer() as made:
        yield made


class Here:
    """A receiver that is connected."""

    def __init__(self, connector: WebSocket) -> None:
        self.connector = connector
        self.begin()

    def begin(self) -> None:
        self.reads: Any = self.connector.read(Split("messages"), None)
        self.first = next(self.reads)  # now it is connected

    def take(self, count: int, timeout_s: float = 10) -> list[Any]:
        out: list[Read] = []
        deadline = time.monotonic() + timeout_s
        while len(out) < count and time.monotonic() < deadline:
            read = next(self.reads)
            out += [] if isinstance(read, Idle) else [read]
        return out

    def close(self) -> None:
        self.reads.close()
        self.connector.close()


def here(url: str, **settings: Any) -> Here:
    return Here(WebSocket(WebSocket.Config(url=url, **settings)))


# -- the kit ----------------------------------------------------------------------------------------------------------


class Broadcast(Sender):
    """The server sends to whoever is connected, and is told nothing."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        deadline = time.monotonic() + 10
        while not self._server.readers() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._server.send([payload for _, payload in messages])

    def confirmed(self) -> int:
        return 0

    def again(self) -> None:
        """It keeps nothing."""


class TestWebSocket(ReceiverKit):
    """Messages carry no keys of their own and nothing is confirmed: what the kit asks about these is said anew here."""

    connector = WebSocket
    secrets = ("very-secret-token", "very-secret-header", "very-secret-query", "very-secret-subscription")
    flood_payload_bytes = 256 << 10
    server: WebSocketServer

    @pytest.fixture(autouse=True)
    def _server(self, server: WebSocketServer) -> Iterator[None]:
        self.server = server
        yield
        server.hang_up()

    def settings(self) -> dict[str, Any]:
        return {
            "url": f"{self.server.url}?key=very-secret-query", "max_message_bytes": 1 << 19, "queue_bytes": 4 << 20,
            "token": "very-secret-token", "headers": {"X-Key": "very-secret-header"},
            "subscribe": {"key": "very-secret-subscription"},
        }  # fmt: skip

    def sender(self) -> Sender:
        return Broadcast(self.server)

    def test_unknown_settings_are_refused_and_secrets_never_shown(self) -> None:
        """The query of the url is not printed, but a copy of the settings for another process holds it."""
        connector = self.make()
        shown = [repr(connector.config), str(connector.config), connector.describe()]
        with pytest.raises(ValidationError):
            WebSocket.Config(**{**self.settings(), "no_such_setting": 1})
        assert not [s for s in self.secrets if any(s in text for text in shown)], "a secret is shown"

    def test_everything_sent_arrives_and_is_confirmed_once_acknowledged(self) -> None:
        messages = numbered(30)
        with self._receiving() as (there, sender):
            sender.send(messages)
            items = there.take(30)
            assert [item.data for item in items] == [payload for _, payload in messages]
            assert len({json.dumps(item.position) for item in items}) == 30

    def test_a_new_read_does_not_confirm_what_an_older_one_gave(self) -> None:
        with self._receiving() as (there, sender):
            sender.send(numbered(3))
            assert len(there.take(3)) == 3
            older = [item.position for item in there.items]
            there.end_read()
            there.begin()
            sender.send(numbered(2, "later"))
            assert len(there.take(2)) == 2
            assert not [item for item in there.items if item.position in older]

    def test_equal_keys_are_passed_through_as_equal_keys(self) -> None:
        where = {"key": "/meta/id", "time": {"field": "at", "unit": "s"}}
        there = Here(WebSocket(WebSocket.Config(**{**self.settings(), **where})))
        same = b'{"meta": {"id": 7}, "at": 1700000000.5}'
        self.server.send([same, same, b"[]", b"no json", b'{"meta": {"id": 1.5}, "at": true}'])
        items = there.take(5)
        assert [item.key for item in items] == ["7", "7", None, None, None]
        assert [item.event_time for item in items] == [1_700_000_000_500_000] * 2 + [None] * 3
        there.close()

    def test_the_declared_guarantee_is_not_more_than_what_is_observed(self) -> None:
        """A receiver dies with what it took and nobody wrote down: that is missing, and nothing comes twice."""
        assert guarantee_of(WebSocket) == "at most once"
        messages = numbered(8)
        with self._sending() as sender:
            with Child(WebSocket, self.settings()) as child:
                sender.send(messages)
                kept = [payload for _, payload in child.take(8)][:3]
                child.kill()
            with self._receiving() as (there, _):
                sender.send(numbered(2, "later"))
                kept += [item.data for item in there.take(2)]
        sent = [payload for _, payload in messages + numbered(2, "later")]
        assert Counter(kept) <= Counter(sent) and len(kept) == 5


# -- what arrives -----------------------------------------------------------------------------------------------------


def test_text_and_bytes_arrive_as_they_are_even_text_that_is_none(server: WebSocketServer) -> None:
    there = here(server.url, format="json")
    server.send(["grüße".encode(), b""], "text")
    server.send([b"\xff\xfe no text"], "cut")
    server.send([bytes(range(256))])
    items = there.take(4)
    assert [item.data for item in items] == ["grüße".encode(), b"", b"\xff\xfe no text", bytes(range(256))]
    assert {item.headers["format"] for item in items} == {"json"}
    there.close()


def test_a_subscription_is_sent_first_and_the_headers_with_the_handshake() -> None:
    with WebSocketServer(wait_for_subscription=True, subprotocols=["tides.v2"]) as server:
        there = here(server.url, subscribe=[{"do": "subscribe", "to": ["levels"]}, "plain"], token="letmein",
                     headers={"X-Station": "7"}, subprotocols=["tides.v1", "tides.v2"])  # fmt: skip
        deadline = time.monotonic() + 5
        while len(server.told()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        headers, first, second = server.told()
        assert headers["Authorization"] == "Bearer letmein" and headers["X-Station"] == "7"
        assert json.loads(first) == {"do": "subscribe", "to": ["levels"]} and second == "plain"
        server.send([b"a level"])
        assert [item.data for item in there.take(1)] == [b"a level"]
        there.close()
        with pytest.raises(ConfigError, match="takes none of other"):
            here(server.url, subprotocols="other")


# -- what breaks ------------------------------------------------------------------------------------------------------


def test_a_killed_server_is_an_error_and_the_next_read_begins_with_a_gap() -> None:
    with WebSocketServer() as server:
        there = here(server.url)
        assert isinstance(there.first, Idle), "a first connection has no gap"
        server.send([b"before"])
        assert there.take(1)[0].data == b"before"
        server.kill()
        with pytest.raises(SourceError, match=r"ws://127.0.0.1:\d+/stream: the connection has ended"):
            there.take(1)
        with pytest.raises(SourceError, match="cannot connect"):
            there.begin()
        server.start()
        there.begin()
        assert isinstance(there.first, Gap) and there.first.lost is None and "was down" in there.first.reason
        server.send([b"after"])
        assert there.take(1)[0].data == b"after"
        there.close()


def test_a_cut_a_hang_up_and_a_broken_message_are_all_noticed(server: WebSocketServer) -> None:
    with TcpProxy(server.port) as proxy:
        there = here(f"ws://127.0.0.1:{proxy.port}/stream")
        proxy.cut()
        with pytest.raises(SourceError, match="has ended"):
            there.take(1)
        there.begin()
        proxy.cut_after(200_000)
        server.send([bytes(300_000)])  # compressed it is small; what is cut is the next one
        server.send([b"".join(bytes([n * 37 % 251]) * 3 for n in range(300_000))])
        taken: list[Any] = []
        with pytest.raises(SourceError, match="has ended"):
            while True:
                taken += there.take(1, timeout_s=1)
                proxy.cut()
        assert all(len(item.data) in (300_000, 900_000) for item in taken if isinstance(item, Item)), "never a part"
        there.begin()
        server.hang_up(1013, "come back later")
        with pytest.raises(SourceError, match="code 1013 come back later"):
            there.take(1)
        there.close()


def test_a_server_that_falls_silent_is_noticed_by_its_pings(server: WebSocketServer) -> None:
    with TcpProxy(server.port) as proxy:
        there = here(f"ws://127.0.0.1:{proxy.port}/stream", ping_interval_s=0.2, ping_timeout_s=0.3)
        assert not there.take(1, timeout_s=1), "a server that answers is not given up"
        proxy.freeze()
        with pytest.raises(SourceError, match="has ended"):
            there.take(1, timeout_s=10)
        with pytest.raises(SourceError, match="cannot connect"):
            here(f"ws://127.0.0.1:{proxy.port}/stream", timeout_s=0.3)
        proxy.thaw()
        there.close()


@pytest.mark.parametrize("compression", [True, False])
def test_a_huge_message_is_told_and_costs_one_connection(server: WebSocketServer, compression: bool) -> None:
    there = here(server.url, max_message_bytes=100_000, compression=compression)
    server.send([bytes(100_000)])
    assert len(there.take(1)[0].data) == 100_000
    server.send([b"before"])
    server.zeros(100_001)
    first, broken = there.take(2)
    assert first.data == b"before"
    assert isinstance(broken, Broken) and broken.reason == "too_large" and "100000" in broken.message
    with pytest.raises(SourceError, match="`max_message_bytes`"):
        there.take(1)
    there.begin()
    assert isinstance(there.first, Gap)
    there.close()


def test_a_bomb_takes_little_memory(server: WebSocketServer) -> None:
    with Child(WebSocket, {"url": server.url, "max_message_bytes": 1 << 20, "queue_bytes": 1 << 20}) as child:
        before = child.resident_bytes()
        server.zeros(64 << 20)  # 64 kB on the wire
        time.sleep(0.7)
        assert child.resident_bytes() - before < 32 << 20


def test_who_may_not_come_in_is_told_so_without_the_secret() -> None:
    with WebSocketServer(token="right") as server:
        wrong = WebSocket(WebSocket.Config(url=server.url + "?k=hidden-query", token="hidden-token"))
        for ask in (wrong.probe, lambda: next(iter(wrong.read(Split("messages"), None)))):
            with pytest.raises(ConfigError, match=r"HTTP 401.*`token`") as caught:
                ask()
            assert "hidden" not in str(caught.value)
        assert "hidden" not in repr(wrong.config) + wrong.describe()
        WebSocket(WebSocket.Config(url=server.url, token="right")).probe()


def test_a_certificate_that_is_not_trusted_parks_and_one_that_is_does_not() -> None:
    with WebSocketServer(tls=True) as server:
        with pytest.raises(ConfigError, match="certificate is not trusted"):
            here(server.url)
        with pytest.raises(ConfigError, match=r"^tls_ca: cannot read it"):
            here(server.url, tls_ca="/no/such.pem")
        there = here(server.url, tls_ca=server.ca)
        server.send([b"behind TLS"])
        assert there.take(1)[0].data == b"behind TLS"
        there.close()


def test_a_server_that_asks_for_patience_gets_it_and_redirects_are_not_followed() -> None:
    for status, headers, expected in [
        (429, {"Retry-After": "7"}, RateLimited), (503, {"Retry-After": "9"}, RateLimited), (503, {}, SourceError),
        (302, {"Location": "ws://169.254.169.254/"}, ConfigError), (404, {}, SourceError),
    ]:  # fmt: skip
        with WebSocketServer(status=status, headers=headers) as server, pytest.raises(expected) as caught:
            here(server.url)
        assert type(caught.value) is expected
        if isinstance(caught.value, RateLimited):
            assert caught.value.retry_after == float(headers["Retry-After"])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"url": "http://h/"}, "wss://host"),
        ({"url": "ws://user:hidden@h/"}, "do not belong in the url"),
        ({"url": "ws://h:99999/"}, "cannot be parsed"),
        ({"url": "ws://h/", "subprotocols": ["a b"]}, "is a token"),
        ({"url": "ws://h/", "tls_ca": "ca.pem"}, "wss://"),
        ({"url": "ws://h/", "headers": {"X": "a\r\nb"}}, "on one line"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_what_would_be_right(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WebSocket.Config(**said)


def test_the_registry_knows_it_and_its_end_is_unknown() -> None:
    assert connector_class("websocket") is WebSocket
    made = WebSocket(WebSocket.Config(url="ws://127.0.0.1:1/"))
    assert made.end_of(Split("messages")) is None and made.lag(Split("messages"), None) is None

"""The connector `websocket`: messages that a WebSocket server sends, as they come, and none of them again.

One split, `messages`. A server keeps nothing for us and hears of nothing: what it sends while we are not connected is
lost, and each reconnection says so with a Gap. Positions are [read, number]: they tell items apart and name no place.
Nothing is read ahead beyond `queue_bytes`: while nobody takes messages the socket rests, and the server must wait.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import orjson

from headrace.connectors.contract import Broken, Connector, Gap, Idle, Item, Position, Read, Split
from headrace.connectors.http_poll_client import retry_after
from headrace.connectors.http_poll_divide import id_text, time_us
from headrace.connectors.http_poll_json import place_of, value_at
from headrace.connectors.websocket_config import WebSocketConfig
from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra, RateLimited, SourceError

_IDLE_S = 0.5
_CLOSE_S = 1.0
_WAIT_S = 60.0  # of a 429 that does not say how long
_REDIRECT = "redirects are not followed: name the place itself in `url`"
_TOO_BIG = 1009  #: RFC 6455 section 7.4.1


class WebSocket(Connector):
    """Messages of a WebSocket server, under a connection that is made again when it breaks: at most once."""

    Config = WebSocketConfig
    bounded = False
    replay = "none"
    ordering = "split"
    acknowledges = False
    example = (
        "{type: websocket, url: 'wss://stream.example.org/v0/stream', format: json, "
        "subscribe: {APIKey: '${env:STREAM_KEY}'}, key: id, time: {field: at}}"
    )

    def __init__(self, config: WebSocketConfig) -> None:
        super().__init__(config)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._read = 0  # number of the current read
        self._was_connected = False
        self._key = None if config.key is None else place_of(config.key)
        self._time = None if config.time is None else place_of(config.time.field)

    def describe(self) -> str:
        return f"websocket {self.config.shown}"

    def splits(self) -> Iterable[Split]:
        yield Split("messages", bounded=False)

    def probe(self) -> None:
        """Connects, and sends nothing. Raises: SourceError, ConfigError."""
        with self._connected():
            pass

    def end_of(self, split: Split) -> Position:
        """None: what a server will send is not known before it comes."""
        return None

    def close(self) -> None:
        self._closed.set()

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        """What the server sends from now on; `after` means nothing to it."""
        with self._lock:
            self._read += 1
            read, number = self._read, 0
        with self._connected() as connection:
            self._subscribe(connection)
            with self._lock:
                again, self._was_connected = self._was_connected, True
            if again:
                number += 1
                yield Gap("the connection was down: what was sent meanwhile is lost", [read, number])
            while not self._closed.is_set():
                got = self._next(connection)
                if got is None:
                    yield Idle()
                    continue
                number += 1
                if isinstance(got, SourceError):
                    limit = f"a message of more than {self.config.max_message_bytes} bytes"
                    yield Broken("too_large", f"{limit}, which cost the connection", [read, number], "{}")
                    raise got
                yield self._item(got, [read, number])

    def _item(self, payload: bytes, position: Position) -> Item:
        key = time = None
        if self._key is not None or self._time is not None:
            try:
                value = orjson.loads(payload)
            except orjson.JSONDecodeError:
                value = None  # its record says what is wrong with it
            key = None if self._key is None else id_text(value_at(value, self._key))
            time = None if self._time is None else self._time_us(value_at(value, self._time))
        headers = {} if self.config.format is None else {"format": self.config.format}
        return Item(payload, position, key, time, headers)

    def _time_us(self, value: Any) -> int | None:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        return time_us(str(value), self.config.time.unit, self.config.time.zone)

    # -- the connection -----------------------------------------------------------------------------------------------

    def _subscribe(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            for message in self.config.subscribe:
                connection.send(message.get_secret_value())
        except ConnectionClosed as exc:
            raise self._ended(exc) from exc

    def _next(self, connection: Any) -> bytes | SourceError | None:
        """The next message; None if none came; an error to raise once a too large one was told. Raises: SourceError."""
        from websockets.exceptions import ConnectionClosed

        try:
            got: bytes = connection.recv(_IDLE_S, decode=False)
            return got
        except TimeoutError:
            return None
        except ConnectionClosed as exc:
            if exc.sent is not None and exc.sent.code == _TOO_BIG:
                return SourceError(
                    f"{self.config.shown}: the connection was closed because of a message of more than"
                    f" {self.config.max_message_bytes} bytes: raise `max_message_bytes` if it is meant"
                )
            raise self._ended(exc) from exc

    def _ended(self, exc: Any) -> SourceError:
        """The error that a connection's end means, with the server's own word for it."""
        why = "without a word" if exc.rcvd is None else f"code {exc.rcvd.code} {exc.rcvd.reason}".strip()
        cause = f": {exc.__cause__}" if exc.rcvd is None and exc.__cause__ is not None else ""
        return SourceError(f"{self.config.shown}: the connection has ended, {self._clean(why + cause)}")

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A connection, closed at the end. Raises: SourceError, ConfigError."""
        try:
            from websockets.exceptions import InvalidHandshake, InvalidStatus
            from websockets.sync.client import connect
        except ModuleNotFoundError as exc:
            raise MissingExtra("websockets", "websocket", need="the connector websocket") from exc
        config = self.config
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        if config.token is not None:
            headers["Authorization"] = f"Bearer {config.token.get_secret_value()}"
        with ExitStack() as stack:
            try:
                # A socket of our own: with it no redirect leads to another host, where our headers would go too.
                sock = stack.enter_context(closing(socket.create_connection(config.address, config.timeout_s)))
                made = connect(
                    config.url, sock=sock, ssl=self._tls(), subprotocols=list(config.subprotocols) or None,
                    compression="deflate" if config.compression else None, additional_headers=headers,
                    user_agent_header="headrace", open_timeout=config.timeout_s, ping_interval=config.ping_interval_s,
                    ping_timeout=config.ping_timeout_s, close_timeout=_CLOSE_S, max_size=config.max_message_bytes,
                    max_queue=config.queue_messages,
                )  # fmt: skip
                connection = stack.enter_context(made)
            except InvalidStatus as exc:
                raise self._refusal(exc.response) from exc
            except ssl.SSLCertVerificationError as exc:
                raise ConfigError(f"{config.shown}: its certificate is not trusted: {exc.verify_message}") from exc
            except ValueError as exc:  # of a redirect to another host, which the library refuses
                raise ConfigError(f"{config.shown}: {_REDIRECT}") from exc
            except (InvalidHandshake, OSError, EOFError) as exc:  # TimeoutError is an OSError
                said = self._clean(str(exc) or type(exc).__name__)
                raise SourceError(f"{config.shown}: cannot connect: {said}") from exc
            if config.subprotocols and connection.subprotocol is None:
                raise ConfigError(f"{config.shown}: the server takes none of {', '.join(config.subprotocols)}")
            yield connection

    def _tls(self) -> ssl.SSLContext | None:
        if not self.config.url.startswith("wss:"):
            return None
        try:
            return ssl.create_default_context(cafile=self.config.tls_ca)
        except OSError as exc:
            raise ConfigError(f"cannot read it: {exc}", field="tls_ca", value=self.config.tls_ca) from exc

    def _refusal(self, response: Any) -> HeadraceError:
        """The error that an answer to the handshake means."""
        said = f"{self.config.shown}: HTTP {response.status_code} instead of a WebSocket"
        wait = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
        if response.status_code == 429 or (response.status_code == 503 and wait is not None):
            seconds = _WAIT_S if wait is None else wait
            return RateLimited(f"{said}: asks to wait {seconds:.0f} s", retry_after=seconds)
        if response.status_code in (401, 403):
            return ConfigError(f"{said}: `token` or `headers` do not let us in")
        if 300 <= response.status_code < 400:
            return ConfigError(f"{said}: {_REDIRECT}")
        return SourceError(said)

    def _clean(self, text: str) -> str:
        config = self.config
        secrets = [value.get_secret_value() for value in (*config.headers.values(), config.token) if value is not None]
        for secret in filter(None, [config.url, *secrets]):
            text = text.replace(secret, "…")
        return text

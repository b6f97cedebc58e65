"""The connection to a RabbitMQ broker: reading a stream queue from an offset by AMQP 0.9.1, and what errors mean.

pika's event loop runs only while somebody waits for a message, so what lies in memory is what one read of the socket
brought, however far the broker was allowed to send ahead: TCP holds it back. Acknowledgements are no more than credit;
a stream keeps its messages. (pika's blocking connection is not used: when it stops reading it rejects what is on the
way, which brokers do not allow on streams.) Nothing is tried twice.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from headrace.connectors.rabbitmq_config import RabbitConfig
from headrace.connectors.rabbitmq_message import OFFSET, Delivered
from headrace.schemas.errors import ConfigError, HeadraceError, MissingExtra, SourceError

_PORTS = {"amqp": 5672, "amqps": 5671}
#: AMQP 0.9.1 reply codes (section 1.2 of the protocol's XML).
#: What pika stumbles over where a connection ends at an awkward moment.
_DISORDER = (AttributeError, ValueError, AssertionError, IndexError, KeyError, RuntimeError)
_SETTLE_S = 2.0
_BATCH_S = 0.2  #: silence after which the last batch is taken to be over
_LOOK_S = 0.5  #: how often a wait looks whether the connector was closed
_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED, _INTERNAL = 403, 404, 406, 530, 541


class NoQueue(ConfigError):
    """There is no queue of that name."""


class CannotRead(SourceError):
    """The broker broke off: it cannot give what lies there to an AMQP 0.9.1 reader, or it is in trouble."""


class Link:
    """One connection for one thread."""

    def __init__(self, config: RabbitConfig, is_closed: Callable[[], bool]) -> None:
        try:
            from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]
        except ImportError as exc:
            raise MissingExtra("pika", "rabbitmq", need="reading RabbitMQ streams") from exc
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it would log is raised here
        self.where = " ".join(config.urls)  #: how messages name the broker
        self._config = config
        self._is_closed = is_closed
        self._loop = IOLoop()
        self._connection: Any = None
        self._ended: BaseException | None = None  #: why the connection is over
        self._silent_s = 0.0  #: waited for the broker since it last said anything
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        """The first broker of the list that answers; where none does, the last one's reason is raised."""
        import pika  # type: ignore[import-untyped]

        for url in self._config.urls:
            opened: list[Any] = []
            self._ended = None
            try:
                with self.errors(""):
                    self._connection = pika.SelectConnection(
                        _parameters(self._config, url),
                        on_open_callback=partial(self._add, opened),
                        on_open_error_callback=self._end,
                        on_close_callback=self._end,
                        custom_ioloop=self._loop,
                    )
                    self._until(opened, "")
                    return
            except SourceError:
                if url == self._config.urls[-1]:
                    raise

    def close(self) -> None:
        """End the connection; waits a second at most, never raises."""
        from pika.exceptions import AMQPError  # type: ignore[import-untyped]

        with suppress(AMQPError, *_DISORDER, OSError):
            if self._connection is not None and not self._connection.is_closed:
                self._connection.close()
                ends = time.monotonic() + 1.0
                while not self._connection.is_closed and time.monotonic() < ends:
                    self._turn(0.1)
        with suppress(AMQPError, *_DISORDER, OSError):
            self._loop.close()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let what the broker sends arrive, until anything came or the time is over. Raises what ended the connection.

        For use inside `errors`.
        """
        self._turn(min(seconds, _LOOK_S))
        if self._ended is not None:
            raise self._ended
        if self._silent_s > self._config.timeout_s + 1:  # heartbeats come twice in `timeout_s`
            raise SourceError(f"{self.where} was silent for longer than {self._config.timeout_s:g} s")
        if self._is_closed():
            raise SourceError(f"{self.where}: closed while it was read")

    def wake(self, *_: Any) -> None:
        """End the wait that is going on."""
        self._loop.stop()

    def _turn(self, seconds: float) -> None:
        received, begun = self._received(), time.monotonic()
        timer = self._loop.call_later(seconds, self._loop.stop)
        try:
            self._loop.start()
        finally:
            self._loop.remove_timeout(timer)
        self._silent_s = self._silent_s + time.monotonic() - begun if self._received() == received else 0.0

    def _received(self) -> int:
        return 0 if self._connection is None else int(self._connection.bytes_received)

    def _until(self, answers: list[Any], what: str) -> Any:
        """The answer that a callback adds to the list. Raises: SourceError where it does not come."""
        ends = time.monotonic() + 2 * self._config.timeout_s
        while not answers:
            self.wait(_LOOK_S)
            if time.monotonic() > ends:
                raise SourceError(f"{self.where} gave no answer for {2 * self._config.timeout_s:g} s{what}")
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]

    def _add(self, answers: list[Any], answer: Any, reason: Any = None) -> None:
        answers.append(answer if reason is None else reason)
        self.wake()

    def _end(self, connection: Any, reason: Any) -> None:
        self._ended = reason if isinstance(reason, BaseException) else SourceError(f"{self.where}: {reason}")
        self.wake()

    # -- questions ----------------------------------------------------------------------------------------------------

    def channel(self) -> Any:
        """A new channel, open. For use inside `errors`."""
        opened: list[Any] = []
        self._connection.channel(on_open_callback=partial(self._add, opened))
        return self._until(opened, "")

    def feed(self, queue: str, start: Any, prefetch: int) -> Feed:
        """Messages of a stream from an offset, `first`, `last`, `next` or a datetime on. Raises: ConfigError,
        SourceError."""
        with self.errors(queue):
            return Feed(self, queue, self.channel(), start, prefetch)

    def check(self, queue: str) -> None:
        """The queue is there, is a stream, and may be read. Raises: ConfigError, SourceError."""
        self.feed(queue, "next", 1).close()

    def first(self, queue: str) -> int | None:
        """The offset of the first message that is left; None if there is none."""
        found = self._one(queue, "first", self._settle_s(queue))
        return None if found is None else found.offset

    def since(self, queue: str, micros: int) -> int | None:
        """The offset of the first message of the first batch written at or after a time; None if there is none yet."""
        found = self._one(queue, datetime.fromtimestamp(max(0, micros // 1_000_000), UTC), _SETTLE_S)
        return None if found is None else found.offset

    def last(self, queue: str) -> Delivered | None:
        """The newest message; None if there is none.

        The broker gives the last batch, whose length nobody tells: it is over when nothing more comes.
        """
        feed = self.feed(queue, "last", min(self._config.prefetch, 64))
        found = feed.next(self._settle_s(queue))
        ends = time.monotonic() + _SETTLE_S
        while found is not None and time.monotonic() < ends:  # while others publish, the newest moves
            more = feed.next(_BATCH_S)
            if more is None:
                break
            found = more
        feed.close()
        return found

    def _one(self, queue: str, start: Any, wait_s: float) -> Delivered | None:
        feed = self.feed(queue, start, 1)
        found = feed.next(wait_s)
        feed.close()
        return found

    def _settle_s(self, queue: str) -> float:
        """How long to wait for a message that may not be there. The broker's count is late, but no lie when not 0."""
        with self.errors(queue):
            channel = self.channel()
            answered: list[Any] = []
            channel.add_on_close_callback(partial(self._add, answered))
            channel.queue_declare(queue, passive=True, callback=partial(self._add, answered))
            count = self._until(answered, f" when it was asked for {queue}").method.message_count
            channel.close()
        return self._config.timeout_s if count else min(_SETTLE_S, self._config.timeout_s)

    @contextmanager
    def errors(self, queue: str) -> Iterator[None]:
        """Turns what pika raises into our errors."""
        from pika.adapters.utils.connection_workflow import AMQPConnectorException  # type: ignore[import-untyped]
        from pika.exceptions import AMQPError  # type: ignore[import-untyped]

        try:
            yield
        except HeadraceError:
            raise
        except (AMQPError, AMQPConnectorException) as exc:
            raise self._meaning(_innermost(exc), queue) from exc
        except OSError as exc:
            raise SourceError(f"{self.where}: {exc.strerror or exc}") from exc
        except _DISORDER as exc:
            raise SourceError(f"{self.where}: the connection ended in disorder ({type(exc).__name__})") from exc

    def _meaning(self, exc: BaseException, queue: str) -> HeadraceError:
        import pika.exceptions as pika  # type: ignore[import-untyped]

        where, vhost = self.where, self._config.vhost
        code, text = _reply(exc)
        if isinstance(exc, (pika.ProbableAuthenticationError, pika.AuthenticationError)):
            return ConfigError(f"{where} refuses the user or the password", field="user", value=self._config.user)
        if isinstance(exc, pika.ProbableAccessDeniedError) or code == _NOT_ALLOWED:
            message = f"{where} does not let `{self._config.user}` into this virtual host, or has none of this name"
            return ConfigError(message, field="vhost", value=vhost)
        if code == _ACCESS_REFUSED:
            message = f"{where} does not let `{self._config.user}` read it: read permission on the queue is expected"
            return ConfigError(message, field="streams", value=queue)
        # While a broker starts, its streams exist but are "down or inaccessible", which is told by the same code.
        if code == _NOT_FOUND and "no queue" in text:
            message = f"{where} has no queue of this name in the virtual host {vhost}"
            return NoQueue(message, field="streams", value=queue)
        if code == _PRECONDITION_FAILED and OFFSET in text:
            message = (
                f"a queue of type stream is expected at {where}; this one is classic or quorum, whose messages can be "
                "read only once. Bind a stream queue to the same exchange and read that"
            )
            return ConfigError(message, field="streams", value=queue)
        if code == _INTERNAL:
            return CannotRead(f"{where}: the broker broke off reading {queue} with an internal error")
        if isinstance(exc, pika.AMQPHeartbeatTimeout):
            return SourceError(f"{where} was silent for longer than {self._config.timeout_s:g} s")
        if not isinstance(exc, (pika.ConnectionClosed, pika.ChannelClosed)):
            detail = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
            return SourceError(f"{where}: no RabbitMQ broker can be reached, or the connection was lost: {detail}")
        return SourceError(f"{where}: {text or type(exc).__name__}")


class Feed:
    """The messages of one stream in order, from where it was begun."""

    def __init__(self, link: Link, queue: str, channel: Any, start: Any, prefetch: int) -> None:
        self._link = link
        self._queue = queue
        self._channel = channel
        self._grant = max(1, prefetch // 4)
        self._unacked = 0
        self._ended: BaseException | None = None
        self._arrived: deque[tuple[Any, Any, bytes]] = deque()
        begun: list[Any] = []
        channel.add_on_close_callback(self._end)
        channel.add_on_close_callback(partial(link._add, begun))
        channel.add_on_cancel_callback(self._cancelled)
        channel.basic_qos(prefetch_count=prefetch)
        channel.basic_consume(queue, self._arrive, arguments={OFFSET: start}, callback=partial(link._add, begun))
        link._until(begun, f" when it was asked for {queue}")

    def next(self, wait_s: float) -> Delivered | None:
        """The next message, or None if none came within `wait_s`. Raises: SourceError, ConfigError."""
        deadline = time.monotonic() + wait_s
        while not self._arrived:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with self._link.errors(self._queue):
                self._link.wait(left)
                if self._ended is not None and not self._arrived:
                    raise self._ended
        method, properties, body = self._arrived.popleft()
        offset = (properties.headers or {}).get(OFFSET)
        if not isinstance(offset, int):
            message = "its messages bear no offset: a queue of type stream is expected"
            raise ConfigError(message, field="streams", value=self._queue)
        self._unacked += 1
        if self._unacked >= self._grant:
            with self._link.errors(self._queue):
                self._channel.basic_ack(method.delivery_tag, multiple=True)
            self._unacked = 0
        return Delivered(int(offset), method, properties, body)

    def close(self) -> None:
        """End this reading and keep the connection."""
        from pika.exceptions import AMQPError  # type: ignore[import-untyped]

        with suppress(AMQPError, *_DISORDER, OSError):
            if self._channel.is_open:
                self._channel.close()
        self._arrived.clear()

    def _arrive(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._arrived.append((method, properties, body))
        self._link.wake()

    def _cancelled(self, frame: Any) -> None:
        message = "the broker ended the reading: the queue was deleted, or its node went away"
        self._ended = SourceError(f"{self._link.where}: {message} ({self._queue})")
        self._link.wake()

    def _end(self, channel: Any, reason: Any) -> None:
        self._ended = self._ended or reason


def _parameters(config: RabbitConfig, url: str) -> Any:
    import pika

    parts = urlsplit(url)
    assert parts.hostname is not None
    options = None
    if parts.scheme == "amqps":
        try:
            context = ssl.create_default_context(cafile=config.ca_file)
            if config.cert_file is not None:
                context.load_cert_chain(config.cert_file, config.key_file)
        except OSError as exc:  # ssl.SSLError is one
            names = [name for name in (config.ca_file, config.cert_file, config.key_file) if name is not None]
            raise ConfigError(f"cannot use {' and '.join(names)}: {exc.strerror or exc}", field="ca_file") from exc
        options = pika.SSLOptions(context, parts.hostname)
    password = "guest" if config.password is None else config.password.get_secret_value()  # as a new broker has it
    return pika.ConnectionParameters(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        virtual_host=config.vhost,
        credentials=pika.PlainCredentials(config.user, password, erase_on_connect=True),
        ssl_options=options,
        heartbeat=max(1, round(config.timeout_s)),
        socket_timeout=config.timeout_s,
        stack_timeout=config.timeout_s,
        blocked_connection_timeout=config.timeout_s,
        client_properties={"connection_name": "headrace"},
    )


def _reply(exc: BaseException) -> tuple[int | None, str]:
    code, text = getattr(exc, "reply_code", None), str(getattr(exc, "reply_text", ""))
    if code is None and exc.args and isinstance(exc.args[0], int):
        code = exc.args[0]
    return code, text


def _innermost(exc: BaseException) -> BaseException:
    """The deepest reason that pika wrapped: of several attempts the last one's."""
    from pika.exceptions import AMQPHeartbeatTimeout, ProbableAccessDeniedError, ProbableAuthenticationError

    for _ in range(8):
        if isinstance(exc, (ProbableAuthenticationError, ProbableAccessDeniedError, AMQPHeartbeatTimeout)):
            break
        wrapped = [getattr(exc, "exception", None), *getattr(exc, "exceptions", ()), *exc.args]
        inner = [one for one in wrapped if isinstance(one, BaseException)]
        if not inner:
            break
        exc = inner[-1]
    return exc

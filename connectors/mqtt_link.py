"""One connection to an MQTT broker: a thread that receives, holds back, and confirms what is on disk.

    link = Link(config, recorded); link.open()       connected and subscribed; link.session_present
    message = link.take(0.5)                         the next one, or None; raises when the connection is gone
    link.handed(message, 7); link.confirm(7)         all handed over up to number 7 is on disk: PUBACK or PUBREC goes

The thread owns the paho client: nobody else calls it, since paho writes from whichever thread asks. What is unconfirmed
is bounded by MQTT 5's receive maximum; where there is none (3.1.1, QoS 0, large messages) the socket is not read while
too much waits, so that TCP holds the broker back. A consumer that takes nothing for two keepalives then loses the
connection, and the broker sends what was unconfirmed again.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from headrace.connectors.mqtt_client import HoldingClient
from headrace.connectors.mqtt_config import MqttConfig
from headrace.connectors.mqtt_message import Message
from headrace.connectors.mqtt_refusals import ended, refused_connection, refused_filter, unreachable
from headrace.schemas.errors import ConfigError, HeadraceError, SourceError

_OK = MQTTErrorCode.MQTT_ERR_SUCCESS
_BURST = 64  #: packets read before writing has its turn
_HANGUP: int = getattr(select, "POLLRDHUP", 0)  #: Linux only; elsewhere a write or the keepalive finds out
_PARTING_S = 1.0  #: for the broker to read our last words


class Link:
    """A connection under one client id. Raises on `open` and `take`: SourceError, ConfigError."""

    def __init__(self, config: MqttConfig, recorded: set[int], *, probe: bool = False) -> None:
        """recorded: the packet ids of QoS 2 that are on disk, kept by whoever keeps the session.

        probe: a session of its own, gone when it closes, so that a running one is not disturbed.
        """
        self.session_present = False
        self._config = config
        self._probe = probe
        self._recorded = recorded
        self._change = threading.Condition()
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._handed: deque[tuple[int, Message]] = deque()  # in the order of arrival, which confirmations must keep
        self._to_confirm: deque[Message] = deque()
        self._error: HeadraceError | None = None
        self._resting = self._closing = False
        self._connected: ReasonCode | None = None
        self._subscribed: list[ReasonCode] | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._thread: threading.Thread | None = None
        try:
            self._client = self._new_client()
        except BaseException:
            self._close_wakers()
            raise

    # -- connecting ---------------------------------------------------------------------------------------------------

    def open(self, *, subscribe: bool = True) -> None:
        """Connect, subscribe, and begin to receive."""
        try:
            self._connect()
            if subscribe:
                self._subscribe()
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"mqtt {self._config.client_id}", daemon=True)
        self._thread.start()

    def _new_client(self) -> paho.Client:
        config = self._config
        settings: dict[str, Any] = {
            "callback_api_version": CallbackAPIVersion.VERSION2,
            "client_id": f"{config.client_id}-probe" if self._probe else config.client_id,
            "protocol": paho.MQTTv5 if self._is_5 else paho.MQTTv311,
            "reconnect_on_failure": False,
        }
        if not self._is_5:
            settings["clean_session"] = self._probe
        if config.qos == 2:
            client: paho.Client = HoldingClient(self._recorded, **settings)
        else:
            client = paho.Client(manual_ack=True, **settings)
        if config.username is not None:
            client.username_pw_set(config.username, config.password.get_secret_value() if config.password else None)
        if config.tls:
            try:
                client.tls_set(config.tls_ca, config.tls_cert, config.tls_key, cert_reqs=ssl.CERT_REQUIRED)
            except (OSError, ValueError) as exc:
                raise ConfigError(f"tls_ca, tls_cert or tls_key cannot be used: {exc}") from exc
        client.connect_timeout = config.timeout_s
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    @property
    def _is_5(self) -> bool:
        return bool(self._config.version == "5")

    def _connect(self) -> None:
        config = self._config
        host, port = config.address
        more: dict[str, Any] = {}
        if self._is_5:
            properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if self._probe else config.session_expiry_s
            properties.ReceiveMaximum = config.in_flight
            more = {"clean_start": self._probe, "properties": properties}
        try:
            self._client.connect(host, port, config.keepalive_s, **more)
        except (OSError, ValueError) as exc:
            raise unreachable(config, exc) from exc
        self._await(lambda: self._connected is not None, "answer CONNECT")
        assert self._connected is not None
        if self._connected.is_failure:
            raise refused_connection(config, self._connected)

    def _subscribe(self) -> None:
        config = self._config
        # A probe may not take messages of a shared subscription away from those that consume them.
        filters = [f for f in config.topics if not (self._probe and f.startswith("$share/"))]
        if not filters:
            return
        if self._is_5:
            # 2: never send retained messages; 1: only when the subscription is new, not at each of our starts.
            handling = 2 if config.retained == "skip" else 1
            options = SubscribeOptions(qos=config.qos, retainHandling=handling)
            self._client.subscribe([(f, options) for f in filters])
        else:
            asked: list[tuple[str, int]] = [(f, config.qos) for f in filters]
            self._client.subscribe(asked)
        self._await(lambda: self._subscribed is not None, "answer SUBSCRIBE")
        for topic, code in zip(filters, self._subscribed or []):
            if code.is_failure or code.value < config.qos:
                raise refused_filter(config, topic, code)

    def _await(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._config.timeout_s
        while not done():
            if self._error is not None:
                raise self._error
            left = deadline - time.monotonic()
            if left <= 0:
                raise SourceError(f"{self._config.url} did not {what} within {self._config.timeout_s:g} s")
            self._pump(min(left, 0.5), limited=False)

    # -- the consumer's side ------------------------------------------------------------------------------------------

    def take(self, timeout_s: float) -> Message | None:
        """The next message, or None. Of a connection that is gone only what will not come again is given."""
        with self._change:
            if not self._queue and self._error is None:
                self._change.wait(timeout_s)
            if self._error is not None and (not self._queue or self._queue[0].qos > 0):
                raise self._error
            if not self._queue:
                return None
            full = not self._has_room()
            message = self._queue.popleft()
            self._queued_bytes -= message.bytes
        if full:
            self._wake()
        return message

    def handed(self, message: Message, number: int) -> None:
        """A message was given to the consumer as `number`, ascending; 0: it is not wanted and needs no disk."""
        if message.qos == 0:
            return
        with self._change:
            self._handed.append((number, message))
        if number == 0:
            self.confirm(0)

    def confirm(self, upto: int) -> None:
        """All that was handed over up to this number is on disk. Any thread may say so."""
        with self._change:
            while self._handed and self._handed[0][0] <= upto:
                self._to_confirm.append(self._handed.popleft()[1])
        self._wake()

    def rest(self) -> None:
        """Receive no more, but go on confirming what was handed over."""
        self._resting = True

    def leftover(self) -> list[Message]:
        """What arrived, was not taken, and therefore not confirmed either."""
        with self._change:
            return [message for message in self._queue if message.qos > 0]

    def close(self) -> None:
        """Send the confirmations that are due, say goodbye, and end the thread."""
        self._closing = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        else:
            self._part()
        with self._change:
            self._error = self._error or SourceError(f"{self._config.url}: the connection was closed")
            self._change.notify_all()
        self._close_wakers()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._error is None and not self._closing:
                self._pump(0.5, limited=True)
        finally:
            self._part()

    def _part(self) -> None:
        """Confirm, disconnect and free the socket. The session stays at the broker until it expires."""
        held = self._client.socket()
        if held is None:
            return
        with contextlib.suppress(OSError):
            if self._error is None:
                with socket.socket(fileno=os.dup(held.fileno())) as same:
                    self._send_confirmations()
                    self._client.on_disconnect = None
                    self._client.disconnect()  # after which paho closes its side
                    _read_to_end(same)
            held.close()

    def _pump(self, timeout_s: float, *, limited: bool) -> None:
        """One round: wait for the socket or a wish, write, read, keep alive."""
        self._send_confirmations()
        client = self._client
        held = client.socket()
        if held is None:
            self._fail(ended(self._config, None))
            return
        reading = not limited or self._has_room()
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        # While the socket rests its end would not be noticed; what it still holds in QoS 1 and 2 will come again.
        resting = _HANGUP if self._config.qos > 0 else 0
        poller.register(held, (select.POLLIN if reading else resting) | (select.POLLOUT if client.want_write() else 0))
        pending = reading and isinstance(held, ssl.SSLSocket) and held.pending() > 0
        ready = dict(poller.poll(0 if pending else timeout_s * 1000))
        if self._wake_read.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
        event = ready.get(held.fileno(), 0)
        code = _OK
        if event & _HANGUP:
            code = MQTTErrorCode.MQTT_ERR_CONN_LOST
        elif pending or event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            for _ in range(_BURST):
                before = len(self._queue)
                code = client.loop_read()
                if code != _OK or len(self._queue) == before or (limited and not self._has_room()):
                    break
        if code == _OK and event & select.POLLOUT:
            code = client.loop_write()
        if code == _OK:
            code = client.loop_misc()
        if code != _OK and self._error is None:
            self._fail(ended(self._config, None))

    def _has_room(self) -> bool:
        if self._resting or self._queued_bytes >= self._config.queue_bytes:
            return False
        # With MQTT 5 the broker counts, and the socket can be read for what is not a message.
        return self._is_5 or len(self._queue) + len(self._handed) < self._config.in_flight

    def _send_confirmations(self) -> None:
        while self._to_confirm and self._client.socket() is not None:
            message = self._to_confirm.popleft()
            if isinstance(self._client, HoldingClient):
                self._client.confirm(message.mid, message.qos)
            else:
                self._client.ack(message.mid, message.qos)

    def _fail(self, error: HeadraceError) -> None:
        with self._change:
            self._error = self._error or error
            self._change.notify_all()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_write.send(b"\0")

    def _close_wakers(self) -> None:
        self._wake_read.close()
        self._wake_write.close()

    # -- what paho calls ----------------------------------------------------------------------------------------------

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self._connected = code
        self.session_present = bool(flags.session_present)
        if not code.is_failure and not self.session_present:
            self._recorded.clear()  # packet ids of a session that is gone mean nothing

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, codes: list[ReasonCode], properties: Any) -> None:
        self._subscribed = codes

    def _on_message(self, client: Any, userdata: Any, got: paho.MQTTMessage) -> None:
        said = got.properties
        try:
            topic = got.topic
        except UnicodeDecodeError as exc:  # a broker refuses such topics; if one does not, the item tells what came
            topic = exc.object.decode("utf-8", "backslashreplace")
        message = Message(
            topic=topic,
            payload=bytes(got.payload),
            qos=got.qos,
            retained=bool(got.retain),
            mid=got.mid,
            content_type=getattr(said, "ContentType", None),
            properties=tuple((str(n), str(v)) for n, v in getattr(said, "UserProperty", ()) or ()),
        )
        with self._change:
            self._queue.append(message)
            self._queued_bytes += message.bytes
            self._change.notify_all()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        said = code if flags.is_disconnect_packet_from_server else None
        self._fail(ended(self._config, said, keepalive=getattr(code, "value", None) == 0x8D and said is None))


def _read_to_end(connection: socket.socket) -> None:
    """Wait until the broker has closed a connection: then it has heard all that we said on it.

    A reader that comes at once would otherwise overtake our last confirmations, and get what they were for again.
    """
    deadline = time.monotonic() + _PARTING_S
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        if not connection.recv(1 << 16):
            return

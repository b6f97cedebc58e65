"""The connector `mqtt`: messages of a broker under a lasting session, confirmed when they are on disk.

One split, `messages`. The session is the broker's: it keeps what was not confirmed and sends it again, after our crash,
its own, or a cut. Positions are [read, number]: they tell items apart within one process and cannot be sought.

QoS 1 waits with PUBACK, QoS 2 with PUBREC, until `ack`. In QoS 2 a repetition is recognised by its packet id as long as
the process lives; after a crash of ours both are at least once, and a `key` lets repeats be dropped downstream.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from headrace.connectors.contract import Connector, Gap, Idle, Position, Read, Split
from headrace.connectors.mqtt_config import MqttConfig
from headrace.connectors.mqtt_message import Message, read_of, wanted
from headrace.schemas.errors import MissingExtra

if TYPE_CHECKING:
    from headrace.connectors.mqtt_link import Link

_IDLE_S = 0.5
_log = logging.getLogger(__name__)


class Mqtt(Connector):
    """Messages of an MQTT broker (5 or 3.1.1), under a session that survives both sides' restarts."""

    Config = MqttConfig
    bounded = False
    replay = "none"
    ordering = "none"
    acknowledges = True
    example = (
        "{type: mqtt, url: 'mqtts://broker.example', topics: ['plant/+/level'], client_id: headrace-plant,"
        " username: reader, password: '${env:MQTT_PASSWORD}'}"
    )

    def __init__(self, config: MqttConfig) -> None:
        super().__init__(config)
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._read = 0  # number of the current read: an ack of an earlier one is not for this connection
        self._had_session = False
        self._warned = False
        self._recorded: set[int] = set()
        self._leftover: list[Message] = []

    def describe(self) -> str:
        return f"mqtt {self.config.address[0]} {' '.join(self.config.topics)}"

    def splits(self) -> Iterable[Split]:
        yield Split("messages", bounded=False)

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        """What the broker sends from now on, beginning with what it kept; `after` means nothing to a broker."""
        read, link = self._begin()
        numbers = itertools.count(1)
        try:
            yield from self._gaps(link, read, numbers)
            while True:
                message = link.take(_IDLE_S)
                if message is None:
                    yield Idle()
                elif not self._takes(message):
                    link.handed(message, 0)
                else:
                    number = next(numbers)
                    link.handed(message, number)
                    yield read_of(message, self.config, [read, number])
        finally:
            link.rest()

    def ack(self, split: Split, upto: Position) -> None:
        read, number = upto
        with self._lock:
            if read == self._read and self._link is not None:
                self._link.confirm(number)

    def end_of(self, split: Split) -> Position:
        """None: what a broker holds for us is not known before it comes."""
        return None

    def probe(self) -> None:
        """Connects and subscribes as `<client_id>-probe`, in a session that ends at once, beside a running one."""
        link = self._new_link(probe=True)
        link.open()
        link.close()

    def close(self) -> None:
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    # -- one read -----------------------------------------------------------------------------------------------------

    def _begin(self) -> tuple[int, Link]:
        """The number of a new read, and its connection; the one before it is closed."""
        with self._lock:
            self._read += 1
            read, before, self._link = self._read, self._link, None
        if before is not None:
            before.close()
            self._leftover = before.leftover() or self._leftover
        link = self._new_link()
        link.open()
        with self._lock:
            self._link = link
        return read, link

    def _new_link(self, *, probe: bool = False) -> Link:
        try:
            from headrace.connectors.mqtt_link import Link
        except ModuleNotFoundError as exc:
            if exc.name is None or exc.name.partition(".")[0] != "paho":
                raise
            raise MissingExtra("paho-mqtt", "mqtt", need="the connector mqtt") from exc
        return Link(self.config, set() if probe else self._recorded, probe=probe)

    def _gaps(self, link: Link, read: int, numbers: Iterator[int]) -> Iterator[Read]:
        """What the broker no longer has, and what we still have of it.

        With a session the broker sends again what was unconfirmed. Without one, what arrived by the connection before
        this and was never taken exists only here.
        """
        with self._lock:
            had, self._had_session = self._had_session, True
            leftover, self._leftover = self._leftover, []
        name = self.config.client_id
        if not link.session_present:
            said = f"the broker has lost the session `{name}`" if had else f"the broker had no session `{name}`"
            more = "" if had else ": it is new, or it expired while nobody read"
            yield Gap(f"{said}{more}", [read, next(numbers)])
            for message in leftover:
                if self._takes(message):
                    yield read_of(message, self.config, [read, next(numbers)])
        elif had and self.config.qos == 0:
            yield Gap("the connection was down, and QoS 0 messages are not kept", [read, next(numbers)])

    def _takes(self, message: Message) -> bool:
        if message.retained and self.config.retained == "skip":
            return False
        if not wanted(message.topic, self.config.topics):
            if not self._warned:
                self._warned = True
                _log.warning("%s: passing over what `topics` does not name: %s …", self.describe(), message.topic)
            return False
        return True

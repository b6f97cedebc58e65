"""A paho client that takes responsibility for a QoS 2 message only when it is told to.

In QoS 2 the sender forgets a message when it hears PUBREC:

    broker  PUBLISH ->        -> PUBREL
    we               PUBREC ->         -> PUBCOMP

paho sends PUBREC on arrival and keeps the message in memory until PUBREL, `manual_ack` or not; a process killed in
between has lost it, and the broker will not send it again. Here PUBREC waits until the message is on disk, as PUBACK
does for QoS 1, and PUBREL is answered at once.

paho has no public hook for this, so four of its private names are used. They are the same in 2.0 to 2.2; a release
without them is refused by name instead of losing messages.
"""

from __future__ import annotations

import struct
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from headrace.schemas.errors import ConfigError

_PRIVATE = ("_handle_publish", "_handle_pubrel", "_send_pubrec", "_in_packet", "_in_messages")


class HoldingClient(paho.Client):
    """`manual_ack` for both QoS 1 and 2. Used from one thread."""

    def __init__(self, recorded: set[int], *args: Any, **settings: Any) -> None:
        """recorded: packet ids that are on disk and not yet released; outlives this client, as the session does."""
        super().__init__(*args, **{**settings, "manual_ack": True})
        absent = [name for name in _PRIVATE if not hasattr(self, name)]
        if absent:
            raise ConfigError(
                f"qos: 2 needs internals of paho-mqtt ({', '.join(absent)}) that this release lacks: use qos: 1, or"
                " paho-mqtt 2.0 to 2.2"
            )
        self._recorded = recorded

    def confirm(self, mid: int, qos: int) -> None:
        """Tell the broker that a message is on disk."""
        if qos == 2:
            self._recorded.add(mid)
            super()._send_pubrec(mid)
        else:
            self.ack(mid, qos)

    def _send_pubrec(self, mid: int) -> MQTTErrorCode:
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_publish(self) -> MQTTErrorCode:
        code = super()._handle_publish()
        while self._in_messages:
            mid, message = self._in_messages.popitem(last=False)
            if mid in self._recorded:
                super()._send_pubrec(mid)  # the broker did not hear it the first time
            elif self.on_message is not None:
                self.on_message(self, None, message)
        return code

    def _handle_pubrel(self) -> MQTTErrorCode:
        (mid,) = struct.unpack_from("!H", self._in_packet["packet"])
        self._recorded.discard(mid)
        self.manual_ack_set(False)
        try:
            return super()._handle_pubrel()
        finally:
            self.manual_ack_set(True)

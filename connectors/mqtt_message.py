"""A message of MQTT as an item: which of its properties become key, time and headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.connectors.contract import Broken, Item, Position
from headrace.connectors.message_fields import event_time_us, format_of, json_field, media_type_of
from headrace.connectors.mqtt_config import SHARED, MqttConfig


@dataclass(frozen=True, slots=True)
class Message:
    """A PUBLISH packet as it came. `mid` is its packet id, which confirms it on the connection it came by."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    mid: int = 0
    content_type: str | None = None
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.payload) + sum(len(n) + len(v) for n, v in self.properties) + 1024


def read_of(message: Message, config: MqttConfig, position: Position) -> Item | Broken:
    """The item of a message, or what stands for one that is too large.

    Headers: `topic`, `qos` (as delivered), `retain`, `media_type` and `format` from the content type, and each user
    property as `property.NAME`; one that occurs several times is joined by ", ". The flag that marks a repetition is
    left out: it would make two deliveries of one message differ.
    """
    if len(message.payload) > config.max_message_bytes:
        said = f"a message of {len(message.payload)} bytes on `{message.topic}`; max_message_bytes"
        said += f" is {config.max_message_bytes}"
        return Broken("too_large", said, position, locator=message.topic, data=message.payload)
    properties: dict[str, str] = {}
    for name, value in message.properties:
        properties[name] = f"{properties[name]}, {value}" if name in properties else value
    headers = {"topic": message.topic, "qos": str(message.qos), "retain": str(int(message.retained))}
    headers.update((f"property.{name}", value) for name, value in properties.items())
    media_type = media_type_of(message.content_type) if message.content_type else None
    if media_type is not None:
        headers["media_type"] = media_type
        known = format_of(media_type)
        if known is not None:
            headers["format"] = known
    time = None
    if config.time is not None and config.time.property in properties:
        time = event_time_us(properties[config.time.property], config.time.unit)
    return Item(message.payload, position, _key(message, properties, config), time, headers)


def _key(message: Message, properties: dict[str, str], config: MqttConfig) -> str | None:
    where = config.key
    if where is None:
        return None
    if where.property is not None:
        found = properties.get(where.property) or None
    else:
        found = json_field(message.payload, where.field or "")
    return f"{message.topic} {found}" if found is not None and where.per_topic else found


def wanted(topic: str, filters: Iterable[str]) -> bool:
    """Whether a topic matches one of the filters. A session may still hold filters of an older pipeline file."""
    levels = topic.split("/")
    return any(_matches(levels, f.split("/", 2)[2] if f.startswith(SHARED) else f) for f in filters)


def _matches(levels: list[str], pattern: str) -> bool:
    parts = pattern.split("/")
    if levels[0].startswith("$") and parts[0] in ("+", "#"):
        return False  # MQTT 5.0 section 4.7.2: wildcards do not reach $SYS and its like
    for number, part in enumerate(parts):
        if part == "#":
            return True
        if number >= len(levels) or part not in ("+", levels[number]):
            return False
    return len(parts) == len(levels)

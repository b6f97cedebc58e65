"""What one Kafka message is: its position, its headers, its time, and the item made of it.

    position   [1234, 7]   the message of offset 1234, appended under leader epoch 7
               1234        the same, of brokers that tell no epoch; or a place where no message need have been

The epoch is stored with the message, so it is the same at each reading. It lets a broker tell whether the log that
we read up to there is still the log it has.
"""

from __future__ import annotations

import base64
from typing import Any

from headrace.connectors.contract import Item, Position
from headrace.connectors.kafka_config import KafkaConfig
from headrace.schemas.errors import ConfigError

#: Headers by which the engine is told things; a producer's header of such a name must not pass for ours.
_OURS = frozenset({"format", "formats", "object", "part", "group", "media_type", "rights", "truncated", "uri"})
#: Kinds of time, as the library numbers them.
_TIMES = {1: "create", 2: "append"}


def position_of(message: Any) -> Position:
    """The position after a message."""
    offset, epoch = message.offset(), message.leader_epoch()
    return offset if epoch is None or epoch < 0 else [offset, epoch]


def next_offset(position: Position) -> tuple[int, int | None]:
    """(offset to read next, epoch of the message before it or None). Raises: ConfigError."""
    offset, epoch = position if isinstance(position, list | tuple) and len(position) == 2 else (position, None)
    if type(offset) is not int or offset < 0 or not (epoch is None or (type(epoch) is int and epoch >= 0)):
        raise ConfigError(f"{position!r} is not a position in a Kafka partition: an offset or [offset, epoch] is meant")
    return offset + 1, epoch


def position_before(offset: int) -> Position:
    """The position after which `offset` comes; None before the first."""
    return offset - 1 if offset > 0 else None


def read_message(message: Any, config: KafkaConfig) -> Item | None:
    """The item of a message; None for one that the settings leave out."""
    value = message.value()
    if value is None and config.tombstones == "skip":
        return None
    headers = _headers(message.headers() or [])
    if value is None:
        headers["kafka.tombstone"] = "true"
    key = message.key()
    if key is not None:
        name, said = _text("key", key)
        headers[f"kafka.{name}"] = said
    kind, time_ms = message.timestamp()
    if kind in _TIMES and time_ms >= 0:
        headers["kafka.time"] = _TIMES[kind]
    item_key = None
    if config.key == "message" and key is not None:
        item_key = said if name == "key" else f"base64:{said}"
    event_time = time_ms * 1000 if kind in _TIMES and time_ms >= 0 else None
    return Item(value or b"", position_of(message), item_key, event_time, headers)


def _headers(pairs: list[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers as text: of a repeated name the second is `name#2`, bytes that are no UTF-8 are `name.base64`."""
    out: dict[str, str] = {}
    seen: dict[str, int] = {}
    for name, value in pairs:
        seen[name] = seen.get(name, 0) + 1
        if name.lower() in ("content-type", "content_type") and value is not None and "media_type" not in out:
            out["media_type"] = value.decode("utf-8", "replace").split(";")[0].strip().lower()
        theirs = f"header.{name}" if name in _OURS or name.startswith(("kafka.", "header.")) else name
        shown, said = _text(theirs if seen[name] == 1 else f"{theirs}#{seen[name]}", value or b"")
        out[shown] = said
    return out


def _text(name: str, value: bytes) -> tuple[str, str]:
    try:
        return name, value.decode()
    except UnicodeDecodeError:
        return f"{name}.base64", base64.b64encode(value).decode("ascii")

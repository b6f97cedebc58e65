"""A message of a RabbitMQ stream as an item: its position, its key, its time and its headers.

A position names a message and what it held, so that another stream under the same name is not taken for this one:

    "41-9f3c2a1b"    the message at offset 41, with the first 8 hex digits of the xxh3 of its identity and body
    "~40"            after offset 40, where there need not have been a message (a start, a gap)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import xxhash

from headrace.connectors.contract import Item, Position
from headrace.connectors.message_fields import format_of, media_type_of
from headrace.schemas.errors import ConfigError

_POSITION = re.compile(r"(\d{1,19})-([0-9a-f]{8})|~(-1|\d{1,19})")
OFFSET = "x-stream-offset"
#: Headers by which the engine is told things; a publisher's header of such a name must not pass for ours.
_OURS = frozenset(
    {"format", "formats", "object", "part", "group", "media_type", "rights", "truncated", "uri", "exchange",
     "routing_key", "row"}
)  # fmt: skip
_PROPERTIES = ("content_encoding", "correlation_id", "reply_to", "type", "user_id", "app_id")
#: Seconds since 1970 that have a calendar date (years 1 to 9999); others are a broken clock, not a time.
_TIMES_S = range(-62_135_596_800, 253_402_300_800)


@dataclass(frozen=True)
class Place:
    """After which offset reading goes on; `mark`: the digest of the message there, None if it need not be one."""

    offset: int
    mark: str | None = None

    @property
    def position(self) -> str:
        """As the engine keeps it."""
        return f"~{self.offset}" if self.mark is None else f"{self.offset}-{self.mark}"

    @classmethod
    def of(cls, position: Position) -> Place:
        """Raises: ConfigError."""
        found = _POSITION.fullmatch(position) if isinstance(position, str) else None
        if found is None:
            raise ConfigError(f"{position!r} is not a position in a RabbitMQ stream: offset-digest is expected")
        return cls(int(found[3])) if found[3] is not None else cls(int(found[1]), found[2])


@dataclass(frozen=True)
class Delivered:
    """One message as it came."""

    offset: int
    method: Any  #: pika's Basic.Deliver
    properties: Any  #: pika's BasicProperties
    body: bytes

    @property
    def place(self) -> Place:
        """The place after it."""
        state = xxhash.xxh3_64(self.body)
        state.update(repr((self.properties.message_id, self.properties.timestamp)).encode())
        return Place(self.offset, state.hexdigest()[:8])


def read_message(found: Delivered) -> Item:
    """Key: the property message_id. Time: the property timestamp (seconds), or the header timestamp_in_ms beside it."""
    properties = found.properties
    theirs: Mapping[str, Any] = properties.headers or {}
    headers: dict[str, str] = {}
    for name, value in theirs.items():
        if name != OFFSET:
            headers[f"header.{name}" if name in _OURS else str(name)] = shown(value)
    for name in _PROPERTIES:
        value = getattr(properties, name, None)
        if value is not None:
            headers[f"property.{name}"] = shown(value)
    for name in ("exchange", "routing_key"):
        value = getattr(found.method, name, None)
        if value:
            headers[name] = shown(value)
    media_type = media_type_of(properties.content_type) if properties.content_type else None
    if media_type is not None:
        headers["media_type"] = media_type
        known = None if properties.content_encoding else format_of(media_type)
        if known is not None:
            headers["format"] = known
    return Item(found.body, found.place.position, properties.message_id or None, time_us(properties, theirs), headers)


def time_us(properties: Any, headers: Mapping[str, Any]) -> int | None:
    """Microseconds since 1970 UTC that the sender or the broker stamped; None if neither did."""
    seconds = properties.timestamp
    if not isinstance(seconds, int) or seconds not in _TIMES_S:
        return None
    ms = headers.get("timestamp_in_ms")  # the broker's interceptor writes it beside the property
    if isinstance(ms, int) and ms // 1000 == seconds:
        return ms * 1000
    return seconds * 1_000_000


def shown(value: Any) -> str:
    """A value of an AMQP table as text: strings as they are, tables and lists as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # lone surrogates
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).isoformat()
    if isinstance(value, (dict, list)):
        return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True)
    return "" if value is None else str(int(value) if isinstance(value, int) else value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, (bool, float)) or value is None:
        return value
    return str(value) if isinstance(value, Decimal) else int(value) if isinstance(value, int) else shown(value)

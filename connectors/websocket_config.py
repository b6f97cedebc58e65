"""Settings of the connector `websocket`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.http_poll_config import PollTime
from headrace.connectors.http_poll_json import place_of
from headrace.schemas.pipeline import bytes_field, run_field

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class WebSocketConfig(ConnectorConfig):
    """Settings of the connector `websocket`."""

    url: str = run_field(repr=False, description="wss://host/path or ws://host/path; no user or password in it")
    subscribe: tuple[SecretStr, ...] = bytes_field(
        (), description="messages that are sent after connecting: texts, or mappings that become JSON; never shown"
    )
    subprotocols: tuple[str, ...] = bytes_field((), description="offered to the server, which must take one of them")
    token: SecretStr | None = run_field(None, description="sent as Authorization: Bearer when connecting")
    headers: dict[str, SecretStr] = run_field({}, description="sent when connecting, and never shown")
    format: str | None = bytes_field(None, description="what a message is: json, text, csv, jpeg …")
    key: str | None = bytes_field(None, description="where a message's id stands in a JSON payload: id, or /meta/id")
    time: PollTime | None = bytes_field(None, description="where the event's time stands: {field, unit, zone}")
    max_message_bytes: int = bytes_field(
        4 << 20, ge=1, description="decompressed; a larger message is refused, and costs the connection"
    )
    queue_bytes: int = run_field(16 << 20, ge=1 << 10, description="received and not taken; then the socket rests")
    compression: bool = run_field(True, description="offer permessage-deflate (RFC 7692)")
    ping_interval_s: float | None = run_field(20, gt=0, description="how often the server is pinged; null: never")
    ping_timeout_s: float = run_field(20, gt=0, description="a server that answers no ping for so long is gone")
    timeout_s: float = run_field(15, gt=0, description="for connecting")
    tls_ca: str | None = run_field(None, description="wss only: file of trusted authorities; default: the system's")

    @field_validator("subscribe", mode="before")
    @classmethod
    def _messages(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else [value]
        return tuple(orjson.dumps(one).decode() if isinstance(one, dict | list) else one for one in given)

    @field_validator("subprotocols", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        # Nothing of the value is repeated here: it may hold a password or a key.
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as exc:
            raise ValueError("the url cannot be parsed: wss://host:port/path is expected") from exc
        if parts.username is not None or parts.password is not None:
            raise ValueError("user and password do not belong in the url: use `token` or `headers`")
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment or port == 0:
            raise ValueError("wss://host:port/path or ws://host:port/path is expected")
        if any(ord(c) <= 32 or ord(c) == 127 for c in value):
            raise ValueError("the url holds a space or a control character: encode it as %20")
        return value

    @model_validator(mode="after")
    def _whole(self) -> WebSocketConfig:
        for name, secret in self.headers.items():
            if not _NAME.fullmatch(name) or any(c in secret.get_secret_value() for c in "\r\n\0"):
                raise ValueError(f"{name[:40]!r}: a header's name, and a value on one line, are expected")
        if not all(_NAME.fullmatch(name) for name in self.subprotocols):
            raise ValueError("a subprotocol is a token: letters, digits and -._")
        if self.tls_ca is not None and not self.url.startswith("wss:"):
            raise ValueError("tls_ca goes with a wss:// url")
        for path in (self.key, self.time.field if self.time else None):
            place_of(path or "")
        return self

    @property
    def shown(self) -> str:
        """The address as people may see it: no query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    @property
    def address(self) -> tuple[str, int]:
        """(host, port)."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)

    @property
    def queue_messages(self) -> int:
        """How many messages may wait so that `queue_bytes` holds for the largest."""
        return max(1, min(256, self.queue_bytes // self.max_message_bytes))

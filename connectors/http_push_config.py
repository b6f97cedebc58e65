"""Settings of the connector `http_push`."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.message_fields import TimeUnit, media_type_of
from headrace.schemas.pipeline import bytes_field, run_field

REQUEST_BYTES = 4096  #: what a waiting request takes besides its body
SHORTEST_TOKEN = 16  #: characters; a shorter one could be guessed over a network

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_HEADER = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")


class HttpTime(BaseModel):
    """Which request header holds the time of the event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    header: str = Field(pattern=_HEADER.pattern, description="name of a request header")
    unit: TimeUnit = Field("iso", description="iso: ISO 8601 with an offset; s, ms, us, ns: a number since 1970")


class HttpPushConfig(ConnectorConfig):
    """Settings of the connector `http_push`."""

    host: str = run_field(
        "127.0.0.1", min_length=1, description="address to listen on; any but loopback demands `tokens`"
    )
    port: int = run_field(8410, ge=0, le=65535, description="port to listen on; 0: any free one")
    name: str | None = run_field(None, description="requests go to /v1/streams/NAME; default: to /")
    tokens: tuple[SecretStr, ...] = run_field(
        (), description=f"bearer tokens, of which a request must bear one; at least {SHORTEST_TOKEN} characters each"
    )
    allow_from: tuple[str, ...] = run_field(
        (), description="networks that may send, such as 10.1.0.0/16; default: everybody who has a token"
    )
    tls_cert: str | None = run_field(None, description="file of the certificate chain; then https is spoken")
    tls_key: str | None = run_field(None, description="file of the certificate's key")
    content_types: tuple[str, ...] = bytes_field(
        ("application/json", "application/x-ndjson"), description="media types that are taken; image/* is any image"
    )
    split: Literal["body", "lines"] = bytes_field(
        "body", description="body: a request is one item; lines: each line of an NDJSON body is one"
    )
    require_key: bool = bytes_field(False, description="refuse requests without an Idempotency-Key header")
    time: HttpTime | None = bytes_field(
        None, description="which header holds the event's time: {header: NAME, unit: iso|s|ms|us|ns}"
    )
    keep_headers: tuple[str, ...] = bytes_field((), description="request headers to keep with an item, as header.NAME")
    max_body_bytes: int = bytes_field(16 << 20, ge=1, description="a larger body is refused with 413")
    queue_bytes: int = run_field(
        64 << 20, ge=1 << 16, description="received and not yet on disk; beyond it requests get 503"
    )
    max_connections: int = run_field(512, ge=1, description="open at a time; beyond it connections get 503")
    rate_per_s: float | None = run_field(
        None, gt=0, description="requests a second for each token; beyond it they get 429"
    )
    read_timeout_s: float = run_field(
        15, gt=0, description="a request's head must be complete after so long; its body gets so long and more by size"
    )
    min_bytes_per_s: int = run_field(1024, ge=1, description="a body that comes slower is given up with 408")
    confirm_timeout_s: float = run_field(
        30, gt=0, description="how long a request waits to be on disk before it gets 503"
    )
    retry_after_s: int = run_field(2, ge=1, description="what a 503 advises to wait")

    @field_validator("tokens", "allow_from", "content_types", "keep_headers", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, SecretStr)) else value

    @field_validator("name")
    @classmethod
    def _path_part(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.match(value):
            raise ValueError("letters, digits, dots, dashes and underscores, 63 at most, are expected")
        return value

    @field_validator("tokens")
    @classmethod
    def _tokens(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, token in enumerate(value):
            said = token.get_secret_value()
            # The message may not repeat the token.
            if len(said) < SHORTEST_TOKEN or not said.isascii() or any(c.isspace() for c in said):
                raise ValueError(
                    f"token {number} is too short, or not plain ASCII without spaces: {SHORTEST_TOKEN} characters or"
                    " more are expected, as `openssl rand -hex 32` makes them"
                )
        return value

    @field_validator("allow_from")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("content_types")
    @classmethod
    def _types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if pattern != "*/*" and media_type_of(pattern.removesuffix("*") + "x") is None:
                raise ValueError(f"`{pattern}` is no media type such as application/json, image/* or */*")
        return tuple(pattern.lower() for pattern in value)

    @field_validator("keep_headers")
    @classmethod
    def _headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HEADER.match(name) or name.lower() in ("authorization", "proxy-authorization", "cookie"):
                raise ValueError(f"`{name}` is no header that may be kept")
        return tuple(name.lower() for name in value)

    @model_validator(mode="after")
    def _whole(self) -> HttpPushConfig:
        if not self.tokens and not is_loopback(self.host):
            raise ValueError(f"host {self.host} can be reached by others: set `tokens`, or listen on 127.0.0.1")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.max_body_bytes + REQUEST_BYTES > self.queue_bytes:
            raise ValueError(f"queue_bytes must hold a body: at least max_body_bytes + {REQUEST_BYTES}")
        return self

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/" if self.name is None else f"/v1/streams/{self.name}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address; names other than localhost count as no."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""The settings of the connector `nats`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.nats_wire import Login
from headrace.connectors.start_time import check_start
from headrace.schemas.pipeline import bytes_field, run_field


class NatsConfig(ConnectorConfig):
    """Settings of the connector `nats`."""

    urls: tuple[str, ...] = run_field(
        min_length=1, description="nats://host:4222 or tls://…, one or several of one cluster; no password in them"
    )
    stream: str = bytes_field(description="name of the JetStream stream", pattern=r"^[^\s.*>/\\]+$")
    subjects: tuple[str, ...] = bytes_field(
        (), description="subject filters, each a split of its own; default: the whole stream as one split"
    )
    start: str = run_field("earliest", description="where a new split begins: earliest, latest, or an ISO 8601 time")
    user: str | None = run_field(None, description="user name")
    password: SecretStr | None = run_field(None, description="its password, best as ${env:NAME}")
    token: SecretStr | None = run_field(None, description="a token instead of user and password")
    creds_file: str | None = run_field(None, description="a .creds file with a user's JWT and seed, instead")
    domain: str | None = run_field(None, pattern=r"^[^\s.*>]+$", description="JetStream domain, behind a leaf node")
    ca_file: str | None = run_field(None, description="authorities to trust instead of the system's")
    cert_file: str | None = run_field(None, description="our certificate, where the server asks for one")
    key_file: str | None = run_field(None, description="the key of `cert_file`")
    batch: int = run_field(256, ge=1, le=10_000, description="messages asked for at once, of about 1 MiB at most")
    timeout_s: float = run_field(10, ge=1, description="the longest silence of the server")
    idle_s: float = run_field(0.5, ge=0.01, le=0.5, description="how long the server waits for news in one request")

    @field_validator("urls", "subjects", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("urls")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for parts in map(urlsplit, value):
            # The value is not shown: it may hold a password.
            if parts.username is not None or parts.path.strip("/") or parts.query:
                raise ValueError("nats://host:port without a user is expected: use `user` and `password`, or `token`")
            if parts.scheme not in ("nats", "tls") or not parts.hostname:
                raise ValueError("nats://host:port or tls://host:port is expected")
        return value

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        return check_start(value)

    @model_validator(mode="after")
    def _check(self) -> NatsConfig:
        for n, one in enumerate(self.subjects):
            if not one or any(c.isspace() for c in one) or "" in one.split("."):
                raise ValueError(f"subjects: {one!r} is no subject; tokens between dots are expected, such as a.*.>")
            for other in self.subjects[:n]:
                if overlap(one, other):
                    raise ValueError(f"subjects: {one} and {other} overlap, so that messages would be read twice")
        if sum(x is not None for x in (self.user, self.token, self.creds_file)) > 1:
            raise ValueError("only one of user, token and creds_file can be used")
        return self

    def login(self) -> Login:
        """Where to connect and as whom."""
        password, token = (s.get_secret_value() if s is not None else None for s in (self.password, self.token))
        return Login(
            self.urls, self.timeout_s, self.user, password, token, self.creds_file, self.ca_file, self.cert_file,
            self.key_file,
        )  # fmt: skip


def overlap(one: str, other: str) -> bool:
    """Whether a subject can match both filters."""
    left, right = one.split("."), other.split(".")
    for n in range(max(len(left), len(right))):
        here = {tokens[n] if n < len(tokens) else None for tokens in (left, right)}
        if ">" in here:
            return None not in here
        if None in here or ("*" not in here and len(here) == 2):
            return False
    return True

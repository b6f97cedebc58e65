"""The settings of the connector `rabbitmq`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.start_time import check_start
from headrace.schemas.pipeline import bytes_field, run_field


class RabbitConfig(ConnectorConfig):
    """Settings of the connector `rabbitmq`."""

    urls: tuple[str, ...] = run_field(
        min_length=1,
        description="amqp://host:5672 or amqps://host:5671, one or several of a cluster; no user in them",
    )
    streams: tuple[str, ...] = bytes_field((), description="names of queues of type stream, one or a list")
    super_streams: dict[str, int] = bytes_field(
        {}, description="super streams: name → number of partitions, which are the streams NAME-0, NAME-1 …"
    )
    vhost: str = bytes_field("/", min_length=1, description="the virtual host that holds them")
    start: str = run_field("earliest", description="where a new split begins: earliest, latest, or an ISO 8601 time")
    user: str = run_field("guest", description="user name")
    password: SecretStr | None = run_field(None, description="its password, best as ${env:NAME}; default: guest")
    ca_file: str | None = run_field(None, description="amqps only: authorities to trust instead of the system's")
    cert_file: str | None = run_field(None, description="amqps only: our certificate, where the broker asks for one")
    key_file: str | None = run_field(None, description="amqps only: the key of `cert_file`")
    prefetch: int = run_field(256, ge=1, le=65_535, description="messages that the broker sends ahead, for each split")
    timeout_s: float = run_field(10, ge=1, le=600, description="the longest silence of the broker")
    idle_s: float = run_field(0.5, ge=0.01, le=0.5, description="how long is waited for news before an idle tick")

    @field_validator("urls", "streams", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("urls")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for parts in map(urlsplit, value):
            # The value is not shown: it may hold a password.
            if parts.username is not None or parts.password is not None or parts.path.strip("/") or parts.query:
                raise ValueError("amqp://host:port alone is expected: use `user`, `password` and `vhost`")
            if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
                raise ValueError("amqp://host:port or amqps://host:port is expected")
        return value

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        return check_start(value)

    @model_validator(mode="after")
    def _check(self) -> RabbitConfig:
        if not self.streams and not self.super_streams:
            raise ValueError("name at least one of `streams` or `super_streams`")
        for name in (*self.streams, *self.super_streams):
            if not 0 < len(name.encode()) <= 255:
                raise ValueError("the name of a queue has 1 to 255 bytes")
        for name, partitions in self.super_streams.items():
            if not 1 <= partitions <= 10_000:
                raise ValueError(f"super_streams: {name} has {partitions} partitions; 1 to 10000 are expected")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self

    def names(self) -> list[str]:
        """The stream queues, each once."""
        parts = [f"{name}-{n}" for name, count in self.super_streams.items() for n in range(count)]
        return sorted({*self.streams, *parts})

"""The settings of the connector `kafka`, and what they are to librdkafka.

Whatever the delivery into a dataset rests on is not for a pipeline to set: `librdkafka` takes every other property.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.start_time import check_start, start_us
from headrace.schemas.pipeline import bytes_field, run_field

#: https://github.com/apache/kafka: legal topic names
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_SERVER = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}")

#: Properties that are kept as secrets; rather one too many.
_MAY_BE_SECRET = re.compile(r"^sasl\.|^ssl\.|password|secret|token|credential|oauth|key|pem")

#: Properties that a pipeline may not set, each with the reason or the setting that stands for it.
_REFUSED = {
    "group.id": "headrace joins no group: it keeps its own offsets",
    "group.instance.id": "headrace joins no group",
    "group.protocol": "headrace joins no group",
    "group.remote.assignor": "headrace joins no group",
    "enable.auto.commit": "offsets are kept in the dataset, never by the broker",
    "auto.commit.enable": "offsets are kept in the dataset, never by the broker",
    "enable.auto.offset.store": "offsets are kept in the dataset, never by the broker",
    "isolation.level": "it is always read_committed: an aborted transaction is no data",
    "auto.offset.reset": "it is always error: a jump would be silent",
    "enable.partition.eof": "headrace uses it",
    "check.crcs": "checksums are always checked",
    "allow.auto.create.topics": "reading creates no topic",
    "queued.min.messages": "set buffer_mib",
    "queued.max.messages.kbytes": "set buffer_mib",
    "fetch.max.bytes": "set buffer_mib",
    "receive.message.max.bytes": "set max_message_mib",
    "bootstrap.servers": "set bootstrap_servers",
    "metadata.broker.list": "set bootstrap_servers",
    "security.protocol": "set tls and username",
    "sasl.username": "set username",
    "sasl.password": "set password",
    "ssl.ca.location": "set tls_ca",
    "ssl.certificate.location": "set tls_certificate",
    "ssl.key.location": "set tls_key",
    "ssl.key.password": "set tls_key_password",
    "plugin.library.paths": "it would load code",
    "enabled_events": "headrace uses it",
}


def _one_or_many(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _property(value: Any) -> Any:
    """A property as librdkafka spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


class KafkaConfig(ConnectorConfig):
    """Topics of a Kafka cluster and how to reach it."""

    bootstrap_servers: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = run_field(
        description="host:port of some brokers; the others are found through them", min_length=1
    )
    topics: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = bytes_field(
        description="names of topics; one that begins with ^ is a regular expression", min_length=1
    )
    start: Annotated[str, AfterValidator(check_start)] = run_field(
        "earliest", description="where a partition begins that was never read: earliest, latest or an ISO 8601 time"
    )
    key: Literal["none", "message"] = bytes_field(
        "none", description="message: the key of a message is the item's, and a second of one key a duplicate"
    )
    tombstones: Literal["skip", "item"] = bytes_field(
        "skip", description="messages without a value: left out, or an empty item with the header kafka.tombstone"
    )
    username: str | None = run_field(None, description="user of SASL")
    password: SecretStr | None = run_field(None, description="password of SASL")
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = run_field(
        "SCRAM-SHA-512", description="how the user is shown to be who they are"
    )
    tls: bool | None = run_field(None, description="encrypt; default: where there is a username or a tls_ setting")
    tls_ca: str | None = run_field(None, description="file of the certificates to trust; default: the system's")
    tls_certificate: str | None = run_field(None, description="file of our own certificate")
    tls_key: str | None = run_field(None, description="file of its key")
    tls_key_password: SecretStr | None = run_field(None, description="password of that file")
    timeout_s: float = run_field(10, gt=0, le=300, description="how long a broker may take to answer")
    buffer_mib: int = run_field(32, ge=4, le=1024, description="messages read ahead, all partitions together")
    max_message_mib: int = run_field(64, ge=1, le=900, description="the largest batch of messages that is taken")
    librdkafka: dict[str, Annotated[str, BeforeValidator(_property)] | SecretStr] = run_field(
        {}, description="other properties of librdkafka, such as client.rack"
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            if not _SERVER.fullmatch(server):
                raise ValueError("host:port is expected, such as broker.example.org:9092")
        return servers

    @field_validator("topics")
    @classmethod
    def _topics(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        for topic in topics:
            if topic.startswith("^"):
                try:
                    re.compile(topic)
                except re.error as exc:
                    raise ValueError(f"{topic!r} is no regular expression: {exc}") from exc
            elif not _TOPIC.fullmatch(topic) or topic in (".", ".."):
                raise ValueError(f"{topic!r}: letters, digits, dot, dash and underscore are expected, or ^…")
        return topics

    @field_validator("librdkafka")
    @classmethod
    def _properties(cls, properties: dict[str, str | SecretStr]) -> dict[str, str | SecretStr]:
        for name in properties:
            if name in _REFUSED:
                raise ValueError(f"{name} may not be set here: {_REFUSED[name]}")
            if name.startswith(("test.", "sasl.mechanism")) or name.endswith("_cb"):
                raise ValueError(f"{name} may not be set here")
        return {
            name: SecretStr(value) if isinstance(value, str) and _MAY_BE_SECRET.search(name) else value
            for name, value in properties.items()
        }

    @model_validator(mode="after")
    def _credentials(self) -> KafkaConfig:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        if self.tls is False and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise ValueError("tls is false, but a certificate is set")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    def start_ms(self) -> int:
        """The start time, in ms since 1970 UTC, rounded up. Only where `start` is a time."""
        return -(-start_us(self.start) // 1000)


def connection_properties(config: KafkaConfig) -> dict[str, str]:
    """What every client of the cluster needs; holds secrets."""
    encrypted = bool(config.username or config.tls_ca or config.tls_certificate) if config.tls is None else config.tls
    protocol = {(False, False): "plaintext", (True, False): "ssl", (False, True): "sasl_plaintext"}
    properties: dict[str, str] = {
        "bootstrap.servers": ",".join(config.bootstrap_servers),
        "client.id": "headrace",
        "security.protocol": protocol.get((encrypted, config.username is not None), "sasl_ssl"),
        "socket.timeout.ms": str(round(config.timeout_s * 1000) + 1000),
        "socket.keepalive.enable": "true",
        # An idle connection that a broker or a firewall closes is not news.
        "log.connection.close": "false",
    }
    if config.username is not None and config.password is not None:
        properties |= {"sasl.mechanisms": config.sasl, "sasl.username": config.username}
        properties["sasl.password"] = config.password.get_secret_value()
    files = {"ca": config.tls_ca, "certificate": config.tls_certificate, "key": config.tls_key}
    properties |= {f"ssl.{name}.location": file for name, file in files.items() if file is not None}
    if config.tls_key_password is not None:
        properties["ssl.key.password"] = config.tls_key_password.get_secret_value()
    for name, value in config.librdkafka.items():
        properties[name] = value.get_secret_value() if isinstance(value, SecretStr) else value
    return properties


def consumer_properties(config: KafkaConfig) -> dict[str, str]:
    """What a consumer needs for exact delivery; holds secrets."""
    fetch = config.buffer_mib << 18  # a quarter of the buffer lies in librdkafka, the rest with the partitions
    waits = {"fetch.wait.max.ms": "250", "fetch.error.backoff.ms": "250", "fetch.queue.backoff.ms": "50"}
    fixed = {
        "group.id": "headrace",  # the library wants one; it is never joined, and nothing is committed to it
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.partition.eof": "true",
        "check.crcs": "true",
        "allow.auto.create.topics": "false",
        "fetch.max.bytes": str(fetch),
        "queued.max.messages.kbytes": str(fetch >> 10),
        "receive.message.max.bytes": str(max(config.max_message_mib << 20, fetch) + (1 << 16)),
    }
    return waits | connection_properties(config) | fixed

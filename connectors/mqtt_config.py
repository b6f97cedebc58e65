"""Settings of the connector `mqtt`."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from headrace.connectors.contract import ConnectorConfig
from headrace.connectors.message_fields import TimeUnit
from headrace.schemas.pipeline import bytes_field, run_field

SHARED = "$share/"


class MqttKey(BaseModel):
    """Where a message's id stands: in a user property (MQTT 5), or in a field of a JSON payload."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    property: str | None = Field(None, min_length=1, description="name of a user property")
    field: str | None = Field(None, min_length=1, description="dotted path of a string or integer in a JSON payload")
    per_topic: bool = Field(False, description="ids repeat between topics: the key is then topic, space, id")

    @model_validator(mode="after")
    def _one(self) -> MqttKey:
        if (self.property is None) == (self.field is None):
            raise ValueError("say either `property: NAME` or `field: NAME`")
        return self


class MqttTime(BaseModel):
    """Which user property (MQTT 5) holds the time of the event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    property: str = Field(min_length=1, description="name of a user property")
    unit: TimeUnit = Field("iso", description="iso: ISO 8601 with an offset; s, ms, us, ns: a number since 1970")


class MqttConfig(ConnectorConfig):
    """Settings of the connector `mqtt`."""

    url: str = run_field(description="mqtt://host[:1883] or mqtts://host[:8883]; user and password are settings")
    topics: tuple[str, ...] = bytes_field(
        description="topic filters; + is one level, a last # all below, $share/GROUP/FILTER shares messages"
    )
    client_id: str = run_field(
        min_length=1,
        max_length=256,
        description="the name of our session at the broker. Keep it for ever: the broker stores what we missed under"
        " it; no other client may use it, since each takes the session from the other",
    )
    qos: Literal[0, 1, 2] = bytes_field(
        1, description="1 or 2: at least once; 0: at most once, nothing is confirmed or sent again"
    )
    version: Literal["5", "3.1.1"] = run_field("5", description="of the protocol; 3.1.1 has no user properties")
    key: MqttKey | None = bytes_field(
        None, description="where a message's id stands: {property: NAME} or {field: PATH}; lets repeats be dropped"
    )
    time: MqttTime | None = bytes_field(
        None, description="which user property holds the event's time: {property: NAME, unit: iso|s|ms|us|ns}"
    )
    retained: Literal["skip", "take"] = bytes_field(
        "skip", description="last values that the broker keeps: they come again at each subscription, so they repeat"
    )
    max_message_bytes: int = bytes_field(64 << 20, ge=1, description="a larger message is refused as too_large")
    username: str | None = run_field(None, description="of the account at the broker")
    password: SecretStr | None = run_field(None, description="of the account at the broker")
    tls_ca: str | None = run_field(None, description="mqtts only: file of trusted authorities; default: the system's")
    tls_cert: str | None = run_field(None, description="mqtts only: file of our certificate, if one is asked for")
    tls_key: str | None = run_field(None, description="mqtts only: file of our certificate's key")
    in_flight: int = run_field(
        1000, ge=1, le=65535, description="messages that may be unconfirmed at a time (MQTT 5 receive maximum)"
    )
    queue_bytes: int = run_field(64 << 20, ge=1 << 16, description="received and not yet taken; then the socket rests")
    session_expiry_s: int = run_field(
        7 * 86400, ge=0, le=0xFFFFFFFF, description="how long the broker keeps the session while we are away (MQTT 5)"
    )
    keepalive_s: int = run_field(30, ge=2, le=65535, description="a broker that is silent for longer is gone")
    timeout_s: float = run_field(15, gt=0, description="for connecting and subscribing")

    @field_validator("topics", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("version", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # YAML reads 5 as a number

    @field_validator("topics")
    @classmethod
    def _filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one topic filter is needed")
        for topic in value:
            check_filter(topic)
        return value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        # Nothing of the value is repeated here: it may hold a password.
        if parts.username is not None or parts.password is not None:
            raise ValueError("user and password do not belong in the url: use `username` and `password`")
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError("mqtt://host[:port] or mqtts://host[:port] is expected")
        if parts.port == 0:
            raise ValueError("a port from 1 to 65535 is expected")
        return value

    @model_validator(mode="after")
    def _whole(self) -> MqttConfig:
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("tls_ca, tls_cert and tls_key go with an mqtts:// url")
        if self.tls_key and not self.tls_cert:
            raise ValueError("tls_key goes with tls_cert")
        if self.password is not None and self.username is None:
            raise ValueError("a password goes with a username")
        if self.version != "5" and (self.time or (self.key and self.key.property)):
            raise ValueError("user properties exist in MQTT 5 only: set `version: 5`, or use `key: {field: PATH}`")
        return self

    @property
    def tls(self) -> bool:
        return self.url.startswith("mqtts:")

    @property
    def address(self) -> tuple[str, int]:
        """(host, port)."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (8883 if self.tls else 1883)


def check_filter(topic: str) -> None:
    """Raises: ValueError that says what is wrong with a topic filter (MQTT 5.0 sections 4.7 and 4.8.2)."""
    inner = topic
    if topic.startswith(SHARED):
        group, _, inner = topic[len(SHARED) :].partition("/")
        if not group or any(c in group for c in "+#"):
            raise ValueError(f"topic filter `{topic}`: a shared one is $share/GROUP/FILTER")
    levels = inner.split("/")
    if not inner or "\0" in topic or len(topic.encode()) > 65535:
        raise ValueError(f"topic filter `{topic[:80]}` is empty, too long or holds a NUL")
    for number, level in enumerate(levels):
        if "#" in level and (level != "#" or number != len(levels) - 1):
            raise ValueError(f"topic filter `{topic}`: # stands alone, as the last level")
        if "+" in level and level != "+":
            raise ValueError(f"topic filter `{topic}`: + stands for a whole level")

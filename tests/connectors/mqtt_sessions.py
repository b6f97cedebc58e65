"""What the tests of `mqtt` share: receptions under sessions of their own, and messages to send."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.connectors.mqtt import Mqtt
from headrace.connectors.mqtt_config import MqttConfig
from headrace.connectors.testing_reception import Reception
from headrace.schemas.errors import ConfigError, SourceError

from ..servers.mosquitto import Mosquitto

PASSWORD = "a-password-nobody-may-see"
EACH = pytest.mark.parametrize(("version", "qos"), [("5", 1), ("5", 2), ("3.1.1", 1), ("3.1.1", 2)])


def settings_of(broker: Mosquitto, topic: str, **more: Any) -> dict[str, Any]:
    return {"url": broker.url, "topics": [topic], "client_id": f"reader-{topic.replace('/', '-')}"} | more


def open_(broker: Mosquitto, topic: str, **more: Any) -> Reception:
    """A reception whose session exists, so that what is published from now on is kept for it."""
    return Reception(Mqtt(MqttConfig.model_validate(settings_of(broker, topic, **more))))


@contextmanager
def reception(broker: Mosquitto, topic: str, **more: Any) -> Iterator[Reception]:
    here = open_(broker, topic, **more)
    try:
        yield here
    finally:
        here.close()


def payloads(count: int, name: str = "m") -> list[bytes]:
    return [f"{name}{n}".encode() for n in range(count)]


def error_of(here: Reception, timeout_s: float = 20) -> Exception:
    """The error that the current read ends with."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            here.pull()
        except (SourceError, ConfigError) as exc:
            return exc
    raise AssertionError("no error came")

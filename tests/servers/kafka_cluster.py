"""A Kafka to test on: librdkafka's mock cluster, or a broker that somebody runs (HEADRACE_KAFKA=host:port)."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Item, Split
from headrace.connectors.kafka import Kafka
from headrace.connectors.kafka_config import KafkaConfig
from headrace.connectors.testing import take
from headrace.schemas.errors import ConfigError, SourceError

from .kafka_mock import KafkaMock

confluent_kafka = pytest.importorskip("confluent_kafka", reason="needs confluent-kafka (headrace[kafka])")
from confluent_kafka.admin import AdminClient, NewTopic  # noqa: E402

T0 = 1_700_000_000_000  #: the time of the first message that a test produces, in ms


class Cluster:
    """A Kafka to test on: the mock, or a broker that somebody runs."""

    def __init__(self, url: str, mock: KafkaMock | None) -> None:
        self.url, self._mock = url, mock
        self._admin = None if mock else AdminClient({"bootstrap.servers": url})

    @property
    def mock(self) -> KafkaMock:
        """The mock, for faults that nobody can order from a broker."""
        if self._mock is None:
            pytest.skip("needs the mock cluster: faults are injected")
        return self._mock

    def need_broker(self) -> None:
        if self._mock is not None:
            pytest.skip("needs a real broker: set HEADRACE_KAFKA=host:port")

    def topic(self, partitions: int = 1, **settings: str) -> str:
        name = f"tide-{uuid.uuid4().hex[:8]}"
        self.create(name, partitions, **settings)
        return name

    def create(self, name: str, partitions: int = 1, **settings: str) -> None:
        if self._admin is None:
            self.mock.create(name, partitions)
            return
        config = {key.replace("_", "."): value for key, value in settings.items()}
        for future in self._admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
            future.result()
        until(lambda: name in self._admin.list_topics(timeout=5).topics)

    def delete(self, name: str) -> None:
        if self._admin is None:
            self.mock.delete(name)
            return
        for future in self._admin.delete_topics([name]).values():
            future.result()
        until(lambda: name not in self._admin.list_topics(timeout=5).topics)

    def delete_records(self, topic: str, before: int) -> None:
        if self._admin is None:
            self.mock.delete_records(topic, 0, before)
            return
        place = confluent_kafka.TopicPartition(topic, 0, before)
        for future in self._admin.delete_records([place]).values():
            future.result()

    def produce(self, topic: str, values: list[bytes | None], partition: int = 0, **more: Any) -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": self.url, "message.max.bytes": 4_000_000})
        for n, value in enumerate(values):
            producer.produce(topic, value, partition=partition, **({"timestamp": T0 + n} | more))
        assert producer.flush(20) == 0, "the test's producer could not deliver"

    def connector(self, *topics: str, **settings: Any) -> Kafka:
        quick = {"fetch.wait.max.ms": 20}
        told: dict[str, Any] = {"bootstrap_servers": self.url, "topics": topics, "timeout_s": 3, "librdkafka": quick}
        return Kafka(KafkaConfig.model_validate(told | settings))


def running(kind: str) -> Iterator[Cluster]:
    """The cluster of a fixture: `mock`, of three brokers, or `broker`."""
    if kind == "broker":
        if not os.environ.get("HEADRACE_KAFKA"):
            pytest.skip("no real broker: set HEADRACE_KAFKA=host:port")
        yield Cluster(os.environ["HEADRACE_KAFKA"], None)
        return
    with KafkaMock() as mock:
        yield Cluster(mock.url, mock)


def until(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


def numbers(count: int, start: int = 0) -> list[bytes | None]:
    return [b"%d" % n for n in range(start, start + count)]


def only(connector: Kafka) -> Split:
    (split,) = connector.splits()
    return split


def reads(connector: Kafka, split: Split, after: Any = None, most: int = 100_000) -> list[Any]:
    return list(take(connector, split, after, most))


def values(found: list[Any]) -> list[bytes]:
    return [read.data for read in found if isinstance(read, Item)]


def until_raised(connector: Kafka, split: Split, after: Any, seconds: float) -> Exception:
    """The error that ends a read; idle ticks and items before it are dropped."""
    deadline = time.monotonic() + seconds
    try:
        for _ in connector.read(split, after):
            assert time.monotonic() < deadline, f"no error within {seconds} s"
    except (SourceError, ConfigError) as exc:
        return exc
    raise AssertionError("the read ended")


class FakeMessage:
    """What an old broker gives: no leader epoch, no time."""

    def value(self) -> bytes:
        return b"x"

    def key(self) -> None:
        return None

    def headers(self) -> None:
        return None

    def offset(self) -> int:
        return 41

    def leader_epoch(self) -> int | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 0, 0

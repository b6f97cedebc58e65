"""The connector `kafka` on librdkafka's mock cluster, and the same on a real broker named by HEADRACE_KAFKA=host:port.

What only a broker shows (aborted transactions, compaction, times of offsets) is tested only there.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Item
from headrace.connectors.kafka import Kafka
from headrace.connectors.kafka_config import KafkaConfig, connection_properties, consumer_properties
from headrace.connectors.kafka_items import next_offset, read_message
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.errors import ConfigError, SourceError

from ..servers.kafka_cluster import (
    T0,
    Cluster,
    FakeMessage,
    numbers,
    only,
    reads,
    running,
    until_raised,
    values,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=["mock", "broker"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running cluster."""
    yield from running(request.param)


@pytest.fixture
def shaky() -> Iterator[Cluster]:
    """A mock of its own, for tests that break it."""
    yield from running("mock")


class TestKit(ConnectorKit):
    """The conformance kit on two partitions, with headers, a key, empty values, tombstones and bytes."""

    resume_points = 10

    @pytest.fixture(autouse=True)
    def _topic(self, cluster: Cluster, request: pytest.FixtureRequest) -> None:
        made: dict[str, str] = request.node.parent.stash.setdefault(_MADE, {})
        if cluster.url not in made:
            made[cluster.url] = topic = cluster.topic(2)
            cluster.produce(topic, [*numbers(20), b"", None, b"\xff\xfe", None], headers={"station": "7"}, key="k")
            cluster.produce(topic, numbers(9), partition=1)
        self._cluster, self._name = cluster, made[cluster.url]

    def make(self) -> Kafka:
        return self._cluster.connector(self._name)


_MADE: pytest.StashKey[dict[str, str]] = pytest.StashKey()


# -- what a message becomes -------------------------------------------------------------------------------------------


def test_a_message_keeps_its_value_time_headers_and_key(cluster: Cluster) -> None:
    topic = cluster.topic()
    headers = [("station", b"7"), ("station", b"8"), ("raw", b"\xff"), ("n", None), ("content-type", b"Image/PNG; q=1")]
    cluster.produce(topic, [b"\x00\xff"], headers=headers, key=b"\xfe", timestamp=T0)
    connector = cluster.connector(topic, key="message")
    (item,) = reads(connector, only(connector))
    assert (item.data, item.event_time, item.key) == (b"\x00\xff", T0 * 1000, "base64:/g==")
    assert item.headers == {
        "station": "7", "station#2": "8", "raw.base64": "/w==", "content-type": "Image/PNG; q=1", "n": "",
        "media_type": "image/png", "kafka.key.base64": "/g==", "kafka.time": "create",
    }  # fmt: skip
    connector.close()


def test_a_producer_cannot_speak_for_the_engine(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, [b"x"], headers={"format": "geotiff", "object": "a", "kafka.time": "append"})
    connector = cluster.connector(topic)
    (item,) = reads(connector, only(connector))
    assert item.headers == {
        "header.format": "geotiff", "header.object": "a", "header.kafka.time": "append", "kafka.time": "create",
    }  # fmt: skip
    connector.close()


def test_a_key_is_no_duplicate_unless_the_pipeline_says_so(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(2), key="same")
    for setting, keys in (("none", [None, None]), ("message", ["same", "same"])):
        connector = cluster.connector(topic, key=setting)
        assert [item.key for item in reads(connector, only(connector))] == keys
        connector.close()


def test_tombstones_are_left_out_or_given_as_the_rule_says(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, [b"a", None, b"", None])
    skipping = cluster.connector(topic)
    assert values(reads(skipping, only(skipping))) == [b"a", b""]
    # The end is an item's position, or a bounded run would never see it go by.
    assert next_offset(skipping.end_of(only(skipping)))[0] == 3
    giving = cluster.connector(topic, tombstones="item")
    found = reads(giving, only(giving))
    assert [(item.data, "kafka.tombstone" in item.headers) for item in found] == [
        (b"a", False), (b"", True), (b"", False), (b"", True),
    ]  # fmt: skip
    assert giving.end_of(only(giving)) == found[-1].position
    skipping.close()
    giving.close()


def test_a_message_without_epoch_or_time_has_a_plain_position_and_no_time() -> None:
    item = read_message(FakeMessage(), KafkaConfig(bootstrap_servers=("h:1",), topics=("t",)))
    assert item == Item(b"x", 41, None, None, {})


@pytest.mark.parametrize("position", ["41", 4.5, -1, True, [1], [1, -1], [1, 2, 3], {"offset": 1}])
def test_a_foreign_position_is_refused(position: Any) -> None:
    with pytest.raises(ConfigError, match="is not a position in a Kafka partition"):
        next_offset(position)


def test_a_large_message_is_read_and_one_beyond_the_limit_says_which_setting(cluster: Cluster) -> None:
    topic = cluster.topic(max_message_bytes="4000000")
    large = random.Random(1).randbytes(3_000_000)
    cluster.produce(topic, [b"small", large, b"after"])
    connector = cluster.connector(topic, buffer_mib=4)
    assert values(reads(connector, only(connector))) == [b"small", large, b"after"]
    connector.close()
    small = cluster.connector(topic, buffer_mib=4, max_message_mib=1, timeout_s=1)
    error = until_raised(small, only(small), None, 20)
    assert "to 2 are there, but nothing came" in str(error)
    assert "Invalid response size" in str(error)
    assert "max_message_mib (1)" in str(error)
    small.close()


# -- places -----------------------------------------------------------------------------------------------------------


def test_reading_goes_on_strictly_after_a_position(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(50))
    connector = cluster.connector(topic)
    split = only(connector)
    found = reads(connector, split)
    assert values(found) == numbers(50)
    cluster.produce(topic, numbers(5, 50))
    assert values(reads(connector, split, found[-1].position)) == numbers(5, 50)
    # The same place without its epoch, as `start_of` gives it.
    assert values(reads(connector, split, 49)) == numbers(5, 50)
    connector.close()


def test_start_is_resolved_once_to_a_place(cluster: Cluster) -> None:
    topic = cluster.topic()
    earliest, latest = cluster.connector(topic), cluster.connector(topic, start="latest")
    split = only(earliest)
    assert earliest.start_of(split) is None
    assert latest.start_of(split) is None, "an empty partition begins at its beginning"
    cluster.produce(topic, numbers(10))
    assert earliest.start_of(split) is None
    at = latest.start_of(split)
    assert at == 9
    cluster.produce(topic, numbers(3, 10))
    assert values(reads(latest, split, at)) == numbers(3, 10)
    cluster.delete_records(topic, 4)
    assert earliest.start_of(split) == 3
    earliest.close()
    latest.close()


def test_start_at_a_time_begins_with_the_first_message_of_that_time_or_later(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, numbers(10))
    late = cluster.connector(topic, start="2100-01-01T00:00:00Z")
    assert late.start_of(only(late)) == 9, "nothing is so late: the end"
    late.close()
    cluster.need_broker()
    connector = cluster.connector(topic, start="2023-11-14T22:13:20.004Z")  # T0 + 4 ms
    assert values(reads(connector, only(connector), connector.start_of(only(connector)))) == numbers(6, 4)
    connector.close()


def test_a_start_time_is_rounded_up_to_milliseconds() -> None:
    def ms(text: str) -> int:
        return KafkaConfig(bootstrap_servers=("h:1",), topics=("t",), start=text).start_ms()

    assert ms("2023-11-14T22:13:20.004+00:00") == T0 + 4
    assert ms("2023-11-14T22:13:20.004001+00:00") == T0 + 5
    assert ms("2023-11-15T00:13:20+02:00") == T0


def test_lag_and_end_follow_the_log(cluster: Cluster) -> None:
    topic = cluster.topic()
    connector = cluster.connector(topic)
    split = only(connector)
    assert connector.end_of(split) is None
    assert connector.lag(split, None).records == 0
    cluster.produce(topic, numbers(40))
    found = reads(connector, split)
    assert connector.lag(split, None).records == 40
    assert connector.lag(split, found[29].position).records == 10
    assert connector.lag(split, found[-1].position).records == 0
    assert connector.end_of(split) == found[-1].position
    cluster.delete_records(topic, 40)
    assert connector.end_of(split) is None
    assert connector.lag(split, None).records == 0
    connector.close()


def test_the_end_is_found_behind_many_tombstones(cluster: Cluster) -> None:
    topic = cluster.topic()
    cluster.produce(topic, [b"a", *[None] * 700])
    connector = cluster.connector(topic)
    assert next_offset(connector.end_of(only(connector)))[0] == 1
    connector.close()


# -- topics -----------------------------------------------------------------------------------------------------------


def test_an_expression_takes_matching_topics_also_later_ones_but_not_kafkas_own(cluster: Cluster) -> None:
    mark = uuid.uuid4().hex[:6]
    for name in (f"a-{mark}-1", f"__{mark}"):
        cluster.create(name)
    connector = cluster.connector(f"^(a-|__){mark}-?")
    assert [split.id for split in connector.splits()] == [f"a-{mark}-1/0"]
    cluster.create(f"a-{mark}-2", 2)
    assert [split.id for split in connector.splits()] == [f"a-{mark}-1/0", f"a-{mark}-2/0", f"a-{mark}-2/1"]
    connector.probe()
    connector.close()
    none = cluster.connector(f"^nothing-{mark}")
    assert none.splits() == []
    none.close()


def test_an_absent_topic_is_named(cluster: Cluster) -> None:
    connector = cluster.connector("no-such-tide")
    with pytest.raises(SourceError, match="no-such-tide"):
        connector.splits()
    with pytest.raises(ConfigError, match="no-such-tide"):
        connector.probe()
    connector.close()


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"librdkafka": {"group.id": "x"}}, "joins no group"),
        ({"librdkafka": {"enable.auto.commit": True}}, "kept in the dataset"),
        ({"librdkafka": {"isolation.level": "read_uncommitted"}}, "read_committed"),
        ({"librdkafka": {"auto.offset.reset": "latest"}}, "silent"),
        ({"librdkafka": {"plugin.library.paths": "/tmp/x.so"}}, "load code"),
        ({"librdkafka": {"test.mock.num.brokers": 3}}, "may not be set"),
        ({"bootstrap_servers": "broker"}, "host:port"),
        ({"topics": ["a b"]}, "letters, digits"),
        ({"topics": ["^("]}, "no regular expression"),
        ({"topics": []}, "at least 1"),
        ({"start": "yesterday"}, "earliest, latest, or an ISO 8601 time"),
        ({"start": "2026-01-01T00:00:00"}, "with its zone"),
        ({"username": "x"}, "belong together"),
        ({"tls": False, "tls_ca": "ca.pem"}, "tls is false"),
        ({"grup": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KafkaConfig.model_validate({"bootstrap_servers": ["h:1"], "topics": ["t"]} | settings)


def test_secrets_are_never_shown_and_reach_only_the_library() -> None:
    config = KafkaConfig.model_validate({
        "bootstrap_servers": "h:9092,i:9092", "topics": "t", "username": "u", "password": "canary-1",
        "tls_certificate": "c.pem", "tls_key": "k.pem", "tls_key_password": "canary-2",
        "librdkafka": {"sasl.oauthbearer.client.secret": "canary-3", "client.rack": "a", "socket.nagle.disable": True},
    })  # fmt: skip
    shown = repr(config) + str(config) + config.model_dump_json() + Kafka(config).describe()
    assert "canary" not in shown
    properties = connection_properties(config)
    assert properties["security.protocol"] == "sasl_ssl", "a password is not sent in the clear by default"
    assert [properties[n] for n in ("sasl.password", "ssl.key.password", "sasl.oauthbearer.client.secret")] == [
        "canary-1", "canary-2", "canary-3",
    ]  # fmt: skip
    assert properties["socket.nagle.disable"] == "true"


def test_what_the_guarantee_rests_on_is_fixed_and_the_rest_can_be_tuned() -> None:
    tuned = {"fetch.wait.max.ms": 5, "client.rack": "a"}
    config = KafkaConfig.model_validate({"bootstrap_servers": "h:1", "topics": "t", "librdkafka": tuned})
    properties = consumer_properties(config)
    assert properties["fetch.wait.max.ms"] == "5"
    assert {name: properties[name] for name in ("isolation.level", "auto.offset.reset", "enable.auto.commit")} == {
        "isolation.level": "read_committed", "auto.offset.reset": "error", "enable.auto.commit": "false",
    }  # fmt: skip
    assert properties["security.protocol"] == "plaintext"


def test_an_unknown_property_is_named(cluster: Cluster) -> None:
    connector = cluster.connector("tide", librdkafka={"fetch.wiat.max.ms": 5})
    with pytest.raises(ConfigError, match=r"fetch\.wiat"):
        connector.probe()
    connector.close()

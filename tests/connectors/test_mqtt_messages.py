"""MQTT: what a message becomes, and which settings are right."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client", reason="the Python library paho-mqtt is not installed (headrace[mqtt])")

from headrace.connectors.contract import Broken, Gap, Item
from headrace.connectors.mqtt_config import MqttConfig, check_filter
from headrace.connectors.mqtt_message import Message, read_of, wanted

from ..servers.mosquitto import Mosquitto
from .mqtt_sessions import PASSWORD, open_, payloads, reception

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own consumers stop between two reads: shorter ticks make that quick."""
    monkeypatch.setattr("headrace.connectors.mqtt._IDLE_S", 0.1)


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with Mosquitto(persistent=False) as running:
        yield running


@pytest.fixture
def topic() -> str:
    return f"plant/{next(_numbers)}/level"


# -- what a message becomes -------------------------------------------------------------------------------------------


@pytest.mark.server
def test_properties_become_key_time_and_headers(broker: Mosquitto, topic: str) -> None:
    more = {"key": {"property": "id", "per_topic": True}, "time": {"property": "at", "unit": "ms"}}
    with reception(broker, topic, **more) as here:
        broker.publish(
            topic, [b"{}"], ContentType="application/json; charset=utf-8",
            UserProperty=[("id", "7"), ("at", "1749880800123"), ("tag", "a"), ("tag", "b")],
        )  # fmt: skip
        broker.publish(topic, [b"\xff\x00"], qos=0)
        first, second = here.take(2)
    assert first.key == f"{topic} 7" and first.event_time == 1_749_880_800_123_000
    assert dict(first.headers) == {
        "topic": topic, "qos": "1", "retain": "0", "media_type": "application/json", "format": "json",
        "property.id": "7", "property.at": "1749880800123", "property.tag": "a, b",
    }  # fmt: skip
    assert (second.data, second.key, second.event_time) == (b"\xff\x00", None, None)
    assert dict(second.headers) == {"topic": topic, "qos": "0", "retain": "0"}


@pytest.mark.server
def test_empty_and_huge_messages(broker: Mosquitto, topic: str) -> None:
    with reception(broker, topic, max_message_bytes=1000, queue_bytes=1 << 16) as here:
        broker.publish(topic, [b"", bytes(3_000_000), b"after"])
        reads = here.connector.read(here.split, None)
        got: list[Any] = []
        while len(got) < 3:
            read = next(reads)
            if isinstance(read, (Item, Broken)):
                got.append(read)
                here.connector.ack(here.split, read.position)
        assert got[0].data == b"" and got[2].data == b"after"
        assert isinstance(got[1], Broken) and got[1].reason == "too_large" and got[1].data == bytes(3_000_000)
        assert "3000000" in got[1].message and topic in got[1].message
        reads.close()
    with reception(broker, topic) as here:
        assert here.take_until_idle() == [], "the large one was acknowledged too"


@pytest.mark.server
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_retained_messages_are_skipped_unless_asked_for(broker: Mosquitto, topic: str, version: str) -> None:
    broker.publish(topic, [b"old"], retain=True)
    with reception(broker, topic, version=version) as here:
        assert here.take_until_idle() == []
        broker.publish(topic, [b"live"], retain=True)
        (live,) = here.take(1)
        assert (live.data, live.headers["retain"]) == (b"live", "0")
        here.ack()
        here.end_read()
        here.begin()
        assert here.take_until_idle() == []
    with reception(broker, topic, version=version, retained="take", client_id=f"taker-{topic}") as here:
        (kept,) = here.items or here.take(1)
        assert (kept.data, kept.headers["retain"]) == (b"live", "1")


@pytest.mark.server
def test_topics_that_were_taken_out_of_the_settings_are_passed_over(broker: Mosquitto, topic: str) -> None:
    """The session still subscribes to them; what comes is confirmed, so that it does not stop up the session."""
    client_id = f"changed-{topic}"
    open_(broker, topic, topics=[f"{topic}/a", f"{topic}/b"], client_id=client_id).close()
    broker.publish(f"{topic}/a", payloads(30, "a"))
    broker.publish(f"{topic}/b", payloads(2, "b"))
    with reception(broker, topic, topics=[f"{topic}/b"], client_id=client_id, in_flight=10) as here:
        assert [item.data for item in here.take(2)] == payloads(2, "b")
        here.ack()
    with reception(broker, topic, topics=[f"{topic}/b"], client_id=client_id) as here:
        assert here.take_until_idle() == []


@pytest.mark.server
def test_two_readers_of_a_shared_subscription_get_each_message_once(broker: Mosquitto, topic: str) -> None:
    shared = [f"$share/group/{topic}/#"]
    with (
        reception(broker, topic, topics=shared, client_id=f"one-{topic}") as one,
        reception(broker, topic, topics=shared, client_id=f"two-{topic}") as two,
    ):
        one.connector.probe()  # which may not take a share
        broker.publish(f"{topic}/x", payloads(20))
        for here in (one, two):
            here.take_until_idle()
        assert one.items and two.items
        assert sorted(i.data for i in one.items + two.items) == sorted(payloads(20))


@pytest.mark.server
def test_qos_0_is_at_most_once_and_says_when_it_was_away(topic: str) -> None:
    with Mosquitto() as broker, reception(broker, topic, qos=0) as here:
        broker.publish(topic, payloads(5), qos=1)
        assert len(here.take(5)) == 5
        here.ack()
        here.end_read()
        reads = here.connector.read(here.split, None)
        gap = next(reads)
        assert isinstance(gap, Gap) and "QoS 0" in gap.reason
        reads.close()


# -- settings and parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://broker"}, "mqtt://"),
        ({"url": "mqtt://user:geheim@broker"}, "username"),
        ({"url": "mqtt://"}, "mqtt://"),
        ({"url": "mqtt://broker/path"}, "mqtt://"),
        ({"topics": []}, "at least one"),
        ({"topics": ["a/#/b"]}, "last level"),
        ({"client_id": ""}, "at least 1"),
        ({"qos": 3}, "0, 1 or 2"),
        ({"key": {}}, "either"),
        ({"key": {"property": "a", "field": "b"}}, "either"),
        ({"version": "3.1.1", "key": {"property": "a"}}, "MQTT 5 only"),
        ({"tls_ca": "x"}, "mqtts"),
        ({"password": PASSWORD}, "username"),
        ({"url": "mqtts://b", "tls_key": "x"}, "tls_cert"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        MqttConfig.model_validate({"url": "mqtt://broker", "topics": ["a"], "client_id": "x"} | settings)
    assert PASSWORD not in str(refused.value)


def test_addresses_have_the_ports_of_their_protocols() -> None:
    ports = {"mqtt://b": 1883, "mqtts://b": 8883, "mqtt://b:99": 99, "mqtt://[::1]:5": 5}
    for url, port in ports.items():
        assert MqttConfig(url=url, topics=("a",), client_id="x").address[1] == port
    assert MqttConfig.model_validate({"url": "mqtt://b", "topics": "a", "client_id": "x", "version": 5}).version == "5"


@pytest.mark.parametrize("topic", ["a", "/a/", "+", "#", "a/+/b/#", "$share/g/a/#", "$SYS/#"])
def test_filters_that_are_right(topic: str) -> None:
    check_filter(topic)


@pytest.mark.parametrize("topic", ["", "a#", "#/a", "a+/b", "$share/g", "$share//a", "$share/+/a", "a\0", "x" * 65536])
def test_filters_that_are_wrong(topic: str) -> None:
    with pytest.raises(ValueError, match="topic filter"):
        check_filter(topic)


def test_filters_match_as_paho_matches_them() -> None:
    from paho.mqtt.client import topic_matches_sub

    levels = ["", "a", "b", "$SYS"]
    topics = ["/".join(t) for n in (1, 2, 3) for t in itertools.product(levels, repeat=n) if "/".join(t)]
    parts = ["", "a", "$SYS", "+"]
    filters = ["/".join(f) for n in (1, 2, 3) for f in itertools.product(parts, repeat=n) if "/".join(f)]
    filters += [f"{f}/#" for f in filters if f.count("/") < 2] + ["#"]
    for pattern in filters:
        for topic in topics:
            assert wanted(topic, [pattern]) == topic_matches_sub(pattern, topic), (pattern, topic)
            assert wanted(topic, [f"$share/g/{pattern}"]) == topic_matches_sub(pattern, topic)


def test_two_deliveries_of_one_message_are_the_same_item() -> None:
    config = MqttConfig(url="mqtt://b", topics=("a",), client_id="x")
    one, two = (read_of(Message("a", b"x", 1, False, mid), config, [1, 1]) for mid in (1, 2))
    assert one == two

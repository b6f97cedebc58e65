"""MQTT against a real Mosquitto: what is confirmed, and when, in both versions and qualities."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client", reason="the Python library paho-mqtt is not installed (headrace[mqtt])")

from headrace.connectors.mqtt import Mqtt
from headrace.connectors.testing_receivers import ReceiverKit
from headrace.connectors.testing_reception import Child, Sender

from ..servers.mosquitto import Mosquitto, Tap
from .mqtt_sessions import EACH, PASSWORD, error_of, open_, payloads, reception, settings_of

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


# -- the kit ----------------------------------------------------------------------------------------------------------


class BrokerSender(Sender):
    """Publishes to the broker; what counts as confirmed is what the receiver told the broker, seen on the wire."""

    def __init__(self, broker: Mosquitto, tap: Tap, topic: str, qos: int, confirmation: int, version: str) -> None:
        self._client = broker.client(f"publisher-{topic.replace('/', '-')}")
        self._tap, self._topic, self._qos, self._confirmation = tap, topic, qos, confirmation
        self._properties = version == "5"

    def send(self, messages: Any) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        for key, payload in messages:
            said = Properties(PacketTypes.PUBLISH)
            said.UserProperty = [("id", key)]
            self._client.publish(self._topic, payload, self._qos, properties=said)

    def confirmed(self) -> int:
        return self._tap.packets[self._confirmation]

    def again(self) -> None:
        """The broker sends again by itself."""

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class MqttKit(ReceiverKit):
    """What every combination shares: a session of its own for each test, made before anything is published."""

    connector = Mqtt
    secrets = (PASSWORD,)
    qos = 1
    version = "5"
    key: Any = {"property": "id"}
    confirmation = Tap.PUBACK

    @pytest.fixture(autouse=True)
    def _on_a_broker(self, broker: Mosquitto, topic: str) -> Iterator[None]:
        self.broker, self.topic = broker, topic
        self.tap = Tap(broker.port)
        first = open_(broker, topic, **self.more())
        first.close()
        yield
        self.tap.close()

    def more(self) -> dict[str, Any]:
        return {"qos": self.qos, "version": self.version, "key": self.key}

    def settings(self) -> dict[str, Any]:
        login = {"username": "reader", "password": PASSWORD}
        return settings_of(self.broker, self.topic, **self.more(), **login) | {"url": f"mqtt://127.0.0.1:{self.tap.port}"}

    def flood_settings(self) -> dict[str, Any]:
        return self.settings() | {"queue_bytes": self.holds_bytes}

    def sender(self) -> BrokerSender:
        return BrokerSender(self.broker, self.tap, self.topic, self.qos, self.confirmation, self.version)


@pytest.mark.server
class TestMqtt5Qos1(MqttKit):
    """The kit, as most will run it."""


@pytest.mark.server
class TestMqtt5Qos2(MqttKit):
    """The kit with QoS 2: what must wait is PUBREC, after which a broker forgets the message."""

    qos = 2
    confirmation = Tap.PUBREC


@pytest.mark.server
class TestMqtt311Qos1(MqttKit):
    """The kit with MQTT 3.1.1, which has no user properties and no receive maximum."""

    version = "3.1.1"
    key = None

    def test_equal_keys_are_passed_through_as_equal_keys(self) -> None:
        """Without user properties the id stands in the payload."""
        self.key = {"field": "id"}
        with self._receiving() as (here, sender):
            sender.send([("", b'{"id": 7}'), ("", b'{"id": 7}'), ("", b'{"id": "other"}'), ("", b"no JSON")])
            assert [item.key for item in here.take(4)] == ["7", "7", "other", None]

    # Messages here have no key, so what the kit compares by key is compared by payload below, in both versions.
    test_everything_sent_arrives_and_is_confirmed_once_acknowledged = None
    test_what_was_not_acknowledged_comes_again_to_a_new_instance = None
    test_address_and_session_can_be_used_right_after_a_kill = None
    test_the_declared_guarantee_is_not_more_than_what_is_observed = None
    test_a_new_read_does_not_confirm_what_an_older_one_gave = None


# -- confirming -------------------------------------------------------------------------------------------------------


@pytest.mark.server
@EACH
def test_a_thousand_messages_arrive_once_and_in_order(broker: Mosquitto, topic: str, version: str, qos: int) -> None:
    with reception(broker, topic, version=version, qos=qos, in_flight=50) as here:
        publisher = threading.Thread(target=broker.publish, args=(topic, payloads(1000)), kwargs={"qos": qos})
        publisher.start()
        while len(here.items) < 1000:
            assert here.take(10, timeout_s=5), f"only {len(here.items)} came"
            here.ack()
        publisher.join()
        assert not here.take_until_idle()
        assert [item.data for item in here.items] == payloads(1000)


@pytest.mark.server
@EACH
def test_after_a_kill_of_the_reader_nothing_unacknowledged_is_lost(
    broker: Mosquitto, topic: str, version: str, qos: int
) -> None:
    settings = settings_of(broker, topic, version=version, qos=qos)
    with Child(Mqtt, settings) as child:
        broker.publish(topic, payloads(20), qos=qos)
        taken = [payload for _, payload in child.take(12)]
        child.ack(6)
        time.sleep(0.3)
        child.kill()
    with reception(broker, topic, version=version, qos=qos) as here:
        here.take(13)
        here.take_until_idle()
        got = [item.data for item in here.items]
    assert taken[:7] + got == payloads(20), "what was acknowledged does not come again, the rest does"


@pytest.mark.server
def test_plain_paho_would_lose_qos_2_messages_in_a_kill(broker: Mosquitto, topic: str) -> None:
    """Why there is a client of our own: paho says PUBREC on arrival, and the broker forgets the message."""
    import socket as sockets

    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    settings = settings_of(broker, topic, qos=2)
    open_(broker, topic, qos=2).close()
    broker.publish(topic, [b"precious"], qos=2)
    plain = paho.Client(
        CallbackAPIVersion.VERSION2, settings["client_id"], protocol=paho.MQTTv311, clean_session=False, manual_ack=True
    )
    plain.connect("127.0.0.1", broker.port)
    seen: list[int] = []
    plain._handle_pubrel = lambda: seen.append(1) or paho.MQTT_ERR_SUCCESS  # the process dies before PUBREL is read
    deadline = time.monotonic() + 5
    while not seen and time.monotonic() < deadline:
        plain.loop(0.1)
    held = plain.socket()
    assert seen and held is not None
    held.shutdown(sockets.SHUT_RDWR)
    plain.loop(0.1)
    with reception(broker, topic, qos=2, version="3.1.1") as here:
        assert here.take_until_idle() == [] and here.take(1, timeout_s=0.5) == []


@pytest.mark.server
def test_a_qos_2_message_whose_pubrec_was_lost_is_not_given_twice(broker: Mosquitto, topic: str) -> None:
    """It is on disk and acknowledged, the connection breaks before the broker hears of it, and it sends it again."""
    with reception(broker, topic, qos=2) as here:
        broker.publish(topic, payloads(3), qos=2)
        here.take(3)
        link = here.connector._link
        link._client.confirm = lambda mid, qos: link._recorded.add(mid)  # said, and never heard
        here.ack()
        time.sleep(0.3)
        link._client.socket().shutdown(2)
        error_of(here)
        here.begin()
        broker.publish(topic, [b"next"], qos=2)
        assert [item.data for item in here.take(1)] == [b"next"]
        here.ack()
        time.sleep(0.3)
        assert here.connector._recorded == set(), "PUBREL releases packet ids"
        here.end_read()
        here.begin()
        assert here.take_until_idle() == []


@pytest.mark.server
@EACH
def test_unconfirmed_messages_are_bounded(broker: Mosquitto, topic: str, version: str, qos: int) -> None:
    with reception(broker, topic, version=version, qos=qos, in_flight=10) as here:
        broker.publish(topic, payloads(100), qos=qos)
        here.take_until_idle()
        # 3.1.1 cannot tell the broker: our socket rests instead, within one burst of packets.
        assert len(here.items) <= (10 if version == "5" else 11)
        while len(here.items) < 100:
            here.ack()
            assert here.take(1, timeout_s=5)


@pytest.mark.server
def test_acks_after_the_read_ended_still_count_until_close(broker: Mosquitto, topic: str) -> None:
    """A draining engine stops reading first, syncs its spool, and acknowledges then."""
    with reception(broker, topic) as here:
        broker.publish(topic, payloads(5))
        here.take(5)
        here.end_read()
        time.sleep(0.2)
        here.ack()
        here.close()
    with reception(broker, topic) as here:
        assert here.take_until_idle() == []


@pytest.mark.server
def test_a_late_ack_of_an_earlier_read_confirms_nothing_of_a_later_one(broker: Mosquitto, topic: str) -> None:
    with reception(broker, topic) as here:
        broker.publish(topic, payloads(3))
        old = here.take(3)[-1].position
        here.end_read()
        here.begin()
        here.take(3)
        here.ack(old)
        time.sleep(0.3)
        here.close()
    with reception(broker, topic) as here:
        assert [item.data for item in here.take(3)] == payloads(3)

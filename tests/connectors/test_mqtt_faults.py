"""MQTT against a real Mosquitto that is killed, stopped, cut off, or says no."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client", reason="the Python library paho-mqtt is not installed (headrace[mqtt])")

from headrace.connectors.contract import Gap, Idle
from headrace.connectors.mqtt import Mqtt
from headrace.connectors.mqtt_config import MqttConfig
from headrace.connectors.testing_reception import Reception
from headrace.schemas.errors import ConfigError, RateLimited, SourceError

from ..servers.mosquitto import Mosquitto, Tap
from ..servers.redis import make_certificates
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


# -- kills and cuts of the broker -------------------------------------------------------------------------------------


@pytest.mark.server
@EACH
def test_a_broker_killed_and_restarted_in_mid_stream_loses_nothing_of_its_store(version: str, qos: int) -> None:
    with Mosquitto() as broker, reception(broker, "t", version=version, qos=qos, in_flight=100) as here:
        disk: list[Any] = []
        for run in range(3):
            broker.publish("t", payloads(300, f"run{run}-"), qos=qos)
            broker.save()
            disk += here.take(50 + 40 * run, timeout_s=5)
            here.ack()
            here.take(20, timeout_s=2)  # taken and never acknowledged
            broker.kill()
            assert isinstance(error_of(here), SourceError)
            broker.restart()
            here.begin()
        deadline = time.monotonic() + 20
        missing = {p for run in range(3) for p in payloads(300, f"run{run}-")} - {i.data for i in disk}
        while missing and time.monotonic() < deadline:
            disk += here.take(50, timeout_s=0.5)
            here.ack()
            missing -= {item.data for item in here.items}
        assert not missing


@pytest.mark.server
def test_a_session_that_the_broker_lost_is_a_gap_and_what_had_arrived_is_kept() -> None:
    with Mosquitto(persistent=False) as broker, reception(broker, "t") as here:
        broker.publish("t", payloads(5))
        assert here.take(1)[0].data == b"m0"
        time.sleep(0.2)  # the other four have arrived, and nobody took them
        broker.restart()
        error_of(here)
        reads = here.connector.read(here.split, None)
        gap = next(reads)
        assert isinstance(gap, Gap) and "lost the session" in gap.reason and gap.lost is None
        assert [next(reads).data for _ in range(4)] == payloads(5)[1:]
        assert isinstance(next(reads), Idle)
        reads.close()


@pytest.mark.server
def test_the_first_session_is_a_gap_and_a_kept_one_is_not(broker: Mosquitto, topic: str) -> None:
    connector = Mqtt(MqttConfig.model_validate(settings_of(broker, topic)))
    (split,) = connector.splits()
    first = next(iter(connector.read(split, None)))
    assert isinstance(first, Gap) and "new, or it expired" in first.reason
    connector.close()
    again = Mqtt(connector.config)
    assert isinstance(next(iter(again.read(split, None))), Idle)
    again.close()


@pytest.mark.server
@EACH
def test_cut_connections_lose_nothing(broker: Mosquitto, topic: str, version: str, qos: int) -> None:
    tap = Tap(broker.port)
    here = open_(broker, topic, version=version, qos=qos, in_flight=50, url=f"mqtt://127.0.0.1:{tap.port}")
    broker.publish(topic, payloads(400), qos=qos)
    disk: Counter[bytes] = Counter()
    cuts = 0
    deadline = time.monotonic() + 30
    while len(disk) < 400:
        assert time.monotonic() < deadline, f"{len(disk)} of 400 came"
        try:
            items = here.take(30, timeout_s=0.3)
            disk.update(item.data for item in items)
            if items:
                here.ack()
            if cuts < 8:
                cuts += 1
                tap.cut()
                error_of(here)
                here.begin()
        except SourceError:
            here.begin()
    assert cuts == 8 and set(disk) == set(payloads(400))
    here.close()
    tap.close()


@pytest.mark.server
def test_a_broker_that_answers_no_more_is_an_error_within_two_keepalives(topic: str) -> None:
    with Mosquitto(persistent=False) as broker, reception(broker, topic, keepalive_s=2) as here:
        broker.pause()
        begun = time.monotonic()
        error = error_of(here, timeout_s=15)
        assert isinstance(error, SourceError) and "silent" in str(error)
        assert 1 < time.monotonic() - begun < 10
        broker.resume()


@pytest.mark.server
def test_a_broker_that_never_answers_is_given_up_after_the_timeout() -> None:

    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"mqtt://127.0.0.1:{mute.getsockname()[1]}"
        connector = Mqtt(MqttConfig(url=url, topics=("t",), client_id="x", timeout_s=0.5))
        with pytest.raises(SourceError, match=r"did not answer CONNECT within 0\.5 s"):
            connector.probe()


@pytest.mark.server
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_another_client_with_our_id_is_suspected(broker: Mosquitto, topic: str, version: str) -> None:
    """Mosquitto closes the older connection without a word."""
    with reception(broker, topic, version=version) as here:
        other = broker.client(here.connector.config.client_id)
        error = error_of(here)
        assert isinstance(error, SourceError)
        assert "another client" in str(error) and here.connector.config.client_id in str(error)
        other.disconnect()
        other.loop_stop()


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (0x8E, SourceError, "another client connected as `x` and took the session over"),
        (0x8B, SourceError, "server shutting down"),
        (0x87, ConfigError, "account may not"),
        (0x9F, RateLimited, "connection rate exceeded"),
    ],
)
def test_a_broker_that_says_why_it_ends_is_quoted(code: int, kind: type[Exception], said: str) -> None:
    """Bytes as MQTT 5 defines them, since Mosquitto does not say them: CONNACK, SUBACK, DISCONNECT."""

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def play() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"\x20\x03\x01\x00\x00")
                subscribe = peer.recv(4096)
                peer.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x01" + bytes([0xE0, 2, code, 0]))
                peer.recv(4096)

        player = threading.Thread(target=play)
        player.start()
        connector = Mqtt(MqttConfig(url=f"mqtt://127.0.0.1:{listener.getsockname()[1]}", topics=("t",), client_id="x"))
        with pytest.raises(kind, match=said):
            here = Reception(connector)
            while True:
                here.pull()
        connector.close()
        player.join()


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_wrong_password_is_a_wrong_setting_and_is_not_shown(version: str) -> None:
    with Mosquitto(users={"reader": "right"}) as broker:
        wrong = settings_of(broker, "t", version=version, username="reader", password=PASSWORD)
        with pytest.raises(ConfigError, match=r"username|account") as refused:
            Mqtt(MqttConfig.model_validate(wrong)).probe()
        assert PASSWORD not in str(refused.value)
        with pytest.raises(ConfigError):
            Mqtt(MqttConfig.model_validate(settings_of(broker, "t", version=version))).probe()
        Mqtt(MqttConfig.model_validate(wrong | {"password": "right"})).probe()


@pytest.mark.server
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_subscription_that_is_not_allowed_is_a_wrong_setting(version: str, tmp_path: Path) -> None:
    plugin = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")
    if not plugin.exists():
        pytest.skip("no dynamic security plug-in of mosquitto here")
    rights = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    (tmp_path / "rights.json").write_text(
        json.dumps({"defaultACLAccess": rights, "clients": [], "groups": [], "roles": []})
    )
    options = (f"plugin {plugin}", f"plugin_opt_config_file {tmp_path / 'rights.json'}")
    with Mosquitto(*options) as broker, pytest.raises(ConfigError, match=r"refuses the subscription.*account may"):
        Mqtt(MqttConfig.model_validate(settings_of(broker, "t", version=version))).probe()


@pytest.mark.server
def test_a_broker_that_grants_less_than_was_asked_is_refused(topic: str) -> None:
    with Mosquitto("max_qos 0") as broker, pytest.raises(ConfigError, match=r"set `qos: 0` and accept"):
        Mqtt(MqttConfig.model_validate(settings_of(broker, topic))).probe()


def test_nobody_listening_is_tried_again() -> None:
    connector = Mqtt(MqttConfig(url="mqtt://127.0.0.1:9", topics=("t",), client_id="x"))
    (split,) = connector.splits()
    for attempt in (connector.probe, lambda: next(iter(connector.read(split, None)))):
        with pytest.raises(SourceError, match="cannot be reached"):
            attempt()
    connector.close()


@pytest.mark.server
def test_probing_does_not_disturb_a_running_session(broker: Mosquitto, topic: str) -> None:
    with reception(broker, topic) as here:
        here.connector.probe()
        broker.publish(topic, payloads(2))
        assert [item.data for item in here.take(2)] == payloads(2)


@pytest.mark.server
def test_tls_with_the_right_authority_and_not_with_another(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    right, wrong = (make_certificates(tmp_path / name) for name in ("one", "other"))
    with Mosquitto(tls=right) as broker:
        with reception(broker, "t", tls_ca=right[0]) as here:
            broker.publish("t", [bytes(300_000), *payloads(500)])
            assert [item.data for item in here.take(501)][1:] == payloads(500)
        for ca in (wrong[0], None):
            with pytest.raises(ConfigError, match="tls_ca"):
                Mqtt(MqttConfig.model_validate(settings_of(broker, "t", tls_ca=ca))).probe()
        with pytest.raises(SourceError):
            Mqtt(MqttConfig(url=f"mqtt://127.0.0.1:{broker.port}", topics=("t",), client_id="x", timeout_s=2)).probe()
        with pytest.raises(ConfigError, match="tls_ca, tls_cert or tls_key"):
            Mqtt(MqttConfig.model_validate(settings_of(broker, "t", tls_ca="/absent"))).probe()

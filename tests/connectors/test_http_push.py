"""HTTP push: 202 means on disk, through full queues, kills and cuts; real clients over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h11", reason="the Python library h11 is not installed (headrace[http-push])")

from headrace.connectors.http_push import HttpPush
from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.testing_receivers import ReceiverKit
from headrace.connectors.testing_reception import Child
from headrace.schemas.errors import ConfigError, SourceError

from ..servers.proxy import TcpProxy
from .http_push_engine import HEAD, JSON, TOKEN, Engine, HttpSender, engine, free_port, raw


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own consumers stop between two reads: shorter ticks make that quick."""
    monkeypatch.setattr("headrace.connectors.http_push._IDLE_S", 0.05)


class TestHttpPush(ReceiverKit):
    """The kit, with a token and a named path."""

    connector = HttpPush
    secrets = (TOKEN,)

    def setup_method(self) -> None:
        self.port = free_port()

    def settings(self) -> dict[str, Any]:
        return {
            "port": self.port, "name": "readings", "tokens": [TOKEN], "content_types": "*/*", "confirm_timeout_s": 6,
            "retry_after_s": 1,
        }  # fmt: skip

    def flood_settings(self) -> dict[str, Any]:
        return self.settings() | {"queue_bytes": self.holds_bytes, "max_body_bytes": 1 << 20}

    def sender(self) -> HttpSender:
        return HttpSender(self.port, "/v1/streams/readings", TOKEN)


# -- what is taken ----------------------------------------------------------------------------------------------------


def test_a_body_is_one_item_with_its_type_and_key() -> None:
    with engine(keep_headers=["X-Station"], time={"header": "X-Time"}) as e:
        answer = e.post(
            b'{"level": 1.5}', Idempotency_Key='"a-1"', X_Station="quay", X_Time="2025-06-14T06:00:00Z", Cookie="no"
        )
        assert (answer.status, answer.json) == (202, {"accepted": 1})
    (item,) = e.items
    assert item.data == b'{"level": 1.5}'
    assert item.key == "a-1"
    assert item.event_time == 1_749_880_800_000_000
    assert dict(item.headers) == {"media_type": "application/json", "format": "json", "header.x-station": "quay"}


def test_lines_of_ndjson_are_items_whose_keys_count_them() -> None:
    with engine(split="lines") as e:
        body = b'{"n": 1}\n\n{"n": 2}\r\n  \n{"n": 3}'
        answer = e.post(body, Content_Type="application/x-ndjson; charset=utf-8", Idempotency_Key="batch")
        assert (answer.status, answer.json) == (202, {"accepted": 3})
        assert e.post(b'{"n": 4}').json == {"accepted": 1}
    assert [(i.data, i.key) for i in e.items] == [
        (b'{"n": 1}', "batch/1"), (b'{"n": 2}', "batch/2"), (b'{"n": 3}', "batch/3"), (b'{"n": 4}', None),
    ]  # fmt: skip
    assert {i.headers["format"] for i in e.items} == {"json"}


def test_ndjson_stays_whole_unless_lines_are_asked_for() -> None:
    with engine() as e:
        assert e.post(b"1\n2\n", Content_Type="application/x-ndjson").json == {"accepted": 1}
    assert [(i.data, i.headers["format"]) for i in e.items] == [(b"1\n2\n", "jsonl")]


def test_a_chunked_body_arrives_whole() -> None:
    with engine() as e:
        pieces = iter([b'{"a": "', b"x" * 100_000, b'"}'])
        assert e.post(pieces, Transfer_Encoding="chunked").status == 202
    assert e.items[0].data == b'{"a": "' + b"x" * 100_000 + b'"}'


def test_one_connection_carries_many_requests() -> None:
    with engine() as e:
        connection = http.client.HTTPConnection("127.0.0.1", e.port)
        for n in range(20):
            connection.request("POST", "/", b"%d" % n, JSON)
            response = connection.getresponse()
            assert response.status == 202 and response.read()
        connection.close()
    assert [i.data for i in e.items] == [b"%d" % n for n in range(20)]


def test_pipelined_requests_are_answered_in_order() -> None:
    one = HEAD + b"Content-Length: 1\r\n\r\n"
    with engine() as e:
        said = raw(e.port, one + b"1" + one + b"2" + one.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"3")
    assert said.count(b"HTTP/1.1 202") == 3
    assert [i.data for i in e.items] == [b"1", b"2", b"3"]


def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_not() -> None:
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: "
    with engine(max_body_bytes=100) as e:
        with socket.create_connection(("127.0.0.1", e.port), timeout=5) as s:
            s.sendall(head + b"2\r\n\r\n")
            assert s.recv(100).startswith(b"HTTP/1.1 100")
            s.sendall(b"{}")
            assert s.recv(100).startswith(b"HTTP/1.1 202")
        assert raw(e.port, head + b"101\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_concurrent_requests_are_answered_by_one_acknowledgement() -> None:
    with engine(acks=False) as e, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(e.post, b"%d" % n) for n in range(20)]
        deadline = time.monotonic() + 10
        while len(e.items) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(a.done() for a in answers)
        e.connector.ack(e.split, e.items[-1].position)
        assert {a.result().status for a in answers} == {202}


def test_any_media_type_can_be_allowed() -> None:
    with engine(content_types=["image/*", "text/csv"]) as e:
        assert e.post(b"\xff\xd8\xff", Content_Type="image/jpeg").status == 202
        assert e.post(b"a,b\n", Content_Type="Text/CSV; header=present").status == 202
        assert e.post(b"{}").status == 415
    assert [i.headers["format"] for i in e.items] == ["jpeg", "csv"]


# -- holding back and going away --------------------------------------------------------------------------------------


def test_a_full_queue_is_told_and_recovers() -> None:
    with engine(pulls=False, queue_bytes=70_000, max_body_bytes=60_000) as e, ThreadPoolExecutor(1) as pool:
        first = pool.submit(e.post, b'"%s"' % (b"1" * 59_998))
        time.sleep(0.3)
        second = b'"%s"' % (b"2" * 9_998)
        answer = e.post(second)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert "full" in answer.json["detail"]
        chunks = e.post(iter([b'"' + b"3" * 3_000, b"3" * 3_000 + b'"']), Transfer_Encoding="chunked")
        assert chunks.status == 503
        e.pulls.set()
        assert first.result().status == 202
        assert e.post(second).status == 202
    assert [len(i.data) for i in e.items] == [60_000, 10_000]


def test_a_request_that_was_never_taken_is_withdrawn_when_its_time_is_up() -> None:
    with engine(pulls=False, confirm_timeout_s=0.3) as e:
        answer = e.post(b"1")
        assert answer.status == 503 and "was not accepted" in answer.json["detail"]
        assert e.connector._inbox.used == 0
        e.pulls.set()
        assert e.post(b"2").status == 202
    assert [i.data for i in e.items] == [b"2"]


def test_a_request_that_was_taken_and_not_confirmed_may_come_again() -> None:
    with engine(acks=False, confirm_timeout_s=0.3) as e:
        answer = e.post(b"1", Idempotency_Key="k")
        assert answer.status == 503 and "Idempotency-Key" in answer.json["detail"]
        assert answer.headers["Retry-After"] == "2"
        e.connector.ack(e.split, e.items[-1].position)  # late: nobody waits any more
        e.acks = True
        assert e.post(b"1", Idempotency_Key="k").status == 202
        assert e.connector._inbox.used == 0
    assert [i.key for i in e.items] == ["k", "k"]


def test_closing_answers_those_that_wait_and_frees_the_port_at_once() -> None:
    e = Engine(acks=False)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(e.post, b"%d" % n) for n in range(3)]
        idle = socket.create_connection(("127.0.0.1", e.port))
        while len(e.items) < 3:
            time.sleep(0.01)
        begun = time.monotonic()
        e.close()
        assert time.monotonic() - begun < 2.5
        assert {w.result().status for w in waiting} == {503}
        assert idle.recv(10) == b""
        idle.close()
    again = HttpPush(HttpPushConfig(port=e.port))
    again.probe()
    again.close()


def test_closing_while_clients_connect_leaves_nobody_waiting() -> None:
    """asyncio forgets connections that were accepted just before it closes a server, and never closes them."""
    for _ in range(15):
        e = Engine(acks=False)
        sender = HttpSender(e.port, workers=8)
        sender.send([(f"k{n}", b"{}") for n in range(8)])
        while not e.items:
            time.sleep(0.001)
        e.close()
        deadline = time.monotonic() + 3
        while len(sender.statuses) < 8:
            assert time.monotonic() < deadline, "a client still waits for its answer"
            time.sleep(0.01)
        sender.close()


def test_acknowledging_and_closing_after_closing_is_no_error() -> None:
    e = Engine()
    e.post()
    e.close()
    e.connector.ack(e.split, e.items[-1].position)
    e.connector.close()


def test_a_port_that_is_taken_is_tried_again_and_a_wrong_address_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        connector = HttpPush(HttpPushConfig(port=taken.getsockname()[1]))
        with pytest.raises(SourceError, match="in use"):
            connector.probe()
        with pytest.raises(SourceError):
            next(iter(connector.read(next(iter(connector.splits())), None)))
        connector.close()
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        HttpPush(HttpPushConfig(host="192.0.2.1", tokens=[TOKEN])).probe()


def test_probing_beside_a_running_read_changes_nothing() -> None:
    with engine() as e:
        e.connector.probe()
        assert e.post().status == 202


@pytest.mark.parametrize("when", [1, 3])
def test_killed_in_the_middle_of_a_request_nothing_that_got_202_is_missing(when: int) -> None:
    """The receiving process dies by SIGKILL while clients wait; they send again to the next one on the same port."""
    port = free_port()
    settings = {"port": port}
    messages = [(f"k{n}", b'{"n": %d}' % n) for n in range(12)]
    disk: list[tuple[str, Any]] = []
    sender = HttpSender(port, workers=4)
    with Child(HttpPush, settings) as child:
        sender.send(messages)
        disk += child.take(when)
        child.ack()
        child.take(2)  # taken, and lost with the process
        deadline = time.monotonic() + 5
        while sender.confirmed() < when and time.monotonic() < deadline:
            time.sleep(0.01)
        child.kill()
    with Child(HttpPush, settings) as child:
        deadline = time.monotonic() + 20
        while sender.confirmed() < len(messages) and time.monotonic() < deadline:
            disk += child.take(4, timeout_s=0.6)
            child.ack()
            sender.again()
    sender.close()
    assert sender.confirmed() == len(messages)
    assert set(disk) == set(messages)


def test_cut_connections_lose_nothing_that_was_confirmed() -> None:
    """Through a proxy that resets connections and swallows answers, until each message got its 202."""
    with engine() as e, TcpProxy(e.port) as proxy:
        sender = HttpSender(proxy.port, workers=8)
        messages = [(f"k{n}", b'{"n": %d}' % n) for n in range(120)]
        sender.send(messages)
        deadline = time.monotonic() + 20
        rounds = 0
        while sender.confirmed() < len(messages) and time.monotonic() < deadline:
            rounds += 1
            if rounds <= 30:
                proxy.drop_next_reply() if rounds % 2 else proxy.cut_after(20)
            time.sleep(0.03)
            sender.again()
        sender.close()
        assert sender.confirmed() == len(messages)
        assert 0 in sender.statuses, "no connection was cut"
        assert {(i.key, i.data) for i in e.items} == set(messages)


def test_https_is_spoken_with_a_certificate(tmp_path: Path) -> None:
    import ssl

    from ..servers.redis import make_certificates

    ca, certificate, key = make_certificates(tmp_path)
    with engine(tls_cert=str(certificate), tls_key=str(key)) as e:
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection("127.0.0.1", e.port, context=context, timeout=5)
        connection.request("POST", "/", b"{}", JSON)
        assert connection.getresponse().status == 202
        connection.close()
    with pytest.raises(ConfigError, match="tls_cert"):
        HttpPush(HttpPushConfig(port=0, tls_cert="/absent", tls_key="/absent")).probe()


def test_curl_gets_through() -> None:
    """A client that is not Python, with a body large enough that it asks first (Expect: 100-continue)."""
    import shutil

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian package curl)")
    body = json.dumps("x" * 2_000_000)
    with engine() as e:
        done = subprocess.run(
            ["curl", "-sS", "-H", "Content-Type: application/json", "--data-binary", "@-", f"http://127.0.0.1:{e.port}/"],
            input=body.encode(), capture_output=True, timeout=30, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == {"accepted": 1}
    assert e.items[0].data == body.encode()

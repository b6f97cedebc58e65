"""HTTP push: what is not taken gets a status that says why, and costs nobody else anything."""

from __future__ import annotations

import http.client
import socket
import time
from typing import Any

import pytest

pytest.importorskip("h11", reason="the Python library h11 is not installed (headrace[http-push])")

from headrace.connectors.http_push import HttpPush
from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.http_push_gate import Gate
from headrace.connectors.http_push_problem import Problem
from headrace.connectors.testing_reception import Reception

from .http_push_engine import HEAD, TOKEN, engine, raw


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own consumers stop between two reads: shorter ticks make that quick."""
    monkeypatch.setattr("headrace.connectors.http_push._IDLE_S", 0.05)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "request_", "detail"),
    [
        (404, {"path": "/v1/streams/other"}, "/v1/streams/gauge"),
        (405, {"method": "PUT"}, "POST"),
        (405, {"method": "HEAD", "body": None}, ""),
        (405, {"method": "OPTIONS", "body": None}, "POST"),
        (401, {"Authorization": ""}, "Bearer TOKEN"),
        (401, {"Authorization": f"Basic {TOKEN}"}, "Bearer TOKEN"),
        (401, {"Authorization": f"Bearer {TOKEN}x"}, "not one that may send"),
        (401, {"Authorization": f"Bearer {TOKEN[:-1]}"}, "not one that may send"),
        (411, {"method": "POST", "body": None, "no_length": True}, "Content-Length"),
        (413, {"body": b"1" * 1001}, "1001"),
        (413, {"body": iter([b"1" * 600, b"1" * 600]), "Transfer_Encoding": "chunked"}, "1000"),
        (415, {"Content_Type": "text/plain"}, "application/json, application/x-ndjson"),
        (415, {"Content_Type": "nonsense"}, "nonsense"),
        (415, {"Content_Encoding": "gzip"}, "gzip"),
        (422, {"body": b""}, "not JSON"),
        (422, {"body": b"{"}, "not JSON"),
        (422, {"body": b"[NaN]"}, "not JSON"),
        (422, {"body": b"[" * 900}, "not JSON"),
        (422, {"body": b"\n \n", "Content_Type": "application/x-ndjson"}, "empty"),
        (422, {"body": b"1\n2\n{3\n", "Content_Type": "application/x-ndjson"}, "line 3"),
        (400, {"Idempotency_Key": "x" * 257}, "256"),
        (400, {"Idempotency_Key": "\xe9"}, "ASCII"),
        (400, {"Idempotency_Key": " "}, "1 to 256"),
        (400, {"X_Time": "yesterday"}, "X-Time"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_status_and_says_what_would_be_right(
    status: int, request_: dict[str, Any], detail: str
) -> None:
    request_ = {"path": "/v1/streams/gauge", "Authorization": f"Bearer {TOKEN}"} | request_
    with engine(name="gauge", tokens=[TOKEN], max_body_bytes=1000, time={"header": "X-Time"}) as e:
        if request_.pop("no_length", False):
            head = f"POST {request_['path']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            said = raw(e.port, head.encode() + b"Content-Type: application/json\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 411 ") and detail.encode() in said
        else:
            answer = e.post(**request_)
            assert answer.status == status
            assert answer.json is None or detail in answer.json["detail"]
            assert TOKEN not in str(answer.json)
            if status == 401:
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            if status == 405:
                assert answer.headers["Allow"] == "POST"
        # The server is well, and nothing of it became an item.
        assert e.post(b"{}", "/v1/streams/gauge", Authorization=f"Bearer {TOKEN}").status == 202
        assert e.connector._inbox.used == 0
    assert [i.data for i in e.items] == [b"{}"]


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\n\r\n"),
        (400, HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, HEAD + b"Content-Length: -1\r\n\r\n"),
        (400, HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n1"),
        (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        (431, HEAD + b"X: " + b"y" * 40_000),
        (413, HEAD + b"Content-Length: 99999999999999\r\n\r\n"),
    ],
)
def test_bytes_that_are_no_proper_request_are_refused_and_cost_their_connection_only(status: int, data: bytes) -> None:
    with engine() as e:
        assert raw(e.port, data).startswith(b"HTTP/1.1 %d " % status)
        assert e.post().status == 202


def test_the_answer_reaches_a_client_that_is_still_sending() -> None:
    """Closing on unread bytes would reset the connection, and the client would see that instead of 413."""
    with engine(max_body_bytes=1000) as e:
        for _ in range(5):
            assert e.post(b"1" * (4 << 20)).status == 413


def test_a_head_that_comes_too_slowly_is_given_up() -> None:
    with engine(read_timeout_s=0.6) as e, socket.create_connection(("127.0.0.1", e.port), timeout=5) as s:
        begun = time.monotonic()
        s.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
        for _ in range(3):  # each line in time, the whole not
            time.sleep(0.25)
            s.sendall(b"X-Drop: 1\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun < 3


def test_a_body_that_comes_too_slowly_is_given_up_and_its_room_given_back() -> None:
    head = HEAD + b"Content-Length: 100000\r\n\r\n"
    with engine(read_timeout_s=0.6) as e:
        with socket.create_connection(("127.0.0.1", e.port), timeout=5) as s:
            s.sendall(head)
            for _ in range(3):
                time.sleep(0.25)
                s.sendall(b"1")
            assert s.recv(100).startswith(b"HTTP/1.1 408")
        assert e.connector._inbox.used == 0


def test_a_body_that_ends_early_is_no_item() -> None:
    with engine() as e:
        with socket.create_connection(("127.0.0.1", e.port)) as s:
            s.sendall(HEAD + b"Content-Length: 9\r\n\r\n12")
        assert e.post(b"3").status == 202
        assert e.connector._inbox.used == 0
    assert [i.data for i in e.items] == [b"3"]


def test_too_many_connections_are_told_so() -> None:
    with engine(max_connections=4, read_timeout_s=5) as e:
        held = [socket.create_connection(("127.0.0.1", e.port)) for _ in range(4)]
        time.sleep(0.2)
        answer = e.post()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        for s in held:
            s.close()
        time.sleep(0.2)
        assert e.post().status == 202


# -- who may send -----------------------------------------------------------------------------------------------------


def test_any_of_several_tokens_lets_in() -> None:
    tokens = [TOKEN, "another-token-of-some-length"]
    with engine(tokens=tokens) as e:
        assert [e.post(Authorization=f"bearer {token}").status for token in tokens] == [202, 202]


def test_every_token_is_compared_whatever_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.connectors import http_push_gate

    tokens = [f"{TOKEN}-{n}" for n in range(5)]
    gate = Gate(HttpPushConfig(tokens=tokens), time.monotonic)
    compared: list[int] = []
    real = http_push_gate.hmac.compare_digest
    monkeypatch.setattr(http_push_gate.hmac, "compare_digest", lambda a, b: compared.append(len(b)) or real(a, b))
    gate.admit("127.0.0.1", {"authorization": [f"Bearer {tokens[0]}"]})
    with pytest.raises(Problem):
        gate.admit("127.0.0.1", {"authorization": ["Bearer x"]})
    assert compared == [32] * 10


def test_the_rate_is_counted_for_each_token_and_says_when_to_come_back() -> None:
    now = [0.0]
    tokens = [f"{TOKEN}-{n}" for n in range(2)]
    gate = Gate(HttpPushConfig(tokens=tokens, rate_per_s=0.5), lambda: now[0])
    one, other = ({"authorization": [f"Bearer {token}"]} for token in tokens)
    gate.admit("", one)
    gate.admit("", other)
    with pytest.raises(Problem) as refused:
        gate.admit("", one)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "2")
    now[0] = 2.0
    gate.admit("", one)
    with pytest.raises(Problem):
        gate.admit("", one)


def test_too_many_requests_are_told_when_to_come_back() -> None:
    with engine(rate_per_s=2) as e:
        statuses = [e.post() for _ in range(3)]
        assert [a.status for a in statuses] == [202, 202, 429]
        assert statuses[2].headers["Retry-After"] == "1"


def test_networks_that_are_not_named_are_refused_before_their_token() -> None:
    with engine(allow_from="10.0.0.0/8", tokens=[TOKEN]) as e:
        answer = e.post()
        assert answer.status == 403 and "127.0.0.1" in answer.json["detail"]
    with engine(allow_from=["10.0.0.0/8", "127.0.0.0/8"]) as e:
        assert e.post().status == 202


def test_a_web_page_cannot_send_to_a_server_without_tokens() -> None:
    with engine() as e:
        assert e.post(Origin="http://elsewhere.example").status == 403
    with engine(tokens=[TOKEN]) as e:
        assert e.post(Origin="http://page.example", Authorization=f"Bearer {TOKEN}").status == 202


def test_health_needs_no_token_and_tells_whether_requests_are_taken() -> None:
    connector = HttpPush(HttpPushConfig(port=0, tokens=[TOKEN]))
    reception = Reception(connector)

    def health() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", connector.port)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        connection.close()
        return status

    assert health() == 200
    reception.end_read()
    assert health() == 503
    reception.begin()
    assert health() == 200
    reception.close()


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "tokens"),
        ({"host": "::"}, "tokens"),
        ({"host": "gateway.example"}, "tokens"),
        ({"tokens": ["short"]}, "token 0"),
        ({"tokens": [TOKEN, "with a space in it somewhere"]}, "token 1"),
        ({"name": "a/b"}, "letters"),
        ({"name": ""}, "letters"),
        ({"allow_from": "10.0.0.1/8"}, "host bits"),
        ({"content_types": "json"}, "json"),
        ({"keep_headers": "Authorization"}, "kept"),
        ({"tls_cert": "x"}, "together"),
        ({"max_body_bytes": 1 << 26}, "queue_bytes"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        HttpPushConfig.model_validate(settings)
    assert "with a space" not in str(refused.value).replace("without spaces", "")


def test_loopback_needs_no_token_and_other_hosts_one() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        HttpPushConfig(host=host)
    HttpPushConfig(host="0.0.0.0", tokens=TOKEN)

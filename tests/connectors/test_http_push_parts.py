"""HTTP push: the parts that need no socket: times, media types, keys, lines, the inbox."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

pytest.importorskip("h11", reason="the Python library h11 is not installed (headrace[http-push])")

from headrace.connectors.contract import Idle
from headrace.connectors.http_push import HttpPush
from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.http_push_inbox import Inbox, Request, lines_of
from headrace.connectors.message_fields import event_time_us, format_of, json_field, media_type_of


@pytest.mark.parametrize(
    ("value", "unit", "micros"),
    [
        ("2025-06-14T06:00:00Z", "iso", 1_749_880_800_000_000),
        ("2025-06-14T09:00:00.000001+03:00", "iso", 1_749_880_800_000_001),
        ("2025-06-14T06:00:00", "iso", None),
        ("1749880800.25", "s", 1_749_880_800_250_000),
        ("1749880800123", "ms", 1_749_880_800_123_000),
        ("-1", "us", -1),
        ("-1", "ns", -1),
        ("1749880800123456789", "ns", 1_749_880_800_123_456),
        ("1e30", "s", None), ("NaN", "s", None), ("Infinity", "s", None), ("1e-400", "s", None), ("", "s", None),
        ("300000000000", "s", None), ("9" * 41, "s", None), ("0", "ns", 0),
    ],
)  # fmt: skip
def test_times_of_senders_are_read_exactly_or_not_at_all(value: str, unit: Any, micros: int | None) -> None:
    assert event_time_us(value, unit) == micros


def test_media_types_tell_formats() -> None:
    assert media_type_of(" Application/JSON ; charset=utf-8") == "application/json"
    assert media_type_of("json") is None and media_type_of("a/b/c") is None and media_type_of("") is None
    assert format_of("application/vnd.api+json") == "json"
    assert format_of("application/octet-stream") is None


def test_json_fields_are_strings_integers_or_nothing() -> None:
    payload = b'{"a": {"b": "x", "n": 7, "f": 1.5, "t": true}, "e": ""}'
    found = [json_field(payload, path) for path in ("a.b", "a.n", "a.t", "a.f", "a", "a.b.c", "z", "e")]
    assert found == ["x", "7", "true", None, None, None, None, None]
    assert json_field(b"[" * 100_000, "a") is None and json_field(b"\xff", "a") is None


def test_lines_are_those_that_hold_something() -> None:
    for body in (b"", b"\n", b" \r\n\t", b"a", b"a\n", b"a\r\nb", b"\na\n\n b \n", b"a\x0bb\n"):
        assert list(lines_of(body)) == [x.rstrip(b"\r") for x in body.split(b"\n") if x.strip()]


def test_the_inbox_counts_what_it_holds() -> None:
    confirmed: queue.Queue[list[Request]] = queue.Queue()
    inbox = Inbox(10, confirmed.put)
    one, two = (Request(b"x", 1, False, reserved=5) for _ in range(2))
    assert inbox.reserve(5) and inbox.reserve(5) and not inbox.reserve(1)
    inbox.put(one)
    inbox.put(two)
    assert inbox.take(0) is one
    inbox.handed(one, 1, 1)
    assert inbox.withdraw(two) and inbox.used == 5 and inbox.take(0) is None
    inbox.confirm(2, 9)
    assert confirmed.empty(), "another read's numbers"
    inbox.confirm(1, 1)
    assert confirmed.get_nowait() == [one] and inbox.used == 0
    inbox.confirm(1, 1)
    assert confirmed.empty() and not inbox.withdraw(one) and inbox.used == 0


def test_idle_ticks_do_not_wait_for_requests() -> None:
    connector = HttpPush(HttpPushConfig(port=0))
    (split,) = connector.splits()
    reads = connector.read(split, None)
    begun = time.monotonic()
    assert [type(next(reads)) for _ in range(2)] == [Idle, Idle]
    assert time.monotonic() - begun < 1.5
    connector.close()

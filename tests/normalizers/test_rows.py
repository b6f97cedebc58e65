"""Rows of many messages in one batch are the records that each message gives alone."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import Item
from headrace.ingest.normalizers.contract import Bad, Normalizer
from headrace.ingest.normalizers.sensor import SensorNormalizer
from headrace.ingest.normalizers.text import TextNormalizer
from headrace.schemas.errors import RecordError


def alone(normalizer: Normalizer, item: Item) -> list[pa.RecordBatch] | None:
    """The batches that `open` gives; None where anything is bad."""
    try:
        found = list(normalizer.open(item))
    except RecordError:
        return None
    return None if any(isinstance(one, Bad) for one in found) else found  # type: ignore[return-value]


def in_rows(normalizer: Normalizer, item: Item) -> Any:
    """What the walk asks: rows, or None where it fails."""
    try:
        return normalizer.rows(item)
    except Exception:
        return None


def check(normalizer: Normalizer, items: list[Item]) -> int:
    """Every message alone and all together; how many could be said in rows."""
    rows: list[Any] = []
    wanted: list[pa.RecordBatch] = []
    said = 0
    for item in items:
        found = in_rows(normalizer, item)
        if not found:
            continue
        batches = alone(normalizer, item)
        assert batches is not None, f"`rows` says what `open` refuses: {item.data!r}"
        assert pa.Table.from_batches(batches) == pa.Table.from_batches([normalizer.gather(found)]), item.data
        rows += found
        wanted += batches
        said += 1
    if rows:
        together = normalizer.gather(rows)
        together.validate(full=True)
        assert pa.Table.from_batches([together]) == pa.Table.from_batches(wanted)
    return said


def message(data: bytes, number: int = 0, **headers: str) -> Item:
    return Item(data, number, headers={"object": f"s@{number}", "format": "json", **headers})


words = st.text(max_size=12) | st.sampled_from(["", "a\0b", "long " * 30, "Å\u0301…", "x" * 40])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abtext"), inner, max_size=3),
    max_leaves=6,
)
bodies = st.dictionaries(st.sampled_from(["text", "body", "lang", "id", "when", "more"]), json_values, max_size=5)
payloads = (
    bodies.map(lambda body: json.dumps(body).encode())
    | json_values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | st.lists(bodies, max_size=3).map(lambda many: json.dumps(many).encode())
    | st.binary(max_size=30)
    | st.sampled_from([b'{"text":"a","text":"b"}', b'\xef\xbb\xbf{"text":"a"}', b'{"text":"\\ud800"}', b"{", b""])
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(payloads, st.sampled_from(["json", "text", "jsonl", "html", "csv", "xml", "srt"])), max_size=6),
    st.sampled_from([{}, {"field": "body"}, {"max_chars": 16}, {"language_field": "lang", "missing": "flag"},
                     {"time": "when", "id_field": "id"}, {"lines": "each"}, {"language": "fi"}]),
    st.booleans(),
)  # fmt: skip
def test_texts(many: list[tuple[bytes, str]], config: dict[str, Any], truncated: bool) -> None:
    more = {"truncated": "1"} if truncated else {}
    items = [message(data, i, **{**more, "format": name}) for i, (data, name) in enumerate(many)]
    check(TextNormalizer(TextNormalizer.Config(**config)), items)


stamps = st.sampled_from([
    "2025-01-01T00:00:00Z", "2025-01-01 00:00:00.123456789+02:00", "2025-06-30T23:59:59.5-11:30",
    "1699-01-01T00:00:00Z",
    "2024-02-29T12:00:00Z", "2025-02-30T00:00:00Z", "2025-01-01T24:00:00Z", "2016-12-31T23:59:60Z", "2025-01-01",
    "2025-01-01T00:00:00", "2025-01-01T00:00:00+23:59", "2025-01-01T00:00Z", "1/2/2025 10:00", "m-1", "", "NaN",
    "-9999",
    "2025-01-01T00:00:00Z ", "２０25-01-01T00:00:00Z", "1700000000", "20250101T000000Z", "1900-01-01T00:00:00-23:00",
])  # fmt: skip
times = stamps | st.sampled_from([
    1_700_000_000, 1_700_000_000.25, 1_700_000_000_123, 1_700_000_000_123_456, 1_700_000_000_123_456_789, 5, 99_999_999,
    10**11, 1e11, 1e14, 10**17, 2**63 - 1, 1e19, -1_700_000_000, True, None, 20250101, 1_700_000_000.123456789, 0.5,
])  # fmt: skip
samples = st.sampled_from(
    [0, 1, -3, 2.5, -9999, -9999.0, 2**53, 2**53 + 1, 2**64, True, None, "NaN", "high", 1e308, -0.0]
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "t": times, "time": times, "id": stamps | words, "when_seen": times, "level": samples, "wind [m/s]": samples,
        "device": st.sampled_from(["d1", "d2", 7, None, ""]), "parameter": st.sampled_from(["o3", "no2", None]),
        "value": samples, "unit": st.sampled_from(["ppb", "m", "?", None]), "lat": samples, "lon": samples,
        "deep": st.fixed_dictionaries({}, optional={"x": samples, "t": times, "list": st.just([1, 2])}),
    },
)  # fmt: skip
sensor_configs = st.fixed_dictionaries(
    {},
    optional={
        "time": st.sampled_from(["t", "time", "deep.t", "id"]),
        "channels": st.sampled_from(["all", {"level": "m"}, {"level": None, "wind [m/s]": None}, {"deep.x": "K"}]),
        "device": st.sampled_from(["auto", None, "device", "id"]),
        "channel": st.sampled_from(["auto", None, "parameter"]),
        "missing": st.just(("-9999", "NaN")),
        "period_s": st.just(1.5), "window": st.sampled_from([1, 512]), "text": st.sampled_from(["rows", "none"]),
        "timezone": st.just("Europe/Helsinki"), "time_format": st.sampled_from(["iso", "ms"]),
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(fields, min_size=1, max_size=8), sensor_configs)
def test_readings(many: list[dict[str, Any]], config: dict[str, Any]) -> None:
    items = [message(json.dumps(one).encode(), i) for i, one in enumerate(many)]
    check(SensorNormalizer(SensorNormalizer.Config(**config)), [*items, *items])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(times, samples, st.sampled_from(["d1", "d2"])), min_size=1, max_size=12), st.booleans())
def test_messages_of_one_shape(many: list[tuple[Any, Any, str]], declared: bool) -> None:
    """Most share a shape, so nearly all but the first are read by what was learned."""
    config = {"time": "t", "channels": {"level": "m"}} if declared else {"text": "none"}
    rows = [{"t": t, "device": device, "level": level, "wind": 1.5} for t, level, device in many]
    check(SensorNormalizer(SensorNormalizer.Config(**config)), [message(json.dumps(row).encode()) for row in rows])


@pytest.mark.parametrize(
    ("config", "row"),
    [
        ({"time": "t", "channels": {"level": "m"}}, {"id": "m-1", "t": "2025-01-01T00:00:00Z", "level": 8}),
        ({"time": "t"}, {"t": 1_700_000_000, "a": 1, "deep": {"b": True}}),
        ({}, {"ts": 1_700_000_000_123, "device": "d1", "v": 1.5}),
        ({"text": "none"}, {"time": "2025-01-01T00:00:00.5+01:00", "parameter": "o3", "value": 2, "unit": "ppb"}),
    ],
)
def test_the_usual_messages_are_said_in_rows(config: dict[str, Any], row: dict[str, Any]) -> None:
    normalizer = SensorNormalizer(SensorNormalizer.Config(**config))
    assert check(normalizer, [message(json.dumps(row).encode())] * 3) == 3


def test_usual_texts_are_said_in_rows() -> None:
    normalizer = TextNormalizer(TextNormalizer.Config())
    items = [message(b'{"text":"a","n":1}'), message(b"plain", format="text"), message(b'[{"text":"a"},{"text":"b"}]')]
    assert check(normalizer, items) == 3

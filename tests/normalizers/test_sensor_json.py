"""JSON lines and documents as sensor records."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import Item
from headrace.ingest.normalizers.sensor import SensorNormalizer
from headrace.ingest.normalizers.sensor_testing import Read, read


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_nested_numbers_are_channels_and_words_are_lines_of_text() -> None:
    out = read(
        lines(
            *(
                {
                    "t": 1_600_000_000 + i,
                    "imu": {"x": i, "y": [i, -i]},
                    "state": "ok",
                    "deep": {"list": list(range(100))},
                }
                for i in range(3)
            )
        ),
        "jsonl",
    )
    assert out.channels == ["imu.x", "imu.y[0]", "imu.y[1]"]
    assert out.channel("imu.y[1]")[1].tolist() == [0, -1, -2]
    assert out.channel("imu.x")[0].tolist() == [(1_600_000_000 + i) * 10**9 for i in range(3)]
    assert [json.loads(line) for line in out.text.splitlines()] == [
        {"t": 1_600_000_000 + i, "state": "ok", "deep.list": list(range(100))} for i in range(3)
    ]
    assert out.records[0]["locator"] == '{"byte":0,"channel":"imu.x"}'


def test_a_field_that_is_absent_has_no_sample_and_one_that_is_null_has_one_that_is_not_valid() -> None:
    out = read(
        lines({"t": 1e9, "a": 1}, {"t": 1e9 + 1, "a": None}, {"t": 1e9 + 2, "b": 5}, {"t": 1e9 + 3, "a": 2}), "jsonl"
    )
    t, value, valid = out.channel("a")
    assert (t // 10**9 - 10**9).tolist() == [0, 1, 3] and valid.tolist() == [True, False, True] and math.isnan(value[1])
    assert out.channel("b")[1].tolist() == [5]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"oops\n", "invalid_json"),
        (b'{"t":1600000002,"a":"high"}\n', "wrong_type"),
        (b'{"a":1}\n', "no_time"),
        (b'{"t":NaN,"a":1}\n', "invalid_json"),
        (b'{"t":1600000002,"a":1,"a":2}\n', "invalid_json"),
        (b'{"t":1600000002,"a":"\xff"}\n', "bad_encoding"),
        (b"[" * 100_000 + b"\n", "invalid_json"),
    ],
)
def test_one_bad_line_costs_one_line(bad: bytes, reason: str) -> None:
    good = [lines({"t": 1_600_000_000 + i, "a": i}) for i in range(4)]
    out = read(b"".join([*good[:2], bad, *good[2:]]), "jsonl")
    assert out.channel("a")[1].tolist() == [0, 1, 2, 3]
    assert [(b.reason, b.locator) for b in out.bad] == [
        (reason, json.dumps({"byte": len(good[0]) * 2}).replace(" ", ""))
    ]


def test_a_line_that_was_cut_says_so() -> None:
    out = read(lines({"t": 1_600_000_000, "a": 1}) + b'{"t":16000', "jsonl")
    assert [b.reason for b in out.bad] == ["truncated"] and out.channel("a")[1].tolist() == [1]


def test_lines_that_a_connector_cut_give_the_same_records() -> None:
    data = lines(*({"time": f"2020-01-01T00:00:{i % 60:02d}Z", "v": i} for i in range(900)))
    at, pieces = 0, []
    for line in data.splitlines(keepends=True):
        pieces.append((line.rstrip(), at))
        at += len(line)
    batch = pa.RecordBatch.from_arrays(
        [pa.array([p for p, _ in pieces], pa.large_binary()), pa.array([b for _, b in pieces])], names=["line", "byte"]
    )
    whole = read(data, "jsonl")
    normalizer = SensorNormalizer(SensorNormalizer.Config())
    found = [x.column("locator").to_pylist() for x in normalizer.open(Item(batch, 0, headers={"format": "jsonl"}))]  # type: ignore[union-attr]
    assert [loc for part in found for loc in part] == [r["locator"] for r in whole.records]


def test_a_connectors_table_is_read_as_one() -> None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array([1_600_000_000, 1_600_000_060]), pa.array([1.5, 2.5])], names=["time", "level"]
    )
    out = list(SensorNormalizer(SensorNormalizer.Config(channels={"level": "m"})).open(Item(batch, 0)))
    assert out[0].column("unit").to_pylist() == ["m"]  # type: ignore[union-attr]


def test_arrays_documents_and_columns_are_tables() -> None:
    rows = [{"time": f"2020-01-01T0{i}:00:00Z", "v": i} for i in range(3)]
    wanted = read(lines(*rows), "jsonl").channel("v")
    columns = {"time": [r["time"] for r in rows], "v": [r["v"] for r in rows]}
    documents: list[Any] = [
        rows,
        {"meta": {"who": "me"}, "data": rows},
        columns,
        {"a": {"b": columns}},
        {"data": [[r["time"], r["v"]] for r in rows]},
    ]
    for document in documents:
        out = read(json.dumps(document), "json")
        name = "c1" if isinstance(document, dict) and isinstance(document.get("data", [{}])[0], list) else "v"
        assert all(np.array_equal(a, b) for a, b in zip(out.channel(name), wanted)), document
    assert '"who":"me"' in read(json.dumps(documents[1]), "json").text


def test_units_beside_columns_are_taken() -> None:
    out = read(
        '{"lat":60,"hourly_units":{"temp":"°C"},"hourly":{"time":["2020-01-01T00:00","2020-01-01T01:00"],"temp":[1,2]}}',
        "json",
    )
    assert (
        out.of("sensor")[0]["unit"] == "Cel"
        and out.of("sensor")[0]["locator"] == '{"channel":"temp","item":0,"path":"hourly"}'
    )


def test_a_cut_array_gives_its_elements_and_says_so() -> None:
    data = json.dumps([{"t": 1_600_000_000 + i, "v": i} for i in range(10)])
    out = read(data[:-20], "json")
    assert out.error is not None and out.error.reason in ("truncated", "invalid_json")
    assert out.channel("v")[1].tolist() == list(range(9)) and out.flags()["truncated"] == 1


def test_devices_and_named_values_are_parted() -> None:
    rows = [{"ts": 1_600_000_000 + i, "device": f"d{i % 2}", "v": i} for i in range(10)]
    assert read(lines(*rows), "jsonl").channel("v", "d1")[1].tolist() == [1, 3, 5, 7, 9]
    rows = [{"ts": 1_600_000_000 + i, "parameter": ["o3", "no2"][i % 2], "value": i, "unit": "ppb"} for i in range(10)]
    out = read(lines(*rows), "jsonl")
    assert out.channel("no2")[1].tolist() == [1, 3, 5, 7, 9] and {r["unit"] for r in out.records} == {"[ppb]"}


def test_positions_give_the_record_its_place() -> None:
    out = read(lines({"time": 1_600_000_000, "lat": 60, "lon": 25, "v": 1}), "jsonl")
    assert all(r["geometry"] is not None for r in out.records)


def test_large_integers_and_infinities_are_flagged() -> None:
    out = read(b'{"time":1600000000,"a":9007199254740993,"b":1e999}\n{"time":1600000001,"a":1,"b":2}\n', "jsonl")
    flags = {r["channel"]: r["flags"] for r in out.records}
    assert flags == {"a": ["lossy_int64"], "b": ["non_finite:1"]}


number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.none()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), number), min_size=1, max_size=40), st.integers(1, 9))
def test_joined_windows_are_the_values_of_each_field(rows: list[dict[str, Any]], window: int) -> None:
    out: Read = read(lines(*({"t": 1_600_000_000 + i, **row} for i, row in enumerate(rows))), "jsonl", window=window)
    for name in "abc":
        present = [(i, row[name]) for i, row in enumerate(rows) if name in row]
        real = [(i, v) for i, v in present if v is not None]
        if not real:
            assert name not in out.channels
            continue
        t, value, valid = out.channel(name)
        found = {
            int(when // 10**9) - 1_600_000_000: v
            for when, v, ok in zip(t.tolist(), value.tolist(), valid.tolist())
            if ok
        }
        assert found == {i: float(v) for i, v in real}

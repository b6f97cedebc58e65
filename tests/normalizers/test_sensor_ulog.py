"""ULog against pyulog, and logs that were cut or damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.ingest.normalizers.sensor_testing import read
from headrace.ingest.normalizers.sensor_ulog import MAGIC, SYNC


def message(kind: str, body: bytes) -> bytes:
    return struct.pack("<HB", len(body), ord(kind)) + body


def log(*messages: bytes) -> bytes:
    return MAGIC + b"\x01" + struct.pack("<Q", 0) + b"".join(messages)


FORMAT = message("F", b"pose:uint64_t timestamp;float[2] xy;inner[2] in;char[4] mode;uint8_t[4] _padding0;")
INNER = message("F", b"inner:int16_t a;")
ADD = message("A", struct.pack("<BH", 0, 7) + b"pose")


def data(i: int, mode: bytes = b"auto") -> bytes:
    return message("D", struct.pack("<HQffhh4s", 7, i * 1000, i, -i, i, i + 1, mode))


def test_nested_arrays_and_letters_are_flattened() -> None:
    out = read(log(INNER, FORMAT, ADD, *(data(i, b"auto" if i < 3 else b"man\0") for i in range(5))), "ulog")
    assert out.channels == ["pose/xy[0]", "pose/xy[1]", "pose/in[0].a", "pose/in[1].a"]
    assert out.channel("pose/in[1].a")[1].tolist() == [1, 2, 3, 4, 5]
    assert out.channel("pose/xy[1]")[0].tolist() == [i * 1_000_000 for i in range(5)]
    assert [json.loads(line) for line in out.text.splitlines()] == [
        {"mode": "auto", "t": 0},
        {"mode": "man", "t": 3_000_000},
    ]
    assert out.flags()["relative_time"] == 4 and out.records[0]["event_time"] is None


def test_gps_time_makes_the_whole_log_absolute() -> None:
    gps = message(
        "F", b"vehicle_gps_position:uint64_t timestamp;uint64_t time_utc_usec;double latitude_deg;double longitude_deg;"
    )
    add = message("A", struct.pack("<BH", 0, 8) + b"vehicle_gps_position")
    fix = message("D", struct.pack("<HQQdd", 8, 5000, 1_600_000_000_005_000, 60.0, 25.0))
    out = read(log(INNER, FORMAT, gps, ADD, add, data(1), fix), "ulog")
    assert out.channel("pose/xy[0]")[0].tolist() == [1_600_000_000_001_000_000]
    place = next(r for r in out.records if r.get("channel") == "vehicle_gps_position/latitude_deg")
    assert (
        place["geometry"] == struct.pack("<BIdd", 1, 1, 25.0, 60.0)
        and place["unit"] == "deg"
        and place["time_source"] == "ulog:gps"
    )


def test_a_cut_log_gives_what_came_before_and_says_so() -> None:
    whole = log(INNER, FORMAT, ADD, *(data(i) for i in range(600)))
    out = read(whole[:-10], "ulog")
    assert out.error is not None and out.error.reason == "truncated"
    assert out.channel("pose/in[0].a")[1].tolist() == list(range(599))
    assert "truncated" in out.of("sensor")[-1]["flags"] and "truncated" not in out.of("sensor")[0]["flags"]


def test_damage_costs_what_lies_before_the_next_sync_mark() -> None:
    sync = message("S", SYNC)
    out = read(log(INNER, FORMAT, ADD, data(1), b"\xff" * 40, data(2), sync, data(3)), "ulog")
    assert out.channel("pose/in[0].a")[1].tolist() == [1, 3]
    assert [b.reason for b in out.bad] == ["corrupt"] and out.error is None


def test_what_was_appended_after_a_crash_is_read() -> None:
    head = [INNER, FORMAT, ADD, data(1)]
    size = len(log(message("B", bytes(40)), *head))
    cut = data(2)[:9]
    flags = message("B", bytes(8) + b"\1" + bytes(7) + struct.pack("<QQQ", size + len(cut), 0, 0))
    out = read(log(flags, *head, cut, data(3)), "ulog")
    assert out.channel("pose/in[0].a")[1].tolist() == [1, 3] and out.error is None


@pytest.mark.parametrize("head", [b"", MAGIC, b"ULog\x01\x12\x34" + bytes(9), MAGIC + b"\1" + bytes(8)])
def test_what_is_no_log_ends_with_a_reason(head: bytes) -> None:
    out = read(head, "ulog")
    assert out.records == [] and out.error is not None and out.error.reason in ("truncated", "corrupt", "empty")


def test_flags_that_are_not_known_are_refused_by_name() -> None:
    out = read(log(message("B", bytes(8) + b"\2" + bytes(31)), INNER, FORMAT, ADD, data(1)), "ulog")
    assert out.error is not None and out.error.reason == "unsupported:ulog"


def test_hostile_formats_do_not_expand_without_bound() -> None:
    formats = [message("F", f"t{i}:uint64_t timestamp;t{i + 1}[60000] x;".encode()) for i in range(8)]
    out = read(
        log(*formats, message("F", b"t8:uint8_t[65000] x;"), message("A", struct.pack("<BH", 0, 7) + b"t0"), data(1)),
        "ulog",
    )
    assert out.of("sensor") == []


@pytest.mark.data
def test_every_field_agrees_with_pyulog(corpus: Path) -> None:
    from pyulog import ULog  # type: ignore[import-untyped]

    path = corpus / "sensor/ulog/test_ulog.ulg"
    known: Any = ULog(str(path))
    out = read(path)
    assert out.error is None and out.bad == []
    found = {}
    for record in out.of("sensor"):
        found.setdefault(record["channel"], []).append(record)
    offsets = set()
    checked = 0
    for topic in known.data_list:
        name = f"{topic.name}:{topic.multi_id}" if topic.multi_id else topic.name
        for field, wanted in topic.data.items():
            if field == "timestamp" or f"{name}/{field}" not in found:
                continue
            records = found[f"{name}/{field}"]
            value = np.concatenate([r["value"] for r in records])
            first = json.loads(records[0]["locator"])["message"]
            assert np.array_equal(value, wanted[first:].astype(np.float64), equal_nan=True), (name, field)
            micros = np.concatenate([r["t"] for r in records]) // 1000 - topic.data["timestamp"][first:].astype(
                np.int64
            )
            offsets |= set(micros.tolist())
            checked += 1
    assert checked > 1500 and len(offsets) == 1, "one offset makes boot time absolute"
    assert all(
        m.message in out.text.encode().decode("unicode_escape") or json.dumps(m.message)[1:-1] in out.text
        for m in known.logged_messages
    )

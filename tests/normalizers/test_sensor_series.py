"""Windows: brute force over whole series, however their rows come in."""

from __future__ import annotations

import itertools
import json
import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingest.normalizers.sensor_output import batches, sensor_batch
from headrace.ingest.normalizers.sensor_series import Channel, Draft, Series, Values
from headrace.ingest.normalizers.sensor_testing import read
from headrace.ingest.normalizers.sensor_units import split_header, to_ucum
from headrace.schemas.record import RecordBuilder

SECOND = 1_000_000_000


def run(t: list[int], value: list[float], cuts: list[int], window: int = 8, **settings: Any) -> list[Draft]:
    """All drafts of one channel whose rows come in the pieces that `cuts` make."""
    series = Series([Channel("v")], window, time_source="field:t", **settings)
    drafts: list[Draft] = []
    borders = [0, *sorted(c % (len(t) + 1) for c in cuts), len(t)]
    for start, end in itertools.pairwise(borders):
        values = np.array(value[start:end], np.float64)
        part = Values(values, np.isfinite(values))
        drafts += series.add(np.arange(start, end), np.array(t[start:end], np.int64), [part])
    return [*drafts, *series.finish()]


def flags_by_hand(t: list[int], start: int, end: int, period: int | None) -> dict[str, int]:
    """The findings of rows [start, end), counted one by one."""
    steps = [t[i] - t[i - 1] for i in range(max(1, start), end)]
    found = {"clock_backward": sum(s < 0 for s in steps), "duplicate_time": sum(s == 0 for s in steps)}
    if period:
        found["gap"] = sum(s > period + period // 2 for s in steps)
    return {name: count for name, count in found.items() if count}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 20), st.floats(-1e6, 1e6) | st.just(math.inf)), min_size=1, max_size=90),
    st.lists(st.integers(0, 1000), max_size=5),
)
def test_windows_do_not_depend_on_how_rows_come(rows: list[tuple[int, float]], cuts: list[int]) -> None:
    t = np.cumsum([step * SECOND for step, _ in rows]).tolist()
    value = [v for _, v in rows]
    drafts = run(t, value, cuts, period_ns=2 * SECOND)
    whole = run(t, value, [], period_ns=2 * SECOND)
    assert [(d.columns["locator"], d.columns["flags"], d.columns["extra"], d.last_row) for d in drafts] == [
        (d.columns["locator"], d.columns["flags"], d.columns["extra"], d.last_row) for d in whole
    ]
    assert np.concatenate([d.columns["value"] for d in drafts]).tolist() == value
    assert np.concatenate([d.columns["t"] for d in drafts]).tolist() == t
    for k, draft in enumerate(drafts):
        wanted = flags_by_hand(t, 8 * k, min(len(t), 8 * k + 8), 2 * SECOND)
        infinite = sum(math.isinf(v) for v in value[8 * k : 8 * k + 8])
        if infinite:
            wanted["non_finite"] = infinite
        assert {f.partition(":")[0]: int(f.partition(":")[2]) for f in draft.columns["flags"] or ()} == wanted
        assert draft.columns["event_time"] == min(t[8 * k : 8 * k + 8]) // 1000
        assert draft.columns["event_end"] == max(t[8 * k : 8 * k + 8]) // 1000


def test_the_period_is_the_median_step_and_outlives_a_short_window() -> None:
    t = [i * 10 * SECOND for i in range(40)] + [400 * SECOND, 500 * SECOND, 510 * SECOND]
    drafts = run(t, [1.0] * len(t), [], window=40)
    assert [json.loads(d.columns["extra"]) for d in drafts] == [{"period_ns": 10 * SECOND}] * 2
    assert [d.columns["flags"] for d in drafts] == [None, ["gap:1"]]


def test_a_channel_begins_with_its_first_value_and_an_empty_one_never() -> None:
    data = "t,a,b,c\n" + "".join(f"2020-01-01 00:00:{i:02d},{i},{i if i > 20 else ''},\n" for i in range(30))
    out = read(data, "csv", window=8)
    assert [r["locator"] for r in out.records if r["channel"] == "b"] == [
        '{"channel":"b","first_row":16}',
        '{"channel":"b","first_row":24}',
    ]
    assert out.channels == ["a", "b"]


def test_a_table_of_gaps_is_not_silence() -> None:
    out = read("t,a\n2020-01-01,\n2020-01-02,NA\n", "csv")
    assert out.channel("a")[2].tolist() == [False, False] and out.records[0]["valid_fraction"] == 0


def test_the_place_of_a_window_is_the_box_of_its_positions() -> None:
    rows = ["60,24,1", "61,335,2", ",,3", "60.5,25,4", "60.5,25,4"]
    data = "time,lat,lon,v\n" + "".join(f"2020-01-0{i + 1},{row}\n" for i, row in enumerate(rows))
    out = read(data, "csv", window=3)
    box, point = out.records[0]["geometry"], out.records[-1]["geometry"]
    assert struct.unpack("<BIII10d", box)[4:] == (-25.0, 60.0, 24.0, 60.0, 24.0, 61.0, -25.0, 61.0, -25.0, 60.0)
    assert struct.unpack("<BIdd", point) == (1, 1, 25.0, 60.5)
    assert out.records[2]["geometry"] == box


def test_batches_put_together_by_column_equal_those_of_the_builder() -> None:
    t = [i * SECOND for i in range(20)]
    rows = [d.columns for d in run(t, [float(i) for i in range(19)] + [math.inf], [])]
    builder = RecordBuilder("sensor")
    for row in rows:
        builder.add(**row)
    wanted, found = builder.finish(), sensor_batch(rows)
    found.validate(full=True)
    assert found.schema.equals(wanted.schema, check_metadata=True) and found.equals(wanted)


def test_batches_are_bounded_and_keep_their_order() -> None:
    drafts = [
        Draft("sensor", dict(run(list(range(512)), [1.0] * 512, [], window=512)[0].columns, locator=f'"{i}"'), i)
        for i in range(1500)
    ]
    found = list(batches(iter(drafts)))
    assert all(isinstance(b, pa.RecordBatch) and b.nbytes < 8 << 20 for b in found)
    assert [x for b in found for x in b.column("locator").to_pylist()] == [f'"{i}"' for i in range(1500)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("temp [degC]", ("temp", "Cel")),
        ("speed (m/s)", ("speed", "m/s")),
        ("Druck [hPa]", ("Druck", "hPa")),
        ("flow (left)", ("flow (left)", None)),
        ("temp (min)", ("temp (min)", None)),
        ("t [min]", ("t", "min")),
        ("power[kW]", ("power", "kW")),
        ("PM2.5 (µg/m³)", ("PM2.5", "ug/m3")),
        ("plain", ("plain", None)),
        ("humidity (%)", ("humidity", "%")),
        ("x [y] [m]", ("x [y] [m]", None)),
        ("[m]", ("[m]", None)),
    ],
)
def test_units_in_headers_are_taken_where_they_are_certain(header: str, wanted: tuple[str, str | None]) -> None:
    assert split_header(header) == wanted


def test_units_keep_the_case_of_their_letters() -> None:
    assert (to_ucum("mW"), to_ucum("MW"), to_ucum("Celsius"), to_ucum("furlong"), to_ucum("{beat}/min")) == (
        "mW",
        "MW",
        "Cel",
        None,
        "{beat}/min",
    )


def test_very_many_devices_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their windows end together when they would take more than the budget; no row is lost."""
    monkeypatch.setattr("headrace.ingest.normalizers.sensor_table.MAX_PENDING", 4096)
    data = "time,device,v\n" + "".join(f"2020-01-01 00:00:{i % 60:02d},d{i % 300},{i}\n" for i in range(1200))
    out = read(data, "csv", device="device")
    assert sum(len(r["t"]) for r in out.records) == 1200
    assert out.channel("v", "d7")[1].tolist() == [7, 307, 607, 907]

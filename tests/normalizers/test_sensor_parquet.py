"""Parquet: values against pyarrow's own reading, damage by column, and files that ask for more than they are."""

from __future__ import annotations

import decimal
import io
import json
import math
import struct
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.ingest.normalizers import sensor_parquet
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.sensor_testing import Read, read
from headrace.ingest.normalizers.sensor_wkb import to_wkt


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def numbers_of(out: Read) -> dict[str, list[float]]:
    return {name: out.channel(name)[1].tolist() for name in out.channels}


def test_row_groups_are_one_series() -> None:
    t = np.arange(5000) * 60_000_000 + 1_600_000_000_000_000
    table = pa.table(
        {"when": pa.array(t.tolist(), pa.timestamp("us", "UTC")), "v": pa.array((t % 977).tolist(), pa.int32())}
    )
    out = read(parquet(table, row_group_size=700, compression="zstd"), "parquet")
    assert out.channel("v")[0].tolist() == (t * 1000).tolist()
    assert out.channel("v")[1].tolist() == (t % 977).astype(float).tolist()
    assert [r["locator"] for r in out.records][:2] == [
        '{"channel":"v","first_row":0}',
        '{"channel":"v","first_row":512}',
    ]
    assert out.records[0]["transforms"] == ["int32->float64"] and out.flags() == {}


def test_every_type_of_number_becomes_a_channel_and_the_rest_text() -> None:
    rows = 3
    table = pa.table(
        {
            "ts": pa.array(
                [datetime(2020, 1, 1, h, tzinfo=UTC) for h in range(rows)], pa.timestamp("ms", "Europe/Paris")
            ),
            "i64": pa.array([1, None, 2**53 + 1]),
            "u64": pa.array([2**64 - 1, 0, 1], pa.uint64()),
            "f16": pa.array([0.5, None, math.inf], pa.float16()),
            "f32": pa.array([0.1, None, math.nan], pa.float32()),
            "ok": pa.array([True, None, False]),
            "dec": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2")]),
            "took": pa.array([timedelta(seconds=1), None, timedelta(0)], pa.duration("ms")),
            "at": pa.array([time(1), None, time(2)], pa.time32("ms")),
            "coded": pa.array([5.0, 6.0, 5.0]).dictionary_encode(),
            "nested": pa.array([{"a": 1, "b": {"c": 2.0}}, None, {"a": None, "b": None}]),
            "words": pa.array(["x", None, "z"]),
            "many": pa.array([[1, 2], None, []]),
            "raw": pa.array([b"\xff", b"ok", None]),
            "day": pa.array([date(2020, 1, 1)] * 3),
            "nothing": pa.nulls(3),
        }
    )
    out = read(parquet(table), "parquet", device=None)
    nan = math.nan
    wanted = {
        "i64": [1, nan, 2.0**53],
        "u64": [2.0**64, 0, 1],
        "f16": [0.5, nan, math.inf],
        "f32": [np.float32(0.1), nan, nan],
        "ok": [1, nan, 0],
        "dec": [1.5, nan, -2],
        "took": [1000, nan, 0],
        "at": [3_600_000, nan, 7_200_000],
        "coded": [5, 6, 5],
        "nested.a": [1, nan, nan],
        "nested.b.c": [2, nan, nan],
    }
    found = numbers_of(out)
    assert list(found) == list(wanted)
    assert [n for n in wanted if not np.array_equal(found[n], wanted[n], equal_nan=True)] == []  # type: ignore[arg-type]
    flagged = {r["channel"]: r["flags"] for r in out.of("sensor") if r["flags"]}
    assert flagged == {"i64": ["lossy_int64"], "u64": ["lossy_int64"], "f16": ["non_finite:1"]}
    assert {r["channel"]: r["unit"] for r in out.of("sensor") if r["unit"]} == {"took": "ms", "at": "ms"}
    lines = [json.loads(line) for line in out.text.splitlines()]
    assert (
        lines[0]["words"] == "x"
        and lines[0]["many"] == [1, 2]
        and lines[0]["raw"] == "base64:/w=="
        and lines[0]["day"] == "2020-01-01"
    )
    assert lines[2] == {
        "day": "2020-01-01",
        "many": [],
        "nothing": None,
        "raw": None,
        "ts": lines[2]["ts"],
        "words": "z",
    }


def test_times_of_every_unit_and_zone_are_exact() -> None:
    moments = [datetime(1700, 1, 1), datetime(2020, 5, 6, 7, 8, 9, 123456)]
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "America/Lima"):
            column = pa.array([m.replace(microsecond=0) for m in moments], pa.timestamp(unit, zone))
            out = read(parquet(pa.table({"t": column, "v": [1.0, 2.0]})), "parquet")
            assert out.channel("v")[0].tolist() == [
                int(np.datetime64(m.replace(microsecond=0), "ns").astype(np.int64)) for m in moments
            ]
            assert ("naive_time" in out.flags()) == (zone is None)


def test_rows_whose_time_does_not_fit_are_quarantined_with_their_values() -> None:
    table = pa.table({"t": pa.array([0, None, 253402300799, 60], pa.timestamp("s", "UTC")), "v": [1.0, 2.0, 3.0, 4.0]})
    out = read(parquet(table), "parquet")
    assert out.channel("v")[1].tolist() == [1, 4]
    assert [(b.reason, b.locator) for b in out.bad] == [("no_time", '{"row":1}'), ("wrong_type", '{"row":2}')]
    assert out.bad[0].data is not None and json.loads(out.bad[0].data) == {"t": None, "v": 2.0}


def test_very_many_rows_without_a_time_are_told_in_bounded_news() -> None:
    times = [None if i % 2 else i for i in range(20_000)]
    out = read(parquet(pa.table({"t": pa.array(times, pa.timestamp("s", "UTC")), "v": np.arange(20_000.0)})), "parquet")
    assert out.channel("v")[1].tolist() == list(range(0, 20_000, 2))
    assert len(out.bad) == 1001
    assert sum(json.loads(b.locator).get("rows", 1) for b in out.bad) == 10_000
    assert all(len(b.data or b"") <= 1 << 16 for b in out.bad)


def test_two_columns_of_one_name_are_two_channels() -> None:
    table = pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    assert numbers_of(read(parquet(table), "parquet")) == {"a": [1], "a#2": [2]}


def test_a_megabyte_that_every_row_refers_to_is_held_once_and_refused_as_a_bomb() -> None:
    table = pa.table(
        {"s": pa.array(["x" * (1 << 20)]).dictionary_encode().take(pa.array([0] * 20_000)), "v": np.zeros(20_000)}
    )
    data = parquet(table, compression="zstd")
    assert len(data) < 100_000
    out = read(data, "parquet")
    assert out.error is not None and out.error.reason == "bomb"
    assert sum(len(r["text"]) for r in out.of("text")) <= sensor_parquet.FLOOR


def test_a_row_group_that_declares_more_than_the_ratio_allows_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_parquet, "FLOOR", 1 << 20)
    table = pa.table({"v": np.zeros(1_000_000), "w": np.arange(1_000_000)})
    data = parquet(
        table, compression="zstd", use_dictionary=False, column_encoding={"v": "PLAIN", "w": "DELTA_BINARY_PACKED"}
    )
    out = read(data, "parquet", Limits(max_ratio=20))
    assert (
        out.records == [] and out.error is not None and out.error.reason == "bomb" and "declares" in out.error.message
    )


@pytest.mark.parametrize("batch_rows", [1 << 16, 1500])
def test_damage_costs_its_column_from_where_it_begins(monkeypatch: pytest.MonkeyPatch, batch_rows: int) -> None:
    monkeypatch.setattr(sensor_parquet, "BATCH_ROWS", batch_rows)
    values = np.arange(40_000, dtype=np.float64)
    table = pa.table({"a": values, "b": values + 0.5})
    data = bytearray(
        parquet(
            table,
            compression="none",
            use_dictionary=False,
            data_page_size=8 << 10,
            row_group_size=20_000,
            write_page_checksum=True,
        )
    )
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    out = read(bytes(data), "parquet")
    assert out.error is None
    assert np.array_equal(out.channel("a")[1], values), "the other column is whole"
    t, value, valid = out.channel("b")
    bad = json.loads(out.bad[0].locator)
    assert out.bad[0].reason == "checksum" and bad["column"] == "b" and bad["row"] + bad["rows"] == 20_000
    assert 5_000 < bad["row"] < 15_000
    good = np.concatenate([np.arange(bad["row"]), np.arange(20_000, 40_000)])
    assert np.array_equal(value[valid], good + 0.5), "what decodes before, and the next row group"
    assert np.array_equal(t[valid], good)
    assert {r["channel"] for r in out.records if r["flags"] and "truncated" in r["flags"]} == {"b"}
    for record in out.records:
        assert record["valid"].all() or "truncated" in record["flags"]
        assert record["valid"].any(), "a window that lies in the damage altogether is in quarantine only"


def test_a_file_without_its_footer_is_refused_with_a_reason() -> None:
    data = parquet(pa.table({"v": np.arange(1000)}))
    for cut in (0, 3, 100, len(data) - 1):
        out = read(data[:cut], "parquet")
        assert out.records == [] and out.error is not None and out.error.reason in ("truncated", "corrupt")


def test_a_table_of_no_rows_is_empty() -> None:
    assert read(parquet(pa.table({"v": pa.array([], pa.float64())})), "parquet").error.reason == "empty"  # type: ignore[union-attr]


def test_a_geometry_that_does_not_fit_costs_its_value() -> None:
    def point(x: float, y: float) -> bytes:
        return struct.pack("<BIdd", 1, 1, x, y)

    line = struct.pack("<BII4d", 1, 2, 2, 0, 0, 1, 1)
    field = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
    schema = pa.schema([pa.field("v", pa.float64()), field])
    late = pa.table([[1.0, 2, 3, 4], [point(1, 2), point(3, 4), line, None]], schema=schema)
    out = read(parquet(late, row_group_size=2), "parquet")
    assert out.channel("geometry.x")[2].tolist() == [True, True, False, False]
    assert [(b.reason, b.locator) for b in out.bad] == [("wrong_type", '{"column":"geometry","row":2}')]
    torn = pa.table([[1.0, 2], [line, line[:-5]]], schema=schema)
    out = read(parquet(torn), "parquet")
    assert out.channel("v")[1].tolist() == [1, 2] and "LINESTRING (0 0, 1 1)" in out.text
    assert [b.reason for b in out.bad] == ["corrupt"]


def test_variants_are_refused_by_name_while_their_neighbours_arrive() -> None:
    kind = pa.struct([pa.field("metadata", pa.binary(), nullable=False), pa.field("value", pa.binary())])
    table = pa.table({"v": [1.0, 2.0], "thing": pa.array([{"metadata": b"\1", "value": b"\0"}] * 2, kind)})
    out = read(parquet(table), "parquet")
    assert numbers_of(out) == {"v": [1, 2]}
    assert [(b.reason, b.locator) for b in out.bad] == [("unsupported:variant", '{"column":"thing"}')]


@pytest.mark.data
def test_every_good_file_of_the_corpus_arrives_as_pyarrow_reads_it(
    corpus: Path, manifest: list[dict[str, str]]
) -> None:
    paths = [r["path"] for r in manifest if r["path"].startswith("sensor/parquet/") and r["class"] == "good"]
    assert len(paths) > 40
    for name in paths:
        out = read(corpus / name)
        if "rle-dict-uncompressed-corrupt-checksum" in name:
            assert {b.reason for b in out.bad} == {"checksum"} and out.records == []
            continue
        assert out.error is None and out.records, name
        assert {b.reason for b in out.bad} <= ({"checksum"} if "checksum" in name else {"unsupported:variant"}), name
        table = pq.read_table(corpus / name)
        if "corrupt" in name:
            assert np.array_equal(out.channel("b")[1][:2048], table["b"].to_numpy()[:2048])
            continue
        for field in table.schema:
            kind = field.type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) or field.name not in out.channels:
                continue
            wanted = table[field.name].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            assert np.array_equal(out.channel(field.name)[1], wanted, equal_nan=True), (name, field.name)


@pytest.mark.data
def test_geometries_agree_with_the_text_beside_them(corpus: Path) -> None:
    for name in ("geospatial-with-nan", "crs-default"):
        for row in pq.read_table(corpus / f"sensor/parquet/geospatial/{name}.parquet").to_pylist():
            assert to_wkt(row["geometry"]) == row["wkt"]
    points = read(corpus / "sensor/parquet/geospatial/geography-points.parquet")
    assert points.channels == ["id", "geometry.x", "geometry.y"]
    x, y = points.channel("geometry.x")[1], points.channel("geometry.y")[1]
    rows = pq.read_table(corpus / "sensor/parquet/geospatial/geography-points.parquet").to_pylist()
    assert list(zip(x.tolist(), y.tolist())) == [struct.unpack("<dd", row["geometry"][5:]) for row in rows]
    assert points.of("sensor")[0]["geometry"] is not None

"""CSV and TSV as sensor records: values against the csv module, and one bad row costing one row."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingest.normalizers import sensor_csv_blocks
from headrace.ingest.normalizers.sensor_testing import read

HOUR = 3_600_000_000_000


def stamps(*texts: str) -> list[int]:
    return [int(np.datetime64(text, "ns").astype(np.int64)) for text in texts]


def test_windows_hold_the_values_and_times_of_a_column() -> None:
    rows = [f"2020-01-01 {i // 60:02d}:{i % 60:02d}:00,{i},{i * i}" for i in range(1200)]
    out = read("when,a,b\n" + "\n".join(rows) + "\n", "csv")
    assert out.channels == ["a", "b"]
    assert [r["locator"] for r in out.records] == [
        f'{{"channel":"{c}","first_row":{k}}}' for k in (0, 512, 1024) for c in "ab"
    ]
    t, value, valid = out.channel("b")
    assert value.tolist() == [float(i * i) for i in range(1200)]
    assert valid.all() and t[0] == stamps("2020-01-01")[0] and set(np.diff(t)) == {60_000_000_000}
    assert out.records[0]["event_time"] == t[0] // 1000
    assert out.records[0]["event_end"] == t[511] // 1000
    assert out.records[0]["time_source"] == "field:when"
    assert out.flags() == {"naive_time": 6}


@pytest.mark.parametrize(
    "bad", ["2020-01-02", "2020-01-02,1,2,3", "2020-01-02,1,oops", "never,1,2", '2020-01-02,"1,2', ",1,2"]
)
def test_one_bad_row_costs_one_row(bad: str) -> None:
    out = read(f"t,a,b\n2020-01-01,1,2\n2020-01-01T12:00:00,3,4\n{bad}\n2020-01-03,5,6\n2020-01-04,7,8\n", "csv")
    t, value, _ = out.channel("a")
    assert value.tolist() == [1, 3, 5, 7]
    assert t.tolist() == stamps("2020-01-01", "2020-01-01T12", "2020-01-03", "2020-01-04")
    assert [(b.locator, b.data) for b in out.bad] == [('{"line":4}', bad.encode())]
    assert out.bad[0].reason in ("invalid_row", "wrong_type", "no_time")
    assert out.error is None


def test_bad_rows_of_several_kinds_in_one_block_keep_their_own_bytes() -> None:
    rows = ["2020-01-01,1", "short", "2020-01-02,x", "2020-01-03,3", "never,4", "2020-01-05,5", ",6", "2020-01-07,7"]
    out = read("t,a\n" + "".join(f"{row}\n" for row in rows), "csv")
    assert [(b.reason, b.locator, b.data) for b in out.bad] == [
        ("invalid_row", '{"line":3}', b"short"),
        ("wrong_type", '{"line":4}', b"2020-01-02,x"),
        ("wrong_type", '{"line":6}', b"never,4"),
        ("no_time", '{"line":8}', b",6"),
    ]
    assert [json.loads(r["locator"])["first_row"] for r in out.records] == [0]
    assert out.channel("a")[1].tolist() == [1, 3, 5, 7]


def test_bad_rows_in_a_row_are_one_piece_of_news() -> None:
    out = read("t,a\n2020-01-01,1\n" + "junk\n" * 500 + "2020-01-02,2\nmore,junk,here\n2020-01-03,3\n", "csv")
    assert [b.locator for b in out.bad] == ['{"line":3,"rows":500}', '{"line":504}']
    assert out.bad[0].message.startswith("500 rows, the first: line 3")
    assert out.channel("a")[1].tolist() == [1, 2, 3]


def test_a_bad_row_is_found_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into blocks of a few rows, the records, the bad rows and their order are the same."""
    lines = [f"2020-01-01 00:{i // 60:02d}:{i % 60:02d},{i},word{i}" for i in range(600)]
    for at in (0, 17, 18, 19, 300, 599):
        lines[at] = f"broken {at}"
    lines[100] = "2020-01-01 00:01:40,x,word"
    data = "t,v,s\n" + "\n".join(lines) + "\n"

    def picture() -> list[object]:
        out = read(data, "csv", window=64, text_rows=50)
        return [[(r["locator"], r["flags"], r.get("text"), str(r.get("value"))) for r in out.records], out.bad]

    whole = picture()
    monkeypatch.setattr(sensor_csv_blocks, "BLOCK", 200)
    monkeypatch.setattr("headrace.ingest.normalizers.sensor_csv_dialect.HEAD_BYTES", 128)
    assert picture() == whole


def test_crlf_a_byte_order_mark_and_no_final_newline_change_nothing() -> None:
    plain = read("t,v\n2020-01-01,1\n2020-01-02,2.5\n", "csv")
    for data in (
        b"t,v\r\n2020-01-01,1\r\n2020-01-02,2.5",
        b"\xef\xbb\xbft,v\n2020-01-01,1\n2020-01-02,2.5",
        b"t,v\r2020-01-01,1\r2020-01-02,2.5\r",
    ):
        other = read(data, "csv")
        assert [str(r) for r in other.records] == [str(r) for r in plain.records]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_other_encodings_are_read(encoding: str) -> None:
    data = "t,temp [°C]\n2020-01-01,1\n2020-01-02,2\n".encode(encoding)
    out = read(data, "csv", encoding=None if encoding != "utf-16-le" else "utf-16-le")
    assert out.records[0]["channel"] == "temp" and out.records[0]["unit"] == "Cel"
    assert ("encoding_guessed" in out.flags()) == (encoding == "cp1252")


def test_a_truncated_last_row_says_so() -> None:
    out = read("t,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n2020-01-03,5", "csv")
    assert [(b.reason, b.locator) for b in out.bad] == [("truncated", '{"line":4}')]
    assert out.channel("b")[1].tolist() == [2, 4]


def test_decimal_commas_and_semicolons_are_found() -> None:
    out = read("Zeit;Temp [°C];Druck [hPa]\n01.02.2020 10:00;21,5;1013,25\n01.02.2020 11:00;-0,5;\n", "csv")
    assert out.channel("Temp")[1].tolist() == [21.5, -0.5]
    assert [r["unit"] for r in out.records] == ["Cel", "hPa"]
    assert out.channel("Druck")[2].tolist() == [True, False]
    assert out.channel("Temp")[0].tolist() == stamps("2020-02-01T10", "2020-02-01T11")
    same = read("t;v\n2020-01-01;1,5\n", "csv", decimal=",", delimiter=";")
    assert same.channel("v")[1].tolist() == [1.5]


@pytest.mark.parametrize(
    ("delimiter", "format"), [("\t", "tsv"), ("\t", "csv"), ("|", "csv"), (";", "csv"), (",", "csv")]
)
def test_delimiters_are_found(delimiter: str, format: str) -> None:
    table = [["t", "a", "b"], ["2020-01-01", "1", "2"], ["2020-01-02", "3", "4"]]
    assert read("\n".join(delimiter.join(row) for row in table), format).channel("b")[1].tolist() == [2, 4]


def test_missing_markers_are_gaps_and_infinities_are_flagged() -> None:
    cells = ["1", "", "NA", "NaN", "null", "-999", "inf", " 2 ", "-"]
    out = read(
        "t,v\n" + "".join(f"2020-01-{i + 1:02d},{c}\n" for i, c in enumerate(cells)),
        "csv",
        missing=("", "NA", "NaN", "null", "-999", "-"),
    )
    _, value, valid = out.channel("v")
    assert valid.tolist() == [True, False, False, False, False, False, False, True, False]
    assert value[0] == 1 and value[7] == 2 and math.isinf(value[6]) and np.isnan(value[1:5]).all()
    assert out.flags()["non_finite"] == 1
    assert out.records[0]["valid_fraction"] == pytest.approx(2 / 9)
    assert out.bad == []


def test_an_integer_that_float64_cannot_hold_is_flagged_where_it_is() -> None:
    rows = [f"2020-01-01 00:00:{i:02d},{2**53 + 1 if i == 7 else 2**53 + 2 if i == 3 else i},1" for i in range(10)]
    out = read("t,v,w\n" + "\n".join(rows), "csv", window=5)
    assert [(r["channel"], "lossy_int64" in r["flags"]) for r in out.records] == [
        ("v", False),
        ("w", False),
        ("v", True),
        ("w", False),
    ]


def test_headers_units_rows_and_preambles_are_understood() -> None:
    out = read("# made by a logger\nStation: 7\n\ntime,temp,note\nUTC,degC,\n2020-01-01,1,a\n2020-01-02,2,b\n", "csv")
    assert out.of("sensor")[0]["unit"] == "Cel"
    assert out.of("text")[0]["text"] == "# made by a logger\nStation: 7\n"
    assert out.of("text")[1]["text"] == '{"note":"a","time":"2020-01-01"}\n{"note":"b","time":"2020-01-02"}\n'


def test_the_separator_that_spreadsheets_declare_is_taken() -> None:
    out = read("sep=;\ntime;v\n2020-01-01;1,5\n2020-01-02;2,5\n", "csv")
    assert out.channel("v")[1].tolist() == [1.5, 2.5]


def test_the_files_of_campbell_loggers_are_understood() -> None:
    head = '"TOA5","st","CR1000"\n"TIMESTAMP","RECORD","AirT"\n"TS","RN","Deg C"\n"","","Avg"\n'
    data = head + '"2020-01-01 00:00:00",1,2.5\n"2020-01-01 00:01:00",2,"NAN"\n'
    out = read(data, "csv")
    assert out.channels == ["RECORD", "AirT"]
    assert out.of("sensor")[1]["unit"] == "Cel"
    assert out.channel("AirT")[2].tolist() == [True, False]
    assert "CR1000" in out.text


def test_a_table_without_names_gets_numbered_ones() -> None:
    out = read("2020-01-01,1,2\n2020-01-02,3,4\n", "csv")
    assert out.channels == ["c1", "c2"] and out.channel("c2")[1].tolist() == [2, 4]
    named = read("# time,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n", "csv")
    assert named.channels == ["a", "b"]
    assert read("1,2\n3,4\n", "csv", header=True).channels == ["1", "2"]
    assert read("a,a,,a\n1,2,3,4\n5,6,7,8\n", "csv").channels == ["a", "a#2", "c2", "a#3"]


def test_comment_lines_are_no_rows_but_a_row_may_begin_like_one() -> None:
    out = read("t,v\n2020-01-01,1\n# changed the battery\n2020-01-02,2\n", "csv")
    assert out.channel("v")[1].tolist() == [1, 2] and out.bad == []
    tags = read("tag,where\n#one,here\n#two,there\n", "csv")
    assert tags.text == '{"tag":"#one","where":"here"}\n{"tag":"#two","where":"there"}\n'


def test_quoted_cells_may_hold_delimiters_quotes_and_newlines() -> None:
    buffer = io.StringIO()
    table = [
        ["t", "v", "s"],
        ["2020-01-01", "1", 'a "b", c'],
        ["2020-01-02", "2", "two\nlines"],
        ["2020-01-03", "3", ""],
    ]
    csv.writer(buffer).writerows(table)
    out = read(buffer.getvalue(), "csv")
    assert out.channel("v")[1].tolist() == [1, 2, 3]
    assert [json.loads(line) for line in out.text.splitlines()] == [{"s": row[2], "t": row[0]} for row in table[1:]]
    assert out.bad == []


def test_a_column_that_changes_its_type_is_bad_from_there() -> None:
    rows = [f"2020-01-01 00:00:{i:02d},{i if i < 40 else 'off'}" for i in range(60)]
    out = read("t,v\n" + "\n".join(rows[:50]) + "\n", "csv", channels={"v": "V"})
    assert out.channel("v")[1].tolist() == list(range(40))
    assert [(b.reason, b.locator) for b in out.bad] == [("wrong_type", '{"line":42,"rows":10}')]


def test_devices_and_named_channels_are_series_of_their_own() -> None:
    rows = [f"2020-01-01 00:{i:02d}:00,dev{i % 3},{i}" for i in range(60)]
    out = read("time,device_id,v\n" + "\n".join(rows), "csv", window=8)
    for k in range(3):
        assert out.channel("v", f"dev{k}")[1].tolist() == [float(i) for i in range(60) if i % 3 == k]
    assert out.records[0]["locator"] == '{"channel":"v","device":"dev0","first_row":0}'
    plain = read("time,device_id,v\n" + "\n".join(rows), "csv", device=None)
    assert plain.channel("v")[1].tolist() == list(range(60))
    data = "utc,parameter,value,unit\n" + "".join(
        f"2020-01-01T00:00:{i:02d}Z,{'pm25' if i % 2 else 'o3'},{i},{'µg/m³' if i % 2 else 'blobs'}\n"
        for i in range(20)
    )
    long = read(data, "csv")
    assert long.channel("o3")[1].tolist() == list(range(0, 20, 2))
    assert [(r["channel"], r["unit"]) for r in long.records] == [("o3", None), ("pm25", "ug/m3")]
    assert '"unit":"blobs"' in long.records[0]["extra"]


def test_devices_with_named_channels_are_parted_by_both() -> None:
    keys = [("a", "o3"), ("a", "no2"), ("b", "o3"), ("b", "no2"), ("c", "o3")]
    rows = [(*keys[i % 5], i) for i in range(50)]
    out = read("time,station,parameter,value\n" + "".join(f"2020-01-01,{d},{p},{v}\n" for d, p, v in rows), "csv")
    for device, name in keys:
        assert out.channel(name, device)[1].tolist() == [v for d, p, v in rows if (d, p) == (device, name)]


def test_declared_channels_are_kept_with_their_units_and_nothing_else() -> None:
    out = read(
        "t,level,wind,note\n2020-01-01,1,2,x\n2020-01-02,3,,y\n", "csv", channels={"level": "m", "wind": None}, time="t"
    )
    assert [(r["channel"], r["unit"]) for r in out.records] == [("level", "m"), ("wind", None)]
    assert read("t,v\n2020-01-01,1\n", "csv", channels={"w": "m"}).error.reason == "missing_field"  # type: ignore[union-attr]
    assert read("t,v\n2020-01-01,1\n", "csv", time="when").error.reason == "missing_field"  # type: ignore[union-attr]


def test_tables_without_numbers_become_text_in_windows_of_rows() -> None:
    out = read("name,city\n" + "".join(f"n{i},c{i}\n" for i in range(1100)), "csv")
    assert [r["text"].count("\n") for r in out.records] == [512, 512, 76]
    assert out.text.splitlines()[700] == '{"city":"c700","name":"n700"}'
    assert out.records[1]["locator"] == '{"first_row":512,"text_rows":512}'
    alone = read("name,city\na,b\nc,d\n", "csv", text_column="city")
    assert [r["text"] for r in alone.records] == ["b", "d"]


def test_columns_of_true_and_false_are_numbers() -> None:
    out = read("t,on\n2020-01-01,true\n2020-01-02,false\n2020-01-03,\n", "csv")
    assert out.channel("on")[1].tolist()[:2] == [1, 0] and out.channel("on")[2].tolist() == [True, True, False]
    assert out.records[0]["transforms"] == ["bool->float64"]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"t,v\n", b"# only a comment\n"])
def test_nothing_is_empty(data: bytes) -> None:
    out = read(data, "csv")
    assert out.records == [] and out.error is not None and out.error.reason == "empty"


def test_a_line_without_end_is_refused_not_hoarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_csv_blocks, "BLOCK", 1 << 10)
    monkeypatch.setattr(sensor_csv_blocks, "MAX_ROW", 1 << 16)
    out = read(b"t,v\n2020-01-01,1\n2020-01-02," + b"9" * (1 << 18), "csv")
    assert out.error is not None and out.error.reason == "too_large"


cell = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**12), 10**12).map(str),
    st.sampled_from(["", "NA"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=60), st.integers(1, 20))
def test_joined_windows_are_the_columns(rows: list[tuple[str, str]], window: int) -> None:
    data = "t,a,b\n" + "".join(f"2020-01-01 00:00:{i:02d},{a},{b}\n" for i, (a, b) in enumerate(rows))
    out = read(data, "csv", window=window, header=True, channels={"a": None, "b": None})
    assert out.error is None or out.error.reason == "empty"
    for index, name in enumerate("ab"):
        wanted = [float(row[index]) if row[index] not in ("", "NA") else math.nan for row in rows]
        if all(math.isnan(v) for v in wanted):
            continue
        _, value, valid = out.channel(name)
        # a channel begins with the window that holds its first value
        skipped = next(i for i, v in enumerate(wanted) if not math.isnan(v)) // window * window
        assert np.array_equal(value, np.array(wanted[skipped:]), equal_nan=True)
        assert valid.tolist() == [not math.isnan(v) for v in wanted[skipped:]]
        assert all(len(r["t"]) == window for r in out.of("sensor")[:-2] if r["channel"] == name)


@pytest.mark.data
def test_every_value_of_ett_agrees_with_the_csv_module(corpus: Path) -> None:
    path = corpus / "sensor/ett/ETTh1.csv"
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    out = read(path)
    for name in ("HUFL", "MULL", "OT"):
        t, value, valid = out.channel(name)
        assert value.tolist() == [float(row[name]) for row in rows]
        assert valid.all()
        assert t.tolist() == stamps(*(row["date"].replace(" ", "T") for row in rows))


@pytest.mark.data
def test_known_faults_of_real_series_are_flagged(corpus: Path) -> None:
    ercot = read(corpus / "sensor/energy_weather/ERCOT_DAM.csv", channels={"y": None})
    t, _, _ = ercot.channel("y")
    assert ercot.flags()["clock_backward"] == 2493 == int((np.diff(t) < 0).sum())
    hours = np.sort(t) // HOUR
    missing = np.flatnonzero(np.diff(hours) > 1)
    assert [str(np.datetime64(int(hours[i] + 1) * HOUR, "ns"))[:13] for i in missing] == [
        "2015-03-08T02",
        "2016-03-13T02",
        "2017-03-12T02",
    ]
    machine = read(corpus / "sensor/nab/realKnownCause/machine_temperature_system_failure.csv")
    steps = np.diff(machine.channel("value")[0])
    assert machine.flags() == {"naive_time": 45, "clock_backward": 1} and steps.min() == -55 * 60 * 10**9
    assert read(corpus / "sensor/nab/realKnownCause/ambient_temperature_system_failure.csv").flags()["gap"] == 10
    assert (
        read(corpus / "sensor/nab/realKnownCause/ec2_request_latency_system_failure.csv").flags()["duplicate_time"]
        == 11
    )


@pytest.mark.data
def test_local_time_with_its_zone_has_no_missing_hour(corpus: Path) -> None:
    """The three hours that ERCOT misses are those that summer time skipped."""
    out = read(corpus / "sensor/energy_weather/ERCOT_DAM.csv", channels={"y": None}, timezone="America/Chicago")
    t = np.unique(out.channel("y")[0])
    assert "naive_time" not in out.flags()
    springs = np.array(stamps("2015-03-08T08", "2016-03-13T08", "2017-03-12T08"))
    assert all(s in t and s - HOUR in t for s in springs)


@pytest.mark.data
def test_rows_that_interleave_instances_are_parted(corpus: Path) -> None:
    path = corpus / "sensor/metrics/ec2_metrics.csv"
    out = read(path)
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    devices = sorted({row["instance"] for row in rows})
    assert len(devices) == 8
    for device in devices:
        assert out.channel("value", device)[1].tolist() == [float(r["value"]) for r in rows if r["instance"] == device]
    assert "duplicate_time" not in out.flags()

"""Time stamps: layouts against Python's datetime, zones against zoneinfo, epochs by size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingest.normalizers import sensor_time
from headrace.ingest.normalizers.sensor_testing import read

EPOCH = datetime(1970, 1, 1)
NANOS = 1_000_000_000


def nanos(moment: datetime) -> int:
    """Exactly, in integers."""
    naive = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    delta = naive - EPOCH
    return (delta.days * 86400 + delta.seconds) * NANOS + delta.microseconds * 1000


#: layout → (how Python writes it, its resolution)
WRITTEN = {
    "iso": "%Y-%m-%dT%H:%M:%S.%f",
    "ymd": "%Y/%m/%d %H:%M:%S",
    "compact": "%Y%m%dT%H%M%S",
    "mdy": "%m/%d/%Y %I:%M:%S %p",
    "dmy": "%d.%m.%Y %H:%M",
    "d-month-y": "%d-%b-%Y %H:%M:%S",
    "month-d-y": "%B %d, %Y %H:%M:%S",
    "ctime": "%a %b %d %H:%M:%S %Y",
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)), min_size=1, max_size=20),
    st.sampled_from(sorted(WRITTEN)),
)
def test_every_layout_reads_what_python_writes(moments: list[datetime], layout: str) -> None:
    form = WRITTEN[layout]
    texts = [m.strftime(form) if m.year >= 1000 else "" for m in moments]
    stamps = sensor_time.read(pa.array(texts), layout)
    assert stamps.ok.all() and not stamps.zoned.any()
    assert stamps.ns.tolist() == [nanos(datetime.strptime(text, form)) for text in texts]


@settings(max_examples=40, deadline=None)
@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_offsets_are_applied(moment: datetime, minutes: int) -> None:
    sign, size = ("-" if minutes < 0 else "+"), abs(minutes)
    for offset in (f"{sign}{size // 60:02d}:{size % 60:02d}", f"{sign}{size // 60:02d}{size % 60:02d}"):
        text = moment.strftime("%Y-%m-%d %H:%M:%S.%f") + offset
        for layout in ("iso", "ymd"):
            stamps = sensor_time.read(pa.array([text]), layout)
            assert stamps.zoned.all()
            assert stamps.ns.tolist() == [nanos(moment - timedelta(minutes=minutes))]


@pytest.mark.parametrize(
    ("text", "layout", "wanted"),
    [
        ("2020-01-01 24:00:00", "iso", "2020-01-02"),
        ("2020-02-29", "iso", "2020-02-29"),
        ("2020-01", "iso", "2020-01-01"),
        ("2016-12-31 23:59:60", "iso", "2017-01-01"),
        ("2020-01-01T00:00:00.123456789Z", "iso", "2020-01-01T00:00:00.123456789"),
        ("2020-01-01 00:00:00,5", "iso", "2020-01-01T00:00:00.5"),
        ("1/2/69", "mdy", "1969-01-02"),
        ("1/2/68", "mdy", "2068-01-02"),
        ("12/31/99 12:00 AM", "mdy", "1999-12-31"),
        ("12/31/99 12:30 pm", "mdy", "1999-12-31T12:30"),
        ("0099-01-01", "ymd", None),
        ("2020-02-30", "iso", None),
        ("2021-02-29", "iso", None),
        ("2020-13-01", "iso", None),
        ("2020-01-01 25:00", "iso", None),
        ("13:00 PM", "mdy", None),
        ("1/1/2020 13:00 PM", "mdy", None),
        ("1600-01-01", "iso", None),
        ("2300-01-01", "iso", None),
        ("", "iso", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "d-month-y", "1994-11-06T08:49:37"),
        ("2020-01-01T12:00:00+02:00[Europe/Helsinki]", "iso", "2020-01-01T10:00"),
        ("2020-366", "%Y-%j", "2020-12-31"),
        ("2021-366", "%Y-%j", None),
    ],
)
def test_edges_of_the_calendar(text: str, layout: str, wanted: str | None) -> None:
    stamps = sensor_time.read(pa.array([text, None]), layout)
    assert stamps.ok.tolist() == [wanted is not None, False]
    if wanted is not None:
        assert stamps.ns[0] == np.datetime64(wanted, "ns").astype(np.int64)


def test_one_odd_stamp_does_not_change_the_others() -> None:
    """A block that the fast path refuses is read by the slow one, with the same result."""
    good = [f"2020-01-01 00:00:{i:02d}" for i in range(60)]
    fast, slow = sensor_time.read(pa.array(good), "iso"), sensor_time.read(pa.array([*good, "oops"]), "iso")
    assert slow.ns[:-1].tolist() == fast.ns.tolist() and not slow.ok[-1]


@pytest.mark.parametrize(
    ("texts", "layout", "ambiguous"),
    [
        (["1/2/2020", "1/13/2020"], "mdy", False),
        (["1/2/2020", "13/2/2020"], "dmy", False),
        (["1/2/2020", "3/4/2020"], "mdy", True),
        (["1.2.2020", "3.4.2020"], "dmy", False),
        (["2020-01-02"], "iso", False),
        (["20200102"], "compact", False),
        (["x1", "y2"], None, False),
        (["12.5", "13.5"], None, False),
        (["", ""], None, False),
    ],
)
def test_the_order_of_day_and_month_is_told_by_the_data(texts: list[str], layout: str | None, ambiguous: bool) -> None:
    found = sensor_time.detect(pa.array(texts))
    assert found == (None if layout is None else (layout, ambiguous))


def test_an_order_that_the_data_leave_open_is_flagged() -> None:
    assert "ambiguous_date_order" in read("date,v\n1/2/2020,1\n2/3/2020,2\n", "csv").flags()
    declared = read("date,v\n1/2/2020,1\n2/3/2020,2\n", "csv", time="date", time_format="dmy")
    assert "ambiguous_date_order" not in declared.flags()
    assert declared.channel("v")[0][0] == np.datetime64("2020-02-01", "ns").astype(np.int64)


@pytest.mark.parametrize(
    ("first", "unit"),
    [
        (1_600_000_000, NANOS),
        (1_600_000_000_000, 10**6),
        (1_600_000_000_000_000, 10**3),
        (1_600_000_000_000_000_000, 1),
    ],
)
def test_epochs_are_told_by_their_size(first: int, unit: int) -> None:
    out = read(f"timestamp,v\n{first},1\n{first + 60 * NANOS // unit},2\n", "csv")
    assert out.channel("v")[0].tolist() == [first * unit, first * unit + 60 * NANOS]
    assert out.flags() == {}


def test_fractions_of_epoch_seconds_are_exact() -> None:
    out = read("time,v\n1612345678.123456789,1\n1612345678.2,2\n", "csv")
    assert out.channel("v")[0].tolist() == [1612345678123456789, 1612345678200000000]


def test_small_numbers_are_time_elapsed() -> None:
    out = read("time_ms,v\n0,1\n1.5,2\n", "csv")
    assert out.channel("v")[0].tolist() == [0, 1_500_000]
    assert out.flags() == {"relative_time": 1} and out.records[0]["event_time"] is None
    assert read("t [us],v\n10,1\n20,2\n", "csv").channel("v")[0].tolist() == [10_000, 20_000]
    # a name that only mentions time is no clock
    assert read("cpu_time,v\n10,1\n20,2\n", "csv").channels == ["cpu_time", "v"]


def test_a_table_without_time_counts_its_rows() -> None:
    out = read("a,b\n1,2\n3,4\n5,6\n", "csv")
    assert out.channel("a")[0].tolist() == [0, 1, 2]
    assert {r["time_source"] for r in out.records} == {"row_number"} and out.flags() == {"no_time": 2}
    assert out.records[0]["event_time"] is None


def test_dates_and_clocks_in_columns_of_their_own_are_joined() -> None:
    wanted = [np.datetime64(t, "ns").astype(np.int64) for t in ("2004-03-10T18:00", "2004-03-13T19:30")]
    assert read("Date,Time,v\n10/03/2004,18.00.00,1\n13/03/2004,19.30.00,2\n", "csv").channel("v")[0].tolist() == wanted
    parts = read("year,month,day,hour,minute,v\n2004,3,10,18,0,1\n2004,3,13,19,30,2\n", "csv")
    assert parts.channel("v")[0].tolist() == wanted and parts.channels == ["v"]
    declared = read("d,c,v\n2004-03-10,18:00,1\n2004-03-13,19:30,2\n", "csv", time=("d", "c"))
    assert declared.channel("v")[0].tolist() == wanted


def test_spreadsheet_days_are_read_when_declared() -> None:
    out = read("when,v\n43831.5,1\n43832.25,2\n", "csv", time="when", time_format="excel")
    assert out.channel("v")[0].tolist() == [
        np.datetime64(t, "ns").astype(np.int64) for t in ("2020-01-01T12", "2020-01-02T06")
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.datetimes(datetime(1975, 1, 1), datetime(2030, 1, 1)),
    st.sampled_from(["Europe/Berlin", "America/Chicago", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
def test_wall_clocks_agree_with_zoneinfo(start: datetime, zone: str) -> None:
    start = start.replace(second=0, microsecond=0)
    moments = [start + timedelta(minutes=17 * i) for i in range(40)]
    out = read("time,v\n" + "".join(f"{m:%Y-%m-%d %H:%M},1\n" for m in moments), "csv", timezone=zone)
    known = ZoneInfo(zone)
    plain = [m for m in moments if m.replace(tzinfo=known).utcoffset() == m.replace(tzinfo=known, fold=1).utcoffset()]
    found = dict(zip(moments, out.channel("v")[0].tolist()))
    assert {m: found[m] for m in plain} == {m: nanos(m.replace(tzinfo=known)) for m in plain}


def test_an_hour_that_comes_twice_goes_on_in_file_order() -> None:
    clocks = ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"]
    out = read("time,v\n" + "".join(f"2021-10-31 {c},1\n" for c in clocks), "csv", timezone="Europe/Berlin")
    assert set(np.diff(out.channel("v")[0])) == {1800 * NANOS}
    assert out.flags() == {"dst_ambiguous": 4}


def test_hourly_readings_of_the_hour_that_comes_twice_are_an_hour_apart() -> None:
    clocks = ["01:00", "02:00", "02:00", "03:00"]
    out = read("time,v\n" + "".join(f"2021-10-31 {c},1\n" for c in clocks), "csv", timezone="Europe/Berlin")
    assert set(np.diff(out.channel("v")[0])) == {3600 * NANOS}
    rows = "".join(f"2021-10-31 {c},{d},1\n" for c in ["01:00", "02:00", "03:00"] for d in "ab")
    parted = read("time,device,v\n" + rows, "csv", timezone="Europe/Berlin", device="device")
    assert parted.channel("v", "a")[0].tolist() == parted.channel("v", "b")[0].tolist()


def test_an_hour_that_never_was_is_moved_on_and_counted() -> None:
    out = read("time,v\n2021-03-28 01:30,1\n2021-03-28 02:30,2\n2021-03-28 03:30,3\n", "csv", timezone="Europe/Berlin")
    assert out.channel("v")[0].tolist() == [nanos(datetime(2021, 3, 28, h, 30)) for h in (0, 1, 1)]
    assert out.flags() == {"dst_skipped": 1, "duplicate_time": 1}


@pytest.mark.parametrize(
    ("name", "naive"), [("time_utc", False), ("Time (UTC)", False), ("timestampUTC", False), ("time", True)]
)
def test_a_column_that_says_utc_is_believed(name: str, naive: bool) -> None:
    assert ("naive_time" in read(f"{name},v\n2020-01-01 00:00,1\n", "csv").flags()) == naive


def test_a_zone_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="Europe/Helsinki"):
        read("time,v\n2020-01-01,1\n", "csv", timezone="Europe/Atlantis")


def test_a_format_that_cannot_be_is_refused_with_its_directive() -> None:
    with pytest.raises(ValueError, match="%Q"):
        sensor_time.pattern_of("%Y-%Q")

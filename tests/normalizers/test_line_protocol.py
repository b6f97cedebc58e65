"""InfluxDB line protocol against another parser, InfluxDB's own writer, and round trips."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers import line_protocol_rows
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.line_protocol import BadLine, Point, points
from headrace.ingest.normalizers.line_protocol_rows import LineReader
from headrace.ingest.normalizers.payload_config import PayloadConfig
from headrace.ingest.normalizers.payload_rows import Decoded
from headrace.ingest.normalizers.sensor_testing import read
from headrace.ingest.normalizers.text import TextNormalizer
from headrace.schemas.errors import RecordError


def only(text: str) -> Point:
    ((_, _, found),) = points(text)
    assert isinstance(found, Point), found
    return found


# -- the reference's own examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "point"),
    [
        ("m f=1", Point("m", {}, {"f": 1.0}, None)),
        ("m,a=b,c=d f=1,g=2i,h=3u,i=t,j=F,k=\"x y\" 12", Point(
            "m", {"a": "b", "c": "d"}, {"f": 1.0, "g": 2, "h": 3, "i": True, "j": False, "k": "x y"}, 12)),
        (r"my\ m\,x,t\ k=v\=w\,x f\ 1\=2=1 -5", Point("my m,x", {"t k": "v=w,x"}, {"f 1=2": 1.0}, -5)),
        (r'm f="a \"q\" \\ \n"', Point("m", {}, {"f": 'a "q" \\ \\n'}, None)),
        ('m f="two\nlines",g=1 7', Point("m", {}, {"f": "two\nlines", "g": 1.0}, 7)),
        ("m=1 f=-1.5e-3", Point("m=1", {}, {"f": -0.0015}, None)),
        (r"c:\dir\x f=1", Point(r"c:\dir\x", {}, {"f": 1.0}, None)),
        ("  m f=1   7  ", Point("m", {}, {"f": 1.0}, 7)),
        ("m f=1 7\r", Point("m", {}, {"f": 1.0}, 7)),
        ("мера,тег=знач поле=1", Point("мера", {"тег": "знач"}, {"поле": 1.0}, None)),
        ("m f=18446744073709551615u,g=-9223372036854775808i", Point(
            "m", {}, {"f": (1 << 64) - 1, "g": -(1 << 63)}, None)),
    ],
)  # fmt: skip
def test_lines_mean_what_the_reference_says(line: str, point: Point) -> None:
    assert only(line) == point


@pytest.mark.parametrize(
    "line",
    ["m", "m ", "m f", "m f=", "m f=x", "m f=1,", "m f=1 x", "m f=1 1.5", "m f=1 7 8", ",a=b f=1", "m,a f=1",
     "m,a= f=1", "m,=b f=1", "m,a=b,a=c f=1", "m f=1,f=2", "m f=1i2", "m f=1.5i", "m f=-1u",
     "m f=9223372036854775808i", "m f=1e999", "m f=nan", "m f=inf", "m f=0x10", "m f=tRUE", 'm f="open', 'm f="a"b',
     "m f=1 99999999999999999999", "m =1", "m f=1_0", "m f=1٣", "m  \t f=1", "m,a=b"],
)  # fmt: skip
def test_lines_that_influxdb_refuses_are_refused_and_cost_themselves(line: str) -> None:
    found = [p for _, _, p in points(f"a f=1 1\n{line}\nb f=2 2")]
    assert isinstance(found[0], Point)
    assert any(isinstance(p, BadLine) for p in found)
    if '"open' not in line:
        assert [p.measurement for p in found if isinstance(p, Point)] == ["a", "b"], found


def test_blank_lines_and_comments_are_no_points() -> None:
    text = "\ufeff\n# a comment\n\n  # another\nm f=1\n\r\n"
    assert [p for _, _, p in points(text)] == [Point("m", {}, {"f": 1.0}, None)]


# -- other implementations --------------------------------------------------------------------------------------------

_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\\", exclude_categories=("Z", "C"))
_NAMES = st.text(_CHARACTERS, min_size=1, max_size=8) | st.sampled_from(["a b", "a,b", "a=b", "t", "1"])
_VALUES = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
)  # fmt: skip


def escaped(name: str, special: str) -> str:
    return "".join("\\" + c if c in special else c for c in name)


def line_of(point: Point) -> str:
    def value(v: Any) -> str:
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, int):
            return f"{v}i"
        if isinstance(v, float):
            return repr(v)
        return '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'

    tags = "".join(f",{escaped(k, ',= ')}={escaped(v, ',= ')}" for k, v in point.tags.items())
    fields = ",".join(f"{escaped(k, ',= ')}={value(v)}" for k, v in point.fields.items())
    stamp = "" if point.stamp is None else f" {point.stamp}"
    return f"{escaped(point.measurement, ', ')}{tags} {fields}{stamp}"


POINTS = st.builds(
    Point, _NAMES.filter(lambda n: not n.startswith("#")), st.dictionaries(_NAMES, _NAMES, max_size=3),
    st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=4), st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(POINTS, max_size=5))
def test_any_points_come_back_from_their_lines(given_points: list[Point]) -> None:
    text = "\n".join(line_of(p) for p in given_points)
    assert [p for _, _, p in points(text)] == given_points


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_another_parser_reads_the_same(point: Point) -> None:
    other = pytest.importorskip("line_protocol_parser", reason="line-protocol-parser is not installed")
    line = line_of(point)
    try:
        said = other.parse_line(line)
    except other.LineFormatError:
        return  # it knows less: no line ends in strings, no stamps of every size
    ours = only(line)
    assert said["measurement"] == ours.measurement
    assert said["tags"] == ours.tags
    assert said["fields"] == ours.fields
    assert ours.stamp is None or said["time"] == ours.stamp


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_what_influxdbs_own_client_writes_is_read(point: Point) -> None:
    client = pytest.importorskip("influxdb_client", reason="influxdb-client is not installed")
    built = client.Point(point.measurement)
    for key, value in point.tags.items():
        built.tag(key, value)
    for key, value in point.fields.items():
        built.field(key, value)
    if point.stamp is not None:
        built.time(point.stamp)
    line = built.to_line_protocol()
    ours = only(line)
    assert (ours.measurement, ours.tags, ours.stamp) == (point.measurement, point.tags, point.stamp)
    for key, value in point.fields.items():
        got = ours.fields[key]
        assert got == value or (isinstance(value, float) and abs(got - value) <= 1e-12 * abs(value))  # type: ignore[operator]


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('m,= \\"\n\r#ft1i.-e\ud800x'), max_size=40))
def test_any_text_ends_in_points_or_bad_lines(text: str) -> None:
    at = 0
    for begin, end, _ in points(text):
        assert at <= begin < end <= len(text)
        at = end


def test_long_hostile_text_takes_time_in_proportion() -> None:
    for piece in (
        'm f="',
        "m f=" + "1" * 5000 + "x\n",
        "m" + "\\ " * 2000 + "\n",
        "m,a=b" * 1000 + "\n",
        'a b="\\"\n',
        "\\",
    ):
        text = piece * (400_000 // len(piece))
        begun = time.process_time()
        for _ in points(text):
            pass
        assert time.process_time() - begun < 3, piece[:20]


# -- rows -------------------------------------------------------------------------------------------------------------


def rows(data: bytes, precision: str = "ns", *, readings: bool = True, arrived_us: int | None = None) -> list[Any]:
    return list(LineReader(precision, Limits()).rows(BytesBlob("x", data), points=readings, arrived_us=arrived_us))


def test_pieces_are_cut_at_lines_and_strings_go_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'm,k=ä f={i},s="line {i}\nnext ö" {i}' for i in range(200)]
    data = "\n".join(lines).encode()
    whole = rows(data)
    assert len(whole) == 200
    for size in (7, 64, 1000):
        monkeypatch.setattr(line_protocol_rows, "_PIECE", size)
        assert rows(data) == whole
    at = 0
    for line, row in zip(lines, whole):
        assert row.data == line.encode()
        at += len(line.encode()) + 1


def test_places_of_bad_lines_are_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "ä f=1\nöööö\nm f=2\n".encode() + b"m\xff f=3\nm f=4\n"
    for size in (5, 1 << 20):
        monkeypatch.setattr(line_protocol_rows, "_PIECE", size)
        found = rows(data)
        bad = [r for r in found if not isinstance(r, Decoded)]
        assert [(b.reason, b.locator["byte"]) for b in bad] == [("invalid_row", 7), ("bad_encoding", 22)]
        assert len(found) == 5


def test_measurement_and_tags_are_series_and_stamps_have_their_unit() -> None:
    data = b"w,loc=a t=1,n=3i 1700000000\nw,loc=b t=9 1700000000\nw,loc=a t=2,n=4i 1700000001\nq t=5,ok=t 1700000002"
    out = read(data, "text", payload=PayloadConfig(format="line_protocol", precision="s"))
    series = {(r["device"], r["channel"]): (r["t"], r["value"]) for r in out.of("sensor")}
    assert {r["time_source"] for r in out.of("sensor")} == {"line_protocol"}
    assert set(series) == {("loc=a", "w.t"), ("loc=a", "w.n"), ("loc=b", "w.t"), (None, "q.t"), (None, "q.ok")}
    t, value = series["loc=a", "w.t"]
    assert (list(t), list(value)) == ([1_700_000_000 * 10**9, 1_700_000_001 * 10**9], [1.0, 2.0])


def test_points_without_a_stamp_have_the_brokers_or_are_refused() -> None:
    assert rows(b"m f=1", arrived_us=5_000_000)[0].t == 5_000_000_000
    assert rows(b"m f=1 7", arrived_us=5_000_000)[0].t == 7
    out = read(b"m f=1\nm f=2 7", "line_protocol")
    assert [b.reason for b in out.bad] == ["no_time"]
    assert out.of("sensor")[0]["value"].tolist() == [2.0]
    (bad,) = rows(b"m f=1 1700000000000000000", "s")
    assert bad.reason == "no_time"
    with pytest.raises(RecordError, match="no point"):
        rows(b"# nothing\n")


def test_texts_are_fields_of_points_by_their_path() -> None:
    text = TextNormalizer(TextNormalizer.Config(field="fields.message", time="time", missing="flag"))
    data = (
        b'log,host=a message="it is on",level=3i 1700000000000000000\nlog,host=b level=1i 1700000001000000000\nbroken'
    )
    found = list(text.open(Item(data, 0, headers={"format": "line_protocol"})))
    (record,) = [r for b in found if not isinstance(b, Bad) for r in b.to_pylist()]
    assert record["text"] == "it is on"
    assert record["event_time"].timestamp() == 1_700_000_000
    assert json.loads(record["extra"])["tags"] == {"host": "a"}
    assert [b.reason for b in found if isinstance(b, Bad)] == ["missing_field", "invalid_row"]

"""GPX against the standard library's own XML parser."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from headrace.ingest.normalizers.sensor_testing import read

TRACK = """<?xml version="1.0"?>
<gpx creator="me" version="1.1" xmlns="http://www.topografix.com/GPX/1/1" xmlns:x="urn:x">
<metadata><name>Tour &amp; more</name></metadata>
<wpt lat="1" lon="2"><name>007</name></wpt>
<trk><name>A</name>
<trkseg><trkpt lat="60" lon="25"><ele>1.5</ele><time>2020-01-01T00:00:00Z</time>
<extensions><x:hr>99</x:hr></extensions></trkpt>
<trkpt lat="60.5" lon="25.5"><time>2020-01-01T00:00:10Z</time></trkpt></trkseg>
<trkseg><trkpt lat="61" lon="26"><ele>2</ele></trkpt></trkseg></trk>
<rte><rtept lat="3" lon="4"/><rtept lat="3.5" lon="4.5"/></rte></gpx>"""


def test_segments_routes_and_waypoints_are_tables_of_their_own() -> None:
    out = read(TRACK, "gpx")
    locators = [json.loads(r["locator"]) for r in out.of("sensor") if r["channel"] == "lat"]
    assert locators == [
        {"channel": "lat", "point": 0, "segment": 0, "trk": 0}, {"channel": "lat", "point": 0, "segment": 1, "trk": 0},
        {"channel": "lat", "point": 0, "rte": 0}, {"channel": "lat", "waypoint": 0},
    ]  # fmt: skip
    first = out.of("sensor")[0]
    assert first["t"].tolist() == [np.datetime64(f"2020-01-01T00:00:{s:02d}", "ns").astype(np.int64) for s in (0, 10)]
    assert first["time_source"] == "field:time" and first["geometry"] is not None and first["unit"] == "deg"
    assert {r["channel"] for r in out.of("sensor")} == {"lat", "lon", "ele", "hr"}
    untimed = [r for r in out.of("sensor") if r["flags"] == ["no_time"]]
    assert len(untimed) == 3 + 2 + 2


def test_names_become_text_and_are_not_taken_for_numbers() -> None:
    out = read(TRACK, "gpx")
    assert '"name":"007"' in out.text
    about = json.loads(out.text.splitlines()[-1])
    assert (
        about["creator"] == "me" and about["metadata"] == {"name": "Tour & more"} and about["tracks"][0]["name"] == "A"
    )


def test_a_point_without_a_time_is_kept_beside_those_that_have_one() -> None:
    points = [
        '<trkpt lat="1" lon="2"><time>2020-01-01T00:00:00Z</time></trkpt>',
        '<trkpt lat="3" lon="4"/>',
        '<trkpt lat="5" lon="6"><time>2020-01-01T00:00:09Z</time></trkpt>',
    ]
    out = read(f"<gpx><trk><trkseg>{''.join(points)}</trkseg></trk></gpx>", "gpx")
    assert out.bad == []
    assert sorted(out.channel("lat")[1].tolist()) == [1, 3, 5]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('<!DOCTYPE g [<!ENTITY a "aaaa">]><gpx>&a;</gpx>', "bomb"),
        ('<!DOCTYPE gpx SYSTEM "file:///etc/passwd"><gpx/>', "empty"),
        ('<!DOCTYPE g [<!ENTITY a SYSTEM "file:///etc/passwd">]><gpx>&a;</gpx>', "external_reference"),
        ("<html></html>", "corrupt"),
        ("", "truncated"),
        ("<gpx><trk></gpx>", "corrupt"),
        ('<?xml version="1.0" encoding="nonsense"?><gpx/>', "bad_encoding"),
        ("<gpx></gpx>", "empty"),
    ],
)
def test_hostile_and_broken_documents_end_with_a_reason(data: str, reason: str) -> None:
    out = read(data, "gpx")
    assert out.error is not None and out.error.reason == reason, out.error
    assert out.of("sensor") == []


def test_a_cut_track_gives_its_points_and_says_so() -> None:
    out = read(TRACK[: TRACK.index("61")], "gpx")
    assert out.error is not None and out.error.reason == "truncated"
    assert out.channel("ele")[1].tolist()[0] == 1.5
    assert all("truncated" in r["flags"] for r in out.of("sensor") if "waypoint" in r["locator"])


@pytest.mark.data
def test_every_point_of_the_corpus_arrives(corpus: Path) -> None:
    paths = sorted((corpus / "sensor/gpx").glob("*.gpx"))
    assert len(paths) > 10
    for path in paths:
        out = read(path)
        assert out.error is None and out.bad == [] and out.records, path.name
        points = [p for p in ET.parse(path).iter() if p.tag.rsplit("}", 1)[-1] in ("trkpt", "rtept", "wpt")]
        if not points:
            continue
        found = out.channel("lat")
        assert sorted(found[1].tolist()) == sorted(float(p.get("lat", "")) for p in points), path.name
        times = [c.text for p in points for c in p if c.tag.endswith("}time") or c.tag == "time"]
        wanted = sorted(math.floor(datetime.fromisoformat(t.strip()).timestamp()) for t in times if t and t.strip())
        timed = [r for r in out.of("sensor") if r["channel"] == "lat" and r["time_source"] == "field:time"]
        assert sorted(int(t) // 10**9 for r in timed for t in r["t"]) == wanted, path.name

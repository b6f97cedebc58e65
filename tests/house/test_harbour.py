"""The harbour of the demo: one day whose parts agree with each other, and whose pipeline is valid."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace.ingest.pipeline_file import load_pipeline

SEED = 7


@pytest.fixture(scope="module")
def day(repository: Path) -> SimpleNamespace:
    """The generator's modules; skips where its libraries are missing."""
    for library in ("PIL", "av", "rasterio", "zstandard"):
        pytest.importorskip(library)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "examples" / "harbour"))
        from day import bulletins, damaged, geo, light, place, sensors, ships

        return SimpleNamespace(
            bulletins=bulletins, damaged=damaged, geo=geo, light=light, place=place, sensors=sensors, ships=ships
        )


def test_the_pipeline_of_the_harbour_is_valid(repository: Path) -> None:
    pipeline = load_pipeline(repository / "examples" / "harbour" / "pipeline.yaml")
    assert {"bulletins", "satellite", "quay", "photos", "sounds", "tide", "gauge"} <= set(pipeline.streams)
    assert pipeline.streams["gauge"].source.type == "./tide.py:TideGauge"


def test_the_map_projects_as_proj_does(day: SimpleNamespace) -> None:
    from rasterio.warp import transform

    for x, y in ((0.0, 0.0), (-3840.0, 3840.0), (3840.0, -3840.0)):
        east, north = day.place.EAST0 + x, day.place.NORTH0 + y
        (longitude,), (latitude,) = transform(f"EPSG:{day.place.EPSG}", "EPSG:4326", [east], [north])
        assert day.geo.lon_lat(x, y) == pytest.approx((longitude, latitude), abs=1e-7)


def test_the_sun_rises_and_sets_when_the_almanac_says(day: SimpleNamespace) -> None:
    """Helsinki, 14 June 2025: 03:54 and 22:46 local time, the sun's centre 0.83 degrees below the horizon."""
    up = [minute for minute in range(1440) if day.light.sun(minute * 60.0)[1] > -0.83]
    assert abs(up[0] - (3 * 60 + 54 - 180)) <= 2
    assert abs(up[-1] - (22 * 60 + 46 - 180)) <= 2


def test_ships_move_as_ships_can(day: SimpleNamespace) -> None:
    for ship in day.ships.fleet():
        last = None
        for t in range(0, 86_400, 20):
            state = ship.at(float(t))
            if state is not None and last is not None:
                step = ((state.x - last.x) ** 2 + (state.y - last.y) ** 2) ** 0.5
                assert step <= 20 * 13, f"{ship.name} makes {step / 20:.1f} m/s at {t} s"
            last = state


def test_a_seed_gives_the_same_words_and_numbers_again(day: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("a", "b"):
        day.bulletins.write_all(tmp_path / name / "bulletins", SEED, each=10)
        day.sensors.write_all(tmp_path / name, SEED, day.ships.fleet())
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 25
    assert [f for f in files if (tmp_path / "a" / f).read_bytes() != (tmp_path / "b" / f).read_bytes()] == []


def test_every_topic_of_every_language_fills_its_blanks(day: SimpleNamespace) -> None:
    for language in day.bulletins.LANGUAGES:
        for number in range(40):
            row = day.bulletins.bulletin(SEED, language, number)
            assert "{" not in row["title"] + row["body"]
            assert len(row["body"]) > 30
            assert row["issued"].startswith("2025-06-14T")


def test_a_bulletin_tells_what_the_gauge_measured(day: SimpleNamespace) -> None:
    """The same clock and the same water in text and in numbers: the level in a sentence is that of its minute."""
    checked = 0
    for number in range(1, 200, 5):  # the topic "water"
        row = day.bulletins.bulletin(SEED, "en", number)
        hour, minute = int(row["issued"][11:13]), int(row["issued"][14:16])
        level = f"{100 * day.light.sea_level(hour * 3600 + minute * 60):.0f}"
        assert level in row["body"]
        checked += 1
    assert checked == 40


def test_the_instruments_have_the_faults_they_are_said_to_have(day: SimpleNamespace, tmp_path: Path) -> None:
    day.sensors.write_all(tmp_path, SEED, day.ships.fleet())
    with open(tmp_path / "sensors" / "tide.csv", newline="") as f:
        tide = list(csv.DictReader(f))
    stamps = [row["t"] for row in tide]
    assert not any("2025-06-14T04:40" <= t < "2025-06-14T05:27" for t in stamps), "the modem was off"
    assert len(stamps) > len(set(stamps)), "some readings were sent twice"
    assert any(row["level_m"] == "NaN" for row in tide) and any(row["air_degC"] == "" for row in tide)
    weather = [json.loads(line)["time"] for line in (tmp_path / "sensors" / "weather.jsonl").open()]
    assert sum(b < a for a, b in itertools.pairwise(weather)) == 1, "its clock ran backward once"


def test_what_is_damaged_is_damaged(day: SimpleNamespace, tmp_path: Path) -> None:
    for name, files in {"photos": ["a.jpg", "a.png"], "sounds": ["a.wav"], "cameras": ["a.mp4"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"\x00IDAT" + bytes(9000))
    (tmp_path / "littoral").mkdir()
    (tmp_path / "littoral" / "harbour_0603.tif").write_bytes(bytes(90_000))
    day.damaged.write_all(tmp_path / "damaged", tmp_path, SEED)
    with pytest.raises(EOFError):
        gzip.decompress((tmp_path / "damaged" / "cut.jsonl.gz").read_bytes())
    assert (tmp_path / "damaged" / "empty.jpg").read_bytes() == b""
    assert "/etc/hostname" in (tmp_path / "damaged" / "points_elsewhere.vrt").read_text()
    assert (tmp_path / "damaged" / "bits_flipped.png").read_bytes() != (tmp_path / "photos" / "a.png").read_bytes()
    assert len((tmp_path / "damaged" / "bomb.png").read_bytes()) < 2000

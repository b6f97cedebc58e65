"""What instruments write: tables and logs with the faults that real ones have, all on the day's clock.

Faults on purpose: a gap of 47 minutes in the tide gauge, NaN and empty cells, readings sent twice, a weather logger
whose clock is set back by seven minutes at 14:03, and a buoy whose radio lost a third of the shower.
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from day.clock import MIDNIGHT, iso
from day.geo import lon_lat
from day.light import pressure, sea_level, temperature, wind
from day.noise import rng
from day.ships import Ship, clock

DAY = 86_400


def tide(folder: Path, seed: int, *, every: int = 60) -> None:
    """tide.csv: level in m, air in °C, pressure in hPa, wind in m/s and degrees, one row a minute, UTC."""
    random = rng(seed, "tide")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "tide.csv", "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerow(["t", "level_m", "air_degC", "pressure_hPa", "wind_m_s", "wind_from_deg"])
        for t in range(0, DAY, every):
            if clock("04:40") <= t < clock("05:27"):  # the modem was off
                continue
            speed, origin = wind(t)
            level = f"{sea_level(t) + random.normal(0, 0.008):.3f}"
            if random.random() < 0.006:
                level = "NaN"
            hpa = pressure(t) + random.normal(0, 0.05)
            row = [
                iso(t),
                level,
                f"{temperature(t) + random.normal(0, 0.08):.2f}",
                f"{hpa:.1f}",
                f"{max(0.0, speed + random.normal(0, 0.35)):.1f}",
                f"{(origin + random.normal(0, 5)) % 360:.0f}",
            ]
            if random.random() < 0.004:
                row[2] = ""  # the thermometer did not answer
            out.writerow(row)
            if random.random() < 0.008:
                out.writerow(row)  # sent twice


def gauge(folder: Path, seed: int) -> None:
    """gauge/<hour>.tide: the same water as the instrument stores it.

    A reading: [u32 seconds since 1970][f32 level in m][f32 wind in m/s], little-endian.
    """
    random = rng(seed, "gauge")
    folder.mkdir(parents=True, exist_ok=True)
    start = int(MIDNIGHT.timestamp())
    for first in range(0, DAY, 6 * 3600):
        data = bytearray()
        for t in range(first, first + 6 * 3600, 30):
            data += struct.pack(
                "<Iff", start + t, sea_level(t) + random.normal(0, 0.006), max(0.0, wind(t)[0] + random.normal(0, 0.3))
            )
        (folder / f"{first // 3600:02d}.tide").write_bytes(bytes(data))


def weather(folder: Path, seed: int, *, every: int = 60) -> None:
    """weather.jsonl: a mast on the north quay, local time with its offset, and a clock that once ran backward."""
    random = rng(seed, "weather")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "weather.jsonl", "w", encoding="utf-8") as f:
        for t in range(0, DAY, every):
            told = t - 420 if clock("14:03") <= t < clock("15:10") else t  # set back, then corrected
            row: dict[str, object] = {
                "time": iso(told, local=True),
                "station": "north-quay",
                "temperature_degC": round(temperature(t) + 0.4 + random.normal(0, 0.1), 2),
                "pressure_hPa": round(pressure(t) - 0.3 + random.normal(0, 0.04), 2),
                "humidity_percent": round(
                    float(np.clip(88 - 2.1 * (temperature(t) - 12) + random.normal(0, 1), 20, 100)), 1
                ),
                "rain_mm": round(
                    max(0.0, 0.35 * float(np.exp(-(((t / 3600 - 13.55) / 0.4) ** 2))) + random.normal(0, 0.01)), 2
                ),
            }
            if random.random() < 0.01:
                row["humidity_percent"] = None
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def buoy(folder: Path, seed: int, *, every: int = 10) -> None:
    """buoy.parquet: waves and water every ten seconds; null where the radio failed, NaN where the sensor did."""
    random = rng(seed, "buoy")
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(0, DAY, every, dtype=np.int64)
    t = t[~((t > clock("13:10")) & (t < clock("13:55")) & (random.random(len(t)) < 0.33))]
    speed = np.array([wind(float(s))[0] for s in t])
    height = 0.05 + 0.022 * speed**1.4 * (1 + 0.12 * random.standard_normal(len(t)))
    water = 14.2 + 0.9 * np.sin(2 * np.pi * (t / 3600 - 9) / 24) + 0.03 * random.standard_normal(len(t))
    period = 2.1 + 0.33 * np.sqrt(speed) + 0.05 * random.standard_normal(len(t))
    water[random.random(len(t)) < 0.003] = np.nan
    lost = random.random(len(t)) < 0.01
    stamps = [int(MIDNIGHT.timestamp()) * 1_000_000 + int(s) * 1_000_000 for s in t]
    table = pa.table(
        {
            "time": pa.array(stamps, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "wave_height_m": pa.array([None if gone else float(v) for v, gone in zip(height, lost)], pa.float32()),
            "wave_period_s": pa.array([None if gone else float(v) for v, gone in zip(period, lost)], pa.float32()),
            "water_degC": pa.array([float(v) for v in water], pa.float64()),
        },
        metadata={"units": json.dumps({"wave_height_m": "m", "wave_period_s": "s", "water_degC": "Cel"})},
    )
    pq.write_table(table, folder / "buoy.parquet", compression="zstd", row_group_size=2000)


def _positions(ship: Ship) -> Iterator[tuple[float, float, float, float, float]]:
    """(second, longitude, latitude, knots, heading) as AIS sends: every 10 s under way, every 3 minutes moored."""
    t = 0.0
    while t < DAY:
        state = ship.at(t)
        if state is not None:
            yield t, *lon_lat(state.x, state.y), state.speed * 1.943844, state.heading
        t += 10.0 if state is not None and state.speed > 0.2 else 60.0 if state is None else 180.0


def ais(folder: Path, ships: list[Ship]) -> None:
    """ais.csv: what the receiver on the lighthouse heard from each ship, in the order of time."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(
        (t, ship.mmsi, ship.name, lon, lat, knots, heading)
        for ship in ships
        for t, lon, lat, knots, heading in _positions(ship)
    )
    with open(folder / "ais.csv", "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerow(["t", "mmsi", "name", "lon", "lat", "sog_kn", "heading_deg"])
        for t, mmsi, name, lon, lat, knots, heading in rows:
            out.writerow([iso(t), mmsi, name, f"{lon:.6f}", f"{lat:.6f}", f"{knots:.1f}", f"{heading:.0f}"])


def gpx(folder: Path, ships: list[Ship]) -> None:
    """pilot.gpx: the tracks of the pilot's boat, one per run."""
    folder.mkdir(parents=True, exist_ok=True)
    pilot = next(s for s in ships if s.kind == "pilot")
    runs: list[list[str]] = [[]]
    for t, lon, lat, knots, _ in _positions(pilot):
        if knots > 0.4:
            runs[-1].append(
                f'      <trkpt lat="{lat:.6f}" lon="{lon:.6f}">'
                f"<ele>{sea_level(t):.2f}</ele><time>{iso(t)}</time></trkpt>"
            )
        elif runs[-1]:
            runs.append([])
    tracks = "\n".join(
        f"  <trk>\n    <name>run {i}</name>\n    <trkseg>\n" + "\n".join(points) + "\n    </trkseg>\n  </trk>"
        for i, points in enumerate(runs, 1)
        if points
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<gpx version="1.1" creator="Vindsund Optik VO-N" xmlns="http://www.topografix.com/GPX/1/1">\n'
    text = f"{head}  <metadata><name>{pilot.name}</name><time>{iso(0)}</time></metadata>\n{tracks}\n</gpx>\n"
    (folder / "pilot.gpx").write_text(text, encoding="utf-8")


def write_all(folder: Path, seed: int, ships: list[Ship], *, scale: int = 1) -> None:
    """All instruments; `scale` takes readings that much more often."""
    tide(folder / "sensors", seed, every=max(1, 60 // scale))
    weather(folder / "sensors", seed, every=max(1, 60 // scale))
    buoy(folder / "sensors", seed, every=max(1, 10 // scale))
    ais(folder / "sensors", ships)
    gpx(folder / "sensors", ships)
    gauge(folder / "gauge", seed)

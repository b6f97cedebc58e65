"""EXIF: orientation and time are used, places and owners stay out unless they are asked for."""

from __future__ import annotations

import io
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.image import ImageConfig, ImageNormalizer

ORIGINAL, ORIGINAL_ZONE, ORIGINAL_FRACTION, DIGITISED, CHANGED = 0x9003, 0x9011, 0x9291, 0x9004, 0x0132


def photo(tags: dict[int, Any], inner: dict[int, Any] | None = None, gps: dict[int, Any] | None = None) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    exif.get_ifd(0x8769).update(inner or {})
    if gps:
        exif.get_ifd(0x8825).update(gps)
    out = io.BytesIO()
    Image.new("RGB", (16, 8), (9, 8, 7)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def row_of(data: bytes, **settings: Any) -> dict[str, Any]:
    item = Item(BytesBlob("p.jpg", data), 1, headers={"format": "jpeg"})
    (batch,) = ImageNormalizer(ImageConfig(**settings)).open(item)
    row: dict[str, Any] = batch.drop_columns(["pixels"]).to_pylist()[0]  # type: ignore[union-attr]
    return row


@pytest.mark.parametrize(
    ("tags", "inner", "iso", "source", "flags"),
    [
        (
            {},
            {ORIGINAL: "2024:03:01 12:00:00", ORIGINAL_ZONE: "+02:00"},
            "2024-03-01T10:00:00",
            "exif:DateTimeOriginal",
            None,
        ),
        (
            {},
            {ORIGINAL: "2024:03:01 12:00:00", ORIGINAL_ZONE: "-03:30"},
            "2024-03-01T15:30:00",
            "exif:DateTimeOriginal",
            None,
        ),
        (
            {},
            {ORIGINAL: "2024:03:01 12:00:00", ORIGINAL_ZONE: "Z", ORIGINAL_FRACTION: "25"},
            "2024-03-01T12:00:00.250000",
            "exif:DateTimeOriginal",
            None,
        ),
        (
            {CHANGED: "2025:01:01 00:00:00"},
            {ORIGINAL: "2024:03:01 12:00:00"},
            "2024-03-01T12:00:00",
            "exif:DateTimeOriginal",
            ["naive_utc"],
        ),
        (
            {CHANGED: "2025:01:01 00:00:00"},
            {DIGITISED: "2024:03:01 12:00:00"},
            "2024-03-01T12:00:00",
            "exif:DateTimeDigitized",
            ["naive_utc"],
        ),
        (
            {CHANGED: "2025:01:01 00:00:00"},
            {ORIGINAL: "0000:00:00 00:00:00"},
            "2025-01-01T00:00:00",
            "exif:DateTime",
            ["naive_utc"],
        ),
        ({}, {ORIGINAL: "    :  :     :  :  "}, None, None, None),
        ({}, {ORIGINAL: "yesterday"}, None, None, None),
    ],
)
def test_the_time_of_a_photograph_is_the_best_that_exif_has(
    tags: dict[int, Any], inner: dict[int, Any], iso: str | None, source: str | None, flags: list[str] | None
) -> None:
    row = row_of(photo(tags, inner))
    want = datetime.fromisoformat(iso).replace(tzinfo=UTC) if iso else None
    assert (row["event_time"], row["time_source"], row["flags"]) == (want, source, flags)


GPS = {1: "S", 2: (33.0, 51.0, 36.0), 3: "E", 4: (151.0, 12.0, 36.0)}


def test_places_and_owners_stay_out_unless_they_are_asked_for() -> None:
    data = photo({0x013B: "Ann Owner", 0x010F: "Camera"}, {0xA431: "SN-1", 0x829A: 0.5}, GPS)
    row = row_of(data)
    assert row["geometry"] is None and row["extra"] is None
    kept = row_of(data, exif="all", gps="keep")
    assert struct.unpack("<BIdd", kept["geometry"]) == (1, 1, pytest.approx(151.21), pytest.approx(-33.86))
    tags = json.loads(kept["extra"])["exif"]
    assert tags["Artist"] == "Ann Owner" and tags["BodySerialNumber"] == "SN-1" and tags["ExposureTime"] == 0.5
    assert not any(name.startswith("GPS") for name in tags)


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N"},
        {1: "X", 2: (1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)},
        {**GPS, 2: (95.0, 0.0, 0.0)},
        {**GPS, 2: (5.0,)},
    ],
)
def test_half_a_place_is_none(gps: dict[int, Any]) -> None:
    assert row_of(photo({}, None, gps), gps="keep")["geometry"] is None


def test_bad_exif_is_a_finding_and_costs_nothing() -> None:
    assert row_of(photo({0x0112: 11}))["flags"] == ["bad_orientation"]
    data = photo({0x010F: "Camera"}, {ORIGINAL: "2024:03:01 12:00:00"})
    at = data.index(b"Exif\0\0") + 6
    broken = data[:at] + b"XX*\0" + data[at + 4 :]
    row = row_of(broken)
    assert row["shape"] == [8, 16, 3] and row["event_time"] is None and row["flags"] == ["bad_exif"]


@pytest.mark.data
def test_the_cameras_of_the_corpus_tell_their_time(corpus: Path) -> None:
    row = row_of((corpus / "image/exif/gps/DSCN0010.jpg").read_bytes(), gps="keep")
    assert (row["event_time"], row["time_source"]) == (
        datetime(2008, 10, 22, 16, 28, 39, tzinfo=UTC),
        "exif:DateTimeOriginal",
    )
    _, _, longitude, latitude = struct.unpack("<BIdd", row["geometry"])
    assert (longitude, latitude) == (pytest.approx(11.885, abs=0.001), pytest.approx(43.467, abs=0.001))

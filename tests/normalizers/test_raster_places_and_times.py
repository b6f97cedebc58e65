"""Footprints against brute force, and the clocks that rasters carry."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ingest.normalizers.raster_footprint import Floats, footprints, outline, polygon_of
from headrace.ingest.normalizers.raster_times import cf_moment, epoch_moment, iso_micros, iso_text, tiff_moment


def inside(rings: list[Floats], x: float, y: float) -> bool:
    """Whether a point lies in one of some polygons (even-odd rule)."""
    for ring in rings:
        crossings = 0
        for (x0, y0), (x1, y1) in pairwise(ring):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                crossings += 1
        if crossings % 2:
            return True
    return False


def area(rings: list[Floats]) -> float:
    return sum(float(np.sum(r[:-1, 0] * r[1:, 1] - r[1:, 0] * r[:-1, 1])) / 2 for r in rings)


@given(
    west=st.floats(-540, 540), south=st.floats(-90, 80), width=st.floats(0.01, 355), height=st.floats(0.01, 10),
    wrap=st.booleans(),
)  # fmt: skip
def test_a_box_of_longitudes_is_a_box_wherever_it_lies(
    west: float, south: float, width: float, height: float, wrap: bool
) -> None:
    def to_lonlat(columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        lon = west + columns * width / 100
        return ((lon + 180) % 360 - 180 if wrap else lon), south + height - rows * height / 100

    (wkb,) = footprints(to_lonlat, [(0, 0, 100, 100)])
    assert wkb is not None
    rings = polygon_of(wkb)
    assert len(rings) <= 2
    for ring in rings:
        assert (ring[0] == ring[-1]).all()
        assert np.abs(ring[:, 0]).max() <= 180
        assert area([ring]) > 0, "outer rings go counter-clockwise"
    assert area(rings) == pytest.approx(width * height, rel=1e-6)
    middle = (west + width / 2 + 180) % 360 - 180
    if abs(abs(middle) - 180) > 1e-6:
        assert inside(rings, middle, south + height / 2)
    assert not inside(rings, (west - 1 + 180) % 360 - 180, south + height / 2)


@pytest.mark.parametrize("pole", [1, -1])
def test_an_outline_around_a_pole_holds_the_pole_and_nothing_far_away(pole: int) -> None:
    angle = np.linspace(0, 2 * math.pi, 33)[:-1]
    lon = np.degrees(angle) + 37
    for points in (lon, (lon + 180) % 360 - 180, lon[::-1]):
        wkb = outline(points, np.full(32, pole * 70.0))
        assert wkb is not None
        rings = polygon_of(wkb)
        assert all(inside(rings, x, pole * 80) for x in (-179.9, -90, 0, 45, 179.9))
        assert not any(inside(rings, x, pole * 60) for x in (-170, 0, 170))
        assert area(rings) == pytest.approx(360 * 20, rel=1e-3)


def test_an_outline_over_the_antimeridian_is_cut_there() -> None:
    wkb = outline(np.array([179.0, 179.0, -179.0, -179.0]), np.array([0.0, -1.0, -1.0, 0.0]))
    assert wkb is not None
    east, west = polygon_of(wkb)
    assert (east[:, 0].min(), east[:, 0].max()) == (179, 180)
    assert (west[:, 0].min(), west[:, 0].max()) == (-180, -179)


def test_what_is_not_on_the_earth_has_no_outline() -> None:
    assert outline(np.array([0.0, np.inf, 1.0]), np.array([0.0, 0.0, 1.0])) is None
    assert outline(np.array([0.0, 1.0, 1.0]), np.array([0.0, 91.0, 1.0])) is None
    assert footprints(None, [(0, 0, 1, 1)]) == [None]


def test_a_projected_tile_lies_where_its_pixels_lie() -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import Affine
    from rasterio.warp import transform

    from headrace.ingest.normalizers.raster_georeference import georeference_of

    profile = {"driver": "GTiff", "width": 512, "height": 512, "count": 1, "dtype": "uint8", "crs": "EPSG:3413"}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile, transform=Affine(20_000, 0, -5_120_000, 0, -20_000, 5_120_000)):
            pass
        with memory.open() as dataset:
            place = georeference_of(dataset)
    # A polar stereographic grid: the tile at the middle corner encloses nothing, the whole grid encloses the pole.
    for window in ((0, 0, 512, 512), (0, 0, 256, 256), (300, 40, 100, 100)):
        (wkb,) = footprints(place.to_lonlat, [window])
        assert wkb is not None
        rings = polygon_of(wkb)
        rng = np.random.default_rng(1)
        column = window[0] + rng.uniform(0.02, 0.98, 200) * window[2]
        row = window[1] + rng.uniform(0.02, 0.98, 200) * window[3]
        lon, lat = transform("EPSG:3413", "EPSG:4326", -5_120_000 + column * 20_000, 5_120_000 - row * 20_000)
        hits = sum(inside(rings, x, y) for x, y in zip(lon, lat))
        assert hits >= 196, window  # edges are drawn with chords


@pytest.mark.data
def test_a_real_raster_lies_where_rasterio_says(corpus: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.warp import transform_bounds

    from headrace.ingest.normalizers.raster_georeference import georeference_of

    with rasterio.open(corpus / "raster" / "rasterio" / "RGB.byte.tif") as dataset:
        (wkb,) = footprints(georeference_of(dataset).to_lonlat, [(0, 0, dataset.width, dataset.height)])
        bounds = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert wkb is not None
    (ring,) = polygon_of(wkb)
    np.testing.assert_allclose([*ring.min(axis=0), *ring.max(axis=0)], bounds, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-02-29T12:00:00Z", "2020-02-29T12:00:00Z"),
        ("2020-02-29T12:00:00.123456+02:00", "2020-02-29T10:00:00.123456Z"),
        ("2020-02-29 12:00:00", "2020-02-29T12:00:00Z"),
        ("1850-1-1", "1850-01-01T00:00:00Z"),
        ("1900-01-01 00:00:0.0", "1900-01-01T00:00:00Z"),
        ("1992-10-8 15:15:42.5 -6:00", "1992-10-08T21:15:42.500000Z"),
        ("2020-02-30", None),
        ("yesterday", None),
        (None, None),
        (7, None),
    ],
)
def test_iso_and_nearly_iso_times(text: object, expected: str | None) -> None:
    micros = iso_micros(text)
    assert (None if micros is None else iso_text(micros)) == expected


@pytest.mark.parametrize(
    ("value", "units", "calendar", "expected"),
    [
        ("0", "days since 1970-01-01", None, "1970-01-01T00:00:00Z"),
        ("872712.659688", "seconds since 2016-12-19T10:27:29.687763", "standard", "2016-12-29T12:52:42.347451Z"),
        ("1.5", "hours since 2000-01-01 00:00:00", "standard", "2000-01-01T01:30:00Z"),
        ("-1", "minute since 2000-01-01", "gregorian", "1999-12-31T23:59:00Z"),
        ("3", "months since 2000-01-01", None, None),
        ("3", "days since 2000-01-01", "360_day", None),
        ("3", "days since 2000-01-01", "noleap", None),
        ("1e300", "days since 2000-01-01", None, None),
        ("nan", "days since 2000-01-01", None, None),
        ("-1", "days since 1500-01-01", None, None),
    ],
)
def test_cf_times_are_instants_only_where_they_name_one(
    value: str, units: str, calendar: str | None, expected: str | None
) -> None:
    moment = cf_moment(value, units, calendar, "netcdf:time")
    assert moment is not None
    assert (None if moment.micros is None else iso_text(moment.micros)) == expected
    assert value in moment.text


def test_tiff_and_grib_times() -> None:
    moment = tiff_moment("2024:03:05 06:07:08")
    assert moment is not None
    assert moment.micros is not None
    assert iso_text(moment.micros) == "2024-03-05T06:07:08Z"
    assert tiff_moment("0000:00:00 00:00:00") is None
    assert tiff_moment("  ") is None
    grib = epoch_moment("1077021540 sec UTC", "grib:valid_time")
    assert grib is not None
    assert grib.micros == 1_077_021_540_000_000
    assert epoch_moment("", "x") is None

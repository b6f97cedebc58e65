"""Items of several grids, times, parts and files, wherever their bytes come from, and what damage costs."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import Blob, BytesBlob, Item, PathBlob
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer
from headrace.schemas.errors import RecordError
from headrace.schemas.record import payload_views

rasterio = pytest.importorskip("rasterio")
UTM = "EPSG:32633"


@pytest.fixture(autouse=True)
def _no_georeference_is_no_news() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def normalized(data: Blob | bytes | list[Blob], headers: dict[str, str] | None = None, **config: Any) -> list[Any]:
    """Rows as dicts with `pixels` and `valid` as arrays, and Bads, in order."""
    out: list[Any] = []
    for found in RasterNormalizer(RasterConfig(**config)).open(Item(data, 0, headers=headers or {})):
        if isinstance(found, Bad):
            out.append(found)
            continue
        views = list(payload_views(found))
        assert sum(view.nbytes for view in views) <= 8 << 20 or len(views) == 1
        for row, pixels in zip(found.drop_columns(["pixels"]).to_pylist(), views):
            shape = pixels.shape[1:]
            row["pixels"] = pixels
            row["valid"] = np.frombuffer(row["valid"], np.uint8).reshape(shape)
            row["cloud"] = None if row["cloud"] is None else np.frombuffer(row["cloud"], np.uint8).reshape(shape)
            row["place"] = json.loads(row["locator"])
            row["extra"] = json.loads(row["extra"] or "{}")
            out.append(row)
    return out


def write(path: Path, array: Any, **profile: Any) -> Path:
    """A GeoTIFF of (bands, height, width) in UTM 33N at 10 m."""
    count, height, width = array.shape
    place = Affine(10, 0, 400_000, 0, -10, 5_000_000)
    profile = {"driver": "GTiff", "crs": UTM, "transform": place, "dtype": array.dtype, **profile}
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as out:
        out.write(array)
    return path


def test_pages_of_a_tiff_are_grids_of_their_own(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pages = [np.full((20 + 300 * k, 30), k, dtype=np.uint16) for k in range(3)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(pages[0], photometric="minisblack", subifds=1)
        out.write(np.full((10, 10), 9, dtype=np.uint16), photometric="minisblack", subfiletype=0)
        out.write(pages[1], photometric="minisblack")
        out.write(pages[2], photometric="minisblack")
    rows = normalized(PathBlob("a.tif", tmp_path / "a.tif"))
    assert [(row["place"]["ifd"], row["pixels"].shape, int(row["pixels"][0, 0, 0])) for row in rows] == [
        (0, (1, 20, 30), 0), (1, (1, 10, 10), 9), (2, (1, 256, 30), 1), (2, (1, 64, 30), 1),
        (3, (1, 256, 30), 2), (3, (1, 256, 30), 2), (3, (1, 108, 30), 2),
    ]  # fmt: skip


def test_places_without_a_transform_come_from_control_points(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint

    corners = [(0, 0, 10.0, 50.0), (0, 100, 10.1, 50.0), (100, 0, 10.0, 49.9), (100, 100, 10.1, 49.9)]
    path = write(tmp_path / "a.tif", np.zeros((1, 100, 100), dtype=np.uint8), transform=Affine.identity(), crs=None)
    with rasterio.open(path, "r+") as out:
        points = [GroundControlPoint(row, col, x, y) for row, col, x, y in corners]
        out.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    (row,) = normalized(PathBlob("a.tif", path))
    assert row["transform"] is None
    assert row["extra"]["gcps"][3] == [100.0, 100.0, 10.1, 49.9, 0.0]
    x = np.frombuffer(row["geometry"], "<f8", 66, 13).reshape(-1, 2)
    np.testing.assert_allclose([x.min(axis=0), x.max(axis=0)], [[10.0, 49.9], [10.1, 50.0]], atol=1e-9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 90), height=st.integers(1, 200), parts=st.integers(1, 9), pages=st.integers(1, 3))
def test_the_parts_of_an_item_are_the_item(tmp_path: Path, width: int, height: int, parts: int, pages: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(width * 1000 + height)
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for k in range(pages):
            out.write(rng.integers(0, 99, (height + 7 * k, width), dtype=np.uint8), photometric="minisblack")
    blob = PathBlob("a.tif", tmp_path / "a.tif")
    whole = normalized(blob, tile=16)
    joined = [row for i in range(parts) for row in normalized(blob, {"part": f"{i + 1}/{parts}"}, tile=16)]
    assert [row["locator"] for row in joined] == [row["locator"] for row in whole]
    for one, other in zip(joined, whole):
        np.testing.assert_array_equal(one["pixels"], other["pixels"])
        assert {k: v for k, v in one.items() if k not in ("pixels", "valid")} == {
            k: v for k, v in other.items() if k not in ("pixels", "valid")
        }


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["rasterio/cogeo.tif", "rioxarray/input/PLANET_SCOPE_3D.nc", "bad/rasterio/corrupt.tif"]
)
def test_parts_of_real_files_are_the_file(corpus: Path, name: str) -> None:
    blob = PathBlob(name, corpus / "raster" / name)
    whole = [getattr(row, "locator", None) or row["locator"] for row in normalized(blob)]
    for parts in (2, 3, 50):
        found = [row for i in range(parts) for row in normalized(blob, {"part": f"{i + 1}/{parts}"})]
        assert [getattr(row, "locator", None) or row["locator"] for row in found] == whole


@pytest.mark.parametrize("part", ["4/3", "0/3", "x", "0/0", "-1/2", "1"])
def test_a_part_that_is_none_is_refused(tmp_path: Path, part: str) -> None:
    path = write(tmp_path / "a.tif", np.zeros((1, 4, 4), dtype=np.uint8))
    with pytest.raises(RecordError, match="i/n"):
        normalized(PathBlob("a.tif", path), {"part": part})


class _Remote(Blob):
    """A blob without a local path that counts what is read of it."""

    def __init__(self, id: str, data: bytes, size: int | None = None) -> None:
        self.id, self._data, self.bytes_read = id, data, 0

    def open(self) -> Any:
        import io

        outer = self

        class Counting(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                got = super().read(size)
                outer.bytes_read += len(got)
                return got

        return Counting(self._data)

    @property
    def size(self) -> int:
        return len(self._data)


@pytest.mark.parametrize("kind", ["bytes", "memory", "ranges", "copy"])
def test_a_raster_is_the_same_from_a_path_from_memory_and_from_a_stream(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.ingest.normalizers import raster_open

    array = np.random.default_rng(1).integers(0, 9999, (3, 600, 520), dtype=np.uint16)
    path = write(tmp_path / "a.tif", array, tiled=True, blockxsize=128, blockysize=128)
    if kind == "copy":
        pytest.importorskip("netCDF4")
        path = _series(tmp_path / "a.nc")
    local = normalized(PathBlob("a", path))
    if kind in ("ranges", "copy"):
        monkeypatch.setattr(raster_open, "_IN_MEMORY", 0)
    data = path.read_bytes()
    remote = _Remote("a", data)
    found = normalized(data if kind == "bytes" else BytesBlob("a", data) if kind == "memory" else remote)
    assert [row["locator"] for row in found] == [row["locator"] for row in local]
    for one, other in zip(found, local):
        np.testing.assert_array_equal(one["pixels"], other["pixels"])
    if kind == "ranges":
        part = _Remote("a", data)
        normalized(part, {"part": "1/3"})
        assert part.bytes_read < len(data) * 0.8, "a part of a large object is read by ranges"


def _series(path: Path) -> Path:
    """Three times, two levels, and a second variable on a smaller grid."""
    import netCDF4

    with netCDF4.Dataset(path, "w") as out:
        for name, size in (("time", 3), ("level", 2), ("lat", 20), ("lon", 30), ("x", 5), ("y", 4), ("two", 2)):
            out.createDimension(name, size)
        time = out.createVariable("time", "f8", ("time",))
        time.units, time.calendar, time[:] = "hours since 2020-02-28 00:00:00", "standard", [0, 24, 48.5]
        level = out.createVariable("level", "f8", ("level",))
        level.units, level[:] = "hPa", [500, 850]
        for name, values in (("lat", np.linspace(49.5, 40, 20)), ("lon", np.linspace(0.5, 29.5, 30))):
            out.createVariable(name, "f8", (name,))[:] = values
        out["lat"].units, out["lon"].units = "degrees_north", "degrees_east"
        out["lat"].bounds = "lat_edges"
        out.createVariable("lat_edges", "f8", ("lat", "two"))[:] = 0
        ta = out.createVariable("ta", "f4", ("time", "level", "lat", "lon"), zlib=True, fill_value=-999.0)
        ta.units = "K"
        values = np.arange(3 * 2 * 20 * 30, dtype=np.float32).reshape(3, 2, 20, 30)
        values[1, 1, 3, 4] = -999.0
        ta[:] = values
        out.createVariable("orog", "i2", ("y", "x"))[:] = np.arange(20).reshape(4, 5)
    return path


def test_a_field_of_several_times_is_a_record_per_time_and_levels_are_bands(tmp_path: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    path = _series(tmp_path / "a.nc")
    rows = normalized(PathBlob("a.nc", path))
    ta = [row for row in rows if row["place"]["variable"] == "ta"]
    assert [row["place"]["layer"] for row in ta] == [0, 1, 2]
    assert [str(row["event_time"])[:16] for row in ta] == ["2020-02-28 00:00", "2020-02-29 00:00", "2020-03-01 00:30"]
    assert {row["time_source"] for row in ta} == {"netcdf:time"}
    assert [band["name"] for band in ta[0]["bands"]] == ["ta[level=500]", "ta[level=850]"]
    with netCDF4.Dataset(path) as source:
        source.set_auto_maskandscale(False)
        for row in ta:
            np.testing.assert_array_equal(row["pixels"], source["ta"][row["place"]["layer"]])
        (orog,) = [row for row in rows if row["place"]["variable"] == "orog"]
        # Without coordinates GDAL takes the first row for the southern one.
        np.testing.assert_array_equal(orog["pixels"][0], source["orog"][::-1])
    assert len(rows) == 4, "the edges of a coordinate's cells are no field"
    assert ta[1]["valid"][3, 4] == 1  # the other level has data there
    assert ta[0]["bands"][0]["unit"] == "K"
    west, south, east, north = _box(ta[0]["geometry"])
    assert (west, south, east, north) == pytest.approx((0, 39.75, 30, 49.75))


def _box(wkb: bytes) -> tuple[float, ...]:
    points = np.frombuffer(wkb, "<f8", struct.unpack_from("<I", wkb, 9)[0] * 2, 13).reshape(-1, 2)
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def test_a_named_variable_is_read_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("netCDF4")
    blob = PathBlob("a.nc", _series(tmp_path / "a.nc"))
    assert [row["place"]["variable"] for row in normalized(blob, bands=["Orog"])] == ["orog"]
    rows = normalized(blob, bands=["ta"])
    assert [[band["name"] for band in row["bands"]] for row in rows] == [["ta[level=500]", "ta[level=850]"]] * 3
    with pytest.raises(RecordError, match=r"missing_field.*ta, orog"):
        normalized(blob, bands=["uv"])
    with pytest.raises(RecordError, match="differ in size or times"):
        normalized(blob, bands=["ta", "orog"])


@pytest.mark.data
def test_named_variables_of_one_grid_are_the_bands_of_one_record(corpus: Path) -> None:
    name = "rioxarray/input/PLANET_SCOPE_3D.nc"
    blob = PathBlob(name, corpus / "raster" / name)
    alone = {(r["place"]["variable"], r["place"]["layer"]): r for r in normalized(blob)}
    rows = normalized(blob, bands=["green", "blue"])
    assert [row["place"] for row in rows] == [
        {"layer": k, "variables": ["green", "blue"], "window": [0, 0, 10, 10]} for k in range(2)
    ]
    for k, row in enumerate(rows):
        assert [band["name"] for band in row["bands"]] == ["green", "blue"]
        np.testing.assert_array_equal(row["pixels"][0], alone["green", k]["pixels"][0])
        np.testing.assert_array_equal(row["pixels"][1], alone["blue", k]["pixels"][0])
        np.testing.assert_array_equal(row["valid"], alone["green", k]["valid"] | alone["blue", k]["valid"])
        assert row["event_time"] == alone["blue", k]["event_time"]


def test_an_envi_raster_is_read_with_its_header(tmp_path: Path) -> None:
    array = np.arange(3 * 20 * 30, dtype=np.int16).reshape(3, 20, 30)
    header = (
        "ENVI\nsamples = 30\nlines = 20\nbands = 3\nheader offset = 0\ndata type = 2\ninterleave = bsq\n"
        "byte order = 0\n"
        "band names = {first, second, third}\nwavelength units = Nanometers\nwavelength = {450.5, 550, 650}\n"
        "data ignore value = 7\nmap info = {UTM, 1, 1, 400000, 5000000, 10, 10, 33, North, WGS-84, units=Meters}\n"
    )
    (tmp_path / "a.img").write_bytes(array.tobytes())
    (tmp_path / "a.hdr").write_text(header)
    (tmp_path / "a.img.aux.xml").write_text("<PAMDataset/>")
    blobs: list[Blob] = [PathBlob(name, tmp_path / name) for name in ("a.hdr", "a.img", "a.img.aux.xml")]
    (row,) = normalized(blobs)
    np.testing.assert_array_equal(row["pixels"], array)
    assert [band["wavelength_nm"] for band in row["bands"]] == pytest.approx([450.5, 550, 650])
    assert row["bands"][2]["name"].startswith("third")
    assert row["valid"].sum() == 600
    assert row["crs"] == UTM
    with pytest.raises(RecordError, match="external_reference"):
        normalized(PathBlob("a.hdr", tmp_path / "a.hdr"))
    (tmp_path / "a.img").write_bytes(array.tobytes()[:2000])
    found = normalized(blobs)
    assert found[-1].reason == "truncated"


def test_a_read_error_costs_the_tiles_of_its_block(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = np.random.default_rng(5).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    path = write(tmp_path / "a.tif", array, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[1]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = normalized(PathBlob("a.tif", path), tile=128)
    assert len(found) == 16
    bad = [row for row in found if isinstance(row, Bad)]
    assert [json.loads(b.locator)["window"][:2] for b in bad] == [[256, 0], [384, 0], [256, 128], [384, 128]]
    assert {b.reason for b in bad} == {"corrupt"}
    for row in found:
        if not isinstance(row, Bad):
            column, top, width, height = row["place"]["window"]
            np.testing.assert_array_equal(row["pixels"], array[:, top : top + height, column : column + width])
            assert row["flags"] is None


def test_what_decodes_of_a_cut_file_is_flagged_and_the_rest_is_told(tmp_path: Path) -> None:
    array = np.random.default_rng(5).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    path = write(tmp_path / "a.tif", array, tiled=True, blockxsize=256, blockysize=256)
    path.write_bytes(path.read_bytes()[: -256 * 256 - 5])
    found = normalized(PathBlob("a.tif", path))
    assert [isinstance(row, Bad) for row in found] == [False, False, True, True]
    assert found[0]["flags"] == ["truncated"]
    assert found[3].reason == "truncated"


def test_a_variable_whose_file_is_cut_is_flagged_and_told(tmp_path: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as out:
        out.createDimension("y", 50)
        out.createDimension("x", 40)
        out.createVariable("v", "i4", ("y", "x"))[:] = np.arange(2000).reshape(50, 40)
    whole = (tmp_path / "a.nc").read_bytes()
    (row,) = normalized(BytesBlob("a.nc", whole))
    assert row["flags"] is None
    found = normalized(BytesBlob("a.nc", whole[:-100]))
    assert found[-1].reason == "truncated"
    assert all(isinstance(row, Bad) or row["flags"] == ["truncated"] for row in found)


def test_too_many_bands_and_too_large_tiles_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((20, 64, 64), dtype=np.float64))
    with pytest.raises(RecordError, match="too_large"):
        normalized(PathBlob("a.tif", path), max_bands=19)
    small = RasterNormalizer(RasterConfig(), Limits(max_bytes=1 << 20))
    (bad,) = small.open(Item(PathBlob("a.tif", path), 0))
    assert isinstance(bad, Bad)
    assert bad.reason == "too_large"


def test_times_that_were_read_ahead_are_what_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    from headrace.ingest.normalizers import raster_layer

    path = tmp_path / "a.nc"
    values = np.random.default_rng(6).random((70, 40, 30), dtype=np.float32)
    with netCDF4.Dataset(path, "w") as out:
        for name, size in (("time", 70), ("y", 40), ("x", 30)):
            out.createDimension(name, size)
        time = out.createVariable("time", "i4", ("time",))
        time.units, time[:] = "hours since 2020-01-01", np.arange(70)
        out.createVariable("v", "f4", ("time", "y", "x"), chunksizes=(70, 8, 8), zlib=True)[:] = values
    calls = []
    take = raster_layer.ReadAhead.take

    def counted(self: Any, *asked: Any) -> Any:
        calls.append(len(self._kept))
        return take(self, *asked)

    monkeypatch.setattr(raster_layer.ReadAhead, "take", counted)
    blob = PathBlob("a.nc", path)
    ahead = normalized(blob, tile=16)
    assert len(ahead) == 70 * 6
    assert max(calls) == 6 * 32 - 6, "32 times of six tiles are held at most, less those that were taken"
    for row in ahead:
        column, top, width, height = row["place"]["window"]
        expected = values[row["place"]["layer"], ::-1][top : top + height, column : column + width]
        np.testing.assert_array_equal(row["pixels"][0], expected)
    monkeypatch.setattr(raster_layer, "_MOST_TIMES_AHEAD", 1)
    for one, other in zip(ahead, normalized(blob, tile=16)):
        np.testing.assert_array_equal(one["pixels"], other["pixels"])
    some = normalized(blob, {"part": "3/7"}, tile=16)
    whole = {row["locator"]: row for row in ahead}
    assert all(np.array_equal(row["pixels"], whole[row["locator"]]["pixels"]) for row in some)


def test_a_class_band_in_the_file_itself_tells_clouds(tmp_path: Path) -> None:
    red, classes = np.full((1, 12), 500), np.arange(12).reshape(1, 12)
    path = write(tmp_path / "a.tif", np.stack([red, classes]).astype(np.uint16))
    with rasterio.open(path, "r+") as out:
        out.descriptions = ("red", "SCL")
    (row,) = normalized(PathBlob("a.tif", path), bands=["red"])
    assert row["cloud"].tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]]
    assert row["valid"].tolist() == [[0, 0] + [1] * 10]
    (row,) = normalized(PathBlob("a.tif", path), bands=["red"], mask="none")
    assert row["cloud"] is None
    assert row["valid"].all()


def test_a_block_that_failed_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.ingest.normalizers import raster_layer

    array = np.random.default_rng(5).integers(0, 255, (1, 320, 320), dtype=np.uint8)
    path = write(tmp_path / "a.tif", array, blockysize=320, compress="deflate")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = b"\xff" * 60
    path.write_bytes(data)
    reads = []
    read = raster_layer.FileLayer._read
    monkeypatch.setattr(raster_layer.FileLayer, "_read", lambda self, w: reads.append(w) or read(self, w))
    found = normalized(PathBlob("a.tif", path), tile=32)
    assert len(found) == 100
    bad = [row for row in found if isinstance(row, Bad)]
    assert len(bad) > 10
    assert len(reads) <= len(found) - len(bad) + 2

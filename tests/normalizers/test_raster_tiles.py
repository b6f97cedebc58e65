"""Tiles of single rasters against rasterio's own reading, netCDF4 and a GRIB decoder written here."""

from __future__ import annotations

import json
import random
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from headrace.connectors.contract import Blob, Item, PathBlob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer
from headrace.ingest.normalizers.raster_gate import DRIVERS
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


def expected(path: Path, place: dict[str, Any], driver: str) -> tuple[Any, Any]:
    """What rasterio reads at a locator: (pixels, valid)."""
    name = str(path)
    if place.get("ifd"):
        name = f"GTIFF_DIR:{place['ifd'] + 1}:{path}"
    if "variable" in place:
        with rasterio.open(path, driver=driver) as whole:
            name = next(sub for sub in whole.subdatasets if sub.endswith(":" + place["variable"]))
    with rasterio.open(name, driver=None if name.startswith("HDF5") else driver) as dataset:
        indexes = list(dataset.indexes)
        if "layer" in place:
            times: dict[str, list[int]] = {}
            for i in indexes:
                tags = dataset.tags(i)
                dims = {k.removeprefix("NETCDF_DIM_"): v for k, v in tags.items() if k.startswith("NETCDF_DIM_")}
                clock = [v for k, v in dims.items() if " since " in dataset.tags().get(f"{k}#units", "")]
                times.setdefault(tags.get("GRIB_VALID_TIME", str(clock)), []).append(i)
            indexes = list(times.values())[place["layer"]]
        column, row, width, height = place["window"]
        window = rasterio.windows.Window(column, row, width, height)
        kinds = {np.dtype("c8") if d.startswith("complex_int") else np.dtype(d) for d in dataset.dtypes}
        pixels = dataset.read(indexes, window=window, out_dtype=np.result_type(*kinds))
        if len(indexes) == dataset.count:
            mask = dataset.dataset_mask(window=window) > 0
        else:
            mask = (dataset.read_masks(indexes, window=window) > 0).any(axis=0)
        if pixels.dtype.kind in "fc":
            mask &= ~np.isnan(pixels).all(axis=0)
            # A band's NaN is no data even where its nodata value is another one.
            each = dataset.read_masks(indexes, window=window) > 0
            if not {f.name for f in dataset.mask_flag_enums[0]} & {"alpha", "per_dataset"}:
                mask &= (each & ~np.isnan(pixels)).any(axis=0)
        return pixels, mask


@pytest.mark.data
def test_every_good_raster_arrives_tile_by_tile_as_rasterio_reads_it(
    corpus: Path, manifest: list[dict[str, str]]
) -> None:
    files = tiles = 0
    for line in manifest:
        path = corpus / line["path"]
        if line["modality"] != "raster" or line["class"] != "good":
            continue
        with path.open("rb") as stream:
            name = sniff_stream(stream, path.name).name
        if name not in DRIVERS:
            assert name in ("vrt", "json", "xml", "text", "gzip"), f"{path} is {name}: not read, and not out of scope"
            continue
        found = normalized(PathBlob(line["path"], path))
        assert found, path
        assert not [row for row in found if isinstance(row, Bad)], path
        files += 1
        for row in found if len(found) <= 4 else [found[0], found[-1], *random.Random(7).sample(found, 2)]:
            pixels, valid = expected(path, row["place"], DRIVERS[name])
            assert row["pixels"].dtype == pixels.dtype, path
            np.testing.assert_array_equal(row["pixels"], pixels, err_msg=f"{path} {row['locator']}")
            np.testing.assert_array_equal(row["valid"].astype(bool), valid, err_msg=f"{path} {row['locator']}")
            assert row["valid_fraction"] == pytest.approx(valid.mean(), abs=1e-6)
            tiles += 1
    assert files > 300
    assert tiles > 400


def test_tiles_go_row_by_row_and_the_edge_is_what_is_left(tmp_path: Path) -> None:
    array = np.arange(2 * 300 * 530, dtype=np.uint32).reshape(2, 300, 530)
    rows = normalized(PathBlob("a.tif", write(tmp_path / "a.tif", array)))
    assert [row["place"]["window"] for row in rows] == [
        [0, 0, 256, 256], [256, 0, 256, 256], [512, 0, 18, 256],
        [0, 256, 256, 44], [256, 256, 256, 44], [512, 256, 18, 44],
    ]  # fmt: skip
    joined = np.block([[row["pixels"] for row in rows[:3]], [row["pixels"] for row in rows[3:]]])
    np.testing.assert_array_equal(joined, array)
    assert rows[4]["transform"] == [10.0, 0.0, 402_560.0, 0.0, -10.0, 4_997_440.0]
    assert rows[0]["crs"] == UTM
    assert rows[0]["bands"][0] == {
        "name": "b1", "wavelength_nm": None, "gsd_m": 10.0, "unit": None, "scale": 1.0, "offset": 0.0, "nodata": None,
        "resampling": None,
    }  # fmt: skip


TYPES = "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float32 float64 complex64 complex128 complex_int16"


@pytest.mark.parametrize("dtype", TYPES.split())
def test_every_type_of_value_keeps_its_values(tmp_path: Path, dtype: str) -> None:
    kind = np.dtype("complex64" if dtype == "complex_int16" else dtype)
    if kind.kind in "ui":
        limits = np.iinfo(kind)
        array = np.array([[[limits.min, limits.max], [0, 1]]], dtype=kind)
    else:
        array = np.array([[[0, -7], [3, 1000]]], dtype=kind) * (1 + 2j if kind.kind == "c" else 1)
        array = array.astype(kind)
    (row,) = normalized(PathBlob("a.tif", write(tmp_path / "a.tif", array, dtype=dtype)))
    assert row["pixels"].dtype == kind
    np.testing.assert_array_equal(row["pixels"], array)
    assert row["transforms"] == (["b1: complex_int16 to complex64"] if dtype == "complex_int16" else None)


def test_sub_byte_and_half_floats_widen_and_say_their_bits(tmp_path: Path) -> None:
    bits = np.array([[[0, 1, 1], [1, 0, 1]]], dtype=np.uint8)
    (row,) = normalized(PathBlob("a.tif", write(tmp_path / "a.tif", bits, nbits=1)))
    np.testing.assert_array_equal(row["pixels"], bits)
    assert row["extra"]["bits"] == {"b1": 1}
    half = np.array([[[0.5, -2.0], [1024.0, 0.25]]], dtype=np.float32)
    (row,) = normalized(PathBlob("b.tif", write(tmp_path / "b.tif", half, nbits=16)))
    np.testing.assert_array_equal(row["pixels"], half)
    assert row["extra"]["bits"] == {"b1": 16}


def test_palette_stays_indices_and_its_colours_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.array([[[0, 1], [2, 1]]], dtype=np.uint8))
    with rasterio.open(path, "r+") as out:
        out.write_colormap(1, {0: (10, 20, 30, 255), 1: (1, 2, 3, 255), 2: (255, 0, 0, 255)})
    (row,) = normalized(PathBlob("a.tif", path))
    assert row["pixels"].tolist() == [[[0, 1], [2, 1]]]
    assert row["extra"]["palette"] == {"b1": [[10, 20, 30, 255], [1, 2, 3, 255], [255, 0, 0, 255]]}


def test_bands_are_chosen_by_name_or_number_and_keep_their_meaning(tmp_path: Path) -> None:
    array = np.stack([np.full((4, 4), v, dtype=np.int16) for v in (1, 2, 3)])
    path = write(tmp_path / "a.tif", array, nodata=-1)
    with rasterio.open(path, "r+") as out:
        out.descriptions = ("blue", "green", "red")
        out.scales, out.offsets, out.units = (0.5, 1, 1), (3, 0, 0), ("W", "", "")
    (row,) = normalized(PathBlob("a.tif", path), bands=["Red", 1])
    assert row["pixels"][:, 0, 0].tolist() == [3, 1]
    assert [band["name"] for band in row["bands"]] == ["Red", "blue"]
    assert row["bands"][1] | {"gsd_m": None} == {
        "name": "blue", "wavelength_nm": None, "gsd_m": None, "unit": "W", "scale": 0.5, "offset": 3.0, "nodata": -1.0,
        "resampling": None,
    }  # fmt: skip
    (bad,) = normalized(PathBlob("a.tif", path), bands=["nir"])
    assert (bad.reason, bad.locator) == ("missing_field", "{}")
    assert "blue, green, red" in bad.message
    (bad,) = normalized(PathBlob("a.tif", path), bands=[4])
    assert bad.reason == "missing_field"


@pytest.mark.parametrize("how", ["nodata", "nan", "alpha", "mask", "nan and nodata"])
def test_valid_is_where_a_band_holds_data(tmp_path: Path, how: str) -> None:
    array = np.arange(1, 33, dtype=np.float32).reshape(2, 4, 4)
    hole = np.zeros((4, 4), dtype=bool)
    hole[1:3, 2] = True
    path = tmp_path / "a.tif"
    if how == "alpha":
        stacked = np.stack([*array, array[0], np.where(hole, 0, 255)]).astype(np.uint8)
        write(path, stacked, photometric="RGB", alpha="yes")
    elif how == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write(path, array)
            with rasterio.open(path, "r+") as out:
                out.write_mask(~hole)
    else:
        array[0, 0, 0] = -5 if how == "nodata" else np.nan  # one band only: the pixel still has data
        array[:, hole] = -5 if how == "nodata" else np.nan
        write(path, array, nodata=None if how == "nan" else -5)
    (row,) = normalized(PathBlob("a.tif", path))
    np.testing.assert_array_equal(row["valid"], ~hole)
    assert row["valid_fraction"] == pytest.approx(14 / 16)


def test_overviews_are_never_read(tmp_path: Path) -> None:
    array = np.random.default_rng(3).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    path = write(tmp_path / "a.tif", array, tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4], rasterio.enums.Resampling.average)
    rows = normalized(PathBlob("a.tif", path))
    np.testing.assert_array_equal(rows[3]["pixels"], array[:, 256:, 256:])
    assert len(rows) == 4


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "gdal_netcdf/trmm-nc4z.nc",
        "gdal_netcdf/orog_CRCM1.nc",
        "rioxarray/input/MODIS_ARRAY.nc",
        "riotiler/dataset_2d.nc",
    ],
)
def test_real_netcdf_fields_equal_what_netcdf4_reads(corpus: Path, name: str) -> None:
    netCDF4 = pytest.importorskip("netCDF4")
    path = corpus / "raster" / name
    rows = normalized(PathBlob(name, path), tile=4096)
    with netCDF4.Dataset(path) as source:
        source.set_auto_maskandscale(False)
        for row in rows:
            variable = row["place"].get("variable") or row["bands"][0]["name"]
            if row["bands"][0]["unit"] == "degrees_east":
                continue  # GDAL counts longitudes from -180 on
            values = np.squeeze(source[variable][:])
            values = values.reshape(-1, *values.shape[-2:])
            # GDAL turns a field whose rows go north: either way every value must be in its place.
            assert any(np.array_equal(row["pixels"], v, equal_nan=True) for v in (values, values[:, ::-1])), variable


def _simple_packing(data: bytes) -> Any:
    """The values of a one-field GRIB2 message with simple packing and no bitmap (WMO FM 92, template 5.0)."""
    at = 16
    shape = packing = body = None
    scan = 0
    while data[at : at + 4] != b"7777":
        length, number = struct.unpack_from(">IB", data, at)
        section = data[at : at + length]
        if number == 3:
            columns, rows = struct.unpack_from(">II", section, 30)
            (template,) = struct.unpack_from(">H", section, 12)
            shape, scan = (rows, columns), section[{0: 71, 10: 59, 12: 59, 140: 63}[template]]
        elif number == 5:
            assert struct.unpack_from(">H", section, 9) == (0,)
            reference, binary, decimal, bits = struct.unpack_from(">fHHB", section, 11)
            signed = [-(v & 0x7FFF) if v & 0x8000 else v for v in (binary, decimal)]
            packing = (reference, *signed, bits)
        elif number == 7:
            body = section[5:]
        at += length
    assert shape and packing and body is not None
    reference, binary, decimal, bits = packing
    raw = np.unpackbits(np.frombuffer(body, np.uint8))[: shape[0] * shape[1] * bits].reshape(-1, bits)
    whole = raw.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
    values = ((reference + whole * 2.0**binary) / 10.0**decimal).reshape(shape)
    return values[::-1] if scan & 0x40 else values


@pytest.mark.data
@pytest.mark.parametrize("name", ["lambert_azimuthal_equal_area.grb2", "mercator.grb2", "template_4_65535.grb2"])
def test_real_grib_fields_equal_a_decoder_written_here(corpus: Path, name: str) -> None:
    path = corpus / "raster" / "gdal_grib" / name
    (row,) = normalized(PathBlob(name, path))
    values = _simple_packing(path.read_bytes())
    if name == "template_4_65535.grb2":  # an element that GDAL does not know
        assert row["transforms"] == [f"{row['bands'][0]['name']}: kelvin to degree Celsius"]
        values = values - 273.15
    np.testing.assert_allclose(row["pixels"][0], values, rtol=1e-6)


@pytest.mark.data
def test_grib_fields_bear_element_level_unit_and_valid_time(corpus: Path) -> None:
    name = "raster/gdal_grib/gfs.t06z.pgrb2.10p0.f010.grib2"
    (row,) = normalized(PathBlob(name, corpus / name))
    assert [band["name"] for band in row["bands"]][:3] == ["REFD:1-HYBL", "REFD:2-HYBL", "REFC:0-EATM"]
    assert row["bands"][0]["unit"] == "dB"
    assert str(row["event_time"]) == "2021-09-18 16:00:00+00:00"  # reference 06:00, forecast of ten hours
    assert row["time_source"] == "grib:valid_time"


def test_the_time_of_a_tiff_is_its_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((1, 4, 4), dtype=np.uint8))
    with rasterio.open(path, "r+") as out:
        out.update_tags(TIFFTAG_DATETIME="2024:03:05 06:07:08")
    (row,) = normalized(PathBlob("a.tif", path))
    assert (str(row["event_time"]), row["time_source"]) == ("2024-03-05 06:07:08+00:00", "tiff:DateTime")

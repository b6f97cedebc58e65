"""Products of several files: SAFE folders, STAC items and stems, against rasterio's own warp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from headrace.connectors.contract import Blob, BytesBlob, Item, PathBlob
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer
from headrace.ingest.normalizers.raster_sentinel2 import (
    BANDS,
    band_file,
    band_of,
    baseline_in,
    has_offset,
    is_shifted_already,
    read_metadata,
)
from headrace.schemas.errors import RecordError
from headrace.schemas.record import payload_views

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("defusedxml")

CRS, LEFT, TOP = "EPSG:32634", 300_000, 6_100_020
PRODUCT = "S2B_MSIL2A_20230823T095549_N0509_R122_T34UCF_20230823T124759.SAFE"
GRANULE = f"{PRODUCT}/GRANULE/L2A_T34UCF_A033753_20230823T100535"
SIZE = 300  # pixels at 10 m


def normalized(blobs: list[Blob], headers: dict[str, str] | None = None, **config: Any) -> list[Any]:
    """Rows as dicts with arrays, and Bads, in order."""
    out: list[Any] = []
    for found in RasterNormalizer(RasterConfig(**config)).open(Item(blobs, 0, headers=headers or {})):
        if isinstance(found, Bad):
            out.append(found)
            continue
        for row, pixels in zip(found.drop_columns(["pixels"]).to_pylist(), payload_views(found)):
            row["pixels"] = pixels
            for name in ("valid", "cloud"):
                if row[name] is not None:
                    row[name] = np.frombuffer(row[name], np.uint8).reshape(pixels.shape[1:])
            row["extra"] = json.loads(row["extra"])
            out.append(row)
    return out


def whole(rows: list[Any], name: str = "pixels") -> Any:
    """The tiles of one grid joined again."""
    places = [json.loads(row["locator"])["window"] for row in rows]
    width, height = max(p[0] + p[2] for p in places), max(p[1] + p[3] for p in places)
    first = rows[0][name]
    joined = np.zeros((*first.shape[:-2], height, width), dtype=first.dtype)
    for row, (column, top, w, h) in zip(rows, places):
        joined[..., top : top + h, column : column + w] = row[name]
    return joined


def write(path: Path, array: Any, metres: float, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = "JP2OpenJPEG" if path.suffix == ".jp2" else "GTiff"
    lossless = {"QUALITY": 100, "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    profile = {"crs": CRS, "transform": Affine(metres, 0, LEFT, 0, -metres, TOP), **lossless, **profile}
    profile = {"driver": driver, "width": array.shape[1], "height": array.shape[0], "dtype": array.dtype, **profile}
    with rasterio.open(path, "w", count=1, **profile) as out:
        out.write(array, 1)
    return path


def warped(path: Path, resampling: str, nodata: float | None = 0, metres: float = 10) -> Any:
    """What rasterio's WarpedVRT makes of a band on a grid of `metres`."""
    from rasterio.vrt import WarpedVRT

    size = int(SIZE * 10 / metres)
    with (
        rasterio.open(path) as source,
        WarpedVRT(
            source, crs=CRS, transform=Affine(metres, 0, LEFT, 0, -metres, TOP), width=size, height=size,
            resampling=rasterio.enums.Resampling[resampling], src_nodata=nodata, nodata=nodata,
        ) as vrt,
    ):  # fmt: skip
        return vrt.read(1)


def metadata(baseline: str = "05.09", offsets: bool = True) -> str:
    listed = "".join(f'<BOA_ADD_OFFSET band_id="{i}">-1000</BOA_ADD_OFFSET>' for i in range(13))
    return f"""<?xml version="1.0"?><n1:Level-2A_User_Product xmlns:n1="https://psd-14"><n1:General_Info><Product_Info>
    <PRODUCT_START_TIME>2023-08-23T09:55:49.024Z</PRODUCT_START_TIME><PRODUCT_URI>{PRODUCT}</PRODUCT_URI>
    <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
    <Datatake><SPACECRAFT_NAME>Sentinel-2B</SPACECRAFT_NAME></Datatake></Product_Info><Product_Image_Characteristics>
    <QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
    </QUANTIFICATION_VALUES_LIST><BOA_ADD_OFFSET_VALUES_LIST>{listed if offsets else ""}</BOA_ADD_OFFSET_VALUES_LIST>
    </Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>"""


TILE = """<?xml version="1.0"?><n1:Level-2A_Tile_ID xmlns:n1="https://psd-14"><n1:General_Info>
    <TILE_ID>S2B_OPER_MSI_L2A_TL_2BPS_20230823T124759_A033753_T34UCF_N05.09</TILE_ID>
    <SENSING_TIME>2023-08-23T10:05:35.271949Z</SENSING_TIME></n1:General_Info></n1:Level-2A_Tile_ID>"""

NATIVE = {"B02": 10, "B04": 10, "B08": 10, "B05": 20, "B11": 20, "B12": 20, "B01": 60, "B09": 60}


def safe(root: Path, suffix: str = ".tif", **about: Any) -> tuple[list[Blob], dict[str, Path]]:
    """A small product: bands at their own resolution, B02 also at 20 m, classes, and files that are no bands."""
    rng = np.random.default_rng(1)
    paths = {}
    for band, metres in [*NATIVE.items(), ("B02", 20)]:
        size = SIZE * 10 // metres
        array = rng.integers(700, 9000, (size, size), dtype=np.uint16)
        array[: size // 5, : size // 4] = 0  # no data
        name = f"IMG_DATA/R{metres}m/T34UCF_20230823T095549_{band}_{metres}m{suffix}"
        path = write(root / GRANULE / name, array, metres)
        paths.setdefault(band, path)
    classes = rng.integers(0, 12, (SIZE // 2, SIZE // 2), dtype=np.uint8)
    paths["SCL"] = write(root / GRANULE / f"IMG_DATA/R20m/T34UCF_20230823T095549_SCL_20m{suffix}", classes, 20)
    write(root / GRANULE / f"QI_DATA/MSK_CLDPRB_20m{suffix}", classes, 20)
    write(root / GRANULE / f"QI_DATA/T34UCF_20230823T095549_PVI{suffix}", classes, 20)
    (root / PRODUCT / "MTD_MSIL2A.xml").write_text(metadata(**about))
    (root / GRANULE / "MTD_TL.xml").write_text(TILE)
    (root / PRODUCT / "manifest.safe").write_text("<x/>")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [PathBlob(str(path.relative_to(root)), path) for path in files], paths


@pytest.mark.parametrize("suffix", [".tif", ".jp2"])
@pytest.mark.parametrize("resample", ["bilinear", "nearest", "cubic"])
def test_a_product_of_10_20_and_60_m_equals_rasterios_own_warp(tmp_path: Path, suffix: str, resample: str) -> None:
    blobs, paths = safe(tmp_path, suffix)
    rows = normalized(blobs, resample=resample, harmonize=False, tile=128)
    names = [band["name"] for band in rows[0]["bands"]]
    assert names == ["B01", "B02", "B04", "B05", "B08", "B09", "B11", "B12"]
    pixels = whole(rows)
    for i, name in enumerate(names):
        native = NATIVE[name] == 10
        with rasterio.open(paths[name]) as source:
            expected = source.read(1) if native else warped(paths[name], resample)
        np.testing.assert_array_equal(pixels[i], expected, err_msg=name)
        band = rows[0]["bands"][i]
        assert band["resampling"] == (None if native else resample)
        assert band["gsd_m"] == NATIVE[name]
        assert (band["scale"], band["offset"]) == pytest.approx((1e-4, -0.1))
    assert rows[0]["transform"] == [10.0, 0.0, LEFT, 0.0, -10.0, TOP]
    assert f"B01: {resample} 60 m to 10 m" in rows[0]["transforms"]


def test_the_offset_is_taken_out_where_there_is_data_and_told(tmp_path: Path) -> None:
    blobs, paths = safe(tmp_path)
    rows = normalized(blobs)
    for i, band in enumerate(rows[0]["bands"]):
        stored = warped(paths[band["name"]], "bilinear").astype(int)
        expected = np.where(stored == 0, 0, np.maximum(stored - 1000, 0))
        np.testing.assert_array_equal(whole(rows)[i], expected, err_msg=band["name"])
        assert (band["scale"], band["offset"], band["nodata"]) == (1e-4, 0.0, 0.0)
    assert rows[0]["extra"]["processing_baseline"] == "05.09"
    assert rows[0]["extra"]["radiometric_offset_applied"] is True
    assert "B02: -1000 where > 0, at least 0" in rows[0]["transforms"]
    assert rows[0]["flags"] == ["clipped"], "values under 1000 became zero, and that is told"


@pytest.mark.parametrize(
    ("baseline", "offsets", "moved"), [("03.01", False, 0), ("04.00", False, 1000), ("05.11", True, 1000)]
)
def test_the_baseline_decides_even_where_the_list_of_offsets_is_missing(
    tmp_path: Path, baseline: str, offsets: bool, moved: int
) -> None:
    blobs, paths = safe(tmp_path, baseline=baseline, offsets=offsets)
    rows = normalized(blobs, bands=["B02"], mask="none")
    with rasterio.open(paths["B02"]) as source:
        stored = source.read(1).astype(int)
    np.testing.assert_array_equal(whole(rows)[0], np.where(stored == 0, 0, np.maximum(stored - moved, 0)))
    assert rows[0]["extra"]["radiometric_offset_applied"] is (moved > 0)


def test_the_classification_tells_clouds_and_what_is_no_data(tmp_path: Path) -> None:
    blobs, paths = safe(tmp_path)
    rows = normalized(blobs, bands=["red", "nir"])
    assert [band["name"] for band in rows[0]["bands"]] == ["red", "nir"]
    classes = warped(paths["SCL"], "nearest", None)
    np.testing.assert_array_equal(whole(rows, "cloud"), np.isin(classes, (8, 9, 10)))
    with rasterio.open(paths["B04"]) as red, rasterio.open(paths["B08"]) as nir:
        data = (red.read(1) > 0) | (nir.read(1) > 0)
    np.testing.assert_array_equal(whole(rows, "valid"), data & ~np.isin(classes, (0, 1)))
    (shown, *_) = normalized(blobs, bands=["red", "SCL"])
    assert shown["bands"][1]["resampling"] == "nearest", "classes are never interpolated"
    (without, *_) = normalized(blobs, bands=["red"], mask="none")
    assert without["cloud"] is None


def test_time_platform_and_attribution_come_from_the_metadata(tmp_path: Path) -> None:
    (row, *_) = normalized(safe(tmp_path)[0])
    assert (str(row["event_time"]), row["time_source"]) == ("2023-08-23 10:05:35.271949+00:00", "safe:SENSING_TIME")
    assert row["attribution"] == "Contains modified Copernicus Sentinel data 2023"
    assert (row["extra"]["platform"], row["extra"]["tile"]) == ("Sentinel-2B", "34UCF")
    assert row["crs"] == CRS
    assert row["geometry"]


def test_another_band_can_give_the_grid(tmp_path: Path) -> None:
    blobs, paths = safe(tmp_path)
    rows = normalized(blobs, bands=["B02", "B05"], grid="B05", harmonize=False)
    np.testing.assert_array_equal(whole(rows)[0], warped(paths["B02"], "bilinear", 0, 20))
    with rasterio.open(paths["B05"]) as source:
        np.testing.assert_array_equal(whole(rows)[1], source.read(1))
    only = normalized(blobs, bands=["B05", "B11"])
    assert only[0]["bands"][0]["resampling"] is None, "the finest of the chosen bands gives the grid"


def test_the_parts_of_a_product_are_the_product(tmp_path: Path) -> None:
    blobs, _ = safe(tmp_path)
    rows = normalized(blobs, tile=64)
    for parts in (2, 3, 7):
        joined = [row for i in range(parts) for row in normalized(blobs, {"part": f"{i + 1}/{parts}"}, tile=64)]
        assert [row["locator"] for row in joined] == [row["locator"] for row in rows]
        np.testing.assert_array_equal(whole(joined), whole(rows))


def test_a_missing_band_and_a_broken_file_are_named(tmp_path: Path) -> None:
    blobs, paths = safe(tmp_path)
    with pytest.raises(RecordError, match=r"missing_field.*'B10'.*B01, B02"):
        normalized(blobs, bands=["B10"])
    paths["B05"].write_bytes(b"II*\0\xff\xff\xff\xff")
    with pytest.raises(RecordError, match=r"truncated.*B05_20m"):
        normalized(blobs)
    assert normalized(blobs, bands=["B02"]), "a band that nobody asked for may be broken"
    entity = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    (tmp_path / PRODUCT / "MTD_MSIL2A.xml").write_text(entity)
    with pytest.raises(RecordError, match="corrupt"):
        normalized(blobs, bands=["B02"])


def test_granules_of_an_old_product_are_grids_of_their_own(tmp_path: Path) -> None:
    array = np.full((40, 40), 5, dtype=np.uint16)
    blobs: list[Blob] = []
    for granule in ("S2A_OPER_MSI_L1C_TL_A_T33UUP_N02.01", "S2A_OPER_MSI_L1C_TL_B_T33UVP_N02.01"):
        name = f"S2A_OPER_PRD_MSIL1C.SAFE/GRANULE/{granule}/IMG_DATA/{granule}_B02.tif"
        blobs.append(PathBlob(name, write(tmp_path / name, array, 10)))
    found = normalized(blobs)
    assert [json.loads(row["locator"])["granule"] for row in found] == [blob.id.split("/")[2] for blob in blobs]
    assert found[0]["extra"]["processing_baseline"] == "02.01"


def item(properties: dict[str, Any], assets: dict[str, Any], **more: Any) -> BytesBlob:
    about = {"datetime": "2023-08-23T10:05:35Z", **properties}
    value = {"type": "Feature", "stac_version": "1.0.0", "id": "scene", "links": [], "geometry": None}
    value |= {"properties": about, "assets": assets, **more}
    return BytesBlob("scene/scene.json", json.dumps(value).encode())


def test_a_stac_item_gives_its_files_time_bands_rights_and_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    red = rng.integers(1, 900, (SIZE, SIZE), dtype=np.int16)
    swir = rng.integers(1, 900, (SIZE // 2, SIZE // 2), dtype=np.int16)
    quality = np.array([[1, 2], [4, 64]], dtype=np.uint16).repeat(SIZE // 2, 0).repeat(SIZE // 2, 1)
    paths = {
        "SR_B4.TIF": write(tmp_path / "SR_B4.TIF", red, 10),
        "SR_B6.TIF": write(tmp_path / "SR_B6.TIF", swir, 20),
        "QA.TIF": write(tmp_path / "QA.TIF", quality, 10),
        "thumb.TIF": write(tmp_path / "thumb.TIF", red, 10),
    }
    host = "https://landsat.example.org/c2/LC08"
    about = item(
        {"license": "CC-BY-4.0", "platform": "landsat-8", "eo:cloud_cover": 12.5,
         "providers": [{"name": "USGS", "roles": ["producer", "host"]}, {"name": "NASA"}]},
        {
            "red": {"href": f"{host}/SR_B4.TIF?sig=x",
                    "eo:bands": [{"name": "SR_B4", "common_name": "red", "center_wavelength": 0.65}],
                    "raster:bands": [{"scale": 2.75e-5, "offset": -0.2, "unit": "reflectance", "nodata": 0}]},
            "swir16": {"href": "./SR_B6.TIF", "eo:bands": [{"name": "SR_B6", "common_name": "swir16"}]},
            "qa_pixel": {"href": f"s3://usgs/{'a/' * 9}QA.TIF"},
            "thumbnail": {"href": "thumb.TIF", "roles": ["thumbnail"]},
            "blue": {"href": f"{host}/SR_B2.TIF", "eo:bands": [{"common_name": "blue"}]},
        },
    )  # fmt: skip
    blobs = [about, *(PathBlob(f"scene/{name}", path) for name, path in paths.items())]
    rows = normalized(blobs)
    assert [band["name"] for band in rows[0]["bands"]] == ["SR_B4", "SR_B6"]
    np.testing.assert_array_equal(whole(rows)[0], red)
    np.testing.assert_array_equal(whole(rows)[1], warped(paths["SR_B6.TIF"], "bilinear", None))
    band = rows[0]["bands"][0]
    assert (band["scale"], band["offset"], band["nodata"], band["unit"]) == (2.75e-5, -0.2, 0.0, "reflectance")
    assert band["wavelength_nm"] == pytest.approx(650)
    assert (rows[0]["license"], rows[0]["attribution"]) == ("CC-BY-4.0", "USGS (producer, host), NASA")
    assert (str(rows[0]["event_time"]), rows[0]["time_source"]) == ("2023-08-23 10:05:35+00:00", "stac:datetime")
    assert rows[0]["extra"]["stac_id"] == "scene"
    np.testing.assert_array_equal(whole(rows, "cloud"), np.isin(quality, (2, 4)))
    np.testing.assert_array_equal(whole(rows, "valid"), quality != 1)
    assert [b["name"] for b in normalized(blobs, bands=["swir16", "red"])[0]["bands"]] == ["swir16", "red"]
    with pytest.raises(RecordError, match="missing_field"):
        normalized(blobs, bands=["blue"])  # named by the item, but its file did not come
    with pytest.raises(RecordError, match="external_reference"):
        list(RasterNormalizer(RasterConfig()).open(Item(about, 0)))


def _earth_search(tmp_path: Path, values: Any, **properties: Any) -> list[Any]:
    path = write(tmp_path / "B04.tif", values.astype(np.uint16), 10, nodata=0)
    bands = {"eo:bands": [{"name": "red", "common_name": "red"}], "raster:bands": [{"scale": 1e-4, "offset": -0.1}]}
    about = item({"platform": "sentinel-2b", **properties}, {"red": {"href": "https://x/B04.tif", **bands}})
    return normalized([about, PathBlob("B04.tif", path)])


@pytest.mark.parametrize("flag", [None, True, False])
def test_a_catalogues_flag_is_not_believed_against_the_pixels(tmp_path: Path, flag: bool | None) -> None:
    rng = np.random.default_rng(8)
    flags = {} if flag is None else {"earthsearch:boa_offset_applied": flag}
    land = rng.integers(100, 800, (SIZE, SIZE))
    # With the offset still in: nothing is darker than 1000, whatever the flag says.
    (row, *_) = rows = _earth_search(tmp_path, land + 1000, **{"s2:processing_baseline": "05.09"}, **flags)
    np.testing.assert_array_equal(whole(rows)[0], land)
    assert row["extra"]["radiometric_offset_applied"] is True
    assert (row["bands"][0]["scale"], row["bands"][0]["offset"]) == (1e-4, 0.0)
    # Taken out by the catalogue: taking it out again would leave nothing.
    (row, *_) = rows = _earth_search(tmp_path, land, **{"s2:processing_baseline": "05.09"}, **flags)
    np.testing.assert_array_equal(whole(rows)[0], land)
    assert row["extra"]["radiometric_offset_applied"] is False
    assert row["extra"]["offset_evidence"]["removed_by_provider"] is True
    # An old baseline never had one.
    (row, *_) = rows = _earth_search(tmp_path, land + 1000, **{"s2:processing_baseline": "03.01"}, **flags)
    np.testing.assert_array_equal(whole(rows)[0], land + 1000)
    assert row["extra"]["radiometric_offset_applied"] is False


def test_a_collection_beside_the_item_completes_its_rights(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((4, 4), dtype=np.uint8), 10)
    about = item({}, {"data": {"href": "a.tif"}})
    collection = {"type": "Collection", "stac_version": "1.0.0", "id": "c", "license": "proprietary", "links": []}
    collection["providers"] = [{"name": "ACME"}]
    (row,) = normalized([about, BytesBlob("collection.json", json.dumps(collection).encode()), PathBlob("a.tif", path)])
    assert (row["license"], row["attribution"]) == ("LicenseRef-proprietary", "ACME")
    assert [band["name"] for band in row["bands"]] == ["data"]


def test_files_of_one_stem_are_the_bands_of_one_raster(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    fine, coarse = rng.integers(0, 99, (40, 40), dtype=np.uint8), rng.random((20, 20), dtype=np.float32)
    a = write(tmp_path / "scene_red.tif", fine, 10)
    b = write(tmp_path / "scene_heat.tif", coarse, 20)
    caption = BytesBlob("scene.txt", b"a caption")
    blobs: list[Blob] = [PathBlob("scene_red.tif", a), PathBlob("scene_heat.tif", b), caption]
    (row,) = normalized(blobs)
    assert [band["name"] for band in row["bands"]] == ["red", "heat"]
    np.testing.assert_array_equal(row["pixels"][0], fine)
    assert row["dtype"] == "float32"
    assert row["transforms"][0] == "red: uint8 to float32"
    assert row["bands"][1]["resampling"] == "bilinear"
    sidecar = BytesBlob("scene_red.tif.ovr", a.read_bytes())
    assert len(normalized([*blobs, sidecar])[0]["bands"]) == 2, "overviews beside a file are no bands"
    (alone,) = normalized(blobs[::2])
    np.testing.assert_array_equal(alone["pixels"][0], fine)
    with pytest.raises(RecordError, match="unknown_format"):
        normalized(blobs[2:])


def test_bands_that_cannot_be_laid_on_each_other_are_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "x_a.tif", np.ones((8, 8), dtype=np.uint8), 10)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        b = write(tmp_path / "x_b.tif", np.ones((9, 9), dtype=np.uint8), 10, crs=None, transform=Affine.identity())
    (bad,) = normalized([PathBlob("x_a.tif", a), PathBlob("x_b.tif", b)])
    assert bad.reason == "inconsistent"


def test_where_a_band_does_not_reach_it_is_not_data(tmp_path: Path) -> None:
    a = write(tmp_path / "x_a.tif", np.zeros((40, 40), dtype=np.float32), 10, nodata=0)
    b = write(tmp_path / "x_b.tif", np.full((10, 10), 3.5, dtype=np.float32), 20)
    (row,) = normalized([PathBlob("x_a.tif", a), PathBlob("x_b.tif", b)])
    assert row["valid"].sum() == 400
    assert row["valid"][:20, :20].all()


def test_band_files_are_known_by_their_names() -> None:
    assert band_file("T34UCF_20230823T095549_B8A_20m.jp2") == ("B8A", 20)
    assert band_file("T34UCF_20230823T095549_B02.jp2") == ("B02", None)
    assert band_file("S2A_OPER_MSI_L1C_TL_EPA__20160929T120000_A005500_T33UUP_B11.tif") == ("B11", None)
    assert band_file("T34UCF_20230823T095549_SCL_60m.tif") == ("SCL", 60)
    for name in ("MSK_CLASSI_B00.jp2", "MSK_QUALIT_B02.jp2", "T34UCF_PVI.jp2", "B02.txt", "MTD_TL.xml"):
        assert band_file(name) is None, name
    assert [band_of(name) for name in ("B2", "b8a", "blue", "swir22", "B12", "xyz", "B0")] == [
        "B02", "B8A", "B02", "B12", "B12", None, None,
    ]  # fmt: skip


def test_baselines_are_read_from_names_and_compared_as_numbers() -> None:
    assert baseline_in(PRODUCT) == "05.09"
    assert baseline_in("S2B_OPER_MSI_L2A_TL_2BPS_20230823T124759_A033753_T34UCF_N05.09") == "05.09"
    assert baseline_in("S2A_20HMD_20221023_0_L2A") is None
    found = [has_offset(b) for b in ("02.14", "03.01", "04.00", "05.11", "99.99", None, "x")]
    assert found == [False, False, True, True, True, False, False]
    assert [is_shifted_already(*case) for case in ((0.0, True), (0.02, True), (0.02, False), (0.6, None))] == [
        False, True, False, True,
    ]  # fmt: skip


@pytest.mark.data
def test_real_tile_metadata_gives_its_time_tile_and_baseline(corpus: Path) -> None:
    found = read_metadata((corpus / "raster" / "s2_metadata" / "L2A_T34UCF_MTD_TL.xml").read_bytes())
    assert (found.baseline, found.tile, found.time_source) == ("05.09", "34UCF", "safe:SENSING_TIME")
    assert found.sensing == 1_692_785_135_271_949
    assert found.offset_of("B02") == -1000
    assert list(BANDS) == sorted(BANDS, key=lambda band: ("B08" if band == "B8A" else band, band))

"""STAC documents of every version as metadata."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import BytesBlob
from headrace.ingest.normalizers.raster_times import iso_text
from headrace.ingest.normalizers.stac import StacItem, read_stac, resolve, with_collection
from headrace.schemas.errors import RecordError


def item(**value: Any) -> StacItem:
    """The item of a document with these members."""
    whole = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "properties": {}, "assets": {}, **value}
    return read_stac(json.dumps(whole).encode()).items[0]


@pytest.mark.data
def test_every_stac_document_of_the_corpus_parses(corpus: Path) -> None:
    kinds: Counter[str] = Counter()
    items: list[StacItem] = []
    for path in sorted((corpus / "raster").rglob("*.json")):
        data = path.read_bytes()
        if "stacit/test_multiple_assets" in str(path):
            with pytest.raises(RecordError, match="invalid_json"):  # it has a comma too many
                read_stac(data)
            continue
        document = read_stac(data)
        kinds[document.kind] += 1
        items += document.items
    assert kinds["Item"] > 120
    assert kinds["Collection"] > 30
    assert kinds["Catalog"] > 10
    assert kinds["ItemCollection"] > 3
    assert sum(item.event_time is not None for item in items) > 0.95 * len(items)
    assert sum(bool(item.assets) for item in items) > 100
    bands = [band for item in items for asset in item.assets for band in asset.bands]
    assert sum(band.common_name is not None for band in bands) > 60
    assert all(band.wavelength_nm is None or 100 < band.wavelength_nm < 20_000 for band in bands)


def test_one_band_is_told_alike_in_every_version() -> None:
    spectral = {"name": "B04", "common_name": "red", "center_wavelength": 0.665}
    values = {"nodata": 0, "scale": 1e-4, "offset": -0.1, "spatial_resolution": 10, "unit": "1"}
    numbered = {"href": "x.tif", "eo:bands": [1], "raster:bands": [values]}
    old = item(properties={"eo:bands": [{"name": "B02"}, spectral]}, assets={"a": numbered})
    middle = item(assets={"a": {"href": "x.tif", "eo:bands": [spectral], "raster:bands": [values]}})
    new = item(
        stac_version="1.1.0",
        assets={
            "a": {
                "href": "x.tif", "nodata": 0, "unit": "1",
                "bands": [{
                    "name": "B04", "eo:common_name": "red", "eo:center_wavelength": 0.665, "raster:scale": 1e-4,
                    "raster:offset": -0.1, "raster:spatial_resolution": 10,
                }],
            }
        },
    )  # fmt: skip
    assert old.assets[0].bands == middle.assets[0].bands == new.assets[0].bands
    (band,) = new.assets[0].bands
    assert (band.name, band.common_name, band.wavelength_nm, band.gsd_m) == ("B04", "red", 665.0, 10.0)
    assert (band.scale, band.offset, band.nodata) == (1e-4, -0.1, 0.0)


def test_nodata_may_be_spelled_as_text() -> None:
    found = item(assets={"a": {"href": "x", "raster:bands": [{"nodata": "nan"}, {"nodata": True}, {"nodata": "x"}]}})
    first, second, third = (band.nodata for band in found.assets[0].bands)
    assert first is not None
    assert first != first
    assert (second, third) == (None, None)


def test_times_are_an_instant_or_a_range() -> None:
    instant = item(properties={"datetime": "2020-12-11T22:38:32.125Z"})
    assert (iso_text(instant.event_time or 0), instant.event_end, instant.time_source) == (
        "2020-12-11T22:38:32.125000Z", None, "stac:datetime",
    )  # fmt: skip
    between = item(
        properties={"datetime": None, "start_datetime": "2020-01-01T00:00:00Z", "end_datetime": "2020-01-31T23:59:59Z"}
    )
    assert iso_text(between.event_time or 0) == "2020-01-01T00:00:00Z"
    assert iso_text(between.event_end or 0) == "2020-01-31T23:59:59Z"
    assert between.time_source == "stac:start_datetime"
    assert item(properties={"datetime": "soon"}).event_time is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("CC-BY-4.0", "CC-BY-4.0"), ("proprietary", "LicenseRef-proprietary"), ("other", "LicenseRef-other"),
        ("see our terms at https://x", None), (7, None), (None, None),
    ],
)  # fmt: skip
def test_a_license_is_an_spdx_id_or_a_reference(stated: Any, expected: str | None) -> None:
    assert item(properties={"license": stated}).license == expected


def test_a_collection_fills_what_the_item_leaves_open() -> None:
    value = {"type": "Collection", "stac_version": "1.0.0", "license": "CC0-1.0"}
    value |= {"providers": [{"name": "ESA", "roles": ["producer"]}]}
    collection = read_stac(json.dumps(value).encode())
    assert with_collection(item(), collection).attribution == "ESA (producer)"
    assert with_collection(item(properties={"license": "MIT"}), collection).license == "MIT"


def test_an_href_means_the_file_whose_path_ends_like_it() -> None:
    blobs = [BytesBlob(name, b"") for name in ("s/a/B04.tif", "s/b/B04.tif", "s/b/B05 x.tif")]
    assert resolve("https://host/x/b/B04.tif?sig=1#f", blobs) is blobs[1]
    assert resolve("../a/B04.tif", blobs) is blobs[0]
    assert resolve("s3://bucket/B05%20x.tif", blobs) is blobs[2]
    assert resolve("/etc/passwd", blobs) is None
    assert resolve("", blobs) is None
    with pytest.raises(RecordError, match="inconsistent"):
        resolve("B04.tif", blobs)


@pytest.mark.parametrize(
    "data",
    [
        b"[]", b"{}", b'{"type": "Feature", "stac_version": "1.0.0", "properties": 3}', b"{", b'{"a": NaN}', b"\xff",
        b'{"type": "Feature"}',
    ],
)  # fmt: skip
def test_what_is_no_stac_document_is_told(data: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        read_stac(data)
    assert caught.value.reason in ("inconsistent", "invalid_json", "bad_encoding")


def test_members_of_an_unexpected_type_are_left_out() -> None:
    found = item(
        id=5, collection=[], properties={"datetime": 3, "providers": "x", "license": {}, "eo:bands": {}},
        assets={"a": 1, "b": {}, "c": {"href": "x.tif", "roles": "data", "eo:bands": 4, "bands": [None, {"name": 9}]}},
    )  # fmt: skip
    assert (found.id, found.collection, found.event_time, found.attribution) == ("", None, None, None)
    (asset,) = found.assets
    assert (asset.key, len(asset.bands), asset.bands[1].name) == ("c", 2, None)
    assert item(assets=[1]).assets == ()

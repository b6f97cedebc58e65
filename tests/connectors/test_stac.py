"""The connector `stac` against a small STAC API, pystac-client and rasterio: which items, which files, whose rights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.connectors.contract import Broken, Gap, Item, Split
from headrace.connectors.registry import connector_class, guarantee_of
from headrace.connectors.stac import END, Stac
from headrace.connectors.stac_config import interval_of
from headrace.connectors.stac_document import Found, chosen_assets, name_of
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.errors import ConfigError, RecordError, SourceChanged

from ..servers.stac_api import BANDS, PLACES, StacApi, chips
from .stac_reading import documents, files, ids, only, stac

pytestmark = [pytest.mark.server, pytest.mark.data]


@pytest.fixture(scope="module")
def shared() -> Iterator[StacApi]:
    with StacApi() as made:
        yield made


@pytest.fixture(scope="module")
def made(corpus: Path) -> list[dict[str, Any]]:
    return chips(corpus)


@pytest.fixture
def api(shared: StacApi, made: list[dict[str, Any]]) -> StacApi:
    """The server of this file, with four items."""
    shared.clear()
    shared.add(*made)
    return shared


class TestApi(ConnectorKit):
    """Items of an API, two a page."""

    @pytest.fixture(autouse=True)
    def _source(self, api: StacApi) -> None:
        self.api = api

    def make(self) -> Stac:
        return stac(self.api, limit=2)


class TestStaticCatalog(TestApi):
    """The same items, found by walking from catalog.json."""

    def make(self) -> Stac:
        return Stac(Stac.Config(url=self.api.static_url, assets=["s2"]))


# -- which items ------------------------------------------------------------------------------------------------------


def test_what_the_server_gives_is_valid_stac(api: StacApi) -> None:
    pystac = pytest.importorskip("pystac", reason="the oracle pystac is not installed")
    client = pytest.importorskip("pystac_client", reason="the oracle pystac-client is not installed")
    found = list(client.Client.open(api.url).search(max_items=100).items())
    assert len(found) == 4
    catalog = pystac.Catalog.from_file(api.static_url)
    assert sorted(item.id for item in catalog.get_items(recursive=True)) == sorted(item.id for item in found)
    for item in found:
        assert item.to_dict()["properties"] and pystac.read_dict(item.to_dict()).bbox == item.bbox


SEARCHES: list[dict[str, Any]] = [
    {},
    {"collections": ["chips"]},
    {"collections": ["none such"]},
    {"datetime": "2024-02-01/2024-03-31"},
    {"datetime": "2024-02"},
    {"datetime": "../2024-02-15"},
    {"datetime": "2024-03-15T10:00:00Z/.."},
    {"bbox": (-60.0, -30.0, -45.0, 0.0)},
    {"query": {"eo:cloud_cover": {"lt": 40}}},
    {"filter": {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 20]}},
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_a_search_finds_the_items_that_pystac_client_finds(api: StacApi, search: dict[str, Any], method: str) -> None:
    client = pytest.importorskip("pystac_client", reason="the oracle pystac-client is not installed")
    # By GET pystac-client writes a filter in CQL2-Text, which this server does not read.
    theirs = client.Client.open(api.url).search(method="POST" if "filter" in search else method, limit=1, **search)
    expected = sorted(name_of(item.collection_id, item.id) for item in theirs.items())
    assert ids(stac(api, limit=1, method=method, **search)) == expected


@pytest.mark.parametrize("search", [s for s in SEARCHES if not {"query", "filter"} & set(s)], ids=str)
def test_a_static_catalog_gives_the_items_that_the_api_gives(api: StacApi, search: dict[str, Any]) -> None:
    static = [path.removesuffix(".json") for path in ids(stac(api, url=api.static_url, **search))]
    assert static == ids(stac(api, **search))


def test_a_static_catalog_says_what_it_cannot_do(api: StacApi) -> None:
    with pytest.raises(ConfigError, match="need a STAC API"):
        ids(stac(api, url=api.static_url, query={"a": {"lt": 1}}))


def test_real_catalogs_are_walked_like_pystac_walks_them(corpus: Path, api: StacApi) -> None:
    """The catalogs of pystac's own tests, over HTTP."""
    pystac = pytest.importorskip("pystac", reason="the oracle pystac is not installed")
    for number in (1, 2, 4, 5):
        root = corpus / "raster" / "stac_catalog" / "catalogs" / f"test-case-{number}" / "catalog.json"
        if not root.exists():
            continue
        url = f"http://127.0.0.1:{api.port}/files{root}"
        expected = sorted(item.id for item in pystac.Catalog.from_file(str(root)).get_items(recursive=True))
        source = Stac(Stac.Config(url=url, allow_hosts=["stac-extensions.github.io"]))
        found = sorted(json.loads(_fetched(source, split)).get("id") for split in source.splits())
        assert found == expected and expected


def _fetched(source: Stac, split: Split) -> str:
    item = source._planned(split)
    assert item is not None
    return json.dumps(item.document)


def test_a_search_that_finds_too_much_is_refused(api: StacApi) -> None:
    with pytest.raises(ConfigError, match=r"more than 3 items.*max_items"):
        ids(stac(api, max_items=3, limit=1))


# -- which files ------------------------------------------------------------------------------------------------------


def test_an_item_comes_with_its_chosen_files_its_document_and_its_rights(api: StacApi, corpus: Path) -> None:
    item = only(stac(api, assets=["s2", "lulc"]))
    assert item.position == END and item.key == f"chips/chip-{PLACES[0]}" == item.headers["object"]
    read = [blob.read() for blob in files(item)]
    folder = corpus / "raster" / "terramind"
    assert read == [(folder / kind / f"{PLACES[0]}.tif").read_bytes() for kind in ("S2L2A", "LULC")]
    said = documents(item)
    assert set(said["item.json"]["assets"]) == {"s2", "lulc"}
    assert said["item.json"]["assets"]["s2"]["href"] == f"./s2/{PLACES[0]}.tif"
    assert said["collection.json"]["license"] == "CC-BY-4.0"
    rights = json.loads(item.headers["rights"])
    assert rights == {
        "collection_license": "CC-BY-4.0", "license_links": ["https://creativecommons.org/licenses/by/4.0/"],
    }  # fmt: skip


def test_the_raster_normalizer_makes_records_of_all_chosen_bands_on_one_grid(api: StacApi, corpus: Path) -> None:
    import numpy as np
    import rasterio

    from headrace.ingest.normalizers.raster import RasterConfig, RasterNormalizer
    from headrace.schemas.record import payload_views

    item = only(stac(api, assets=["red", "dem"]))
    assert [blob.name for blob in files(item)] == [f"{PLACES[0]}.tif"] * 2
    normalizer = RasterNormalizer(RasterConfig(bands=["red", "nir", "dem"], resample="nearest"))
    (batch,) = list(normalizer.open(item))
    row = batch.to_pylist()[0]  # type: ignore[union-attr]
    assert row["license"] == "CC-BY-4.0" and row["attribution"] == "ESA (producer)"
    assert row["event_time"].isoformat() == "2024-01-15T10:00:00+00:00"
    assert json.loads(row["extra"])["stac_id"] == f"chip-{PLACES[0]}"
    folder = corpus / "raster" / "terramind"
    name = f"{PLACES[0]}.tif"
    with rasterio.open(folder / "S2L2A" / name) as s2, rasterio.open(folder / "DEM" / name) as dem:
        expected = np.stack([s2.read(BANDS.index("red") + 1), s2.read(BANDS.index("nir") + 1), dem.read(1)])
    assert [band["name"] for band in row["bands"]] == ["red", "nir", "dem"]
    (pixels,) = payload_views(batch)
    assert np.array_equal(pixels.astype(float), expected.astype(float))


def test_without_a_choice_all_rasters_come_and_thumbnails_do_not(api: StacApi) -> None:
    assert [blob.id.split("/")[2] for blob in files(only(stac(api)))] == ["s2", "dem", "lulc"]


def test_an_asset_that_is_missing_costs_one_item(api: StacApi, made: list[dict[str, Any]]) -> None:
    lacking = {**made[1], "assets": {"dem": made[1]["assets"]["dem"]}}
    gone = json.loads(json.dumps(made[2]))
    gone["assets"]["s2"]["href"] = "{root}/files/no/such.tif"
    api.add(lacking, gone)
    source = stac(api, assets=["s2"])
    reads: list[Any] = [next(iter(source.read(split, None))) for split in source.splits()]
    assert [type(read) for read in reads] == [Item, Broken, Broken, Item]
    assert reads[1].reason == "missing_field" and "'s2'" in reads[1].message and "dem" in reads[1].message
    assert reads[2].reason == "io_error" and "404" in reads[2].message and b"no/such.tif" in reads[2].data


def test_two_files_of_one_name_are_told_apart(api: StacApi) -> None:
    item = only(stac(api))
    blobs = files(item)
    assert len({blob.name for blob in blobs}) == 1 and len({blob.id for blob in blobs}) == 3


# -- a service --------------------------------------------------------------------------------------------------------


def test_a_service_takes_new_items_late_ones_and_everything_at_a_recheck(
    api: StacApi, made: list[dict[str, Any]]
) -> None:
    now = [0.0]
    source = stac(api, interval_s=60, lag_s=20 * 86400, recheck_s=3600)
    source.watch(lambda: now[0])
    assert len(ids(source)) == 4

    def new(id: str, at: str) -> dict[str, Any]:
        return {**made[0], "id": id, "properties": {**made[0]["properties"], "datetime": at}}

    api.add(new("fresh", "2024-05-01T00:00:00Z"), new("late", "2024-04-01T00:00:00Z"))
    api.add(new("old", "2023-01-01T00:00:00Z"))
    before = len(api.asked())
    assert len(ids(source)) == 4 and len(api.asked()) == before, "it is asked no more often than interval_s"
    now[0] = 61
    assert {id.split("/")[1] for id in ids(source)} >= {"fresh", "late"} and "chips/old" not in ids(source)
    assert '"datetime":"2024-03-26T10:00:00Z/.."' in api.asked()[-1]
    now[0] = 3700
    assert "chips/old" in ids(source)


def test_a_service_may_ask_by_what_was_updated(api: StacApi, made: list[dict[str, Any]]) -> None:
    now = [0.0]
    source = stac(api, interval_s=1, news="updated", lag_s=60)
    source.watch(lambda: now[0])
    ids(source)
    late = {**made[0], "id": "late", "properties": {**made[0]["properties"], "datetime": "2020-01-01T00:00:00Z"}}
    late["properties"]["updated"] = "2024-06-01T00:00:30Z"
    api.add(late)
    now[0] = 2
    assert "chips/late" in ids(source)
    assert '"updated":{"gte":"2024-05-31T23:59:00Z"}' in api.asked()[-1]


def test_a_touched_item_is_the_same_and_a_changed_one_is_not(api: StacApi, made: list[dict[str, Any]]) -> None:
    before = list(stac(api).splits())
    touched = {**made[0], "properties": {**made[0]["properties"], "updated": "2025-01-01T00:00:00Z"}}
    touched["assets"] = {key: {**a, "href": a["href"] + "?sig=abc"} for key, a in made[0]["assets"].items()}
    api.add(touched)
    assert list(stac(api).splits()) == before
    changed = {**made[0], "properties": {**made[0]["properties"], "eo:cloud_cover": 99}}
    api.add(changed)
    (first, *_), source = before, stac(api)
    with pytest.raises(SourceChanged, match=r"changed since it was planned"):
        next(iter(source.read(first, None)))
    with pytest.raises(SourceChanged, match="missing"):
        next(iter(source.read(Split("chips/none"), None)))


def test_with_revisions_a_changed_item_is_another_item(api: StacApi, made: list[dict[str, Any]]) -> None:
    source = stac(api, revisions=True)
    before = list(source.splits())
    assert isinstance(next(iter(source.read(before[0], None))), Item)
    api.add({**made[0], "properties": {**made[0]["properties"], "eo:cloud_cover": 99}})
    after = list(source.splits())
    assert len({split.id for split in before} & {split.id for split in after}) == 3
    gap = next(iter(source.read(before[0], None)))
    assert isinstance(gap, Gap) and gap.lost == 1, "the older revision is gone, and that is told"


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024", ("2024-01-01T00:00:00Z", "2024-12-31T23:59:59Z")),
        ("2024-02", ("2024-02-01T00:00:00Z", "2024-02-29T23:59:59Z")),
        ("2024-02-01/..", ("2024-02-01T00:00:00Z", None)),
        ("/2024-02-01T06:00:00+02:00", (None, "2024-02-01T06:00:00+02:00")),
        ("2024-02-01T06:00:00Z", ("2024-02-01T06:00:00Z", "2024-02-01T06:00:00Z")),
    ],
)
def test_dates_are_whole_days_and_months(value: str, expected: tuple[str | None, str | None]) -> None:
    assert interval_of(value) == expected


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"datetime": "yesterday"}, "with its zone"),
        ({"datetime": "2024-02-01T06:00:00"}, "with its zone"),
        ({"datetime": "2024-02-31"}, "no such day"),
        ({"datetime": "../.."}, "leave it out"),
        ({"bbox": (1, 2, 3)}, "4 or 6|north"),
        ({"bbox": (0, 50, 1, 40)}, "south <= north"),
        ({"query": {}, "filter": {}}, "two languages"),
        ({"endpoint_url": "http://h"}, "allow_buckets"),
        ({"url": "https://h/?token=x"}, "headers"),
        ({"url": "s3://bucket/catalog.json"}, "http://"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Stac.Config(**{"url": "https://h/stac", **said})


def test_assets_are_found_by_key_by_band_and_by_common_name(corpus: Path) -> None:
    """In an item of STAC's own examples, and in one of STAC 1.1, where bands have another name."""
    path = corpus / "raster" / "stac_examples" / "examples" / "1.0.0" / "example-sentinel2.json"
    new = {"a": {"href": "a.tif", "bands": [{"name": "B8A", "eo:common_name": "nir08"}]}, "b": {"href": "b.tif"}}
    for document, wanted, expected in [
        (json.loads(path.read_text()), ["swir22", "red"], ["red", "swir22"]),
        ({"id": "x", "assets": new}, ["nir08"], ["a"]),
        ({"id": "x", "assets": new}, ["B8A", "b"], ["a", "b"]),
        ({"id": "x", "assets": new}, [], ["a", "b"]),
    ]:
        item = Found(None, document["id"], document, "https://h/folder/item.json")
        assert list(chosen_assets(item, wanted)) == expected
        with pytest.raises(RecordError, match="no asset or band 'no such'"):
            chosen_assets(item, ["no such"])
    assert chosen_assets(item, ["b"]) == {"b": "https://h/folder/b.tif"}


def test_assets_in_buckets_are_read_where_the_pipeline_allows_the_bucket(
    api: StacApi, made: list[dict[str, Any]], corpus: Path
) -> None:
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        options = {"key": "k", "secret": "s"}
        fs = s3fs.S3FileSystem(endpoint_url=endpoint, **options, skip_instance_cache=True)
        fs.mkdir("chips-bucket")
        data = (corpus / "raster" / "terramind" / "LULC" / f"{PLACES[0]}.tif").read_bytes()
        fs.pipe_file("chips-bucket/a b/lulc.tif", data)
        item = json.loads(json.dumps(made[0]))
        item["assets"]["lulc"]["href"] = "s3://chips-bucket/a b/lulc.tif"
        api.add(item)
        there = {"allow_buckets": ["chips-bucket"], "endpoint_url": endpoint, "storage_options": options}
        source = stac(api, assets=["lulc"], **there)
        assert [blob.read() for blob in files(only(source))] == [data]
        assert "secret" not in repr(source.config)
    finally:
        server.stop()


def test_the_registry_knows_it() -> None:
    assert connector_class("stac") is Stac and guarantee_of(Stac) == "exactly once"

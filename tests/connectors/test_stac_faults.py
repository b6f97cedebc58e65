"""The connector `stac` when things break, and what documents may not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Broken
from headrace.connectors.stac import Stac
from headrace.connectors.stac_document import named
from headrace.schemas.errors import ConfigError, RateLimited, SourceError

from ..servers.proxy import TcpProxy
from ..servers.stac_api import PLACES, StacApi, chips
from .stac_reading import files, ids, only, stac

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


def test_a_killed_server_is_an_error_and_reading_goes_on_after_it(api: StacApi) -> None:
    source = stac(api)
    splits = list(source.splits())
    item: Any = next(iter(source.read(splits[0], None)))
    with files(item)[0].open() as stream:
        begin = stream.read(1000)
        api.kill()
        with pytest.raises(SourceError, match=r"http://127.0.0.1:\d+/stac"):
            list(source.splits())
        api.start()
        assert len(begin + stream.read()) == files(item)[0].size, "a broken file is taken up where it broke"
    assert list(source.splits()) == splits


def test_a_cut_connection_is_an_error_and_no_shorter_list(api: StacApi) -> None:
    with TcpProxy(api.port) as proxy:
        source = Stac(Stac.Config(url=f"http://127.0.0.1:{proxy.port}/stac", limit=1))
        begin = proxy.to_client
        assert len(ids(source)) == 4
        whole = proxy.to_client - begin
        for after_bytes in (50, whole // 2, whole - 200):
            source = Stac(Stac.Config(url=f"http://127.0.0.1:{proxy.port}/stac", limit=1))
            proxy.cut_after(after_bytes)
            with pytest.raises(SourceError):
                list(source.splits())


def test_errors_of_the_api_are_told_apart_and_show_no_token(api: StacApi) -> None:
    api.settings(token="right")
    wrong = stac(api, token="hidden-token", headers={"X-Key": "hidden-key"})
    with pytest.raises(ConfigError, match=r"HTTP 401.*`token`") as caught:
        wrong.probe()
    assert "hidden" not in str(caught.value) + repr(wrong.config) + wrong.describe()
    assert len(ids(stac(api, token="right"))) == 4
    api.settings(status=429, headers={"Retry-After": "12"})
    with pytest.raises(RateLimited) as limited:
        ids(stac(api))
    assert limited.value.retry_after == 12
    api.settings()
    with pytest.raises(ConfigError, match="it is no STAC document"):
        ids(stac(api, url=f"http://127.0.0.1:{api.port}/stac/search"))
    with pytest.raises(SourceError, match="HTTP 404"):
        stac(api, url=api.url + "/nothing").probe()


def test_data_may_not_send_us_elsewhere(api: StacApi, made: list[dict[str, Any]]) -> None:
    api.settings(next="http://169.254.169.254")
    with pytest.raises(ConfigError, match=r"169\.254\.169\.254.*`allow_hosts`"):
        ids(stac(api, limit=1))
    api.settings()
    for href, reason in [
        ("http://169.254.169.254/x.tif", "external_reference"), ("file:///etc/passwd", "external_reference"),
        ("s3://secret-bucket/x.tif", "external_reference"), ("http://user:pw@127.0.0.1/x.tif", "external_reference"),
        ("/vsicurl/http://localhost/x.tif", "io_error"), ("../../../../etc/passwd", "io_error"),
    ]:  # fmt: skip
        item = json.loads(json.dumps(made[0]))
        item["assets"]["s2"]["href"] = href
        api.add(item)
        broken = only(stac(api, assets=["s2"]))
        assert isinstance(broken, Broken) and broken.reason == reason, href
        if reason == "external_reference" and "127.0.0.1" not in href:
            with pytest.raises(ConfigError):
                stac(api, assets=["s2"], method="POST", datetime="2024-01").probe()


def test_names_from_outside_become_no_paths(api: StacApi, made: list[dict[str, Any]]) -> None:
    odd = json.loads(json.dumps({**made[0], "id": "../../a b/ü#?%", "collection": "chips"}))
    odd["assets"] = {"../../k": odd["assets"]["dem"]}
    api.add(odd)
    source = stac(api)
    (split,) = [split for split in source.splits() if "chip-" not in split.id]
    assert split.id.count("/") == 1 and named(split.id) == ("chips", "../../a b/ü#?%")
    item: Any = next(iter(source.read(split, None)))
    assert files(item)[0].id == f"{split.id}/.._.._k/{PLACES[0]}.tif"


def test_a_page_that_leads_back_is_noticed(api: StacApi) -> None:
    api.settings(methods=["POST"], next=f"http://127.0.0.1:{api.port}/static/../stac/search?")
    with pytest.raises((SourceError, ConfigError)):
        ids(stac(api, limit=1))

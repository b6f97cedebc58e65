"""The connector `http_poll` when things break: servers, connections, answers; and what data may not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Broken, Item, Split
from headrace.connectors.http_poll import HttpPoll
from headrace.schemas.errors import ConfigError, SourceError

from ..servers.http_api import HttpApi, readings
from ..servers.proxy import TcpProxy
from .http_poll_reading import FAST, Reader, all_of, connector, names

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpApi]:
    with HttpApi() as made:
        yield made


@pytest.fixture
def api(shared: HttpApi) -> HttpApi:
    """The server of this file, without elements and settings."""
    shared.replace([])
    shared.settings()
    return shared


def test_a_killed_server_is_an_error_and_reading_goes_on_where_it_was(api: HttpApi) -> None:
    api.replace(readings(10))
    source = connector(api)
    reader = Reader(source)
    first: list[Any] = reader.until_idle()
    api.kill()
    with pytest.raises(SourceError, match=r"http://127.0.0.1:\d+/observations: "):
        reader.polls(20)
    api.start()
    api.add(*readings(5, 10))
    assert names(all_of(source, first[-1].position)) == [f"r{n}" for n in range(10, 15)]


def test_a_cut_connection_loses_and_repeats_nothing(api: HttpApi) -> None:
    api.settings(page=100)
    api.replace(readings(1000))
    for after_bytes in (0, 100, 3000, 20_000):
        with TcpProxy(api.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}/observations"
            source = HttpPoll(HttpPoll.Config(url=url, **FAST, ascending=True))
            found: list[Any] = []
            proxy.cut_after(after_bytes)
            with pytest.raises(SourceError):
                for read in source.read(Split("poll"), None):
                    found += [read] if isinstance(read, Item) else []
            found += all_of(source, found[-1].position if found else None)
            assert names(found) == [f"r{n}" for n in range(1000)]


def test_an_answer_that_ends_early_is_an_error_and_no_shorter_answer(api: HttpApi) -> None:
    """A server that closes in order after a part of what it announced: no reset tells of it."""
    api.serve("/short", b"half of it", "text/plain", headers={"Content-Length": "20", "Connection": "close"})
    with pytest.raises(SourceError, match="10 bytes too early"):
        all_of(connector(api, "/short", items=None, id=None, time=None))


def test_a_silent_server_is_given_up(api: HttpApi) -> None:
    api.replace(readings(1))
    api.pause()
    try:
        with pytest.raises(SourceError, match="timed out"):
            all_of(connector(api, timeout_s=0.3))
    finally:
        api.resume()


def test_an_answer_that_is_no_document_is_told_once_with_its_bytes(api: HttpApi) -> None:
    for body, reason in [
        (b"<html>maintenance</html>", "invalid_json"), (b'{"data": [1, NaN]}', "invalid_json"), (b"", "invalid_json"),
        (b'{"rows": []}', "missing_field"), (b'{"data": "x"}', "wrong_type"), (b"[" * 100_000, "invalid_json"),
        (b"\xff\xfe{}", "bad_encoding"),
    ]:  # fmt: skip
        api.serve("/bad", body, "application/json")
        source = connector(api, "/bad")
        reader = Reader(source)
        (broken,) = reader.until_idle()
        assert isinstance(broken, Broken) and broken.reason == reason and broken.data == body[: 1 << 16]
        assert reader.polls(2) == []
        reader.close()
        assert all_of(connector(api, "/bad"), broken.position) == [], "nor after a restart"
        api.serve("/bad", json.dumps({"data": readings(2)}).encode(), "application/json")
        assert names(all_of(connector(api, "/bad"), broken.position)) == ["r0", "r1"]


def test_a_wrong_token_parks_and_is_not_shown(api: HttpApi) -> None:
    api.settings(token="right-token")
    api.replace(readings(2))
    wrong = connector(api, "/observations?key=querysecret", token="wrong-token", headers={"X-Key": "headersecret"},
                      parameters={"api_key": "paramsecret"})  # fmt: skip
    with pytest.raises(ConfigError, match=r"HTTP 401.*`token`") as caught:
        all_of(wrong)
    with pytest.raises(ConfigError):
        wrong.probe()
    api.settings(status=400, body="bad key paramsecret wrong-token headersecret " + "x" * 5000)
    with pytest.raises(SourceError) as echoed:
        all_of(wrong)
    shown = [str(caught.value), repr(wrong.config), wrong.describe(), str(echoed.value)]
    assert not [s for s in ("wrong-token", "querysecret", "headersecret") if any(s in text for text in shown)]
    assert len(str(echoed.value)) < 400
    api.settings(token="right-token")
    assert len(all_of(connector(api, token="right-token"))) == 2


def test_an_answer_that_is_too_large_or_a_bomb_is_refused_in_little_memory(api: HttpApi) -> None:
    import gzip

    api.serve("/large", b"x" * 3_000_000, "text/plain")
    with pytest.raises(ConfigError, match="more than 1000000 bytes is refused"):
        all_of(connector(api, "/large", items=None, id=None, time=None, max_body_bytes=1_000_000))
    bomb = gzip.compress(bytes(200 << 20), 9)
    api.serve("/bomb", bomb, "text/plain", headers={"Content-Encoding": "gzip"})
    for limit in (1 << 20, 1 << 30):
        with pytest.raises(ConfigError, match="refused"):
            all_of(connector(api, "/bomb", items=None, id=None, time=None, max_body_bytes=limit, max_ratio=100))
    for damaged in (bomb[: len(bomb) // 2], b"no gzip"):
        api.serve("/bomb", damaged, "text/plain", headers={"Content-Encoding": "gzip"})
        with pytest.raises((SourceError, ConfigError)):
            all_of(connector(api, "/bomb", items=None, id=None, time=None))
    api.serve("/br", b"x", "text/plain", headers={"Content-Encoding": "br"})
    with pytest.raises(SourceError, match="'br' was not asked for"):
        all_of(connector(api, "/br", items=None, id=None, time=None))


def test_data_may_not_send_us_elsewhere_and_secrets_stay_at_home(api: HttpApi) -> None:
    document = json.dumps({"data": readings(1), "links": {"next": "http://169.254.169.254/latest/meta-data"}}).encode()
    api.serve("/ssrf", document, "application/json")
    with pytest.raises(ConfigError, match=r"169\.254\.169\.254.*`allow_hosts`"):
        all_of(connector(api, "/ssrf", next="/links/next"))
    for target in ("file:///etc/passwd", "http://localhost:1/", "ftp://127.0.0.1/x"):
        api.serve("/redirect", b"", "text/plain", status=302, headers={"Location": target})
        with pytest.raises((ConfigError, SourceError), match=r"points to|cannot be followed"):
            all_of(connector(api, "/redirect"))
    with HttpApi() as other:
        other.replace(readings(1))
        target = f"http://localhost:{other.port}/observations"
        api.serve("/moved", b"", "text/plain", status=302, headers={"Location": target})
        source = connector(api, "/moved", allow_hosts=["localhost"], token="homesecret", headers={"X-Key": "k"})
        assert len(all_of(source)) == 1
        (headers,) = [headers for path, headers in other.asked() if path == "/observations"]
        assert not {"Authorization", "X-Key", "X-key"} & set(headers), "another origin was told our token"


def test_a_page_that_leads_back_is_noticed(api: HttpApi) -> None:
    api.serve("/loop", b'{"data": []}', "application/json", headers={"Link": '</loop>; rel="next"'})
    with pytest.raises(SourceError, match="leads back"):
        all_of(connector(api, "/loop"))


def test_a_probe_says_that_ids_or_times_are_looked_for_in_the_wrong_place(api: HttpApi) -> None:
    connector(api).probe()  # nothing there yet: nothing to complain of
    api.replace(readings(2))
    connector(api).probe()
    with pytest.raises(ConfigError, match=r"^time: .*none of 2 elements has one there; the first is .*level"):
        connector(api, time={"field": "when"}).probe()
    with pytest.raises(ConfigError, match=r"^id: "):
        connector(api, id=["id", "station"]).probe()

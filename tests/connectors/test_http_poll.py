"""The connector `http_poll` against a real HTTP server: what is new is given, once, in order, whatever breaks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Gap, Item, Split
from headrace.connectors.http_poll import HttpPoll
from headrace.connectors.registry import connector_class, guarantee_of
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.errors import ConfigError, RateLimited, SourceError

from ..servers.http_api import HttpApi, readings
from .http_poll_reading import Reader, all_of, connector, names

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


# -- the kit ----------------------------------------------------------------------------------------------------------


class TestByTimeFromPages(ConnectorKit):
    """Elements with ids and times, over several pages, without a window: each place can be read on from."""

    @pytest.fixture(autouse=True)
    def _source(self, api: HttpApi) -> None:
        api.settings(page=7)
        api.replace(readings(25))
        self.api = api

    def make(self) -> HttpPoll:
        return connector(self.api, lag_s=0)

    def test_the_declared_guarantee_is_not_more_than_what_is_observed(self) -> None:
        """More than is declared: a source that does not change is read exactly once, without dedup."""
        assert self.observed_guarantee() == "exactly once"


class TestWithoutTimes(TestByTimeFromPages):
    """The same answers, told apart by what they hold."""

    def make(self) -> HttpPoll:
        return connector(self.api, time=None)


class TestAWholeBody(TestByTimeFromPages):
    """One body that is one item."""

    @pytest.fixture(autouse=True)
    def _source(self, api: HttpApi) -> None:
        said = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
        api.serve("/picture", bytes(range(256)), "image/png", headers=said)
        self.api = api

    def make(self) -> HttpPoll:
        return connector(self.api, "/picture", items=None, id=None, time=None)


# -- what is new ------------------------------------------------------------------------------------------------------


def test_an_element_is_the_servers_own_spelling_with_its_key_and_time(api: HttpApi) -> None:
    raw = b'{"data": [ {"id":"a", "at":"2024-05-01T00:00:00+02:00","v":1.10e1, "big": 123456789012345678901} ]}'
    api.serve("/odd", raw, "application/json", headers={"TDM-Reservation": "1"})
    (item,) = all_of(connector(api, "/odd"))
    assert item.data == raw[11:-3], "numbers and spaces are not touched"
    assert item.event_time == 1_714_514_400_000_000
    assert item.key.startswith("a@") and item.headers["format"] == "json"
    assert json.loads(item.headers["rights"])["tdm-reservation"] == "1"


def test_polls_give_what_came_since_and_nothing_twice(api: HttpApi) -> None:
    api.add(*readings(5))
    reader = Reader(connector(api))
    assert names(reader.until_idle()) == ["r0", "r1", "r2", "r3", "r4"]
    assert reader.polls(3) == []
    api.add(*readings(3, 5))
    assert names(reader.take(3)) == ["r5", "r6", "r7"]
    assert reader.polls(3) == []
    reader.close()


def test_a_late_or_changed_element_is_taken_within_the_window_and_not_behind_it(api: HttpApi) -> None:
    there = readings(100)
    late, behind = there.pop(80), there.pop(10)
    api.replace(there)
    reader = Reader(connector(api, lag_s=1800))
    assert len(reader.until_idle()) == 98
    there[90] = {**there[90], "level": -1}
    api.replace([*there, late, behind])
    found = reader.take(2)
    assert sorted(names(found)) == sorted([late["id"], there[90]["id"]]), "r10 is older than half an hour"
    assert reader.polls(3) == []
    ignoring = Reader(connector(api, changed="ignore"))
    ignoring.until_idle()
    there[91] = {**there[91], "level": -2}
    api.replace(there)
    assert ignoring.polls(3) == []
    reader.close()
    ignoring.close()


def test_after_a_restart_the_window_comes_again_under_the_same_keys_and_no_key_is_missing(api: HttpApi) -> None:
    there = readings(100)
    api.replace(there)
    whole = all_of(connector(api, lag_s=600))
    kept = whole[:60]
    api.replace([*there, {**there[55], "level": -1}])
    rest = all_of(connector(api, lag_s=600), kept[-1].position)
    keys = Counter(read.key for read in [*kept, *rest])
    repeated = [key for key, count in keys.items() if count > 1]
    assert len(keys) == 101, "nothing is missing"
    assert repeated and set(repeated) <= {item.key for item in kept[-10:]}, "no more than the window is repeated"
    assert guarantee_of(HttpPoll) == "at least once, exactly once by key"


def test_reading_on_in_the_same_process_repeats_nothing(api: HttpApi) -> None:
    """As the engine does after an error of the source: the memory of the window is still there."""
    api.replace(readings(50))
    source = connector(api)
    first = all_of(source)
    assert all_of(source, first[-1].position) == []
    api.add(*readings(2, 50))
    assert names(all_of(source, first[-1].position)) == ["r50", "r51"]
    # A position that is not the last one means that items behind it were not kept: the memory must not hide them.
    again = all_of(source, first[9].position)
    assert {"r10", "r49", "r51"} <= set(names(again))


def test_one_wrong_clock_does_not_hide_what_comes_after_it(api: HttpApi) -> None:
    api.add({"id": "wrong", "at": "2099-01-01T00:00:00Z", "level": 0}, *readings(3))
    reader = Reader(connector(api, lag_s=60))
    assert sorted(names(reader.until_idle())) == ["r0", "r1", "r2", "wrong"]
    api.add(*readings(2, 3))
    assert names(reader.take(2)) == ["r3", "r4"]
    reader.close()


def test_an_element_without_a_time_is_an_item_without_a_time(api: HttpApi) -> None:
    api.add({"id": "timeless", "at": "yesterday", "level": 0}, *readings(1))
    reader = Reader(connector(api))
    found: list[Any] = reader.until_idle()
    assert [(json.loads(i.data)["id"], i.event_time is None) for i in found] == [("r0", False), ("timeless", True)]
    assert reader.polls(2) == []
    reader.close()


@pytest.mark.parametrize(("start", "expected"), [("latest", ["r5"]), ("2023-11-14T22:15:20Z", ["r3", "r4", "r5"])])
def test_start_is_resolved_once_and_nothing_before_it_comes(api: HttpApi, start: str, expected: list[str]) -> None:
    api.replace(readings(5))  # r2 is 22:15:20
    source = connector(api, start=start)
    at = source.start_of(Split("poll"))
    api.add(*readings(1, 5))
    assert names(all_of(source, at)) == expected
    assert names(all_of(connector(api, start=start), json.loads(json.dumps(at)))) == expected


def test_the_end_is_the_last_item_and_the_lag_what_is_behind(api: HttpApi) -> None:
    source = connector(api)
    assert source.end_of(Split("poll")) is None
    api.replace(readings(10))
    items = all_of(source)
    assert source.end_of(Split("poll")) == items[-1].position
    lag = connector(api).lag(Split("poll"), items[3].position)
    assert lag is not None and (lag.records, lag.seconds) == (6, 360.0)


def test_a_body_is_given_when_it_changed_and_also_when_it_changes_back(api: HttpApi) -> None:
    source = connector(api, "/state", items=None, id=None, time=None)
    api.serve("/state", b"\xff calm", "text/plain")
    reader = Reader(source)
    found = reader.until_idle()
    for body in (b"storm", b"\xff calm"):
        api.serve("/state", body, "text/plain")
        found += reader.take(1)
    assert [read.data for read in found if isinstance(read, Item)] == [b"\xff calm", b"storm", b"\xff calm"]
    assert reader.polls(2) == []
    last: Any = found[-1]
    assert all_of(connector(api, "/state", items=None, id=None, time=None), last.position) == []
    reader.close()


# -- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("next", ["link", "/links/next"])
def test_all_pages_are_read_and_only_then_does_the_cursor_move(api: HttpApi, next: str) -> None:
    api.settings(page=4, next="link" if next == "link" else "pointer")
    there = readings(18)
    api.replace(there[::-1])  # newest first: a cursor that moved page by page would lose the rest
    assert names(all_of(connector(api, next=next, lag_s=0))) == [e["id"] for e in there]
    with pytest.raises(ConfigError, match="more than 3 pages: raise `max_pages`"):
        all_of(connector(api, next=next, max_pages=3))
    with pytest.raises(ConfigError, match=r"more than 300 bytes.*ascending"):
        all_of(connector(api, next=next, max_poll_bytes=300))
    api.replace(there)
    assert len(all_of(connector(api, next=next, max_poll_bytes=300, ascending=True))) == 18


def test_an_etag_makes_an_unchanged_answer_cheap(api: HttpApi) -> None:
    api.replace(readings(3))
    reader = Reader(connector(api))
    reader.until_idle()
    before = len(api.asked())
    reader.polls(2)
    asked = [headers for path, headers in api.asked()[before:] if path.startswith("/observations")]
    assert asked and all("If-None-Match" in headers for headers in asked)
    reader.close()


def test_what_is_new_on_the_last_of_several_pages_is_found_though_the_first_is_unchanged(api: HttpApi) -> None:
    api.settings(page=4)
    api.replace(readings(6))
    reader = Reader(connector(api))
    assert len(reader.until_idle()) == 6
    api.add(*readings(1, 6))
    assert names(reader.take(1, timeout_s=3)) == ["r6"]
    reader.close()


@pytest.mark.parametrize("value", ["{iso}", "{id}"])
def test_only_what_is_newer_is_asked_for(api: HttpApi, value: str) -> None:
    api.replace(readings(200))
    by_id: dict[str, Any] = {"time": None} if value == "{id}" else {"lag_s": 600}
    source = connector(api, since={"parameter": "since", "value": value}, **by_id)
    first = all_of(source)
    api.add(*readings(2, 200))
    assert names(all_of(source, first[-1].position)) == ["r200", "r201"]
    fresh = names(all_of(connector(api, since={"parameter": "since", "value": value}, **by_id), first[-1].position))
    assert fresh[-2:] == ["r200", "r201"] and len(fresh) <= 12
    path = api.asked()[-1][0]
    assert path == f"/observations?since={'r199' if value == '{id}' else '2023-11-15T01%3A22%3A20Z'}"


def test_a_server_that_asks_for_patience_gets_it(api: HttpApi) -> None:
    for status, headers, wait in [
        (429, {"Retry-After": "7"}, 7), (503, {"Retry-After": "120"}, 120), (429, {}, 60),
        (503, {"Retry-After": "9" * 9}, 3600), (429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
    ]:  # fmt: skip
        api.settings(status=status, headers=headers)
        with pytest.raises(RateLimited) as caught:
            all_of(connector(api))
        assert caught.value.retry_after == wait
    api.settings(status=503, body="down for an hour")
    with pytest.raises(SourceError, match=r"HTTP 503.*down for an hour") as other:
        all_of(connector(api))
    assert not isinstance(other.value, RateLimited)


def test_gzip_is_undone(api: HttpApi) -> None:
    api.settings(gzip=True)
    api.replace(readings(300))
    assert len(all_of(connector(api))) == 300


def test_no_gap_is_invented(api: HttpApi) -> None:
    api.replace(readings(3))
    assert not [read for read in all_of(connector(api)) if isinstance(read, Gap)]


def test_the_registry_knows_it() -> None:
    assert connector_class("http_poll") is HttpPoll

"""Parts of `http_poll` without a server: division against other parsers, links, windows against brute force."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.connectors.http_poll import since_value
from headrace.connectors.http_poll_config import HttpPollConfig
from headrace.connectors.http_poll_divide import Element, divided
from headrace.connectors.http_poll_json import elements, parsed, place_of, value_at
from headrace.connectors.http_poll_links import next_link, with_parameters
from headrace.connectors.http_poll_window import Window
from headrace.schemas.errors import ConfigError, RecordError

URL = "https://api.example.org/v1"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def config(**said: Any) -> HttpPollConfig:
    return HttpPollConfig(url=URL, **said)


# -- division ---------------------------------------------------------------------------------------------------------


@given(st.lists(JSON, max_size=6), st.lists(st.text(max_size=3), max_size=3), JSON, st.sampled_from([None, 0, 3]))
def test_the_elements_of_an_array_are_what_json_says_in_the_documents_own_spelling(
    array: list[Any], path: list[str], other: Any, indent: int | None
) -> None:
    document: Any = array
    for name in reversed(path):
        document = {f"{name}!": other, name: document, f"{name}?": other}
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)
    text, value = parsed(json.dumps(document, indent=indent).encode())
    assert value_at(value, place_of(pointer)) == array
    found = elements(text, place_of(pointer))
    assert [value for _, value in found] == array
    assert all(raw in text and json.loads(raw) == value for raw, value in found)


@given(st.binary(max_size=40) | st.text(alphabet='[]{},:"0 1e.-ntf\\u', max_size=30).map(str.encode))
def test_any_bytes_are_divided_or_refused_with_a_reason(body: bytes) -> None:
    for said in ({"items": ""}, {"items": "/a"}, {"divide": "lines"}, {"divide": "rows"}, {"divide": "feed"}, {}):
        try:
            divided(body, config(**said))
        except RecordError as exc:
            assert exc.reason in ("bad_encoding", "invalid_json", "missing_field", "wrong_type", "invalid_row",
                                  "corrupt", "unsupported")  # fmt: skip


@given(st.lists(st.lists(st.text(max_size=5), min_size=3, max_size=3), max_size=5))
def test_rows_are_what_the_csv_module_reads_with_the_header_before_each(rows: list[list[str]]) -> None:
    rows = [[cell.replace("\0", "").replace("\r", "\n") for cell in row] for row in rows]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["id", "b", "c"], *rows])
    page = divided(out.getvalue().encode("utf-8", "surrogatepass"), config(divide="rows", id="id"))
    got = [list(csv.reader(io.StringIO(e.data.decode("utf-8", "surrogatepass"), newline=""))) for e in page.elements]
    assert got == [[["id", "b", "c"], row] for row in rows]
    assert [element.id for element in page.elements] == [row[0] or None for row in rows]


def test_rows_keep_bytes_that_are_no_text() -> None:
    (element,) = divided(b"id;at\n\xff;2024-01-01 06:00\n", config(
        divide="rows", delimiter=";", time={"field": "at", "zone": "+02:00"})).elements  # fmt: skip
    assert element.data == b"id;at\n\xff;2024-01-01 06:00\n" and element.time == 1_704_081_600_000_000


def test_lines_are_items_and_bad_ones_too() -> None:
    body = b'{"n": 1, "t": 1700000000}\n\n  not json\r\n{"n": 2, "t": 1700000060.5}'
    found = divided(body, config(divide="lines", id="n", time={"field": "t", "unit": "s"})).elements
    assert [e.data for e in found] == [body[:25], b"not json", body[-27:]]
    assert [(e.id, e.time) for e in found] == [("1", 1_700_000_000_000_000), (None, None), ("2", 1_700_000_060_500_000)]


RSS = b"""<?xml version="1.0"?><rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel>
<title>News</title><item><guid>a1</guid><title>Storm &amp; flood</title><link>https://example.org/a1</link>
<description>short</description><content:encoded><![CDATA[<p>long</p>]]></content:encoded>
<pubDate>Tue, 14 Nov 2023 22:13:20 GMT</pubDate><category>weather</category></item>
<item><title>no guid</title><link>https://example.org/a2</link></item></channel></rss>"""
ATOM = b"""<feed xmlns="http://www.w3.org/2005/Atom"><title>F</title><entry><id>urn:1</id><title>T</title>
<updated>2023-11-14T23:13:20+01:00</updated><published>2020-01-01T00:00:00Z</published>
<link rel="self" href="https://example.org/self"/><link href="https://example.org/1"/><author><name>Ada</name></author>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">hello <b>you</b></div></content></entry></feed>"""


def test_feeds_of_both_kinds_become_json_objects_with_id_and_time() -> None:
    first, second = divided(RSS, config(divide="feed")).elements
    assert json.loads(first.data) == {
        "id": "a1", "title": "Storm & flood", "link": "https://example.org/a1", "summary": "short",
        "content": "<p>long</p>", "published": "Tue, 14 Nov 2023 22:13:20 GMT", "categories": ["weather"],
    }  # fmt: skip
    assert (first.id, first.time) == ("a1", 1_700_000_000_000_000)
    assert (second.id, second.time) == ("https://example.org/a2", None)
    (entry,) = divided(ATOM, config(divide="feed")).elements
    said = json.loads(entry.data)
    assert (entry.id, entry.time) == ("urn:1", 1_700_000_000_000_000)
    assert said["link"] == "https://example.org/1" and said["authors"] == ["Ada"]
    assert "<b>you</b>" in said["content"].replace("html:", "")


def test_entities_of_a_feed_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><rss><item><title>&b;</title></item></rss>'
    with pytest.raises(RecordError, match="no XML that is read here"):
        divided(bomb, config(divide="feed"))


# -- links ------------------------------------------------------------------------------------------------------------


def test_next_links_are_found_as_requests_finds_them() -> None:
    requests = pytest.importorskip("requests", reason="the oracle `requests` is not installed")
    for value in [
        '<https://h/a?x=1,2>; rel="next"', "</b>; rel=next", '<c>; rel="prev", <d>; rel="next"; title="x"', "nonsense",
        '<e>; rel="last"', "<g>;rel=next,<h>;rel=prev", "", '<i>; rel="prev next"',
    ]:  # fmt: skip
        links = requests.utils.parse_header_links(value)
        theirs = [link["url"] for link in links if "next" in link.get("rel", "").split()]
        ours = next_link([value], "https://h/base/")
        assert (ours is None) == (not theirs)
        if theirs:
            assert ours is not None and ours.endswith(theirs[0].lstrip("/"))
    assert next_link(['<f>; title="a; rel=last, b"; REL="Next"'], "https://h/") == "https://h/f"


@settings(deadline=500)
@given(st.text(alphabet='<>;,="\\ relnxt', max_size=200))
def test_any_link_header_is_read_in_little_time(value: str) -> None:
    next_link([value, value * 300], "https://h/")


def test_parameters_are_added_to_a_query() -> None:
    assert with_parameters("https://h/a?b=1&c=2#f", {"c": "3", "d": "x y"}) == "https://h/a?b=1&c=3&d=x+y"
    assert with_parameters("https://h/a?c=2", {"c": "3", "d": "4"}, replace=False) == "https://h/a?c=2&d=4"


def test_the_time_that_is_asked_from_is_written_as_the_template_says() -> None:
    at = 1_700_000_000_999_999
    said = {t: since_value(t, at, "x/1") for t in ("{iso}", "{date}", "gt.{s}", "{ms}", "{us}", "{id}")}
    seconds = ["2023-11-14T22:13:20Z", "2023-11-14", "gt.1700000000"]
    assert list(said.values()) == [*seconds, "1700000000999", str(at), "x/1"]
    assert since_value("{iso}", None, "x") is None and since_value("{id}", at, None) is None


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_a_window_over_any_history_gives_each_key_once_and_misses_only_what_came_too_late(seed: int) -> None:
    """A source whose elements come in any order, polled at random moments, the reader restarted at random places."""
    dice = random.Random(seed)
    lag = dice.choice([0, 5, 20])
    source: list[tuple[int, Element]] = []  # (arrival, element)
    for n in range(dice.randint(1, 80)):
        happened = n * 2
        arrived = happened + (dice.randint(0, 30) if dice.random() < 0.3 else 0)
        source.append((arrived, Element(b"", f"e{n}", happened, f"{dice.getrandbits(80):020x}")))
    position: Any = None
    window = Window(None, timed=True, lag_us=lag)
    kept: list[str] = []
    newest_at: dict[str, int] = {}  # the cursor when an element could first be seen
    for now in range(0, 260, dice.randint(1, 9)):
        there = [element for arrived, element in source if arrived <= now]
        dice.shuffle(there)
        for element in there:
            newest_at.setdefault(element.digest, window.time if window.time is not None else -1)
        for element, at in window.fresh(there, 10**18):
            if dice.random() < 0.02:  # it was given and not kept: the process died
                window = Window(json.loads(json.dumps(position)), timed=True, lag_us=lag)
                break
            kept.append(element.digest)
            position = at
    there = [element for _, element in source]
    kept += [element.digest for element, _ in window.fresh(there, 10**18)]
    for _, element in source:
        came_in_time = element.time is not None and element.time > newest_at[element.digest] - lag
        assert element.digest in kept or not came_in_time
    digests = [element.digest for _, element in source]
    assert set(kept) <= set(digests)


def test_an_element_from_the_future_is_not_given_again_when_its_time_has_come() -> None:
    window = Window(None, timed=True, lag_us=10)
    now, ahead, later = (Element(b"", n, t, n * 20) for n, t in (("a", 100), ("b", 200), ("c", 300)))
    assert [e.id for e, _ in window.fresh([now, ahead], 150)] == ["a", "b"]
    assert [e.id for e, _ in window.fresh([now, ahead], 250)] == []
    assert [(e.id, at["time"]) for e, at in window.fresh([now, ahead, later], 350)] == [("c", 300)]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"url": "ftp://h/x"}, "http:// or https://"),
        ({"url": "https://u:hidden@h/x"}, "do not belong in the url"),
        ({"items": "/a~2"}, "~0"),
        ({"id": "x"}, "where to look"),
        ({"items": "", "start": "latest"}, "`start` needs `time`"),
        ({"items": "", "next": "cursor"}, "/links/next"),
        ({"items": "", "since": {"parameter": "s", "value": "{when}"}}, "{iso}"),
        ({"items": "", "since": {"parameter": "s"}}, "needs `time`"),
        ({"items": "", "ascending": True}, "needs `time`"),
        ({"headers": {"X": "a\nb"}}, "on one line"),
        ({"divide": "rows", "items": "/x"}, "goes with"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_what_would_be_right(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HttpPollConfig(**{"url": URL, **said})
    assert message in str(caught.value)
    assert "hidden" not in caught.value.errors(include_input=False).__repr__()


def test_numbers_may_stand_among_the_parameters() -> None:
    assert config(parameters={"limit": 100}).parameters["limit"].get_secret_value() == "100"


def test_a_position_of_something_else_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="no place of http_poll"):
        Window(7, timed=True, lag_us=0)

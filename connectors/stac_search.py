"""Item search of a STAC API, page by page, by POST or GET.

Written here and not taken from pystac-client: its pages and links go to whatever host an answer names, of any size, and
it comes with some thirty packages. Tests hold the two against each other.

Source: STAC API - Item Search 1.0.0, sections "Query Parameters and Fields" and "Paging".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from headrace.connectors.http_poll_client import Answer, ApiClient
from headrace.connectors.http_poll_links import with_parameters
from headrace.connectors.stac_document import Found, found_of, links
from headrace.schemas.canonical import canonical_json, digest_of
from headrace.schemas.errors import ConfigError, SourceError

_MOST_PAGES = 1_000_000


def document_of(answer: Answer, shown: str) -> Any:
    """The JSON of an answer. Raises: SourceError."""
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as exc:
        raise SourceError(f"{shown}: the answer is not JSON: {exc}") from exc


class Search:
    """Where an API is searched."""

    def __init__(self, client: ApiClient, url: str, method: str, max_items: int) -> None:
        self._client = client
        self._url = url
        self._method = method
        self._max_items = max_items

    @classmethod
    def of_landing(cls, client: ApiClient, landing: Any, base: str, method: str, max_items: int) -> Search | None:
        """The search that a landing page offers; None if it is a static catalog. Raises: ConfigError."""
        offered = links(landing, "search", base)
        if not offered:
            return None
        by_method = {str(link.get("method") or "GET").upper(): url for url, link in offered}
        wanted = ("POST" if "POST" in by_method else "GET") if method == "auto" else method
        return cls(client, client.allowed(by_method.get(wanted) or offered[0][0]), wanted, max_items)

    def items(self, body: Mapping[str, Any]) -> Iterator[Found]:
        """The items that a search finds, as its parameters in JSON say. Raises: SourceError, ConfigError."""
        count = 0
        for document, url in self._pages(dict(body)):
            features = document.get("features") if isinstance(document, Mapping) else None
            if not isinstance(features, list):
                raise SourceError(f"{self._client.shown}: the search gave no FeatureCollection")
            for feature in features:
                item = found_of(feature, _self_of(feature, url))
                if item is None:
                    what = feature.get("id") if isinstance(feature, Mapping) else feature
                    raise SourceError(f"{self._client.shown}: the search gave something that is no item: {what!r:.80}")
                count += 1
                if count > self._max_items:
                    raise ConfigError(
                        f"{self._client.shown}: the search finds more than {self._max_items} items: narrow it by"
                        " `datetime`, `bbox` or `collections`, or raise `max_items`"
                    )
                yield item

    def _pages(self, body: dict[str, Any]) -> Iterator[tuple[Any, str]]:
        """(document, its URL) of each page."""
        url, method = self._url, self._method
        if method == "GET":
            url, body = with_parameters(url, _query(body)), {}
        headers: dict[str, str] = {}
        asked: set[str] = set()
        for _ in range(_MOST_PAGES):
            key = digest_of([method, url, body])
            if key in asked:
                raise SourceError(f"{self._client.shown}: the link to the next page leads back to one that was read")
            asked.add(key)
            answer = self._client.get(url) if method == "GET" else self._client.post(url, body, headers)
            document = document_of(answer, self._client.shown)
            yield document, answer.url
            following = links(document, "next", answer.url)
            if not following:
                return
            url, link = following[0]
            self._client.allowed(url)
            method = str(link.get("method") or "GET").upper()
            if method not in ("GET", "POST"):
                raise SourceError(f"{self._client.shown}: the next page is to be asked for by {method[:20]!r}")
            said = link.get("body")
            given = dict(said) if isinstance(said, Mapping) else {}
            body = ({**body, **given} if link.get("merge") else given) if method == "POST" else {}


def _query(body: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a search as those of GET write them."""
    out: dict[str, str] = {}
    for name, value in body.items():
        if isinstance(value, str):
            out[name] = value
        elif isinstance(value, list | tuple):
            out[name] = ",".join(map(_plain, value))
        else:
            out[name] = canonical_json(value).decode() if isinstance(value, Mapping) else str(value)
    return out


def _plain(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _self_of(feature: Any, page: str) -> str:
    """What the item's relative hrefs are relative to."""
    own = links(feature, "self", page)
    return own[0][0] if own else page

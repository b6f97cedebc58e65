"""A static STAC catalog: JSON documents that link to each other, walked from the root.

The same settings choose among its items as in an API, save `query` and `filter`, which need one. Documents of one depth
are fetched at once, since each costs a round trip; each is fetched once, however many links lead to it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from headrace.connectors.http_poll_client import ApiClient
from headrace.connectors.stac_config import StacConfig, interval_of
from headrace.connectors.stac_document import Found, found_of, links
from headrace.connectors.stac_search import document_of
from headrace.connectors.start_time import start_us
from headrace.schemas.errors import ConfigError, SourceError

_AT_ONCE = 8
_MOST_DOCUMENTS = 1_000_000


def walk(client: ApiClient, root: str, config: StacConfig) -> Iterator[Found]:
    """The items of a catalog that the settings choose. Raises: SourceError, ConfigError."""
    if config.query is not None or config.filter is not None:
        raise ConfigError(f"{client.shown} is a static catalog: `query` and `filter` need a STAC API")
    seen, level, count = {root}, [root], 0
    with ThreadPoolExecutor(_AT_ONCE, "headrace-stac") as pool:
        while level:
            following: list[str] = []
            for url, document in zip(level, pool.map(lambda url: fetched(client, url), level)):
                item = found_of(document, url)
                if item is not None:
                    count += 1
                    if count > config.max_items:
                        raise ConfigError(f"{client.shown}: more than {config.max_items} items: raise `max_items`")
                    if is_wanted(item, config):
                        yield item
                    continue
                if not isinstance(document, Mapping) or "stac_version" not in document:
                    raise SourceError(f"{client.shown}: a link leads to {_shown(url)}, which is no STAC document")
                following += [target for rel in ("child", "item") for target, _ in links(document, rel, url)]
            level = []
            for target in following:
                if target not in seen:
                    seen.add(target)
                    level.append(client.allowed(target))
            if len(seen) > _MOST_DOCUMENTS:
                raise SourceError(f"{client.shown}: more than {_MOST_DOCUMENTS} documents")


def fetched(client: ApiClient, url: str) -> Any:
    """The document at a URL. Raises: SourceError, ConfigError."""
    return document_of(client.get(url), f"{client.shown}: {_shown(url)}")


def _shown(url: str) -> str:
    return urlsplit(url).path


def name_below(root: str, url: str) -> str | None:
    """The path of a document relative to the root's folder; None if it lies on another origin or above it."""
    ours, theirs = urlsplit(root), urlsplit(url)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc) or theirs.query:
        return None
    folder = posixpath.dirname(ours.path).rstrip("/") + "/"
    path = posixpath.normpath(theirs.path)
    return path[len(folder) :] if path.startswith(folder) else None


def is_wanted(item: Found, config: StacConfig) -> bool:
    """Whether an item is of the collections, times and places that the settings name."""
    if config.collections and item.collection not in config.collections:
        return False
    if config.datetime is not None and not _in_interval(item, config.datetime):
        return False
    return config.bbox is None or _meets(item.document.get("bbox"), config.bbox)


def _in_interval(item: Found, value: str) -> bool:
    """STAC: an item with a begin and an end is in every interval that meets them."""
    low, high = (None if text is None else start_us(text) for text in interval_of(value))
    properties = item.document.get("properties")
    said = properties if isinstance(properties, Mapping) else {}
    begin = end = item.time_us
    for name in ("start_datetime", "end_datetime"):
        text = said.get(name)
        try:
            moment = start_us(text) if isinstance(text, str) else None
        except ValueError:
            moment = None
        if moment is not None:
            begin, end = (moment, end) if name == "start_datetime" else (begin, moment)
    if begin is None or end is None:
        return False
    return (low is None or end >= low) and (high is None or begin <= high)


def _meets(bbox: Any, wanted: Sequence[float]) -> bool:
    if not isinstance(bbox, list) or len(bbox) not in (4, 6) or not all(isinstance(v, int | float) for v in bbox):
        return False
    west, south, east, north = _flat(bbox)
    w, s, e, n = _flat(wanted)
    return south <= n and north >= s and any(
        a <= d and b >= c for a, b in _spans(west, east) for c, d in _spans(w, e)
    )  # fmt: skip


def _flat(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    half = len(bbox) // 2
    return bbox[0], bbox[1], bbox[half], bbox[half + 1]


def _spans(west: float, east: float) -> list[tuple[float, float]]:
    """Longitudes as spans that do not cross the antimeridian."""
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]

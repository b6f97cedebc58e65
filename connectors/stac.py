"""The connector `stac`: items of a STAC API, or of a static catalog, each with the files of its chosen assets.

An item is a split of its own: its id is `collection/item` (in a static catalog the path of its document), its pin a
digest of what it says. So the plan in the dataset's log is what remembers which items were read: a build takes what a
search finds, once; a service searches again and again, and takes what the plan does not have. Neither needs a cursor.

    search → items, each a split → [item document, its collection, a file per asset] → tiles on one grid
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from headrace.connectors.contract import Blob, Broken, BytesBlob, Connector, Gap, Item, Position, Read, Split
from headrace.connectors.file_store import changed
from headrace.connectors.http_poll_client import ApiClient, NotThere
from headrace.connectors.stac_assets import Assets
from headrace.connectors.stac_catalog import fetched, name_below, walk
from headrace.connectors.stac_config import StacConfig, interval_of
from headrace.connectors.stac_document import (
    Found,
    chosen_assets,
    collection_part,
    found_of,
    links,
    name_of,
    named,
    stable,
    with_files,
)
from headrace.connectors.stac_search import Search
from headrace.connectors.start_time import start_us
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, RecordError

END = "end"
_REVISION = "@"  # with `revisions`, the last one in a split's id is ours: @ and a part of the pin follow each name
_UNSAFE = str.maketrans({"/": "_", "\\": "_", "\0": "_"})


class Stac(Connector):
    """Items of a STAC API or a static STAC catalog, with the files of their assets."""

    Config = StacConfig
    bounded = True
    replay = "exact"
    example = (
        "{type: stac, url: 'https://stac.example.org/v1', collections: sentinel-2-l2a, bbox: [24.8, 60.1, 25.2, 60.3], "
        "datetime: 2025-01-01/.., assets: [red, nir, scl], allow_hosts: [cogs.example.org]}"
    )

    def __init__(self, config: StacConfig) -> None:
        super().__init__(config)
        self._client = ApiClient(
            config.url,
            allow_hosts=config.allow_hosts,
            headers={name: value.get_secret_value() for name, value in config.headers.items()},
            token=None if config.token is None else config.token.get_secret_value(),
            timeout_s=config.timeout_s,
            max_body_bytes=config.max_body_bytes,
        )
        self._assets = Assets(self._client, config)
        self._lock = threading.Lock()
        self._asked: tuple[Search | None] | None = None  #: the API's search, once it was asked; None: static
        self._collections: dict[str, dict[str, Any] | None] = {}
        self._watching = False
        self._clock: Callable[[], float] = time.monotonic
        self._known: dict[str, Found] = {}  #: of a service's listings, by split id
        self._listed = self._full = float("-inf")  #: when the last listing, the last full one, began

    def describe(self) -> str:
        return f"stac {self._client.shown}"

    def probe(self) -> None:
        """Asks for one item, and where its assets lie. Raises: SourceError, ConfigError."""
        for item in self._items({}, limit=1):
            try:
                for href in chosen_assets(item, self.config.assets).values():
                    self._assets.check(href)
            except RecordError as exc:
                raise ConfigError(f"{self._client.shown}: {exc.message}") from exc
            return

    # -- listing ------------------------------------------------------------------------------------------------------

    def watch(self, clock: Callable[[], float] = time.monotonic) -> None:
        """For a service: from now on `splits` asks no more often than `interval_s`, and then for what is new."""
        self._watching = True
        self._clock = clock

    def splits(self) -> list[Split]:
        with self._lock:
            found = self._watched() if self._watching else self._all({})
            return [
                Split(id, item.pin, item.weight) for id, item in sorted(found.items(), key=lambda one: one[0])
            ]  # fmt: skip

    def _all(self, narrowed: dict[str, Any]) -> dict[str, Found]:
        # An item may come twice, when the catalog grows while its pages are read.
        return {self._name(item): item for item in self._items(narrowed)}

    def _watched(self) -> dict[str, Found]:
        now, config = self._clock(), self.config
        if now - self._listed < config.interval_s:
            return self._known
        narrowed = self._news()
        if narrowed is None or now - self._full >= config.recheck_s:
            self._known = self._all({})
            self._full = now
        else:
            self._known.update(self._all(narrowed))
        self._listed = now
        return self._known

    def _news(self) -> dict[str, Any] | None:
        """What narrows a search down to new items; None if only a full one finds them all."""
        config = self.config
        if config.news == "all" or self._search() is None:
            return None
        times = [item.time_us if config.news == "datetime" else item.updated_us for item in self._known.values()]
        now = time.time_ns() // 1000  # an item from the future must not hide those of today
        newest = max((t for t in times if t is not None and t <= now), default=None)
        if newest is None:
            return None
        begin_us = newest - round(config.lag_s * 1_000_000)
        begin = datetime.fromtimestamp(begin_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if config.news == "updated":
            return {"query": {**(config.query or {}), "updated": {"gte": begin}}}
        low, high = (None, None) if config.datetime is None else interval_of(config.datetime)
        if low is not None and start_us(low) >= begin_us:
            return None
        return {"datetime": f"{begin}/{high or '..'}"}

    def _items(self, narrowed: dict[str, Any], limit: int | None = None) -> Iterator[Found]:
        """The items that the settings choose. Raises: SourceError, ConfigError."""
        search, config = self._search(), self.config
        if search is None:
            yield from walk(self._client, config.url, config)
            return
        body: dict[str, Any] = {"limit": limit or config.limit}
        if config.collections:
            body["collections"] = list(config.collections)
        if config.bbox is not None:
            body["bbox"] = list(config.bbox)
        if config.datetime is not None:
            low, high = interval_of(config.datetime)
            body["datetime"] = low if low == high and low is not None else f"{low or '..'}/{high or '..'}"
        if config.query is not None:
            body["query"] = config.query
        if config.filter is not None:
            body |= {"filter": config.filter, "filter-lang": "cql2-json"}
        yield from search.items({**body, **narrowed})

    def _search(self) -> Search | None:
        """The API's search; None for a static catalog. Raises: SourceError, ConfigError."""
        if self._asked is None:
            landing = fetched(self._client, self.config.url)
            if not isinstance(landing, dict) or "stac_version" not in landing:
                raise ConfigError(
                    "it is no STAC document: the root of a STAC API, or a catalog.json, is expected",
                    field="url", value=self._client.shown,
                )  # fmt: skip
            config = self.config
            found = Search.of_landing(self._client, landing, config.url, config.method, config.max_items)
            self._asked = (found,)
        return self._asked[0]

    def _name(self, item: Found) -> str:
        """The id of an item's split."""
        if self._search() is None:
            name = name_below(self.config.url, item.url)
            if name is None:
                raise ConfigError(f"{self._client.shown}: the item {item.id!r} lies outside of the catalog's folder")
        else:
            name = name_of(item.collection, item.id)
        return f"{name}{_REVISION}{item.pin[5:17]}" if self.config.revisions else name

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        if after == END:
            return
        item = self._planned(split)
        if item is None:
            yield Gap("replaced by a newer revision before it was read", END, 1)
            return
        try:
            blobs, headers = self._product(item, split.id)
        except RecordError as exc:
            yield Broken(exc.reason, f"{split.id}: {exc.message}", END, "{}", canonical_json(stable(item.document)))
            return
        yield Item(blobs, END, key=split.id, headers=headers)

    def _planned(self, split: Split) -> Found | None:
        """The item of a split as it is now; None if the revision that was planned is gone. Raises: SourceChanged."""
        name = split.id.rpartition(_REVISION)[0] if self.config.revisions else split.id
        item = self._fetched(name)
        now = "missing" if item is None else item.pin
        if item is None or (split.pin is not None and split.pin != now):
            if item is not None and self.config.revisions:
                return None
            raise changed(split.id, split.pin or "to be there", now)
        return item

    def _fetched(self, name: str) -> Found | None:
        search = self._search()
        if search is None:
            url = self.config.url.rpartition("/")[0] + "/" + name
            try:
                return found_of(fetched(self._client, url), url)
            except NotThere:
                return None
        collection, id = named(name)
        body: dict[str, Any] = {"ids": [id], "limit": 10}
        if collection is not None:
            body["collections"] = [collection]
        return next((i for i in search.items(body) if (i.collection, i.id) == (collection, id)), None)

    def _product(self, item: Found, object_id: str) -> tuple[list[Blob], dict[str, str]]:
        """The documents and files of an item. Raises: RecordError for what the item is to blame for, SourceError."""
        hrefs = chosen_assets(item, self.config.assets)
        names = {key: f"{key.translate(_UNSAFE)}/{_file_name(href)}" for key, href in hrefs.items()}
        files = [self._assets.open(href, f"{object_id}/{names[key]}") for key, href in hrefs.items()]
        documents: list[Blob] = [
            BytesBlob(f"{object_id}/item.json", canonical_json(with_files(item.document, names)))
        ]
        collection = self._collection(item)
        if collection is not None:
            documents.append(BytesBlob(f"{object_id}/collection.json", canonical_json(collection)))
        headers = {"object": object_id, "group": "stac", "rights": canonical_json(_rights(item, collection)).decode()}
        return [*documents, *files], headers

    def _collection(self, item: Found) -> dict[str, Any] | None:
        """What the item's collection says of license and providers; None if there is none to be had."""
        url = next((url for url, _ in links(item.document, "collection", item.url)), None)
        if self._search() is not None and item.collection is not None and not (url and self._client.is_own(url)):
            url = f"{self.config.url.rstrip('/')}/collections/{quote(item.collection, safe='')}"
        if url is None:
            return None
        with self._lock:
            if url in self._collections:
                return self._collections[url]
        try:
            found = collection_part(fetched(self._client, self._client.allowed(url)))
        except NotThere:
            found = None
        except ConfigError as exc:
            raise RecordError("external_reference", f"its collection: {exc}") from exc
        with self._lock:
            self._collections[url] = found
        return found


def _rights(item: Found, collection: dict[str, Any] | None) -> dict[str, Any]:
    """Evidence of what may be done with an item, as its documents tell it."""
    properties = item.document.get("properties")
    said = properties.get("license") if isinstance(properties, dict) else None
    out = {
        "license": said, "collection_license": (collection or {}).get("license"),
        "license_links": [url for url, _ in links(item.document, "license", item.url)] or None,
    }  # fmt: skip
    return {name: value for name, value in out.items() if value is not None}


def _file_name(href: str) -> str:
    return href.partition("?")[0].partition("#")[0].rpartition("/")[2].translate(_UNSAFE) or "file"

"""What a STAC item says, as far as finding and pinning it needs: no input or output.

The pin of an item is a digest of its document without links, `updated` and the queries of its hrefs (which may be
signatures): catalogues touch millions of items at a time, and what only they did to it is no change of the item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from headrace.connectors.start_time import start_us
from headrace.schemas.canonical import digest_of
from headrace.schemas.errors import RecordError

_SAFE = " !$&'()*+,;=:@~-._"
_RASTERS = ("image/tiff", "image/jp2", "application/x-hdf", "application/netcdf", "application/x-netcdf",
            "application/x-grib", "application/wmo-grib2", "application/geotiff")  # fmt: skip
_SUFFIXES = (".tif", ".tiff", ".jp2", ".nc", ".nc4", ".h5", ".hdf", ".grib", ".grib2", ".grb", ".grb2")
_NOT_WANTED = frozenset({"thumbnail", "overview"})
_COLLECTION_KEPT = ("id", "license", "providers")


@dataclass(frozen=True)
class Found:
    """An item of a listing. `url`: where its document stands by itself, in a static catalog."""

    collection: str | None
    id: str
    document: Mapping[str, Any]
    url: str

    @property
    def pin(self) -> str:
        """A digest of what the item says of itself."""
        return "item:" + digest_of(stable(self.document))

    @property
    def weight(self) -> int:
        """Bytes of the assets whose size the document tells; at least 1."""
        assets = _mapping(self.document.get("assets")).values()
        sizes = [a.get("file:size") for a in assets if isinstance(a, Mapping)]
        return max(1, sum(size for size in sizes if isinstance(size, int) and 0 < size < 1 << 50))

    @property
    def time_us(self) -> int | None:
        """When it was taken, as microseconds since 1970."""
        return self._time("datetime") or self._time("start_datetime")

    @property
    def updated_us(self) -> int | None:
        """When the catalog last touched it."""
        return self._time("updated")

    def _time(self, name: str) -> int | None:
        value = _mapping(self.document.get("properties")).get(name)
        try:
            return start_us(value) if isinstance(value, str) else None
        except ValueError:
            return None


def found_of(document: Any, url: str) -> Found | None:
    """An item document, or None if it is none."""
    if not isinstance(document, Mapping) or document.get("type") != "Feature":
        return None
    id, collection = document.get("id"), document.get("collection")
    if not isinstance(id, str) or not id or not isinstance(document.get("assets"), Mapping):
        return None
    return Found(collection if isinstance(collection, str) and collection else None, id, document, url)


def name_of(collection: str | None, id: str) -> str:
    """`collection/item`, as the id of a split; characters that a path cannot hold are percent-encoded."""
    return f"{quote(collection, safe=_SAFE) if collection else '-'}/{quote(id, safe=_SAFE)}"


def named(name: str) -> tuple[str | None, str]:
    """(collection, item) of `name_of`."""
    collection, _, id = name.partition("/")
    return (None if collection == "-" else unquote(collection)), unquote(id)


def stable(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what changes while the item does not."""
    out = {name: value for name, value in document.items() if name != "links"}
    properties = _mapping(out.get("properties"))
    out["properties"] = {name: value for name, value in properties.items() if name != "updated"}
    out["assets"] = {key: _unsigned(asset) for key, asset in _mapping(out.get("assets")).items()}
    return out


def _unsigned(asset: Any) -> Any:
    if not isinstance(asset, Mapping):
        return asset
    out = dict(asset)
    if isinstance(out.get("href"), str):
        parts = urlsplit(out["href"])
        out["href"] = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return out


def chosen_assets(item: Found, wanted: Sequence[str]) -> dict[str, str]:
    """asset key → absolute href of the assets that are wanted, in the document's order.

    Raises: RecordError `missing_field` if one is absent, or the item has none at all.
    """
    assets = {
        key: asset
        for key, asset in _mapping(item.document.get("assets")).items()
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str)
    }
    if wanted:
        keys: set[str] = set()
        for name in wanted:
            found = [name] if name in assets else [key for key, asset in assets.items() if name in _band_names(asset)]
            if not found:
                there = ", ".join(list(assets)[:40]) or "none"
                raise RecordError("missing_field", f"{item.id} has no asset or band {name!r}; its assets: {there}")
            # Several files may hold a band (as COG and as JPEG 2000): the first is as good as the others.
            keys.add(found[0])
    else:
        keys = {key for key, asset in assets.items() if _is_raster(asset)}
        if not keys:
            raise RecordError("missing_field", f"{item.id} has no asset that is a raster; name some in `assets`")
    return {key: urljoin(item.url, asset["href"]) for key, asset in assets.items() if key in keys}


def _band_names(asset: Mapping[str, Any]) -> set[str]:
    bands = [band for name in ("bands", "eo:bands") for band in asset.get(name) or () if isinstance(band, Mapping)]
    keys = ("name", "common_name", "eo:common_name")
    return {band[key] for band in bands for key in keys if isinstance(band.get(key), str)}


def _is_raster(asset: Mapping[str, Any]) -> bool:
    roles = asset.get("roles")
    if isinstance(roles, list) and _NOT_WANTED & {role for role in roles if isinstance(role, str)}:
        return False
    media_type = str(asset.get("type") or "").split(";")[0].strip().lower()
    if media_type:
        return media_type in _RASTERS
    return urlsplit(asset["href"]).path.lower().endswith(_SUFFIXES)


def with_files(document: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The document that travels with the files: its assets are those that come along, under the names they have here.

    files: asset key → name.
    """
    out = stable(document)
    out["assets"] = {key: {**out["assets"][key], "href": f"./{name}"} for key, name in files.items()}
    return out


def collection_part(document: Any) -> dict[str, Any] | None:
    """What an item takes from its collection: license, providers; None if it is no collection."""
    if not isinstance(document, Mapping) or document.get("type", "Collection") != "Collection":
        return None
    kept = {name: document[name] for name in _COLLECTION_KEPT if name in document}
    return {"type": "Collection", "stac_version": "1.0.0", **kept}


def links(document: Any, rel: str, base: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(absolute URL, link) of the links of a relation type."""
    given: Iterable[Any] = document.get("links") or () if isinstance(document, Mapping) else ()
    return [
        (urljoin(base, link["href"]), link)
        for link in given
        if isinstance(link, Mapping) and link.get("rel") == rel and isinstance(link.get("href"), str)
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

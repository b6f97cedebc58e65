"""STAC documents as metadata: items with their assets and bands, in every spelling from STAC 0.9 to 1.1.

A STAC document names files by href. Nothing here opens one: `resolve` only finds, among the files that came with the
item, the one whose path ends like the href. What a document says of its own type, sizes and flags is not trusted;
fields of an unexpected type are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.raster_times import iso_micros
from headrace.ingest.normalizers.strict_json import loads
from headrace.schemas.errors import RecordError

MAX_BYTES = 16 << 20
_SPDX = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.+-]{1,63}$")
_NO_LICENSE_ID = {"proprietary", "various", "other"}  # words that STAC allows instead of an SPDX id


@dataclass(frozen=True)
class StacBand:
    """What an asset says of one of its bands."""

    name: str | None = None
    common_name: str | None = None
    wavelength_nm: float | None = None
    gsd_m: float | None = None
    unit: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None


@dataclass(frozen=True)
class StacAsset:
    """One file of an item."""

    key: str
    href: str
    media_type: str = ""
    roles: frozenset[str] = frozenset()
    bands: tuple[StacBand, ...] = ()


@dataclass(frozen=True)
class StacItem:
    """One item. Times are microseconds since 1970; `license` is an SPDX id or `LicenseRef-…`."""

    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    collection: str | None = None
    event_time: int | None = None
    event_end: int | None = None
    time_source: str | None = None
    license: str | None = None
    attribution: str | None = None
    assets: tuple[StacAsset, ...] = ()


@dataclass(frozen=True)
class StacDocument:
    """A parsed document: `kind` is Item, ItemCollection, Collection or Catalog."""

    kind: str
    items: tuple[StacItem, ...] = ()
    license: str | None = None
    attribution: str | None = None


def read_stac(data: bytes) -> StacDocument:
    """Parse a STAC document. Raises: RecordError `invalid_json`, or `inconsistent` if it is JSON but not STAC."""
    if len(data) > MAX_BYTES:
        raise RecordError("too_large", f"a STAC document of {len(data)} bytes; {MAX_BYTES} are allowed")
    value = loads(data)
    if not isinstance(value, dict):
        raise RecordError("inconsistent", f"a STAC document is an object, not {type(value).__name__}")
    kind = value.get("type")
    if kind == "FeatureCollection" and isinstance(value.get("features"), list):
        items = [_item(f) for f in value["features"] if isinstance(f, dict) and f.get("type") == "Feature"]
        return StacDocument("ItemCollection", tuple(items))
    if "stac_version" not in value:
        raise RecordError("inconsistent", "JSON without `stac_version` is not a STAC document")
    if kind == "Feature":
        return StacDocument("Item", (_item(value),))
    license, attribution = _license(value), _attribution(value.get("providers"))
    if kind == "Collection" or (kind is None and "extent" in value):
        return StacDocument("Collection", (), license, attribution)
    return StacDocument("Catalog", (), license, attribution)


def with_collection(item: StacItem, collection: StacDocument) -> StacItem:
    """The item with license and attribution of its collection where it says nothing itself."""
    return replace(
        item, license=item.license or collection.license, attribution=item.attribution or collection.attribution
    )


def resolve(href: str, blobs: Sequence[Blob]) -> Blob | None:
    """The file that an href means, among those that came with the item: the longest common end of their paths.

    Raises: RecordError `inconsistent` if several fit equally well.
    """
    wanted = _parts(unquote(urlsplit(href).path))
    best: list[Blob] = []
    most = 0
    for blob in blobs:
        common = 0
        for ours, theirs in zip(reversed(_parts(blob.id)), reversed(wanted)):
            if ours != theirs:
                break
            common += 1
        if common > most:
            best, most = [blob], common
        elif common == most and common:
            best.append(blob)
    if len(best) > 1:
        raise RecordError("inconsistent", f"{href!r} could be {best[0].id!r} or {best[1].id!r}")
    return best[0] if best else None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _item(value: dict[str, Any]) -> StacItem:
    properties = value.get("properties")
    if not isinstance(properties, dict):
        raise RecordError("inconsistent", "a STAC item needs an object `properties`")
    begin, end = iso_micros(properties.get("datetime")), None
    source = "stac:datetime"
    if begin is None:
        begin, end = iso_micros(properties.get("start_datetime")), iso_micros(properties.get("end_datetime"))
        source = "stac:start_datetime"
    assets = value.get("assets")
    return StacItem(
        id=_text(value.get("id")) or "",
        properties=properties,
        collection=_text(value.get("collection")) or _text(properties.get("collection")),
        event_time=begin,
        event_end=end,
        time_source=source if begin is not None else None,
        license=_license(properties) or _license(value),
        attribution=_attribution(properties.get("providers")),
        assets=tuple(_assets(assets, properties) if isinstance(assets, dict) else ()),
    )


def _assets(assets: dict[str, Any], properties: dict[str, Any]) -> Iterable[StacAsset]:
    shared = _list(properties.get("eo:bands"))
    for key, value in assets.items():
        if not isinstance(value, dict) or not isinstance(value.get("href"), str):
            continue
        roles = frozenset(role for role in _list(value.get("roles")) if isinstance(role, str))
        yield StacAsset(key, value["href"], _text(value.get("type")) or "", roles, _bands(value, shared, properties))


def _bands(asset: dict[str, Any], shared: list[Any], properties: dict[str, Any]) -> tuple[StacBand, ...]:
    """By position: `bands` of STAC 1.1, else `eo:bands` beside `raster:bands`; before 0.9 numbers into the item's."""
    eo = [shared[b] if isinstance(b, int) and 0 <= b < len(shared) else b for b in _list(asset.get("eo:bands"))]
    raster, joint = _list(asset.get("raster:bands")), _list(asset.get("bands"))
    bands = []
    for i in range(max(len(eo), len(raster), len(joint))):
        layers = [row[i] for row in (joint, eo, raster) if i < len(row) and isinstance(row[i], dict)]
        layers += [asset, {"gsd": properties.get("gsd")}]
        bands.append(
            StacBand(
                name=_name(layers),
                common_name=_text(_pick(layers, "eo:common_name", "common_name")),
                wavelength_nm=_nanometres(_first(layers, "eo:center_wavelength", "center_wavelength")),
                gsd_m=_first(layers, "raster:spatial_resolution", "spatial_resolution", "gsd"),
                unit=_text(_pick(layers, "unit")),
                scale=_first(layers, "raster:scale", "scale"),
                offset=_first(layers, "raster:offset", "offset"),
                nodata=_first(layers, "nodata"),
            )
        )
    return tuple(bands)


def _nanometres(value: float | None) -> float | None:
    """STAC says micrometres; 470 is what writers mean who did not read that. No instrument sees under 100 nm."""
    if value is None or not 0.1 <= value < 1e5:
        return None
    return value if value > 100 else value * 1000


def _name(layers: list[dict[str, Any]]) -> str | None:
    return _text(_pick(layers[:-2], "name"))


def _pick(layers: list[dict[str, Any]], *keys: str) -> Any:
    return next((layer[key] for layer in layers for key in keys if layer.get(key) is not None), None)


def _first(layers: list[dict[str, Any]], *keys: str) -> float | None:
    value = _pick(layers, *keys)
    if isinstance(value, str) and value.lower() in ("nan", "inf", "-inf"):
        return float(value)  # how STAC spells a nodata value that JSON cannot
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _license(value: Mapping[str, Any]) -> str | None:
    text = _text(value.get("license"))
    if text is None or not _SPDX.match(text):
        return None
    return f"LicenseRef-{text}" if text.lower() in _NO_LICENSE_ID else text


def _attribution(providers: Any) -> str | None:
    """`ESA (producer, processor), Element 84 (host)`."""
    found = []
    for provider in _list(providers):
        name = _text(provider.get("name")) if isinstance(provider, dict) else None
        if name:
            roles = [role for role in _list(provider.get("roles")) if isinstance(role, str)]
            found.append(f"{name} ({', '.join(roles)})" if roles else name)
    return ", ".join(found) or None


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

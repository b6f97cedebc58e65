"""A connector `stac` on a test's server, and what its items hold."""

from __future__ import annotations

import json
from typing import Any

from headrace.connectors.contract import Blob, BytesBlob, Item
from headrace.connectors.stac import Stac

from ..servers.stac_api import StacApi


def stac(api: StacApi, **settings: Any) -> Stac:
    return Stac(Stac.Config(**{"url": api.url, **settings}))


def ids(source: Stac) -> list[str]:
    return [split.id for split in source.splits()]


def only(source: Stac, index: int = 0) -> Any:
    """What the split of a number gives: one read."""
    splits = list(source.splits())
    (read,) = list(source.read(splits[index], None))
    return read


def documents(item: Item) -> dict[str, Any]:
    assert isinstance(item.data, list)
    return {blob.name: json.loads(blob.read()) for blob in item.data if isinstance(blob, BytesBlob)}


def files(item: Item) -> list[Blob]:
    assert isinstance(item.data, list)
    return [blob for blob in item.data if not isinstance(blob, BytesBlob)]

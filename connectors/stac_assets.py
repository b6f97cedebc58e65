"""The files of a STAC item: opened where its hrefs say, if the pipeline allows that place.

An href is data. It is followed to the API's own host, to `allow_hosts`, and to `allow_buckets`, and nowhere else; files
are read in ranges, pinned by what the server says of them when the item is read. No token goes to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from headrace.connectors.blobs import FileBlob
from headrace.connectors.contract import Blob
from headrace.connectors.file_store import FsspecStore, Store, id_of_path
from headrace.connectors.http_poll_client import ApiClient
from headrace.connectors.http_store import HttpStore, RedirectRefused
from headrace.connectors.stac_config import StacConfig
from headrace.schemas.errors import ConfigError, RecordError, SourceError


class Assets:
    """Opens assets; the stores of buckets are kept, since they hold connections."""

    def __init__(self, client: ApiClient, config: StacConfig) -> None:
        self._client = client
        self._config = config
        self._buckets: dict[str, FsspecStore] = {}

    def check(self, href: str) -> None:
        """Raises: RecordError `external_reference` for a place that the pipeline does not allow."""
        parts = urlsplit(href)
        if parts.scheme in ("s3", "s3a"):
            if parts.netloc not in self._config.allow_buckets:
                raise RecordError(
                    "external_reference",
                    f"an asset lies in the bucket {parts.netloc[:100]!r}: add it to `allow_buckets` if it is meant",
                )
            return
        try:
            self._client.allowed(href)
        except ConfigError as exc:
            raise RecordError("external_reference", f"an asset: {exc}") from exc

    def open(self, href: str, id: str) -> Blob:
        """The file behind an href, under an id of ours. Raises: RecordError, SourceError."""
        self.check(href)
        store, name = self._store(href)
        where = id.rpartition("/")[2]
        try:
            entry = store.entry(name)
        except FileNotFoundError as exc:
            raise RecordError("io_error", f"{where}: the server has no such file: {exc}") from exc
        except PermissionError as exc:
            raise RecordError("io_error", f"{where}: permission denied: {exc}") from exc
        except RedirectRefused as exc:
            raise RecordError("external_reference", f"{where}: {exc}") from exc
        return FileBlob(id, entry.size, lambda: store.open(name, entry.pin), None)

    def _store(self, href: str) -> tuple[Store, str]:
        parts = urlsplit(href)
        if parts.scheme in ("s3", "s3a"):
            if parts.netloc not in self._buckets:
                options: Mapping[str, object] = self._config.storage_options
                root = f"s3://{parts.netloc}"
                self._buckets[parts.netloc] = FsspecStore(root, self._config.endpoint_url, options)
            return self._buckets[parts.netloc], id_of_path(unquote(parts.path).lstrip("/"))
        folder, _, name = parts.path.rpartition("/")
        if not name or any(part in (".", "..") for part in parts.path.split("/")):
            raise RecordError("external_reference", f"an asset's href names no file: {parts.path[:100]!r}")
        if parts.username is not None:
            raise RecordError("external_reference", "an asset's href holds a user: data may not log in for us")
        root = f"{parts.scheme}://{parts.netloc}{folder}/"
        query = f"?{parts.query}" if parts.query else ""
        try:
            return HttpStore(root, [root + name + query], self._config.timeout_s), id_of_path(name)
        except ConfigError as exc:
            raise SourceError(f"an asset's href cannot be read: {exc}") from exc

"""Where a dataset's bytes are: one small protocol over a local file system and S3.

Everything rests on `put_new`, which creates a name exactly once with its whole content or not at all. Names are
relative, `/`-separated and never begin with a dot component; nothing is ever overwritten in place.

Left out on purpose: rename, append, locks. `list` serves `gc`, `verify` and the catalogue, never the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from headrace.schemas.errors import ConfigError, StorageError

_NAME = re.compile(r"[A-Za-z0-9_@.,=+-]+(/[A-Za-z0-9_@.,=+-]+)*")


class Missing(StorageError):
    """The store has no object of this name."""


class StoreWriter(Protocol):
    """A binary file being written. `close` publishes it whole under its name, as `put_new` would; `abort` forgets it.

    As a context manager it closes on a clean exit and aborts on an exception.
    """

    def write(self, data: bytes | memoryview) -> int:
        """Append; gives back the number of bytes. Raises: StorageError."""

    def tell(self) -> int:
        """Bytes written so far."""

    def close(self) -> bool:
        """Make it durable and publish it: True if the name was created, False if it existed. Raises: StorageError."""

    def abort(self) -> None:
        """Drop what was written; nothing appears under the name. Harmless after `close`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """A folder of immutable objects. Implementations are safe to use from several threads."""

    url: str  #: what `open_store` opens again, without credentials
    options: Mapping[str, Any]  #: the rest of what `open_store` needs in another process (may hold secrets)

    def put_new(self, name: str, data: bytes) -> bool:
        """Create `name` with `data`, durably: True if created by this call, False if the name was taken.

        A lost reply is resolved by reading the name back: if it holds exactly `data`, it was created. So data whose
        author matters must hold a unique id. Raises: StorageError; then the name may or may not exist, and a repetition
        with the same data tells.
        """

    def writer(self, name: str) -> StoreWriter:
        """A file that appears under `name` on `close`. Raises: StorageError."""

    def get(self, name: str) -> bytes:
        """The whole object. Raises: Missing, StorageError."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises: Missing, StorageError if the object ends before."""

    def size(self, name: str) -> int:
        """Bytes. Raises: Missing, StorageError."""

    def exists(self, name: str) -> bool:
        """Whether the object exists now; never cached. Raises: StorageError."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Names that begin with `prefix`, sorted. Raises: StorageError."""

    def leftovers(self) -> Iterator[tuple[str, str]]:
        """(name it was to become, token) of every write that is under way or was cut off. Raises: StorageError."""

    def drop_leftover(self, name: str, token: str) -> None:
        """Remove one; if its writer is alive after all, its `close` fails or finds the name taken."""

    def delete(self, name: str) -> None:
        """Remove the object; a missing one is fine. Raises: StorageError."""

    def local_path(self, name: str) -> str | None:
        """A path of the local file system that is this object, or None."""


def open_store(url: str, options: Mapping[str, Any] | None = None, *, create: bool = False) -> Store:
    """The store at `url`: a local path, `file://…`, or `s3://bucket/prefix`.

    `options` for S3: endpoint_url, region, anon (bool), key, secret, token; what is absent comes from the usual AWS
    variables and files. `create` makes the local folder. Raises: ConfigError for another kind of URL, StorageError if
    the place does not exist or cannot be used.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "file", url
    if scheme == "file":
        from headrace.shards.store_local import LocalStore

        if options:
            raise ConfigError(f"a local dataset takes no options, got {sorted(options)}", field="dataset", value=url)
        return LocalStore(rest, create=create)
    if scheme in ("s3", "s3a"):
        from headrace.shards.store_s3 import S3Store

        return S3Store(rest, options or {})
    raise ConfigError(
        f"{url!r}: headrace writes datasets to a local path or to s3://bucket/prefix, not to {scheme}://",
        field="dataset",
        value=url,
    )


def check_name(name: str) -> str:
    """The name itself. Raises: StorageError unless it is a plain relative name on every store."""
    if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")) or len(name) > 900:
        raise StorageError(f"{name!r} cannot name an object: relative, `/`-separated, of letters, digits and `_@.,=+-`")
    return name

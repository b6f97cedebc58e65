"""When a file was written, by the clock of the store that holds it; and which version of the log was the head then.

Entries hold no clock, so this is the only time that a dataset knows: the modification time of a file, which the file
system or the object store sets when a name is created and which nothing here changes afterwards. Whoever copies a
dataset without its times makes its files young: what waits for an age then waits longer, never shorter.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from headrace.schemas.errors import StorageError
from headrace.shards.entry import entry_name
from headrace.shards.store import Missing, Store
from headrace.shards.store_local import storage_error

Modified = Callable[[str], float | None]  #: name of a file -> seconds since 1970 UTC, None where the store cannot tell


def modified_in(store: Store) -> Modified:
    """The function that asks this store. Calling it raises: Missing, StorageError."""
    from headrace.shards.store_s3 import S3Store

    def local(name: str) -> float | None:
        path = store.local_path(name)
        if path is None:
            return None
        try:
            return os.stat(path).st_mtime
        except OSError as exc:
            raise storage_error("read", path, exc) from exc

    def remote(name: str) -> float | None:
        assert isinstance(store, S3Store)
        with store._translated("read", name):
            head = store._client.head_object(Bucket=store._bucket, Key=store._key(name))
        return float(head["LastModified"].timestamp())

    return remote if isinstance(store, S3Store) else local


def version_at(v: int, moment_s: float, modified: Modified) -> int:
    """The newest version up to `v` that was there at `moment_s`; 0 if none was, or if the store cannot tell.

    Entries are created in order, so their times ascend (to the resolution of one clock, or the skew of several) and a
    binary search finds the border. Raises: StorageError if an entry cannot be asked for.
    """
    low, high = 0, v
    while low < high:
        middle = (low + high + 1) // 2
        written = _when(middle, modified)
        if written is not None and written <= moment_s:
            low = middle
        else:
            high = middle - 1
    return low


def _when(v: int, modified: Modified) -> float | None:
    try:
        return modified(entry_name(v))
    except Missing as exc:
        raise StorageError(f"{entry_name(v)} is missing, so its time cannot be known: {exc}") from exc

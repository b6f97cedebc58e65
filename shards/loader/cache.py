"""A cache of blocks on a node, shared by every process and job of a user: for datasets that lie in an object store.

    FOLDER/headrace-blocks/ab/ab12…-4194304.block        <sha256 of the shard>-<offset>

A file is named by its content, written under another name and renamed, so it is whole or absent, whoever is killed.
Readers map it; removing it under them is harmless. When the folder holds more than `limit_bytes`, the files that were
used longest ago go, until a tenth is free. Only files of this shape in this folder are ever removed: never what a
cache did not download. Nothing lies in /dev/shm and nothing has to be cleaned up after a crash; a half-written file is
removed by any later cache once it is an hour old.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import threading
import time
from pathlib import Path

import pyarrow as pa
import xxhash

from headrace.schemas.errors import StorageError

_FOLDER = "headrace-blocks"
_NAME = re.compile(r"[0-9a-f]{64}-[0-9]+\.block")
_TEMPORARY = re.compile(r"\.new-[0-9a-f]{16}")
_STALE_S = 3600.0
_FREED = 0.1
_LOOK_EVERY = 0.02  # of the limit written before the folder is measured again


class NodeCache:
    """Keeps checked blocks in `folder`, at most about `limit_bytes` of them. Safe for threads and processes."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        """Raises: StorageError if the folder cannot be made."""
        self.root = Path(folder) / _FOLDER
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._since = limit_bytes  # written since the folder was measured: measure at the first write
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"cannot make the cache {self.root}: {exc.strerror}") from exc

    def find(self, sha256: str, offset: int, length: int, xxh3: str) -> pa.Buffer | None:
        """The block, hashed again: a mapping of the cached file. None if it is not there, or was damaged."""
        path = self._path(sha256, offset)
        try:
            with open(path, "rb") as f:
                if os.fstat(f.fileno()).st_size != length:
                    raise ValueError("another size")
                data = pa.py_buffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
            if xxhash.xxh3_64_hexdigest(data) != xxh3:
                raise ValueError("altered")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            path.unlink(missing_ok=True)  # it is only a copy
            return None
        return data

    def keep(self, sha256: str, offset: int, data: pa.Buffer) -> None:
        """Store a checked block; a full or failing disk leaves the cache as it is."""
        path = self._path(sha256, offset)
        temporary = path.with_name(f".new-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "xb") as f:
                f.write(data)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            return
        with self._lock:
            self._since += data.size
            if self._since < self.limit_bytes * _LOOK_EVERY:
                return
            self._since = 0
        self._evict()

    def _path(self, sha256: str, offset: int) -> Path:
        return self.root / sha256[:2] / f"{sha256}-{offset}.block"

    def _evict(self) -> None:
        held: list[tuple[float, int, str]] = []
        for folder in _entries(self.root):
            for entry in _entries(folder.path) if folder.is_dir(follow_symlinks=False) else []:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if _NAME.fullmatch(entry.name):
                    held.append((status.st_mtime, status.st_size, entry.path))
                elif _TEMPORARY.fullmatch(entry.name) and time.time() - status.st_mtime > _STALE_S:
                    Path(entry.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in held)
        if total <= self.limit_bytes:
            return
        for _, size, path in sorted(held):
            if total <= self.limit_bytes * (1 - _FREED):
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []

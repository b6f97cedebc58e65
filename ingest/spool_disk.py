"""What a spool asks of a file system. The real one is here, a simulated one in spool_memory.py.

Everything raises OSError as the system calls do, or StorageError that says the same in words. A name or content counts
as durable only after the call that says so.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Protocol

from headrace.shards.store_local import LocalStore


class Appender(Protocol):
    """A segment that is being written."""

    def write(self, data: bytes) -> None:
        """Appends all of it. After an OSError a part of it may stand in the file."""

    def sync(self) -> None:
        """Makes what was written durable. After an OSError nothing is known of it: never ask again."""

    def close(self) -> None: ...


class Mark(Protocol):
    """A small file that is written over again and again, and never synced."""

    def write(self, data: bytes) -> None:
        """Always the same number of bytes. One who reads meanwhile may see a mixture."""

    def close(self) -> None: ...


class Opened(Protocol):
    """A segment that is being read."""

    def size(self) -> int: ...
    def sync(self) -> None: ...
    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Folders and files by path."""

    def make_folders(self, path: str) -> None:
        """mkdir -p, durable."""

    def make_new_folder(self, path: str) -> None:
        """A folder that did not exist, durable. Raises: FileExistsError."""

    def names(self, path: str) -> list[str]:
        """What a folder holds, in any order. Raises: FileNotFoundError."""

    def exists(self, path: str) -> bool: ...
    def size(self, path: str) -> int: ...
    def read(self, path: str) -> bytes: ...
    def open(self, path: str) -> Opened: ...
    def create(self, path: str) -> Appender:
        """A new empty file; its name is durable after `sync_folder`. Raises: FileExistsError."""

    def open_mark(self, path: str) -> Mark:
        """Makes it if need be."""

    def sync_folder(self, path: str) -> None: ...
    def put_new(self, path: str, data: bytes) -> bool:
        """A whole file under a name that did not exist, durable; False if the name is taken."""

    def replace(self, path: str, data: bytes) -> None:
        """A whole file under this name, old or new; whether it survives a power cut is left open."""

    def remove(self, path: str) -> None: ...
    def rename_folder(self, path: str, to: str) -> None:
        """Durable."""

    def remove_folder(self, path: str) -> None:
        """An empty one."""


class LocalDisk:
    """`Disk` on a POSIX file system. `put_new` is the one of the commit log (shards/store_local.py)."""

    def make_folders(self, path: str) -> None:
        LocalStore(path, create=True)

    def make_new_folder(self, path: str) -> None:
        os.mkdir(path, 0o755)
        self.sync_folder(os.path.dirname(path))

    def names(self, path: str) -> list[str]:
        return os.listdir(path)

    def exists(self, path: str) -> bool:
        # Not os.path.exists: an error that is not "absent" must not look like "not sealed".
        try:
            os.stat(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def read(self, path: str) -> bytes:
        with open(path, "rb") as f:
            return f.read()

    def open(self, path: str) -> Opened:
        return _Opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def create(self, path: str) -> Appender:
        return _Appender(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644))

    def open_mark(self, path: str) -> Mark:
        return _Mark(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))

    def sync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def put_new(self, path: str, data: bytes) -> bool:
        folder, name = os.path.split(path)
        return LocalStore(folder).put_new(name, data)

    def replace(self, path: str, data: bytes) -> None:
        temporary = f"{path}.new-{os.getpid()}"
        try:
            with open(temporary, "wb") as f:
                f.write(data)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                os.unlink(temporary)
            raise

    def remove(self, path: str) -> None:
        os.unlink(path)

    def rename_folder(self, path: str, to: str) -> None:
        os.rename(path, to)
        self.sync_folder(os.path.dirname(to))

    def remove_folder(self, path: str) -> None:
        os.rmdir(path)


class _Appender:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> None:
        done = os.write(self._fd, data)
        if done < len(data):
            view = memoryview(data)
            while done < len(data):
                done += os.write(self._fd, view[done:])

    def sync(self) -> None:
        os.fdatasync(self._fd)  # carries the size too (POSIX: all that is needed to read the data back)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _Mark:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> None:
        if os.pwrite(self._fd, data, 0) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _Opened:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def sync(self) -> None:
        os.fsync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        if not data or len(data) == count:
            return data
        parts, got = [data], len(data)
        while got < count and (data := os.pread(self._fd, count - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

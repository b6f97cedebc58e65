"""Simulated storage: a POSIX system under the real LocalStore, an object store, and the spool's disk.

Each call is a point where the scheduler may step in. `crash` cuts the power: of a file the synced bytes survive, of the
rest a random part (which may read as zeros); a name that no folder sync made durable survives or does not. Listings of
stores lie during the storm: names are missing (holes), or names that were deleted are still told (stale).
"""

from __future__ import annotations

import errno
import io
import os
import random
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.ingest.spool_memory import MemoryDisk, _File, _Folder
from headrace.schemas.errors import StorageError
from headrace.shards.store import Missing, check_name
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import MemoryWriter

from .scheduler import Scheduler

ROOT = "/dataset"


class Inode:
    """A file: `data` now, the first `synced` bytes of it durable. Never cut, only appended to."""

    __slots__ = ("data", "links", "synced")

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = 0
        self.links = 1


class Posix:
    """What shards/store_local.py takes from the module `os`, over files in memory. Folders are durable when made."""

    sep = "/"
    O_WRONLY, O_CREAT, O_EXCL, O_CLOEXEC, O_RDONLY, O_DIRECTORY = 1, 2, 4, 8, 16, 32

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.names: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.folders = {"/", ROOT}
        self._open: dict[int, tuple[str, Inode | None]] = {}
        self._next = 3
        self.path = _Paths(self)

    def crash(self, dice: random.Random) -> None:
        """Cut the power; processes are the scheduler's to kill."""
        self._open.clear()
        for name in sorted({**self.names, **self.durable}):
            now, then = self.names.get(name), self.durable.get(name)
            kept = now if now is then or dice.random() < 0.5 else then
            if kept is None:
                self.names.pop(name, None)
                continue
            self.names[name] = kept
            if len(kept.data) > kept.synced:
                del kept.data[dice.randint(kept.synced, len(kept.data)) :]
                if dice.random() < 0.3:
                    kept.data[kept.synced :] = bytes(len(kept.data) - kept.synced)
                kept.synced = len(kept.data)
        self.durable = dict(self.names)

    def durable_bytes(self, name: str) -> bytes | None:
        """What of a file a power cut could not take; None if it could take its name."""
        inode = self.durable.get(f"{ROOT}/{name}")
        return None if inode is None else bytes(inode.data[: inode.synced])

    # -- as in `os` ---------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        self._fail("open", path)
        if flags & self.O_DIRECTORY:
            if path not in self.folders:
                raise _error(errno.ENOENT, path)
            return self._descriptor(path, None)
        if os.path.dirname(path) not in self.folders:
            raise _error(errno.ENOENT, path)
        if path in self.names:
            raise _error(errno.EEXIST, path)
        inode = self.names[path] = Inode()
        return self._descriptor(path, inode)

    def write(self, fd: int, data: memoryview) -> int:
        path, inode = self._of(fd)
        if self._scheduler.point("write", path):
            inode.data += data[: len(data) // 2]
            raise _error(errno.ENOSPC, path)
        inode.data += data
        return len(data)

    def fsync(self, fd: int) -> None:
        path, inode = self._open[fd]
        lost = self._fail("fsync", path)
        if inode is None:
            prefix = path + "/"
            for name in [n for n in {**self.names, **self.durable} if n.startswith(prefix)]:
                if os.path.dirname(name) == path:
                    if name in self.names:
                        self.durable[name] = self.names[name]
                    else:
                        del self.durable[name]
        else:
            inode.synced = len(inode.data)
        self._reply(lost, path)

    def link(self, old: str, new: str) -> None:
        lost = self._fail("link", new)
        if old not in self.names:
            raise _error(errno.ENOENT, old)
        if new in self.names:
            raise _error(errno.EEXIST, new)
        self.names[new] = self.names[old]
        self.names[new].links += 1
        if lost:  # NFS: the request is sent again, and finds its own work
            raise _error(errno.EEXIST, new)

    def unlink(self, path: str) -> None:
        lost = self._fail("unlink", path)
        if path not in self.names:
            raise _error(errno.ENOENT, path)
        self.names.pop(path).links -= 1
        self._reply(lost, path)

    def fstat(self, fd: int) -> Any:
        _, inode = self._of(fd)
        return os.stat_result((stat.S_IFREG, 0, 0, inode.links, 0, 0, len(inode.data), 0, 0, 0))

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def stat(self, path: str) -> Any:
        self._fail("stat", path)
        if path not in self.names:
            raise _error(errno.ENOENT, path)
        return os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, len(self.names[path].data), 0, 0, 0))

    def mkdir(self, path: str) -> None:
        self._fail("mkdir", path)
        if path in self.folders:
            raise _error(errno.EEXIST, path)
        self.folders.add(path)

    def walk(self, top: str, onerror: Any = None) -> Iterator[tuple[str, list[str], list[str]]]:
        if self._scheduler.point("list", top):
            if onerror is not None:
                onerror(_error(errno.EIO, top))
            return
        top = top.rstrip("/")
        for name in sorted(self.names):
            if name.startswith(top + "/"):
                yield os.path.dirname(name), [], [os.path.basename(name)]

    def read_file(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        """The built-in `open` for reading."""
        self._fail("read", path)
        if path not in self.names:
            raise _error(errno.ENOENT, path)
        return io.BytesIO(bytes(self.names[path].data))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _fail(self, call: str, path: str) -> bool:
        """Raises if the call is refused; whether it shall be done and its reply lost."""
        outcome = self._scheduler.point(call, path)
        if outcome == "refused":
            raise _error(errno.EIO, path)
        return outcome == "lost"

    @staticmethod
    def _reply(lost: bool, path: str) -> None:
        if lost:
            raise _error(errno.EIO, path)

    def _descriptor(self, path: str, inode: Inode | None) -> int:
        self._next += 1
        self._open[self._next] = (path, inode)
        return self._next

    def _of(self, fd: int) -> tuple[str, Inode]:
        path, inode = self._open[fd]
        assert inode is not None
        return path, inode


class _Paths:
    """`os.path`, with the questions that look at the disk."""

    join, split, dirname = staticmethod(os.path.join), staticmethod(os.path.split), staticmethod(os.path.dirname)
    relpath, abspath = staticmethod(os.path.relpath), staticmethod(os.path.abspath)

    def __init__(self, system: Posix) -> None:
        self._system = system

    def isdir(self, path: str) -> bool:
        return path in self._system.folders

    def exists(self, path: str) -> bool:
        return path in self._system.names or path in self._system.folders


class _Lying:
    """Listings with holes, and of what is gone."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._gone: list[str] = []

    def deleted(self, name: str) -> None:
        self._gone.append(name)

    def tell(self, names: list[str], prefix: str) -> list[str]:
        scheduler = self._scheduler
        if scheduler.current is None or not scheduler.storm:
            return names
        dice = scheduler.dice.random()
        if dice < 0.3 and names:
            scheduler.counts["holed listings"] += 1
            return [n for n in names if scheduler.dice.random() < 0.7]
        stale = [n for n in self._gone if n.startswith(prefix)]
        if dice < 0.5 and stale:
            scheduler.counts["stale listings"] += 1
            return sorted({*names[: len(names) // 2], *stale})
        return names


class PosixStore(LocalStore):
    """The real LocalStore; `disks.Posix` stands in its module for `os` while a history runs."""

    def __init__(self, lying: _Lying) -> None:
        super().__init__(ROOT)
        self._lying = lying

    def list(self, prefix: str = "") -> Iterator[str]:
        return iter(self._lying.tell(list(super().list(prefix)), prefix))

    def delete(self, name: str) -> None:
        super().delete(name)
        self._lying.deleted(name)

    def local_path(self, name: str) -> str | None:
        return None


class ObjectStore:
    """A store with conditional PUT. A reply may be lost, a request may arrive long after its sender gave it up."""

    def __init__(self, scheduler: Scheduler, files: dict[str, bytes], late: list[tuple[str, bytes]], lying: _Lying):
        self.url = "memory://simulated"
        self.options: Mapping[str, Any] = {}
        self.files, self.late = files, late
        self._scheduler, self._lying = scheduler, lying

    def put_new(self, name: str, data: bytes) -> bool:
        check_name(name)
        scheduler = self._scheduler
        outcome = scheduler.point("put", name)
        if outcome == "refused":
            if scheduler.dice.random() < 0.3:
                scheduler.counts["late puts"] += 1
                self.late.append((name, bytes(data)))
            raise StorageError(f"cannot write {name}: no answer")
        taken = name in self.files
        self.files.setdefault(name, bytes(data))
        if outcome == "lost":  # as shards/store_s3.py: read it back; if that fails too, the outcome is unknown
            if scheduler.dice.random() < 0.5:
                raise StorageError(f"cannot write {name}: no answer, and it cannot be read back")
            return self.files.get(name) == data
        scheduler.point("put reply", name)
        return not taken or self.files.get(name) == data

    def arrive(self) -> None:
        """A request that was given up arrives."""
        if self.late:
            name, data = self.late.pop(self._scheduler.dice.randrange(len(self.late)))
            self.files.setdefault(name, data)

    def writer(self, name: str) -> MemoryWriter:
        return MemoryWriter(self, check_name(name))  # type: ignore[arg-type]

    def get(self, name: str) -> bytes:
        self._read("get", name)
        try:
            return self.files[name]
        except KeyError:
            raise Missing(f"cannot read {name}: it does not exist") from None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self.get(name)[offset : offset + length]
        if len(data) != length:
            raise StorageError(f"cannot read {name}: it ends before byte {offset + length}")
        return data

    def size(self, name: str) -> int:
        return len(self.get(name))

    def exists(self, name: str) -> bool:
        self._read("head", name)
        return name in self.files

    def list(self, prefix: str = "") -> Iterator[str]:
        self._read("list", prefix)
        return iter(self._lying.tell(sorted(n for n in self.files if n.startswith(prefix)), prefix))

    def leftovers(self) -> Iterator[tuple[str, str]]:
        return iter(())

    def drop_leftover(self, name: str, token: str) -> None:
        raise StorageError(f"{token!r} is no upload")

    def delete(self, name: str) -> None:
        self._read("delete", name)
        if self.files.pop(name, None) is not None:
            self._lying.deleted(name)

    def local_path(self, name: str) -> str | None:
        return None

    def _read(self, call: str, name: str) -> None:
        if self._scheduler.point(call, name):
            raise StorageError(f"cannot {call} {name}: no answer")


class SpoolDisk(MemoryDisk):
    """The spool's simulated disk. Names are lost in an order that does not depend on the hash seed of the process."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(before=self._before)
        self._scheduler = scheduler

    def _before(self, call: str, path: str) -> None:
        outcome = self._scheduler.point(call, path)
        if outcome:
            number = errno.EIO if outcome == "lost" else errno.ENOSPC
            raise OSError(number, "injected", path)

    def _lose(self, folder: _Folder, dice: random.Random) -> None:
        for name in sorted({*folder.names, *folder.durable}):
            now, then = folder.names.get(name), folder.durable.get(name)
            kept = now if now is then or dice.random() < 0.5 else then
            if kept is None:
                folder.names.pop(name, None)
                continue
            folder.names[name] = kept
            if isinstance(kept, _Folder):
                self._lose(kept, dice)
            elif len(kept.data) > kept.synced:
                del kept.data[dice.randint(kept.synced, len(kept.data)) :]
                if dice.random() < 0.3:
                    kept.data[kept.synced :] = bytes(len(kept.data) - kept.synced)
                kept.synced = len(kept.data)
        folder.durable = dict(folder.names)

    def is_durable(self, path: str) -> bool:
        """Whether a power cut could take nothing of a file; one that was deleted is no matter: a dataset holds it."""
        folder: _Folder = self._root
        *parents, name = [part for part in path.split("/") if part]
        for part in parents:
            found = folder.names.get(part)
            if found is None:
                return True
            if not isinstance(found, _Folder) or folder.durable.get(part) is not found:
                return False
            folder = found
        file = folder.names.get(name)
        return file is None or (
            isinstance(file, _File) and folder.durable.get(name) is file and file.synced == len(file.data)
        )


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)

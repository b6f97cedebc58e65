"""A simulated disk for spools: what was not synced may be lost, calls can fail or be interleaved, space can run out.

`before(call, path)` runs before each call: it may raise OSError (the call then does nothing), or hand over to another
actor of a simulation. `crash` is a power cut: of each file the synced bytes survive, and of the rest a random part,
which may read as zeros; names that no folder sync has made durable survive or do not. Open files stop working.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

from headrace.ingest.spool_disk import Appender, Mark, Opened


class _File:
    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = 0


class _Folder:
    def __init__(self) -> None:
        self.names: dict[str, _File | _Folder] = {}
        self.durable: dict[str, _File | _Folder] = {}


class MemoryDisk:
    """`Disk` in memory. Paths begin with /. Several threads may use it only if `before` lets one go on at a time."""

    def __init__(
        self, *, capacity: int | None = None, before: Callable[[str, str], None] = lambda call, path: None
    ) -> None:
        self.capacity = capacity  #: bytes of all segments; more is ENOSPC, after what still fits was written
        self.before = before
        self.era = 0  # counts the crashes: handles of an older one are dead
        self._root = _Folder()

    def crash(self, dice: random.Random) -> None:
        """Cut the power."""
        self.era += 1
        self._lose(self._root, dice)

    def _lose(self, folder: _Folder, dice: random.Random) -> None:
        for name in {*folder.names, *folder.durable}:
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

    # -- Disk ---------------------------------------------------------------------------------------------------------

    def make_folders(self, path: str) -> None:
        self.before("make_folders", path)
        folder = self._root
        for part in _parts(path):
            made = folder.names.setdefault(part, _Folder())
            folder.durable[part] = made
            if not isinstance(made, _Folder):
                raise _error(errno.ENOTDIR, path)
            folder = made

    def make_new_folder(self, path: str) -> None:
        self.before("make_new_folder", path)
        folder, name = self._parent(path)
        if name in folder.names:
            raise _error(errno.EEXIST, path)
        folder.names[name] = folder.durable[name] = _Folder()

    def names(self, path: str) -> list[str]:
        self.before("names", path)
        return list(self._folder(path).names)

    def exists(self, path: str) -> bool:
        self.before("exists", path)
        try:
            self._find(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        self.before("size", path)
        return len(self._file(path).data)

    def read(self, path: str) -> bytes:
        self.before("read", path)
        return bytes(self._file(path).data)

    def open(self, path: str) -> Opened:
        self.before("open", path)
        return _Handle(self, path, self._file(path))

    def create(self, path: str) -> Appender:
        self.before("create", path)
        return _Handle(self, path, self._new(path))

    def open_mark(self, path: str) -> Mark:
        self.before("open_mark", path)
        folder, name = self._parent(path)
        file = folder.names.setdefault(name, _File())
        assert isinstance(file, _File)
        return _MarkHandle(self, path, file)

    def sync_folder(self, path: str) -> None:
        self.before("sync_folder", path)
        folder = self._folder(path)
        folder.durable = dict(folder.names)

    def put_new(self, path: str, data: bytes) -> bool:
        self.before("put_new", path)
        try:
            file = self._new(path)
        except FileExistsError:
            return False
        file.data += data
        file.synced = len(data)
        folder, name = self._parent(path)
        folder.durable[name] = file
        return True

    def replace(self, path: str, data: bytes) -> None:
        self.before("replace", path)
        folder, name = self._parent(path)
        file = folder.names[name] = _File()
        file.data += data
        file.synced = len(data)

    def remove(self, path: str) -> None:
        self.before("remove", path)
        self._file(path)
        folder, name = self._parent(path)
        del folder.names[name]

    def rename_folder(self, path: str, to: str) -> None:
        self.before("rename_folder", path)
        folder = self._folder(path)
        (old, was), (new, name) = self._parent(path), self._parent(to)
        del old.names[was]
        old.durable.pop(was, None)
        new.names[name] = new.durable[name] = folder

    def remove_folder(self, path: str) -> None:
        self.before("remove_folder", path)
        if self._folder(path).names:
            raise _error(errno.ENOTEMPTY, path)
        folder, name = self._parent(path)
        del folder.names[name]

    # -- inside -------------------------------------------------------------------------------------------------------

    def room(self) -> int | None:
        """Bytes that may still be written; None: no limit."""
        return None if self.capacity is None else max(0, self.capacity - _bytes(self._root))

    def _find(self, path: str) -> _File | _Folder:
        at: _File | _Folder = self._root
        for part in _parts(path):
            found = at.names.get(part) if isinstance(at, _Folder) else None
            if found is None:
                raise _error(errno.ENOENT, path)
            at = found
        return at

    def _folder(self, path: str) -> _Folder:
        found = self._find(path)
        if not isinstance(found, _Folder):
            raise _error(errno.ENOTDIR, path)
        return found

    def _file(self, path: str) -> _File:
        found = self._find(path)
        if not isinstance(found, _File):
            raise _error(errno.EISDIR, path)
        return found

    def _parent(self, path: str) -> tuple[_Folder, str]:
        parent, name = os.path.split(path)
        return self._folder(parent), name

    def _new(self, path: str) -> _File:
        folder, name = self._parent(path)
        if name in folder.names:
            raise _error(errno.EEXIST, path)
        made = folder.names[name] = _File()
        return made


class _Handle:
    """An open segment, for writing or reading."""

    def __init__(self, disk: MemoryDisk, path: str, file: _File) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self._era = disk.era

    def write(self, data: bytes) -> None:
        self._call("write")
        room = self._disk.room()
        fits = len(data) if room is None else min(room, len(data))
        self._file.data += data[:fits]
        if fits < len(data):
            raise _error(errno.ENOSPC, self._path)

    def sync(self) -> None:
        self._call("sync")
        self._file.synced = len(self._file.data)

    def size(self) -> int:
        self._call("fstat")
        return len(self._file.data)

    def read(self, offset: int, count: int) -> bytes:
        self._call("pread")
        return bytes(self._file.data[offset : offset + count])

    def close(self) -> None:
        self._era = -1

    def _call(self, name: str) -> None:
        self._disk.before(name, self._path)
        if self._era != self._disk.era:
            raise _error(errno.EBADF, self._path)


class _MarkHandle(_Handle):
    def write(self, data: bytes) -> None:
        self._call("mark")
        self._file.data[:] = data


def _bytes(at: _File | _Folder) -> int:
    return len(at.data) if isinstance(at, _File) else sum(map(_bytes, at.names.values()))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)

"""A dataset folder on a POSIX file system, Lustre and NFS included.

`put_new`: write a temporary file in the same folder, fsync it, `link(2)` it to its name, unlink the temporary name,
fsync the folder. link(2) is atomic and refuses a taken name on every POSIX file system; flock (off on Lustre), rename
(destroys the winner) and O_EXCL followed by writing (a crash leaves a torn, occupied name) are not used.

A temporary file is `.tmp-<random>-<last part of the name>`, so it tells the epoch of the file it was to become.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from headrace.schemas.errors import NotExclusive, StorageError
from headrace.shards.store import Missing, check_name

TEMPORARY = ".tmp-"
_BUFFER_BYTES = 1 << 20

_WORDS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EFBIG: "the file would be larger than this process or file system allows",
    errno.EIO: "the device reports an input/output error",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EMFILE: "too many open files in this process",
    errno.ESTALE: "the network file system lost the file handle",
}


def storage_error(action: str, path: str, exc: OSError) -> StorageError:
    """The error in words a person can act on."""
    if exc.errno == errno.ENOENT:
        return Missing(f"cannot {action} {path}: it does not exist")
    words = _WORDS.get(exc.errno or 0, exc.strerror or str(exc))
    return StorageError(f"cannot {action} {path}: {words}")


class LocalStore:
    """`Store` over the folder `root`."""

    def __init__(self, root: str, *, create: bool = False) -> None:
        """Raises: StorageError if the folder does not exist (or cannot be made, with `create`)."""
        self.root = os.path.abspath(root)
        self.url = self.root
        self.options: Mapping[str, Any] = {}
        if create:
            _make_folder(self.root)
        if not os.path.isdir(self.root):
            raise Missing(f"no dataset folder at {self.root}")

    def put_new(self, name: str, data: bytes) -> bool:
        writer = self.writer(name)
        try:
            writer.write(data)
        except BaseException:
            writer.abort()
            raise
        return writer.close()

    def writer(self, name: str) -> LocalWriter:
        return LocalWriter(self._path(name))

    def get(self, name: str) -> bytes:
        path = self._path(name)
        try:
            with open(path, "rb") as f:
                return f.read()
        except OSError as exc:
            raise storage_error("read", path, exc) from exc

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        path = self._path(name)
        try:
            with open(path, "rb", buffering=0) as f:
                f.seek(offset)
                data = bytearray()
                while len(data) < length and (more := f.read(length - len(data))):
                    data += more
        except OSError as exc:
            raise storage_error("read", path, exc) from exc
        if len(data) != length:
            raise StorageError(f"cannot read {path}: it ends {length - len(data)} bytes before byte {offset + length}")
        return bytes(data)

    def size(self, name: str) -> int:
        path = self._path(name)
        try:
            return os.stat(path).st_size
        except OSError as exc:
            raise storage_error("read", path, exc) from exc

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except Missing:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        names = self._walk(prefix.rpartition("/")[0])
        return iter(sorted(n for n in names if n.startswith(prefix) and not _is_temporary(n)))

    def leftovers(self) -> Iterator[tuple[str, str]]:
        for name in sorted(filter(_is_temporary, self._walk(""))):
            folder, slash, base = name.rpartition("/")
            yield folder + slash + base.removeprefix(TEMPORARY).partition("-")[2], name

    def drop_leftover(self, name: str, token: str) -> None:
        if not _is_temporary(token):
            raise StorageError(f"{token!r} is not a temporary file")
        self.delete(token)

    def _walk(self, folder: str) -> Iterator[str]:
        for at, _, files in os.walk(os.path.join(self.root, folder), onerror=_raise_unless_missing):
            for file in files:
                yield os.path.relpath(os.path.join(at, file), self.root).replace(os.sep, "/")

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            os.unlink(path)
            _sync_folder(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as exc:
            raise storage_error("delete", path, exc) from exc

    def local_path(self, name: str) -> str | None:
        return self._path(name)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, *check_name(name).split("/"))


class LocalWriter:
    """`StoreWriter` over a temporary file beside its final name."""

    def __init__(self, path: str) -> None:
        self._path = path
        folder, base = os.path.split(path)
        self._folder = folder
        self._temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}-{base}")
        self._written = 0
        self._buffer = bytearray()
        self._fd = -1
        try:
            try:
                self._fd = self._open()
            except FileNotFoundError:
                _make_folder(folder)
                self._fd = self._open()
        except OSError as exc:
            raise storage_error("write", path, exc) from exc

    def _open(self) -> int:
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        try:
            if len(view) + len(self._buffer) > _BUFFER_BYTES:
                self._flush()
            if len(view) > _BUFFER_BYTES:
                self._send(view)
            else:
                self._buffer += view
        except OSError as exc:
            self.abort()
            raise storage_error("write", self._path, exc) from exc
        self._written += len(view)
        return len(view)

    def _flush(self) -> None:
        if self._buffer:
            data, self._buffer = self._buffer, bytearray()
            self._send(memoryview(data))

    def _send(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.write(self._fd, view[done:])

    def tell(self) -> int:
        return self._written

    def close(self) -> bool:
        try:
            self._flush()
            os.fsync(self._fd)  # never repeated: after a failed fsync the pages may be gone
            created = self._publish()
            self.abort()
            _sync_folder(self._folder)
        except OSError as exc:
            raise storage_error("write", self._path, exc) from exc
        finally:
            self.abort()
        return created

    def _publish(self) -> bool:
        try:
            os.link(self._temporary, self._path)
        except FileExistsError:
            # On NFS a link may succeed and its reply be lost: then the temporary file has two names.
            return os.fstat(self._fd).st_nlink == 2
        except FileNotFoundError as exc:
            # gc takes temporary files only of names that were decided meanwhile.
            if os.path.exists(self._path):
                return False
            raise StorageError(f"cannot write {self._path}: its temporary file was removed") from exc
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise NotExclusive(
                    f"{self._folder}: this file system refuses hard links ({exc.strerror}), so a name cannot be created"
                    " exactly once; keep the dataset on a POSIX file system or on S3"
                ) from exc
            raise
        return True

    def abort(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        with suppress(OSError):  # a left-over temporary file is garbage that gc knows
            os.unlink(self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._fd >= 0:
            self.close()
        else:
            self.abort()


def _make_folder(path: str) -> None:
    """mkdir -p that makes every new folder's name durable. Raises: StorageError."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
            _sync_folder(os.path.dirname(folder))
        except FileExistsError:
            if not os.path.isdir(folder):
                raise StorageError(f"cannot create the folder {folder}: a file of that name exists") from None
        except OSError as exc:
            raise storage_error("create the folder", folder, exc) from exc


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY)


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _raise_unless_missing(exc: OSError) -> None:
    if not isinstance(exc, FileNotFoundError):
        raise storage_error("list", str(exc.filename), exc) from exc

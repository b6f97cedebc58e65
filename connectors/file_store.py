"""Where files lie: a local folder, or what fsspec reaches (S3, memory, …). Lists, pins and opens them.

A pin says which bytes were planned: `size:…,mtime_ns:…` locally, `etag:…` (else size and last change) remotely. Every
opening compares it, so a file that changed under a run is SourceChanged and never a silent mix. Nothing outside the
root is ever opened: neither through `..`, nor through a symbolic link that leads out of it.
"""

from __future__ import annotations

import io
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit, urlunsplit

from headrace.schemas.errors import ConfigError, MissingExtra, SourceChanged, SourceError

BLOCK_BYTES = 4 << 20  #: of a remote read


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a listing. `refused`: (reason, message) when it is listed but may not be opened."""

    id: str
    size: int
    pin: str
    refused: tuple[str, str] | None = None


class Store(ABC):
    """Files under one root, by ids relative to it with `/` between their parts."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Every file, in no particular order. Raises: ConfigError if there is no such root, SourceError."""

    @abstractmethod
    def entry(self, id: str) -> Entry:
        """One file as it is now. Raises: FileNotFoundError, SourceError."""

    @abstractmethod
    def open(self, id: str, pin: str | None, known: Entry | None = None) -> BinaryIO:
        """A seekable stream at byte 0; `known` is what `planned` just answered, to save asking again.

        Raises: SourceChanged if `pin` is given and differs, SourceError.
        """

    def planned(self, id: str, pin: str | None) -> Entry:
        """One file as it is now, which is as it was planned. Raises: SourceChanged, SourceError."""
        try:
            now = self.entry(id)
        except FileNotFoundError as exc:
            raise changed(id, pin or "to be there", f"missing ({exc})") from exc
        except PermissionError as exc:
            return Entry(id, 0, pin or "", ("io_error", f"permission denied ({exc})"))
        if pin is not None and now.pin != pin:
            raise changed(id, pin, now.pin)
        return now

    def check_after(self, id: str, pin: str) -> None:  # noqa: B027 - most streams check themselves
        """Called when a file was read to its end, where reading does not check by itself. Raises: SourceChanged."""

    def local_path(self, id: str) -> str | None:
        """A path that holds exactly these bytes, or None."""
        return None

    def headers(self, id: str) -> Mapping[str, str]:
        """What is known of a file besides its bytes: `uri`, `rights`, `media_type`."""
        return {}

    @abstractmethod
    def describe(self) -> str:
        """The root in one line, without credentials or host paths."""

    def close(self) -> None:  # noqa: B027 - most stores hold nothing
        """Free what the store holds."""


def changed(id: str, planned: str, now: str) -> SourceChanged:
    """The error that names both pins."""
    return SourceChanged(f"{id} changed since it was planned: planned {planned}, now {now}; plan it again")


# -- ids ---------------------------------------------------------------------------------------------------------------

_PART_SUFFIX = re.compile(r"#(?:bytes=\d+-\d+|part=\d+/\d+)$")
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) not in "%#")


def id_of_path(path: str) -> str:
    """The id of a relative path. It is the path itself, save for names that are no UTF-8 or look like a part of a file.

    Those get the mark `%/` and percent-encoding, so that ids are always valid text and no two paths share one.
    """
    if path.startswith("%/") or _PART_SUFFIX.search(path) or not path.isprintable():
        return "%/" + quote_from_bytes(os.fsencode(path), safe=_PLAIN)
    return path


def path_of_id(id: str) -> str:
    """The relative path of an id. Raises: ValueError for one that leads out of the root."""
    path = os.fsdecode(unquote_to_bytes(id[2:])) if id.startswith("%/") else id
    if path.startswith("/") or "\0" in path or any(part in ("..", ".", "") for part in path.split("/")):
        raise ValueError(f"{id!r} is not a path inside the root")
    return path


# -- local -------------------------------------------------------------------------------------------------------------


class LocalStore(Store):
    """A folder or a single file of this machine."""

    def __init__(self, root: str, follow_symlinks: bool) -> None:
        self._shown = os.path.basename(os.path.abspath(root)) or "/"
        self._root = os.path.realpath(root)
        self._follow = follow_symlinks
        self._single = not os.path.isdir(self._root) and os.path.exists(self._root)
        if self._single:
            self._name = os.path.basename(os.path.abspath(root))

    def describe(self) -> str:
        return self._shown

    def entries(self) -> Iterator[Entry]:
        if self._single:
            yield self.entry(id_of_path(self._name))
            return
        if not os.path.isdir(self._root):
            raise ConfigError(f"no such folder or file: {self._root}", field="root", value=self._root)
        # A stack, not recursion: folders may be nested deeper than Python calls.
        folders: list[tuple[str, frozenset[str]]] = [("", frozenset({self._root}))]
        while folders:
            folder, above = folders.pop()
            yield from self._folder(folder, above, folders)

    def _folder(self, folder: str, above: frozenset[str], folders: list[tuple[str, frozenset[str]]]) -> Iterator[Entry]:
        """The files of one folder; folders in it are added to `folders`. `above`: real paths of linked ones above."""
        try:
            children = list(os.scandir(os.path.join(self._root, folder) if folder else self._root))
        except OSError as exc:
            if not folder:
                raise SourceError(f"cannot list {self._root}: {exc.strerror}") from exc
            why = f"the folder cannot be listed: {exc.strerror}"
            yield Entry(id_of_path(folder), 0, "unreadable", ("io_error", why))
            return
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            if child.is_dir(follow_symlinks=False):
                folders.append((path, above))
                continue
            if child.is_symlink() and self._follow and child.is_dir():
                target = os.path.realpath(child.path)
                # A link to a folder above itself would be walked for ever.
                if self._inside(target) and target not in above:
                    folders.append((path, above | {target}))
                    continue
            try:
                if child.is_file(follow_symlinks=False) and len(above) == 1:
                    yield _local_entry(id_of_path(path), child.path, child.stat(follow_symlinks=False))
                else:
                    yield self.entry(id_of_path(path))
            except FileNotFoundError:
                continue  # gone between listing and looking

    def _inside(self, real: str) -> bool:
        return real == self._root or real.startswith(self._root.rstrip("/") + "/")

    def _path(self, id: str) -> str:
        if self._single:
            if path_of_id(id) != self._name:
                raise FileNotFoundError(id)
            return self._root
        return os.path.join(self._root, path_of_id(id))

    def _refusal(self, path: str) -> tuple[str, str] | None:
        """Why a path may not be opened, or None."""
        real = os.path.realpath(path)
        if os.path.islink(path) and not os.path.exists(path):
            return "io_error", "a symbolic link to nothing"
        if not self._inside(real):
            return "external_reference", "a symbolic link that leads out of the root"
        if real != path and not self._follow:
            return "external_reference", "a symbolic link; `follow_symlinks: true` follows those that stay in the root"
        return None

    def entry(self, id: str) -> Entry:
        path = self._path(id)
        refused = self._refusal(path)
        if refused:
            return Entry(id, 0, _local_pin(os.lstat(path)), refused)
        return _local_entry(id, path, os.stat(path))

    def check_after(self, id: str, pin: str) -> None:
        self.planned(id, pin)

    def open(self, id: str, pin: str | None, known: Entry | None = None) -> BinaryIO:
        path = self._path(id)
        refused = self._refusal(path)
        if refused:
            raise SourceChanged(f"{id} is now {refused[1]}")
        try:
            # O_NONBLOCK: a pipe that took the file's place must not hang the open.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise changed(id, pin or "to be there", "missing") from exc
        except OSError as exc:
            raise SourceError(f"cannot open {id}: {exc.strerror}") from exc
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise SourceChanged(f"{id} is no longer a regular file")
            if pin is not None and _local_pin(found) != pin:
                raise changed(id, pin, _local_pin(found))
            return open(descriptor, "rb", buffering=1 << 18)
        except BaseException:
            os.close(descriptor)
            raise

    def local_path(self, id: str) -> str | None:
        return self._path(id)


def _local_entry(id: str, path: str, found: os.stat_result) -> Entry:
    refused = None
    if not stat.S_ISREG(found.st_mode):
        refused = "unsupported", f"not a regular file ({stat.filemode(found.st_mode)[0]}); it is never opened"
    elif not os.access(path, os.R_OK):
        refused = "io_error", "permission denied"
    return Entry(id, 0 if refused else found.st_size, _local_pin(found), refused)


def _local_pin(found: os.stat_result) -> str:
    return f"size:{found.st_size},mtime_ns:{found.st_mtime_ns}"


# -- fsspec ------------------------------------------------------------------------------------------------------------

_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}


class FsspecStore(Store):
    """Objects under a URL of any file system that fsspec knows."""

    def __init__(self, root: str, endpoint_url: str | None, options: Mapping[str, Any]) -> None:
        import fsspec

        protocol = root.split("://", 1)[0]
        options = dict(options)
        if endpoint_url is not None:
            options["endpoint_url"] = endpoint_url
        try:
            self._fs: Any = fsspec.filesystem(protocol, **options)
        except ImportError as exc:
            library, extra = _EXTRAS.get(protocol, (protocol, "all"))
            raise MissingExtra(library, extra, need=f"{protocol}://") from exc
        except ValueError as exc:
            raise ConfigError(f"{exc}", field="root", value=without_secrets(root)) from exc
        self._checks_itself = protocol in _EXTRAS  # s3fs reads with If-Match
        self._shown = without_secrets(root)
        self._root: str = self._fs._strip_protocol(root).rstrip("/")

    def describe(self) -> str:
        return self._shown

    def entries(self) -> Iterator[Entry]:
        try:
            with translated(self._shown):
                self._fs.invalidate_cache()
                found: dict[str, Any] = self._fs.find(self._root, detail=True)
        except PermissionError as exc:
            raise SourceError(f"{self._shown}: permission denied ({exc})") from exc
        if not found:
            raise ConfigError("no such folder, prefix or object, or it is empty", field="root", value=self._shown)
        for path, info in found.items():
            if info.get("type") == "directory" or path.endswith("/"):
                continue  # a placeholder of a folder
            name = path[len(self._root) :].lstrip("/") or path.rsplit("/", 1)[-1]
            if any(part in ("", ".", "..") for part in name.split("/")):
                refusal = ("unsupported", f"the object's name {name!r} is no path inside the root")
                yield Entry(id_of_path("%/" + name), 0, _remote_pin(info), refusal)
            else:
                yield Entry(id_of_path(name), int(info.get("size") or 0), _remote_pin(info))

    def _path(self, id: str) -> str:
        name = path_of_id(id)
        single = self._root.rsplit("/", 1)[-1] == name
        return self._root if single and self._fs.isfile(self._root) else f"{self._root}/{name}" if self._root else name

    def entry(self, id: str) -> Entry:
        with translated(id):
            self._fs.invalidate_cache(self._path(id))
            info = self._fs.info(self._path(id))
        return Entry(id, int(info.get("size") or 0), _remote_pin(info))

    def open(self, id: str, pin: str | None, known: Entry | None = None) -> BinaryIO:
        now = known or self.planned(id, pin)
        if now.refused:
            raise SourceError(f"cannot open {id}: {now.refused[1]}")
        with translated(id):
            inner = self._fs.open(self._path(id), "rb", block_size=BLOCK_BYTES)
        # Between asking and opening the object may have been replaced.
        details = getattr(inner, "details", None)
        if isinstance(details, Mapping) and _remote_pin(details) != now.pin:
            inner.close()
            raise changed(id, now.pin, _remote_pin(details))
        stream: Any = io.BufferedReader(_Remote(inner, id), 1 << 18)
        return stream  # type: ignore[no-any-return]

    def check_after(self, id: str, pin: str) -> None:
        if not self._checks_itself:
            self.planned(id, pin)


def _remote_pin(info: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "e_tag"):
        if info.get(key):
            return f"etag:{str(info[key]).strip(chr(34))}"
    for key in ("LastModified", "last_modified", "mtime", "modified", "updated", "created"):
        if info.get(key):
            value = info[key]
            # One file system may give a date in a listing and a number for a single file.
            seconds = value.timestamp() if hasattr(value, "timestamp") else value
            when = f"{round(seconds * 1_000_000)}us" if isinstance(seconds, (int, float)) else str(seconds)
            return f"size:{info.get('size')},changed:{when}"
    return f"size:{info.get('size')}"


class _Remote(io.RawIOBase):
    """A remote file whose failures are ours: SourceChanged when its bytes were replaced, else SourceError."""

    def __init__(self, inner: Any, id: str) -> None:
        self._inner = inner
        self._id = id

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        with translated(self._id):
            data = self._inner.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class translated:
    """`with translated(what):` turns what a remote library raises into our errors, with the cause kept."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        ours = (SourceError, ConfigError, FileNotFoundError, PermissionError)
        if not isinstance(exc, Exception) or isinstance(exc, ours):
            return
        if kind is not None and kind.__name__ == "FileExpired":
            raise SourceChanged(f"{self._what} was replaced while it was read") from exc
        raise SourceError(f"{self._what}: {type(exc).__name__}: {exc}") from exc


def without_secrets(url: str) -> str:
    """A URL without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))

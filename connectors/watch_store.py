"""Stores that are listed again and again: what is known of a file is not asked again, save on a full pass.

    folder    names come from scandir; only files that are new or settling are looked at with stat
    bucket    everything is listed each time, by pages; with `ordered_names` only what sorts behind the last name
    urls      only those that were missing, or are settling, are asked

Every `recheck` seconds all is listed and looked at anew, so a file that was rewritten under its name is noticed then
(and before that when it is opened). An empty folder or prefix is none to complain of: its files may come later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headrace.connectors.file_store import Entry, FsspecStore, LocalStore, id_of_path, path_of_id, translated
from headrace.connectors.http_store import HttpStore
from headrace.schemas.errors import ConfigError, SourceError

Clock = Callable[[], float]


class Recheck:
    """When the next full pass is due."""

    def __init__(self, every_s: float, clock: Clock) -> None:
        self._every_s = every_s
        self._clock = clock
        self._due = clock()

    def is_due(self) -> bool:
        """Whether a listing that begins now must be a full one."""
        return self._clock() >= self._due

    def done(self) -> None:
        """A full pass was made, from beginning to end."""
        self._due = self._clock() + self._every_s


class WatchedFolder(LocalStore):
    """A local folder."""

    def __init__(self, root: str, follow_symlinks: bool, recheck: Recheck) -> None:
        super().__init__(root, follow_symlinks)
        self._recheck = recheck
        self._known: dict[str, Entry] = {}  #: by path
        self._found: dict[str, Entry] = {}  #: of the listing under way
        self._full = True
        self._many = False
        self._was_there = False

    @property
    def folder(self) -> str:
        """The path that is watched."""
        return self._root

    def entries(self) -> Iterator[Entry]:
        self._full, self._found = self._many or self._recheck.is_due(), {}
        try:
            yield from super().entries()
        except ConfigError as exc:
            if not self._was_there:
                raise
            raise SourceError(f"the watched folder {self._root} is gone for now") from exc
        self._was_there = True
        self._known = self._found
        if self._full:
            self._recheck.done()
            self._many = False

    def look_again(self, ids: set[str]) -> None:
        """Forget what is known of these, so that the next listing asks."""
        self._many = 4 * len(ids) > len(self._known)  # a full pass costs less for each file
        for id in ids:
            self._known.pop(path_of_id(id), None)

    def _folder(self, folder: str, above: frozenset[str], folders: list[tuple[str, frozenset[str]]]) -> Iterator[Entry]:
        found = super()._folder(folder, above, folders) if self._full else self._news(folder, above, folders)
        for entry in found:
            self._found[path_of_id(entry.id)] = entry
            yield entry

    def _news(self, folder: str, above: frozenset[str], folders: list[tuple[str, frozenset[str]]]) -> Iterator[Entry]:
        """The files of one folder, of which only unknown ones are looked at; folders in it are added to `folders`."""
        strange: list[os.DirEntry[str]] = []
        prefix = f"{folder}/" if folder else ""
        known = self._known
        try:
            with os.scandir(os.path.join(self._root, folder) if folder else self._root) as children:
                for child in children:
                    entry = known.get(prefix + child.name)
                    if child.is_dir(follow_symlinks=False):
                        folders.append((prefix + child.name, above))
                    elif entry is not None:
                        yield entry
                    else:
                        strange.append(child)
        except OSError as exc:
            if not folder:
                raise SourceError(f"cannot list {self._root}: {exc.strerror}") from exc
            why = f"the folder cannot be listed: {exc.strerror}"
            yield Entry(id_of_path(folder), 0, "unreadable", ("io_error", why))
            return
        for child in strange:
            path = prefix + child.name
            if self._follow and child.is_symlink() and child.is_dir():
                target = os.path.realpath(child.path)
                if self._inside(target) and target not in above:
                    folders.append((path, above | {target}))
                    continue
            try:
                yield self.entry(id_of_path(path))
            except FileNotFoundError:
                continue  # gone between listing and looking


class WatchedObjects(FsspecStore):
    """A prefix of an object store, or a folder of another remote file system.

    ordered: S3 only. Names grow, so a listing goes on behind the last name; names that came in between are found by the
    next full pass.
    """

    def __init__(
        self, root: str, endpoint_url: str | None, options: dict[str, Any], ordered: bool, recheck: Recheck
    ) -> None:
        super().__init__(root, endpoint_url, options)
        self._ordered = ordered
        self._recheck = recheck
        self._known: dict[str, Entry] = {}
        self._last = ""  #: the greatest key there is
        self._bucket, _, prefix = self._root.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def entries(self) -> Iterator[Entry]:
        if self._ordered and self._known and not self._recheck.is_due():
            self._known.update((entry.id, entry) for entry in self._behind())
        else:
            self._known = {entry.id: entry for entry in self._everything()}
            self._recheck.done()
        if self._ordered and self._known:
            newest = max(self._known, key=lambda id: path_of_id(id).encode("utf-8", "surrogateescape"))
            self._last = self._prefix + path_of_id(newest)
        yield from list(self._known.values())

    def look_again(self, ids: set[str]) -> None:
        """Nothing to forget: a listing of an object store tells what each object is now."""

    def _everything(self) -> Iterator[Entry]:
        try:
            try:
                yield from super().entries()
            except ConfigError:
                # An empty prefix is no error here, a bucket that is not there is.
                if hasattr(self._fs, "call_s3"):
                    with translated(self._shown):
                        self._fs.call_s3("head_bucket", Bucket=self._bucket, **self._fs.req_kw)
        except (FileNotFoundError, PermissionError) as exc:
            raise SourceError(f"{self._shown}: the bucket cannot be reached ({exc})") from exc

    def _behind(self) -> Iterator[Entry]:
        """The objects whose keys sort behind the last known one, page by page."""
        asked = {"Bucket": self._bucket, "Prefix": self._prefix, **self._fs.req_kw}
        page: dict[str, Any] = {"StartAfter": self._last}
        while page:
            try:
                with translated(self._shown):
                    answer = self._fs.call_s3("list_objects_v2", **asked, **page)
            except (FileNotFoundError, PermissionError) as exc:
                raise SourceError(f"{self._shown}: cannot be listed ({exc})") from exc
            for one in answer.get("Contents", []):
                name = one["Key"][len(self._prefix) :]
                if name and not name.endswith("/") and not any(part in ("", ".", "..") for part in name.split("/")):
                    pin = f"etag:{one['ETag'].strip(chr(34))}"
                    yield Entry(id_of_path(name), int(one["Size"]), pin)
            token = answer.get("NextContinuationToken")
            page = {"ContinuationToken": token} if token else {}


class WatchedUrls(HttpStore):
    """URLs of which some may not be there yet."""

    def __init__(self, root: str, urls: Sequence[str], timeout_s: float, recheck: Recheck) -> None:
        super().__init__(root, urls, timeout_s)
        self._recheck = recheck
        self._known: dict[str, Entry] = {}

    def entries(self) -> Iterator[Entry]:
        if self._recheck.is_due():
            self._known = {}
        asked = [id for id in self._queries if id not in self._known]
        with ThreadPoolExecutor(8, "headrace-http") as pool:
            for entry in pool.map(self._listed, asked):
                if entry.pin != "missing":
                    self._known[entry.id] = entry
        if len(asked) == len(self._queries):
            self._recheck.done()
        yield from list(self._known.values())

    def look_again(self, ids: set[str]) -> None:
        """Forget what is known of these, so that the next listing asks."""
        for id in ids:
            self._known.pop(id, None)


Watched = WatchedFolder | WatchedObjects | WatchedUrls

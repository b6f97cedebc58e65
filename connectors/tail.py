"""The connector `tail`: lines of files that grow, through every rotation.

Each file that matches is a split, under the name by which its writer knows it. When it is rotated its rest is read
first, wherever it went, then the files after it, then the new one. One item a line. Its position says how far the file
was read and by what those bytes are known again (connectors/tail_place.py), so nothing else is needed to go on.

Files are looked at by stat alone, a few times a second, so it is the same on NFS and Lustre.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing

from headrace.connectors.contract import Broken, Connector, Gap, Idle, Item, Lag, Position, Read, Split
from headrace.connectors.path_glob import PathGlob
from headrace.connectors.tail_chain import Found, find, following, overtaken
from headrace.connectors.tail_config import TailConfig
from headrace.connectors.tail_files import Rotation, TailFile, family, open_sibling
from headrace.connectors.tail_lines import Line, LineCutter
from headrace.connectors.tail_place import NEAR_BYTES, Place, Trail
from headrace.connectors.watch_config import seconds
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError, SourceError

_CHUNK_BYTES = 1 << 18


class Tail(Connector):
    """Growing files such as logs, line by line, across rotation and truncation."""

    Config = TailConfig
    bounded = False
    replay = "exact"
    example = "{type: tail, root: /var/log/harbour, glob: '*.log'}"

    def __init__(self, config: TailConfig) -> None:
        super().__init__(config)
        self._glob = [PathGlob(pattern) for pattern in config.glob]
        self._exclude = [PathGlob(pattern) for pattern in config.exclude]
        self._rotation = Rotation(config.rotated)
        self._root = os.path.abspath(config.root)
        self._poll_s = min(seconds(config.poll), 0.5)
        self._linger_s = seconds(config.linger)
        self._headers = {"format": config.format} if config.format is not None else {}
        self._closed = threading.Event()
        self._first: frozenset[str] | None = None  #: ids of this instance's first listing
        self._reading: dict[str, Place] = {}  #: where each split begins the file that it is in

    def describe(self) -> str:
        return f"tail {os.path.basename(self._root)}"

    def probe(self) -> None:
        if not os.path.exists(self._root):
            raise ConfigError("no such folder or file", field="root", value=self.config.root)

    def close(self) -> None:
        self._closed.set()

    # -- which files --------------------------------------------------------------------------------------------------

    def splits(self) -> Iterator[Split]:
        """The live files now; one that is just being rotated may be missing for a moment."""
        self.probe()
        ids = sorted(self._ids())
        if self._first is None:
            self._first = frozenset(ids)
        for id in ids:
            yield Split(id)

    def _ids(self) -> Iterator[str]:
        if not os.path.isdir(self._root):
            yield os.path.basename(self._root)
            return
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                children = list(os.scandir(os.path.join(self._root, folder) if folder else self._root))
            except OSError as exc:
                if folder:
                    continue  # gone, or not ours to read
                raise SourceError(f"cannot list {self.config.root}: {exc.strerror}") from exc
            for child in children:
                id = f"{folder}/{child.name}" if folder else child.name
                if child.is_dir(follow_symlinks=False):
                    folders.append(id)
                elif child.is_file(follow_symlinks=self.config.follow_symlinks) and self._wanted(folder, child.name):
                    yield id

    def _wanted(self, folder: str, name: str) -> bool:
        if not self._matches(folder, name) or not name.isprintable():
            return False
        # By names alone: while a file is being rotated, its live name may not be there.
        return not any(self._matches(folder, live) for live in self._rotation.live_names(name))

    def _matches(self, folder: str, name: str) -> bool:
        id = f"{folder}/{name}" if folder else name
        return any(g.matches(id) for g in self._glob) and not any(g.matches(id) for g in self._exclude)

    def _where(self, split: Split) -> tuple[str, str]:
        """(folder, name) of a split's live file. Raises: ConfigError for an id that leads out of the root."""
        if not os.path.isdir(self._root) and split.id == os.path.basename(self._root):
            path = self._root
        elif split.id.startswith("/") or any(part in ("", ".", "..") for part in split.id.split("/")):
            raise ConfigError("a split id is a path below the root", field="root", value=split.id)
        else:
            path = os.path.join(self._root, split.id)
        if self.config.follow_symlinks:
            path = os.path.realpath(path)
        return os.path.dirname(path), os.path.basename(path)

    # -- where they begin and end -------------------------------------------------------------------------------------

    def start_of(self, split: Split) -> Position:
        """`latest` holds for files that were there at the first listing; one that appears later is read whole."""
        new = self._first is not None and split.id not in self._first
        if self.config.start == "latest" and not new:
            return self.end_of(split) or self._begin(split)
        return self._begin(split)

    def _begin(self, split: Split) -> Position:
        place = self._beginning(split)
        return place.position if place is not None else None

    def _beginning(self, split: Split) -> Place | None:
        """Byte 0 of the live file; None if there is none."""
        rotated, live = family(*self._where(split), self._rotation)
        past = max((sibling.mtime_ns for sibling in rotated), default=0)
        return Place(0, 0, live.inode, past) if live is not None else None

    def end_of(self, split: Split, after: Position = None) -> Position:
        """Behind the last whole line of the live file. `after`: where reading stands, if that was in a generation > 0.

        A last line without an end is not counted: nobody can know yet that it is whole.
        """
        folder, name = self._where(split)
        begin = self._beginning(split)
        if begin is None:
            return None
        known = Place.of(after) if after is not None else self._reading.get(split.id)
        if known is not None and known.inode == begin.inode:
            begin = Place(known.generation, 0, known.inode, known.past)
        _, live = family(folder, name, self._rotation)
        file = open_sibling(live) if live is not None else None
        if file is None:
            return None
        try:
            end = _last_line_end(file)
            near = max(0, end - NEAR_BYTES)
            trail = Trail(end, file.read(0, min(end, 4096)), file.read(near, end - near))
            return trail.place(begin.generation, begin.inode, begin.past).position if end else None
        finally:
            file.close()

    def lag(self, split: Split, after: Position) -> Lag | None:
        """Bytes that are not read yet; of compressed files their bytes on disk."""
        folder, name = self._where(split)
        rotated, live = family(folder, name, self._rotation)
        if after is None:
            return Lag(bytes=live.size if live is not None else 0)
        place = Place.of(after)
        found = find(folder, name, self._rotation, place)
        if found is None:
            return Lag(bytes=0)
        with closing(found.file) as file:
            inodes = [sibling.inode for sibling in rotated]
            later = rotated[inodes.index(file.inode) + 1 :] if file.inode in inodes else []
            rest = max(0, file.size - found.trail.at) + sum(sibling.size for sibling in later)
            if live is not None and live.inode != file.inode:
                rest += live.size
        return Lag(bytes=rest)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        folder, name = self._where(split)
        place = Place.of(after) if after is not None else self._beginning(split)
        found: Found | None = None
        truncated = told = False
        try:
            while not self._closed.is_set():
                if found is None:
                    place = place or self._beginning(split)
                    if place is not None:
                        found = find(folder, name, self._rotation, place, truncated=truncated)
                    if found is None:
                        yield from self._pause()
                        continue
                    told = place is not None and place.damaged and place.generation == found.generation
                    if found.lost is not None:
                        gap = found.trail.place(found.generation, found.file.inode, found.past)
                        yield Gap(f"{split.id}: {found.lost}", gap.position)
                yield from found.due
                with closing(found.file):
                    outcome = yield from self._one_file(split, found, told)
                found, place = (outcome, None) if isinstance(outcome, Found) else (None, outcome)
                truncated, told = found is None, False
        finally:
            if found is not None:
                found.file.close()

    def _one_file(self, split: Split, found: Found, told: bool) -> Generator[Read, None, Found | Place]:
        """Read a file to its end and until it is over. told: the damage at its end has been reported.

        Returns: the next file; or the place of a file that lost bytes which had been read.
        """
        folder, name = self._where(split)
        file, generation, past = found.file, found.generation, found.past
        cutter = LineCutter(found.trail, self.config.max_line_bytes)
        self._reading[split.id] = Place(generation, 0, file.inode, past)
        quiet_since: float | None = None
        folder_time = 0
        while not self._closed.is_set():
            before = cutter.scanned
            while (data := _news(file, cutter)) is not None and data:
                earlier = self._overtaken(folder, name, found) if cutter.scanned == 0 else None
                if earlier is not None:
                    return earlier
                for line in cutter.feed(data):
                    yield from self._told(line, cutter.trail.place(generation, file.inode, past).position)
            if data is None:
                break
            if cutter.scanned > before:
                quiet_since = None
            if cutter.scanned == 0 and (changed := _changed_ns(folder)) != folder_time:
                folder_time = changed
                earlier = self._overtaken(folder, name, found)
                if earlier is not None:
                    return earlier
            over = file.kind is not None or not file.is_at(os.path.join(folder, name))
            here = cutter.trail.place(generation, file.inode, past)
            follower = following(folder, name, self._rotation, file, here) if over else None
            if follower is None:
                yield from self._pause()
                continue
            # Its writer may hold a renamed file open for a while; what comes late must not be left behind.
            now = time.monotonic()
            if quiet_since is None:
                quiet_since = now
                continue
            if follower.live and file.kind is None and now - quiet_since < self._linger_s:
                yield from self._pause()
                continue
            opened = open_sibling(follower)
            if opened is None:
                continue  # it was renamed at this moment
            rest = list(cutter.finish())
            place = cutter.trail.place(generation, file.inode, past, damaged=file.damage is not None)
            due: list[Read] = []
            if file.damage is None:
                due = [read for line in rest for read in self._told(line, place.position)]
            elif not told:
                message = f"{os.path.basename(file.path)}: {file.damage.message}"
                torn = rest[0].data if rest else None
                due = [Broken(file.damage.reason, message, place.position, _range(place.at, place.at), torn)]
            empty = Trail(0, b"", b"")
            return Found(opened, empty, generation + 1, file.mtime_ns, previous=place, due=tuple(due))
        return cutter.trail.place(generation, file.inode, past)

    def _overtaken(self, folder: str, name: str, found: Found) -> Found | None:
        """The file to read before one of which nothing was read yet; None if it still is the next."""
        sibling = overtaken(folder, name, self._rotation, found)
        file = open_sibling(sibling) if sibling is not None else None
        return dataclasses.replace(found, file=file, due=()) if file is not None else None

    def _told(self, line: Line, position: Position) -> Iterator[Read]:
        """A line as an item. An empty one says nothing and gives none."""
        if line.too_long:
            limit = self.config.max_line_bytes
            message = f"a line of {line.end - line.begin} bytes; `max_line_bytes` allows {limit}"
            yield Broken("too_large", message, position, _range(line.begin, line.end), line.data)
        elif line.data:
            yield Item(line.data, position, headers=self._headers)

    def _pause(self) -> Iterator[Read]:
        yield Idle()
        self._closed.wait(self._poll_s)


def _news(file: TailFile, cutter: LineCutter) -> bytes | None:
    """What was appended, b"" if nothing; None if bytes that were read are no longer there."""
    if file.kind is not None:
        return file.read(cutter.scanned, _CHUNK_BYTES)
    # Old bytes are read again with the new ones: a file that was emptied and grew back looks longer, too.
    first, last = cutter.first_bytes(), cutter.last_bytes()
    if file.read(0, len(first)) != first:
        return None
    data = file.read(cutter.scanned - len(last), len(last) + _CHUNK_BYTES)
    return data[len(last) :] if data.startswith(last) else None


def _changed_ns(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0


def _last_line_end(file: TailFile) -> int:
    """Offset behind the last line end of a plain file; 0 if there is none."""
    end = file.size
    while end > 0:
        begin = max(0, end - _CHUNK_BYTES)
        found = file.read(begin, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _range(begin: int, end: int) -> str:
    return canonical_json({"byte_begin": begin, "byte_end": end}).decode()

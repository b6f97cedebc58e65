"""The files behind one name: the live one and its rotated siblings, opened, ordered and told apart.

    app.log          live
    app.log.1        rotated, by rename (same inode) or copied and truncated (same content)
    app.log-20260101 rotated under its date
    app.log.2.gz     rotated and compressed: read through its decompressor
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from headrace.connectors import expand as expanding
from headrace.connectors.byte_source import ByteSource
from headrace.connectors.path_glob import PathGlob
from headrace.connectors.tail_place import HEAD_BYTES, NEAR_BYTES, Place, Trail
from headrace.schemas.errors import RecordError, SourceError

_COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
_NUMBER = re.compile(r"\.(\d+)(?:\.\w+)?$")
_BUDGET = expanding.Budget(max_ratio=10_000)  # a log of one repeated line packs that well


class Rotation:
    """Which names are rotated files of a name. Patterns: `{name}GLOB` or `{stem}GLOB{ext}`."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules = [_rule(pattern) for pattern in patterns]

    def belongs(self, other: str, name: str) -> bool:
        """Whether `other` is a rotated file of `name`."""
        stem, ext = os.path.splitext(name)
        for by_stem, glob in self._rules:
            head, tail = (stem, ext) if by_stem else (name, "")
            middle = other[len(head) : len(other) - len(tail)]
            if middle and other != name and other.startswith(head) and other.endswith(tail) and glob.matches(middle):
                return True
        return False

    def live_names(self, other: str) -> list[str]:
        """The names that `other` could be a rotated file of, whether they are there or not."""
        _, ext = os.path.splitext(other)
        found = []
        for by_stem, _ in self._rules:
            for cut in range(1, len(other)):
                name = other[:cut] + ext if by_stem else other[:cut]
                if name not in found and self.belongs(other, name):
                    found.append(name)
        return found


def _rule(pattern: str) -> tuple[bool, PathGlob]:
    """(by stem, glob of what stands between). Raises: ValueError."""
    by_stem = pattern.startswith("{stem}") and pattern.endswith("{ext}")
    middle = pattern[6:-5] if by_stem else pattern[6:]
    if not (by_stem or pattern.startswith("{name}")) or not middle or "/" in middle or "{name}" in middle:
        raise ValueError(f"`{pattern}`: {{name}}GLOB or {{stem}}GLOB{{ext}} is expected, such as {{name}}.[0-9]*")
    return by_stem, PathGlob(middle)


@dataclass(frozen=True)
class Sibling:
    """One file of a name, as last seen."""

    path: str
    inode: int
    size: int
    mtime_ns: int
    live: bool


class TailFile:
    """An open file of a name."""

    def __init__(self, stream: BinaryIO, sibling: Sibling) -> None:
        self._stream = stream
        self.path = sibling.path
        found = os.fstat(stream.fileno())
        self.inode = found.st_ino
        self._device = found.st_dev
        kind = _COMPRESSED.get(os.path.splitext(sibling.path)[1])
        self.kind = None if sibling.live else kind
        self._source: ByteSource | None = None

    @property
    def damage(self) -> RecordError | None:
        """Why a compressed file gave no more."""
        return self._source.damage if self._source is not None else None

    @property
    def mtime_ns(self) -> int:
        """Its time of change now."""
        return os.fstat(self._stream.fileno()).st_mtime_ns

    @property
    def size(self) -> int:
        """Its bytes on disk now."""
        return os.fstat(self._stream.fileno()).st_size

    def is_at(self, path: str) -> bool:
        """Whether a path still leads to this very file."""
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return False
        return (found.st_ino, found.st_dev) == (self.inode, self._device)

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes from an offset of the uncompressed content on; fewer only at its end."""
        if self.kind is None:
            try:
                return os.pread(self._stream.fileno(), size, at)
            except OSError as exc:
                raise SourceError(f"cannot read {os.path.basename(self.path)} at byte {at}: {exc.strerror}") from exc
        if self._source is None or self._source.position > at:
            self._stream.seek(0)
            self._source = ByteSource(expanding.expand(self.kind, self._stream, _BUDGET))
        self._source.skip(at - self._source.position)
        return self._source.read(size)

    def trail(self, place: Place) -> Trail | None:
        """The digests at a place, if this file holds what was read there; else None."""
        head = self.read(0, min(place.at, HEAD_BYTES))
        begin = max(0, place.at - NEAR_BYTES)
        near = self.read(begin, place.at - begin)
        if len(head) < min(place.at, HEAD_BYTES) or len(near) < place.at - begin:
            return None
        trail = Trail(place.at, head, near)
        here = trail.place(0, 0, 0)
        return trail if (here.head, here.near) == (place.head, place.near) else None

    def is_a_beginning(self, place: Place) -> bool:
        """Whether this is a copy of the file at a place that was taken before the place was reached."""
        size = min(place.at, HEAD_BYTES)
        head = self.read(0, size)
        return len(head) == size > 0 and Trail(size, head, b"").place(0, 0, 0).head == place.head

    def close(self) -> None:
        """Close it."""
        self._stream.close()


def open_sibling(sibling: Sibling) -> TailFile | None:
    """The file, or None if its name leads elsewhere by now. Raises: SourceError."""
    try:
        # O_NONBLOCK: a pipe that took the file's place must not hang the open.
        descriptor = os.open(sibling.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SourceError(f"cannot open {os.path.basename(sibling.path)}: {exc.strerror}") from exc
    found = os.fstat(descriptor)
    if found.st_ino != sibling.inode or not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        return None
    return TailFile(open(descriptor, "rb"), sibling)


def family(folder: str, name: str, rotation: Rotation) -> tuple[list[Sibling], Sibling | None]:
    """(rotated files from old to new, the live file or None). Raises: SourceError.

    Order is by time of change; files of one moment by falling number (`app.log.2` is older than `app.log.1`), then by
    name. A compressed file beside its original is not finished, so the original stands for it.
    """
    found: dict[str, Sibling] = {}
    try:
        with os.scandir(folder) as children:
            names = [child.name for child in children if child.name == name or rotation.belongs(child.name, name)]
    except FileNotFoundError:
        return [], None
    except OSError as exc:
        raise SourceError(f"cannot list the folder of {name}: {exc.strerror}") from exc
    for one in names:
        path = os.path.join(folder, one)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            found[one] = Sibling(path, status.st_ino, status.st_size, status.st_mtime_ns, one == name)
    live = found.pop(name, None)
    rotated = [
        sibling
        for one, sibling in found.items()
        if (split := os.path.splitext(one))[1] not in _COMPRESSED or split[0] not in found
    ]
    # A name that was moved while the folder was read may show one file twice.
    rotated = [sibling for sibling in rotated if live is None or sibling.inode != live.inode]
    return sorted(rotated, key=_age), live


def _age(sibling: Sibling) -> tuple[int, int, str]:
    number = _NUMBER.search(sibling.path)
    return sibling.mtime_ns, -int(number[1]) if number else 0, sibling.path

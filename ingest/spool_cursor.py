"""A place in a run, moved on over its segments: entries become what the connector had yielded, damage becomes news.

How far a segment counts is known by number: up to the mark while the run grows; in a segment that has another behind
it, up to what that one's header says; in the last one of a sealed run, up to the `end` in the seal. Only if the writer
died is that unknown: then all whole entries are read, and a torn one at the end was never acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.connectors.contract import Broken, Gap, Item, Position
from headrace.ingest.spool import SEALED, place_of, segment_name
from headrace.ingest.spool_disk import Disk
from headrace.ingest.spool_format import SEGMENT_BYTES, VERSION, Entry, SegmentHeader, read_of, seed_of
from headrace.ingest.spool_keep import committed_upto
from headrace.ingest.spool_segment import Damage, SegmentReader
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import SourceChanged

_KEPT_BYTES = 16 << 20  #: of a damaged range, handed on to be quarantined

Read = Item | Gap | Broken


@dataclass(frozen=True, slots=True)
class End:
    """How far a run may be read."""

    mark: tuple[int, int, int] | None  #: (segment, offset, number) while it grows; None: it is sealed
    count: int | None  #: entries that count in a sealed run; None if its sealer could not know
    damaged: bool = False  #: the seal cannot be read


class Cursor:
    """A place in a run, and the segment that is open there. A context manager."""

    def __init__(
        self, disk: Disk, folder: str, run: str, place: tuple[int, int, int], *, trusting: bool = False
    ) -> None:
        self.run = run
        self.segment, self.offset, self.number = place
        self.finished = False
        self.arrived: int | None = None  # of the last entry
        self._disk = disk
        self._folder = folder
        self._trusting = trusting  # the first header's numbers are taken as they are
        self._file: SegmentReader | None = None
        self._sealed = self._unsynced = False
        self._seal_told = place[1] == 0 and place[0] > 0  # it begins at the position of that Broken (see _finish)
        self._read_to = place[2] if place[1] > SEGMENT_BYTES else 0  # behind the last entry that was read
        self._over = False  # nothing that stands behind counts

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    def drain(self, indices: list[int], end: End) -> Iterator[Read]:
        """All that may be read of these segments; of a sealed run also what is missing at its end."""
        if end.mark is None and not self._sealed:
            self._close()  # network file systems promise fresh sizes only on open
            self._sealed = True
        self._unsynced = end.mark is None and end.count is None  # its writer died, maybe before an fsync
        if end.mark is not None:
            indices = [index for index in indices if index <= end.mark[0]]
        for index in indices:
            if index < self.segment:
                continue
            final = index == indices[-1]
            if (index > self.segment or self._file is None) and not self._open(index):
                continue
            limit = (end.mark[2] if end.mark else end.count) if final else self._limit(indices, index)
            settled = end.mark is None or not final
            if self.offset < SEGMENT_BYTES:
                read, entered = self._enter(settled)
                if read is not None:
                    yield read
                if not entered:
                    self._close()
                    if self._over:
                        break
                    continue
            yield from self._entries(settled, limit)
        if end.mark is None:
            yield from self._finish(end)

    def _finish(self, end: End) -> Iterator[Read]:
        """What the seal says is missing; then the run is read."""
        if end.damaged and not self._seal_told:
            message = f"the file {SEALED} is damaged: whether entries are missing at the end cannot be told"
            self.segment, self.offset = self.segment + 1, 0
            yield Broken("checksum", f"{self.run}: {message}", self._position(), _locator(SEALED, 0, None))
        lost = (end.count or 0) - self.number
        # If the run was deleted meanwhile, nothing is missing: a dataset holds it.
        if lost > 0 and self._disk.exists(os.path.join(self._folder, self.run, SEALED)):
            self.number += lost
            yield Gap("spool_damaged", self._position(), lost)
        self.finished = True

    def _limit(self, indices: list[int], index: int) -> int | None:
        """The number of entries that count up to the end of a segment, by the header of a later one."""
        for later in indices[indices.index(index) + 1 :]:
            try:
                found = self._header(later)
            except FileNotFoundError:
                continue
            if found is not None:
                return found.first - found.given_up
        return None

    def _header(self, index: int) -> SegmentHeader | None:
        file = self._disk.open(os.path.join(self._folder, self.run, segment_name(index)))
        reader = SegmentReader(file, seed_of(self.run, index), 0, 0)
        try:
            found = reader.header()
        finally:
            reader.close()
        return found[1] if found else None

    def _open(self, index: int) -> bool:
        self._close()
        try:
            file = self._disk.open(os.path.join(self._folder, self.run, segment_name(index)))
        except FileNotFoundError:
            return False  # deleted after the folder was listed
        if self._unsynced:  # what is committed of it may not vanish with the power
            file.sync()
            self._disk.sync_folder(os.path.join(self._folder, self.run))
        if index != self.segment:
            self.segment, self.offset = index, 0
        self._file = SegmentReader(file, seed_of(self.run, index), self.offset, self.number)
        return True

    def _enter(self, settled: bool) -> tuple[Read | None, bool]:
        """Read the header: (what it shows to be lost, whether entries can be read)."""
        file = self._file
        assert file is not None
        size = file.size()  # before the header: a writer that is fenced may write at this moment
        found = file.header()
        if found is None and (size < SEGMENT_BYTES or file.is_zero(Damage(0, size, None, True))):
            return None, False  # not written yet, or torn: then nothing of it was acknowledged
        file.offset = SEGMENT_BYTES
        if found is None:
            if not isinstance(file.next(), Entry) and not settled:
                return None, False
            self.offset = file.offset = SEGMENT_BYTES
            file.number = self.number
            name = segment_name(self.segment)
            broken = Broken(
                "checksum",
                f"{self.run}/{name}: the header of the segment is damaged",
                self._position(),
                _locator(name, 0, SEGMENT_BYTES),
                file.bytes_of(Damage(0, SEGMENT_BYTES, None, False), SEGMENT_BYTES),
            )
            return broken, True
        version, header = found
        if version > VERSION:
            raise SourceChanged(
                f"{self._folder}/{self.run}: written in version {version} of the spool format, this one reads {VERSION}"
            )
        lost = header.first - header.given_up - self.number
        if header.first - header.given_up < self._read_to:
            # We read on into a write that failed, which nobody does before the run is sealed (and its maker unknowing).
            # So this segment was begun after the seal, by a writer that tries again and will find it: it never counts.
            self._over = True
            return None, False
        self.offset = SEGMENT_BYTES
        self.number = file.number = header.first
        trusting, self._trusting = self._trusting, False
        if lost <= 0 or trusting:
            return None, True
        upto = committed_upto(self._disk, self._folder, self.run)
        released = header.first - header.given_up <= place_of(upto)[2]  # it was deleted, and a dataset holds it
        return Gap("spool_released" if released else "spool_damaged", self._position(), lost), True

    def _entries(self, settled: bool, limit: int | None) -> Iterator[Read]:
        """Up to the entry `limit`, or to the end of a segment that is `settled`: that will not grow."""
        file = self._file
        assert file is not None
        while (limit is None or self.number < limit) and (found := file.next()) is not None:
            if isinstance(found, Entry):
                self.offset, self.number = file.offset, file.number
                self._read_to = self.number
                self.arrived = found.meta["a"]
                yield read_of(found, self._position())
                continue
            if found.open_end and (not settled or (limit is None and file.is_zero(found))):
                return  # a write that is not finished; or never was, and a power cut left the size and not the data
            data = file.bytes_of(found, _KEPT_BYTES)
            file.skip(found)
            self.offset, self.number = file.offset, file.number
            name = segment_name(self.segment)
            where = f"{self.run}/{name}: bytes {found.start} to {found.end} are not what was written"
            yield Broken("checksum", where, self._position(), _locator(name, found.start, found.end), data)

    def _position(self) -> Position:
        return [self.segment, self.offset, self.number]

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _locator(name: str, start: int, end: int | None) -> str:
    return canonical_json({"bytes": [start, end], "file": name}).decode()

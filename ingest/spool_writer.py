"""Write a spool: a batch of items is one write and one fsync, and only then are they said to be on disk.

The order of one append: look for the seal, write, fsync (the folder too if the segment is new), look for the seal, move
the mark up to which a reader of a growing run may read. So what is read is on disk, and what failed may be tried again
without being read twice:

- a write that fails half way leaves its segment for good, uncut. The next batch begins another one, whose header says
  how many numbers were given up; readers pass over them. A segment that could not even be begun is removed, its number
  left out;
- after a failed fsync nothing is known of the pages. The run is ended, with the number of entries that count, and the
  next batch begins another run.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from headrace.connectors.contract import Broken, Gap, Item
from headrace.ingest.spool import MARK, Clock, SpoolFull, SpoolSettings, now_us, run_key, segment_index, segment_name
from headrace.ingest.spool_disk import Appender, Disk, LocalDisk, Mark
from headrace.ingest.spool_fence import begin_run, is_open, run_names, seal
from headrace.ingest.spool_format import (
    HEAD_BYTES,
    MARK_SEED,
    SEGMENT_BYTES,
    SegmentHeader,
    meta_of,
    pack_entry,
    pack_mark,
    pack_segment_header,
    seed_of,
)
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import Fenced, StorageError
from headrace.shards.store_local import storage_error

_FULL = (errno.ENOSPC, errno.EDQUOT)


class SpoolWriter:
    """The only writer of a spool, until a newer one begins. For one thread.

    Making it begins a run and ends all older ones. `run` is the name of the run, and changes after a failed fsync.
    """

    _file: Appender | None
    _mark: Mark | None
    _segment: int
    _seed: int
    _offset: int  # where the next entry will stand
    _number: int  # of the next entry
    _end: int  # entries that count in a run that was left
    _given_up: int  # so many numbers before it belong to failed writes

    def __init__(
        self,
        folder: str,
        settings: SpoolSettings | None = None,
        *,
        disk: Disk | None = None,
        clock: Clock = now_us,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Raises: StorageError, and Fenced if another receiver keeps beginning at the same moment."""
        self.folder = folder
        self.settings = settings or SpoolSettings()
        self._disk = disk or LocalDisk()
        self._clock = clock
        self._token = token
        self._usable = False  # whether `run` can be written to
        self._mine: set[str] = set()  # runs that this writer made and could not begin
        self._unsealed = False  # whether `run` was left and could not be sealed
        self._ended: str | None = None  # why nothing will be written any more
        self.run = ""
        self._path = ""
        self._rest()
        try:
            self._disk.make_folders(folder)
            self._begin(None)
            self.size = self._measure()  #: bytes of all segments, as far as this writer knows: never too few
        except OSError as exc:
            raise storage_error("begin a run in the spool", folder, exc) from exc

    @property
    def number(self) -> int:
        """Of the run: how many were begun in this spool."""
        key = run_key(self.run)
        return key[0] if key else 0

    def append(self, items: Sequence[Item | Gap | Broken]) -> None:
        """All of them are durable when this returns; after any error none of them is acknowledged.

        Raises: SpoolFull, Fenced, StorageError.
        """
        if items:
            self._append(items, limit=self.settings.max_bytes)

    def gap(self, reason: str, lost: int | None) -> None:
        """Write down that data is lost. Allowed beyond `max_bytes`. Raises: as `append`."""
        self._append([Gap(reason, None, lost)], limit=None)

    def close(self) -> None:
        """End the run, so that its readers finish. Raises: StorageError."""
        if self._ended is None and self._usable:
            self._ended = "it was closed"
            self._leave()
            self._seal()
        self._ended = self._ended or "it was closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- one batch ----------------------------------------------------------------------------------------------------

    def _append(self, items: Sequence[Item | Gap | Broken], limit: int | None) -> None:
        try:
            if self._ended is not None:
                raise Fenced(f"the spool {self.folder} is not written by this receiver any more: {self._ended}")
            if not self._usable:
                self._begin_another()
            self._obey_seal()
            batch = self._pack(items)
            self._make_room(sum(len(meta) + len(data) + HEAD_BYTES for _, meta, data in batch), limit)
            self._write(batch)
            self._let_read(batch)
        except FileNotFoundError as exc:
            with suppress(OSError):
                self._obey_seal()  # the run was deleted between two calls: that is not the disk's fault
            raise _in_words("append to", os.path.join(self.folder, self.run), exc) from exc
        except OSError as exc:
            raise _in_words("append to", os.path.join(self.folder, self.run), exc) from exc

    def _pack(self, items: Sequence[Item | Gap | Broken]) -> list[tuple[int, bytes, bytes]]:
        arrived = self._clock()
        batch = []
        for item in items:
            kind, meta, data = meta_of(item, arrived)
            if len(meta) + len(data) > self.settings.item_limit:
                kind, meta, data = meta_of(self._too_large(item, len(meta) + len(data)), arrived)
            batch.append((kind, meta, data))
        return batch

    def _too_large(self, item: Item | Gap | Broken, size: int) -> Broken:
        limit = self.settings.item_limit
        message = f"an item of {size} bytes; this spool takes {limit} (a quarter of max_bytes, at most 1 GiB)"
        key = item.key[:1000] if isinstance(item, Item) and item.key is not None else None
        return Broken("too_large", message, None, canonical_json({"key": _printable(key)}).decode())

    def _make_room(self, count: int, limit: int | None) -> None:
        if limit is not None and self.size + count > limit:
            self.size = self._measure()  # readers delete behind our back
            if self.size + count > limit:
                raise SpoolFull(
                    f"the spool {self.folder} holds {self.size} of {limit} bytes and has no room for {count} more:"
                    " it empties as its dataset commits, if `keep` allows"
                )

    def _write(self, batch: list[tuple[int, bytes, bytes]]) -> None:
        fresh = self._file is None or self._offset >= self.settings.segment_limit
        if fresh:
            self._next_segment()
        file = self._file
        assert file is not None
        parts, offset = [], self._offset
        if fresh:
            header = SegmentHeader(self._segment, self._number, self._given_up, self._clock())
            parts, offset = [pack_segment_header(header, self._seed)], SEGMENT_BYTES
        for i, (kind, meta, data) in enumerate(batch):
            parts += pack_entry(kind, meta, data, number=self._number + i, offset=offset, seed=self._seed)
            offset += HEAD_BYTES + len(meta) + len(data)
        try:
            file.write(b"".join(parts))
        except BaseException:
            self._give_up(len(batch), fresh)
            raise
        self.size += offset - self._offset
        self._offset = offset
        try:
            file.sync()
            if fresh:
                self._disk.sync_folder(self._path)
        except BaseException:
            self._abandon()
            raise

    def _next_segment(self) -> None:
        self._close_file()
        self._segment += 1
        self._seed = seed_of(self.run, self._segment)
        self._offset = 0
        self._file = self._disk.create(os.path.join(self._path, segment_name(self._segment)))

    def _give_up(self, count: int, fresh: bool) -> None:
        """Leave a segment whose last write failed; its numbers are not used again."""
        self._close_file()
        self._number += count
        self._given_up += count
        if fresh:
            with suppress(OSError):  # what stays is a segment without acknowledged entries: readers pass over it
                self._disk.remove(os.path.join(self._path, segment_name(self._segment)))

    # -- the run ------------------------------------------------------------------------------------------------------

    def _begin(self, last: str | None) -> None:
        try:
            self.run = begin_run(self._disk, self.folder, self._clock, self._token, last, self._mine)
        except Fenced as exc:
            self._ended = str(exc)
            raise
        self._path = os.path.join(self.folder, self.run)
        self._rest()
        self._usable = True

    def _rest(self) -> None:
        """Stand before the first segment of a run."""
        self._file = None
        self._mark = None
        self._segment = -1
        self._seed = self._offset = self._number = self._end = self._given_up = 0

    def _obey_seal(self) -> None:
        """Raises: Fenced if somebody else ended this run, or cannot be ruled out."""
        if not is_open(self._disk, self.folder, self.run):
            self._ended = f"its run {self.run} was sealed by a newer one"
            self._leave()
            raise Fenced(f"the spool {self.folder} is not written by this receiver any more: {self._ended}")

    def _let_read(self, batch: Sequence[Any]) -> None:
        """The batch is on disk: unless the run is sealed, it counts."""
        try:
            self._obey_seal()
            if self._mark is None:
                self._mark = self._disk.open_mark(os.path.join(self._path, MARK))
            number = self._number + len(batch)
            self._mark.write(pack_mark(self._segment, self._offset, number, seed_of(self.run, MARK_SEED)))
        except OSError:  # it cannot be told whether it counts: it does not, and nothing may follow it here
            self._abandon()
            raise
        self._number = number
        self._given_up = 0

    def _abandon(self) -> None:
        """After a failed fsync: this run ends here, at the last batch that is known to be durable."""
        self._leave()
        self._usable = False
        self._unsealed = True
        with suppress(StorageError):  # then it is tried again before another run begins
            self._seal()

    def _begin_another(self) -> None:
        """After an abandoned run, once it is sealed by us: then none of its entries but those that count are read."""
        if self._unsealed:
            self._seal()
        if self._ended is not None:
            raise Fenced(f"the spool {self.folder} is not written by this receiver any more: {self._ended}")
        self._begin(self.run)

    def _seal(self) -> None:
        try:
            said = {"at": self._clock(), "end": self._end}
            if not seal(self._disk, self.folder, self.run, said):
                self._ended = f"its run {self.run} was sealed by a newer one"
            self._unsealed = False
        except OSError as exc:
            raise storage_error("seal", self._path, exc) from exc

    def _leave(self) -> None:
        self._end = self._number - self._given_up
        self._close_file()
        mark, self._mark = self._mark, None
        if mark is not None:
            with suppress(OSError):
                mark.close()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what counts was synced before
                file.close()

    def _measure(self) -> int:
        return spool_bytes(self._disk, self.folder)


def spool_bytes(disk: Disk, folder: str) -> int:
    """The bytes of all segments."""
    total = 0
    for run in run_names(disk, folder):
        path = os.path.join(folder, run)
        with suppress(FileNotFoundError):  # a reader deletes at the same time
            for name in disk.names(path):
                if segment_index(name) is not None:
                    with suppress(FileNotFoundError):
                        total += disk.size(os.path.join(path, name))
    return total


def _in_words(action: str, path: str, exc: OSError) -> StorageError:
    said = storage_error(action, path, exc)
    return SpoolFull(str(said)) if exc.errno in _FULL else said


def _printable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()

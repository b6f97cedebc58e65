"""What of a spool may be deleted: whole segments that a dataset holds, once they are old enough.

The last segment of a run stays until the run is sealed, since its writer may still be in it. How old a segment is, the
time in the header of the next one tells, or the seal: its items arrived before. A run of which nothing is needed any
more is first renamed (so that its writer, should it wake up, finds it gone and not unsealed) and then emptied; the
empty folder stays as its trace.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

from headrace.connectors.contract import Position
from headrace.ingest.spool import COMMITTED, GONE, SEALED, place_of, run_key, segment_index, segment_name
from headrace.ingest.spool_disk import Disk
from headrace.ingest.spool_fence import read_seal, run_names
from headrace.ingest.spool_format import (
    COMMITTED_SEED,
    SEGMENT_BYTES,
    pack_note,
    parse_note,
    parse_segment_header,
    seed_of,
)

_TRACES = 256  #: of deleted runs that are kept


class Keeper:
    """Deletes for one reader. `is_drained(run, upto)` says whether a sealed run has nothing behind a position."""

    def __init__(
        self, folder: str, disk: Disk, keep: int | None, *, is_drained: Callable[[str, Position], bool]
    ) -> None:
        """`keep`: µs after arrival; None keeps for ever."""
        self._folder = folder
        self._disk = disk
        self._keep = keep
        self._is_drained = is_drained
        self._released: dict[str, Any] = {}
        self._lock = threading.Lock()

    def release(self, run: str, upto: Position, now: int) -> None:
        """Remember that a dataset holds the run up to here, and delete what may go."""
        with self._lock, suppress(FileNotFoundError):  # the run is gone already
            if self._committed(run) != upto:
                note = pack_note({"upto": upto}, seed_of(run, COMMITTED_SEED))
                self._disk.replace(self._path(run, COMMITTED), note)
                self._released[run] = upto
            self._sweep_run(run, now)

    def sweep(self, now: int) -> None:
        """Delete what may go by now, in all runs."""
        with self._lock, suppress(FileNotFoundError):
            names = self._disk.names(self._folder)
            for run in run_names(self._disk, self._folder):
                with suppress(FileNotFoundError):  # another one deletes at the same time
                    self._sweep_run(run, now)
            traces = [(key, name) for name in names if name.startswith(GONE) and (key := run_key(name[len(GONE) :]))]
            for number, (_, name) in enumerate(sorted(traces, reverse=True)):
                self._empty(name)
                if number >= _TRACES:
                    with suppress(OSError):  # taken by another, or not empty yet
                        self._disk.remove_folder(self._path(name))

    def _sweep_run(self, run: str, now: int) -> None:
        if self._keep is None:
            return
        upto = self._committed(run)
        sealed = self._disk.exists(self._path(run, SEALED))
        indices = _segments(self._disk.names(self._path(run)))
        if sealed and self._is_old(self._ended(run, indices), now) and self._is_drained(run, upto):
            self._remove_run(run)
            return
        for index, later in pairwise(indices):
            if index >= place_of(upto)[0] or not self._is_old(self._created(run, later), now):
                return  # from the front only: what is there is without holes
            with suppress(FileNotFoundError):
                self._disk.remove(self._path(run, segment_name(index)))

    def _remove_run(self, run: str) -> None:
        trace = GONE + run
        self._disk.rename_folder(self._path(run), self._path(trace))
        self._released.pop(run, None)
        self._empty(trace)

    def _empty(self, trace: str) -> None:
        with suppress(FileNotFoundError):
            for name in self._disk.names(self._path(trace)):
                with suppress(FileNotFoundError):
                    self._disk.remove(self._path(trace, name))

    def _is_old(self, since: int | None, now: int) -> bool:
        """An unknown age is no reason to keep what no time was asked for, and no reason to delete otherwise."""
        return self._keep == 0 or (since is not None and self._keep is not None and now - since >= self._keep)

    def _created(self, run: str, index: int) -> int | None:
        file = self._disk.open(self._path(run, segment_name(index)))
        try:
            found = parse_segment_header(file.read(0, SEGMENT_BYTES), seed_of(run, index))
        finally:
            file.close()
        return found[1].created_us if found else None

    def _ended(self, run: str, indices: list[int]) -> int | None:
        seal = read_seal(self._disk, self._folder, run)
        if seal is not None:
            at: int | None = seal.get("at")
            return at
        return self._created(run, indices[-1]) if indices else None

    def _committed(self, run: str) -> Position:
        if run not in self._released:
            self._released[run] = committed_upto(self._disk, self._folder, run)
        return self._released[run]

    def _path(self, *parts: str) -> str:
        return os.path.join(self._folder, *parts)


def committed_upto(disk: Disk, folder: str, run: str) -> Position:
    """Up to where a dataset is known to hold the run; None if nothing is known."""
    try:
        said = parse_note(disk.read(os.path.join(folder, run, COMMITTED)), seed_of(run, COMMITTED_SEED))
    except FileNotFoundError:
        said = None
    return said["upto"] if said else None


def _segments(names: list[str]) -> list[int]:
    return sorted(index for name in names if (index := segment_index(name)) is not None)

"""Read a spool: each run is an unbounded split that ends when the run is sealed and read to its end.

The order of looking is what makes it exact: first for the seal, then for the mark, then for segments, then for bytes. A
growing run is read up to its mark, a sealed one to its end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from headrace.connectors.contract import Broken, Gap, Idle, Item, Lag, Position, Split
from headrace.ingest.spool import (
    GONE,
    MARK,
    SEALED,
    Clock,
    SpoolSettings,
    keep_us,
    now_us,
    place_of,
    run_key,
    segment_index,
    segment_name,
)
from headrace.ingest.spool_cursor import Cursor, End
from headrace.ingest.spool_disk import Disk, LocalDisk
from headrace.ingest.spool_fence import read_seal, run_names
from headrace.ingest.spool_format import MARK_SEED, SEGMENT_BYTES, parse_mark, seed_of
from headrace.ingest.spool_keep import Keeper
from headrace.ingest.spool_writer import spool_bytes
from headrace.schemas.errors import SourceChanged, SourceError

Read = Item | Gap | Broken


class SpoolReader:
    """The lane side of a spool. Several threads may read and release at once."""

    def __init__(
        self,
        folder: str,
        settings: SpoolSettings | None = None,
        *,
        disk: Disk | None = None,
        clock: Clock = now_us,
        sleep: Callable[[float], None] = time.sleep,
        poll_s: float = 0.05,
        idle_s: float = 0.5,
    ) -> None:
        self.folder = folder
        self._disk = disk or LocalDisk()
        self._clock = clock
        self._sleep = sleep
        self._poll_s = poll_s
        self._polls = max(1, round(idle_s / poll_s))
        self._tails: dict[str, tuple[int, int, int]] = {}
        keep = keep_us((settings or SpoolSettings()).keep)
        self._keeper = Keeper(folder, self._disk, keep, is_drained=self._is_drained)

    def exists(self) -> bool:
        """Whether a receiver has made the spool. Raises: SourceError."""
        try:
            return self._disk.exists(self.folder)
        except OSError as exc:
            raise SourceError(f"cannot look at the spool {self.folder}: {exc.strerror}") from exc

    def runs(self) -> list[Split]:
        """The runs that hold something or may yet, oldest first; none if the folder does not exist yet."""
        try:
            names = run_names(self._disk, self.folder)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise SourceError(f"cannot list the spool {self.folder}: {exc.strerror}") from exc
        return [Split(name, bounded=False) for name in names if self._is_worth_reading(name)]

    def read(self, run: Split | str, after: Position) -> Iterator[Read | Idle]:
        """What stands behind `after`; Idle while nothing comes; ends with the run. Raises: SourceError."""
        name = run if isinstance(run, str) else run.id
        with Cursor(self._disk, self.folder, name, _place(self.folder, name, after)) as cursor:
            quiet = 0
            while True:
                got = False
                for read in self._look(cursor):
                    got = True
                    yield read
                if cursor.finished:
                    return
                if got:
                    quiet = 0
                    continue
                self._sleep(self._poll_s)
                quiet += 1
                if quiet % self._polls == 0:
                    yield Idle()

    def lag(self, run: Split | str, after: Position) -> Lag:
        """How much stands behind `after`; `seconds` is how long ago the first of it arrived."""
        name = run if isinstance(run, str) else run.id
        place = _place(self.folder, name, after)
        try:
            tail = self._tail(name)
            if tail[2] <= place[2]:
                return Lag(0, 0, 0.0)
            size = 0
            for index in self._segments(name):
                if place[0] <= index <= tail[0]:
                    end = tail[1] if index == tail[0] else self._disk.size(self._path(name, segment_name(index)))
                    size += max(0, end - max(SEGMENT_BYTES, place[1] if index == place[0] else 0))
        except FileNotFoundError:  # deleted at this moment, so all of it is committed
            return Lag(0, 0, 0.0)
        except OSError as exc:
            raise SourceError(f"cannot measure {self.folder}/{name}: {exc.strerror}") from exc
        with Cursor(self._disk, self.folder, name, place) as cursor:
            arrived = next((cursor.arrived for _ in self._look(cursor) if cursor.arrived is not None), None)
        seconds = 0.0 if arrived is None else max(0.0, (self._clock() - arrived) / 1e6)
        return Lag(max(0, tail[2] - place[2]), size, seconds)

    def end_of(self, run: Split | str) -> Position:
        """The position of the last item there is now; None if there is none."""
        name = run if isinstance(run, str) else run.id
        try:
            tail = self._tail(name)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise SourceError(f"cannot read {self.folder}/{name}: {exc.strerror}") from exc
        return None if tail == (0, 0, 0) else list(tail)

    def size(self) -> int:
        """Bytes of all segments."""
        try:
            return spool_bytes(self._disk, self.folder)
        except FileNotFoundError:
            return 0
        except OSError as exc:
            raise SourceError(f"cannot measure the spool {self.folder}: {exc.strerror}") from exc

    def release(self, run: Split | str, upto: Position, now: int | None = None) -> None:
        """A dataset holds the run up to here, durably: delete what `keep` does not ask for. `now` in µs.

        Raises: SourceError.
        """
        name = run if isinstance(run, str) else run.id
        _place(self.folder, name, upto)
        try:
            self._keeper.release(name, upto, self._clock() if now is None else now)
        except OSError as exc:
            raise SourceError(f"cannot delete from the spool {self.folder}: {exc.strerror}") from exc

    def sweep(self, now: int | None = None) -> None:
        """Delete what has become old enough since it was released. Raises: SourceError."""
        try:
            self._keeper.sweep(self._clock() if now is None else now)
        except OSError as exc:
            raise SourceError(f"cannot delete from the spool {self.folder}: {exc.strerror}") from exc

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self, cursor: Cursor) -> Iterator[Read]:
        """Everything that stands behind the cursor now."""
        try:
            try:
                end = self._end(cursor.run)
                if end.mark is not None and end.mark[2] <= cursor.number:
                    return  # nothing new
                indices = self._segments(cursor.run)
            except FileNotFoundError:
                self._demand_trace(cursor.run)
                cursor.finished = True
                return
            yield from cursor.drain(indices, end)
        except OSError as exc:
            raise SourceError(f"cannot read {self.folder}/{cursor.run}: {exc.strerror}") from exc

    def _end(self, run: str) -> End:
        """How far the run may be read now. Raises: FileNotFoundError if there is no such run."""
        if self._disk.exists(self._path(run, SEALED)):
            said = read_seal(self._disk, self.folder, run)
            return End(None, said.get("end") if said else None, damaged=said is None)
        try:
            mark = parse_mark(self._disk.read(self._path(run, MARK)), seed_of(run, MARK_SEED))
        except FileNotFoundError:
            self._disk.names(self._path(run))  # raises it again if it is the run that is missing
            mark = None
        return End(mark or (0, 0, 0), None)

    def _demand_trace(self, run: str) -> None:
        """Raises: SourceChanged if the run was not deleted by us."""
        if run_key(run) is None or not self._disk.exists(self._path(GONE + run)):
            raise SourceChanged(f"the run {run} is not in the spool {self.folder}, and was not released from it")

    def _is_worth_reading(self, run: str) -> bool:
        try:
            return bool(self._segments(run)) or not self._disk.exists(self._path(run, SEALED))
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise SourceError(f"cannot list {self.folder}/{run}: {exc.strerror}") from exc

    def _is_drained(self, run: str, upto: Position) -> bool:
        """Whether a sealed run has nothing behind `upto`."""
        with Cursor(self._disk, self.folder, run, place_of(upto)) as cursor:
            return next(self._look(cursor), None) is None and cursor.finished

    def _tail(self, run: str) -> tuple[int, int, int]:
        """Where the last entry ends."""
        end = self._end(run)
        if end.mark is not None:
            return end.mark
        if run not in self._tails:  # of a sealed run it does not change any more
            self._tails[run] = (0, 0, 0)
            for index in reversed(self._segments(run)):
                with Cursor(self._disk, self.folder, run, (index, 0, 0), trusting=True) as cursor:
                    for read in self._look(cursor):
                        self._tails[run] = place_of(read.position)
                if self._tails[run] != (0, 0, 0):
                    break
        return self._tails[run]

    def _segments(self, run: str) -> list[int]:
        return segments_of(self._disk, self._path(run))

    def _path(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)


def segments_of(disk: Disk, path: str) -> list[int]:
    """The segments of a run that exist, in order. Raises: FileNotFoundError."""
    return sorted(index for name in disk.names(path) if (index := segment_index(name)) is not None)


def _place(folder: str, run: str, position: Position) -> tuple[int, int, int]:
    try:
        return place_of(position)
    except ValueError as exc:
        raise SourceChanged(f"{folder}/{run}: {exc}") from exc

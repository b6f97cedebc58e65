"""Random interleavings of receivers, readers, kills, failing calls and power cuts over the real spool code.

Every call to the simulated disk is a point where another actor may go on. Checked is what the spool promises: an item
that was acknowledged is read exactly once, an item that was not is read at most once, the order of a run is kept, and
nothing is said to be lost. Planted bugs must be found.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace.connectors.contract import Idle, Item
from headrace.ingest import spool_fence, spool_reader, spool_writer
from headrace.ingest.spool import SpoolFull, SpoolSettings
from headrace.ingest.spool_cursor import Cursor
from headrace.ingest.spool_memory import MemoryDisk, _Handle
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.errors import Fenced, SourceError, StorageError

SETTINGS = SpoolSettings(segment_bytes=4096, max_bytes=1 << 16)
SEEDS = 1000


class Killed(BaseException):
    """An actor dies at once: SIGKILL."""


class Stage:
    """Actors in threads, of which one runs at a time; who goes on at a call is drawn from the seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self._turns: dict[int, threading.Semaphore] = {}
        self._names: dict[int, str] = {}
        self._back = threading.Semaphore(0)
        self._alive: list[int] = []
        self._errors: list[BaseException] = []
        self._burst = 0
        self.doomed: set[str] = set()
        self.kill = 0.0  # a call's chance to be an actor's last
        self.fail = 0.0  # a call's chance to fail

    def pause(self, call: str = "", path: str = "") -> None:
        me = threading.get_ident()
        if me not in self._turns:
            return
        self._burst -= 1
        if self._burst <= 0:
            self._back.release()
            self._turns[me].acquire()
        name = self._names[me]
        if name in self.doomed or self.dice.random() < self.kill:
            self.doomed.add(name)
            raise Killed
        if call and self.dice.random() < self.fail:
            raise OSError(self.dice.choice([errno.EIO, errno.ENOSPC]), "injected", path)

    def run(self, actors: dict[str, Callable[[], None]]) -> None:
        threads = []
        for name, act in actors.items():
            ready = threading.Semaphore(0)

            def body(name: str = name, act: Callable[[], None] = act, ready: threading.Semaphore = ready) -> None:
                me = threading.get_ident()
                self._turns[me], self._names[me] = threading.Semaphore(0), name
                self._alive.append(me)
                ready.release()
                self._turns[me].acquire()
                try:
                    act()
                except Killed:
                    pass
                except BaseException as exc:
                    self._errors.append(exc)
                finally:
                    self._alive.remove(me)
                    del self._turns[me]
                    self._back.release()

            threads.append(threading.Thread(target=body, daemon=True))
            threads[-1].start()
            ready.acquire()
        order = list(self._alive)
        while self._alive:
            me = self.dice.choice([a for a in order if a in self._alive])
            self._burst = self.dice.choice([1, 1, 2, 5, 20, 50])  # calls it makes before another one may go on
            self._turns[me].release()
            self._back.acquire()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]


class World:
    """One story: what was acknowledged, and what a dataset got."""

    def __init__(self, seed: int) -> None:
        self.stage = Stage(seed)
        self.dice = self.stage.dice
        self.disk = MemoryDisk(before=self.stage.pause)
        self.sent: list[bytes] = []
        self.acked: list[bytes] = []
        self.committed: dict[str, Any] = {}
        self.dataset: dict[str, list[bytes]] = {}
        self.finished: set[str] = set()
        self.writing = 0
        self._tokens = random.Random(seed + 1)

    def token(self) -> str:
        return f"{self._tokens.getrandbits(32):08x}"

    def clock(self) -> int:
        return 1_700_000_000_000_000

    def receiver(self, name: str, batches: int) -> Callable[[], None]:
        """As ingest/receiver.py does it: a batch that failed is tried again, until somebody newer is there."""

        def act() -> None:
            self.writing += 1
            try:
                for _ in range(self.dice.choice([0, 0, 5, 30])):
                    self.stage.pause()
                writer = self._writer()
                for number in range(batches):
                    names = [f"{name}-{number}-{i}".encode() for i in range(self.dice.randint(1, 4))]
                    self.sent += names
                    items = [Item(n + b"." * self.dice.choice([0, 10, 900]), None) for n in names]
                    for _ in range(1000):
                        try:
                            writer.append(items)
                        except Fenced:
                            return
                        except (SpoolFull, StorageError):
                            self.stage.pause()
                            continue
                        self.acked += names
                        break
                    else:
                        raise AssertionError("it is tried for ever")
                if self.dice.random() < 0.5:
                    writer.close()
            except (Fenced, StorageError):
                return
            finally:
                self.writing -= 1

        return act

    def _writer(self) -> SpoolWriter:
        for _ in range(20):
            try:
                return SpoolWriter("/spool", SETTINGS, disk=self.disk, clock=self.clock, token=self.token)
            except Fenced:
                raise
            except StorageError:
                self.stage.pause()
        raise StorageError("it could not begin")

    def lane(self) -> None:
        """Reads some, commits some of it, releases, begins anew; as long as anybody writes."""
        while self.writing:
            reader = SpoolReader("/spool", SETTINGS, disk=self.disk, clock=self.clock, sleep=self._sleep, idle_s=0.1)
            try:
                for split in reader.runs():
                    self._read_some(reader, split.id, self.dice.choice([1, 3, 10, 100]))
                if self.dice.random() < 0.3:
                    reader.sweep()
            except SourceError:
                pass
            self.stage.pause()

    def _sleep(self, seconds: float) -> None:
        self.stage.pause()

    def _read_some(self, reader: SpoolReader, run: str, most: int) -> None:
        if run in self.finished:
            return
        reads = reader.read(run, self.committed.get(run))
        taken: list[tuple[Any, bytes]] = []
        ended = False
        try:
            while len(taken) < most:
                read = next(reads, None)
                if read is None:
                    ended = True
                    break
                if isinstance(read, Idle):
                    break
                assert isinstance(read, Item), read
                assert isinstance(read.data, bytes)
                taken.append((read.position, read.data.rstrip(b".")))
        finally:
            reads.close()  # type: ignore[attr-defined]
        if self.dice.random() < 0.2:
            return  # the lane crashed before its commit
        self.dataset.setdefault(run, []).extend(data for _, data in taken)
        if taken:
            self.committed[run] = taken[-1][0]
        if ended:
            self.finished.add(run)
        if run in self.committed and self.dice.random() < 0.7:
            reader.release(run, self.committed[run])

    def end(self, power_cut: bool) -> None:
        """Everybody is gone; another receiver comes, and everything is read to its end."""
        self.stage.kill = self.stage.fail = 0
        self.disk.capacity = None
        if power_cut:
            self.disk.crash(self.dice)
        last = self._writer()
        last.append([Item(b"last", None)])
        self.sent.append(b"last")
        self.acked.append(b"last")
        last.close()
        reader = SpoolReader("/spool", SETTINGS, disk=self.disk, clock=self.clock, sleep=self._sleep)
        for split in reader.runs():
            while split.id not in self.finished:
                self._read_some(reader, split.id, 1000)

    def check(self) -> None:
        got = Counter(data for run in self.dataset.values() for data in run)
        assert [a for a in self.acked if got[a] != 1] == [], "acknowledged, and not read exactly once"
        assert [s for s in got if got[s] > 1] == [], "read more than once"
        assert set(got) <= set(self.sent)
        place = {name: i for i, name in enumerate(self.sent)}
        for run in self.dataset.values():
            by_writer: dict[bytes, list[int]] = {}
            for data in run:
                by_writer.setdefault(data.split(b"-")[0], []).append(place[data])
            assert all(numbers == sorted(numbers) for numbers in by_writer.values()), "out of order"


def play(seed: int) -> None:
    world = World(seed)
    power_cut = seed % 3 == 0
    world.stage.kill = [0, 0, 0.004, 0.02][seed % 4]
    world.stage.fail = [0, 0.01, 0, 0.03, 0.05][seed % 5]
    if seed % 7 == 0:
        world.disk.capacity = world.dice.randint(300, 6000)
    actors: dict[str, Callable[[], None]] = {
        f"w{i}": world.receiver(f"w{i}", world.dice.randint(1, 8)) for i in range(world.dice.randint(1, 3))
    }
    world.writing = 1  # the lanes wait for the others to begin
    actors["lane"] = world.lane
    actors["more room"] = lambda: _more_room(world)
    world.stage.run(actors)
    world.end(power_cut)
    world.check()


def _more_room(world: World) -> None:
    world.writing -= 1
    try:
        for _ in range(60):
            world.stage.pause()
    finally:
        world.disk.capacity = None


@pytest.mark.parametrize("part", range(5))
def test_what_is_acknowledged_is_read_exactly_once_whatever_happens(part: int) -> None:
    play_all(range(part, SEEDS, 5))


@pytest.mark.chaos
def test_what_is_acknowledged_is_read_exactly_once_in_very_many_stories() -> None:
    play_all(range(SEEDS, 80_000))


def play_all(seeds: range) -> None:
    for seed in seeds:
        try:
            play(seed)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc


def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def let_read(self: SpoolWriter, batch: Any) -> None:
        self._number += len(batch)
        self._given_up = 0
        self._mark = self._mark or self._disk.open_mark(os.path.join(self._path, "mark"))
        seed = spool_writer.seed_of(self.run, spool_writer.MARK_SEED)
        self._mark.write(spool_writer.pack_mark(self._segment, self._offset, self._number, seed))

    monkeypatch.setattr(SpoolWriter, "_let_read", let_read)


def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Handle, "sync", lambda self: None)


def _folder_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryDisk, "sync_folder", lambda self, path: None)


def _deleted_run_looks_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_open(disk: Any, folder: str, run: str) -> bool:
        return not disk.exists(os.path.join(folder, run, "sealed"))

    monkeypatch.setattr(spool_writer, "is_open", is_open)
    monkeypatch.setattr(spool_fence, "is_open", is_open)


def _seal_seen_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: SpoolReader, cursor: Cursor) -> Iterator[Any]:
        try:
            indices = self._segments(cursor.run)
            end = self._end(cursor.run)
            if end.mark is None:
                yield from cursor.drain(indices, spool_reader.End((1 << 40, 0, 1 << 40), None))
                cursor.finished = True
            else:
                yield from cursor.drain(indices, end)
        except OSError as exc:
            raise SourceError("") from exc

    monkeypatch.setattr(SpoolReader, "_look", look)


def _given_up_entries_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cursor, "_limit", lambda self, indices, index: None)


def _end_of_an_abandoned_run_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spool_fence.seal
    monkeypatch.setattr(spool_writer, "seal", lambda disk, folder, run, said: real(disk, folder, run, {"at": 0}))


def _reads_before_the_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SpoolReader._end

    def end(self: SpoolReader, run: str) -> Any:
        found = real(self, run)
        return found if found.mark is None else spool_reader.End((1 << 40, 0, 1 << 40), None)

    monkeypatch.setattr(SpoolReader, "_end", end)


@pytest.mark.parametrize(
    "plant",
    [
        _no_second_look,
        _no_fsync,
        _folder_not_synced,
        _deleted_run_looks_open,
        _seal_seen_too_late,
        _given_up_entries_are_read,
        _end_of_an_abandoned_run_is_not_told,
        _reads_before_the_fsync,
    ],
    ids=lambda plant: plant.__name__.strip("_"),
)
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(1000):
        try:
            play(seed)
        except AssertionError:
            return
    raise AssertionError("1,000 seeds found nothing")

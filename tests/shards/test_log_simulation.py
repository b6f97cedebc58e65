"""Many small histories of writers that die, stall, race and lose replies; whatever happens, each item is there once.

The world is a shared store in memory. Every publication may be refused, lose its reply, kill its writer before or after
it took effect, or be overtaken by another writer's whole action. A history is a function of its seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.schemas.errors import Fenced, LogError, StorageError
from headrace.shards import log as log_module
from headrace.shards import state as state_module
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry
from headrace.shards.log import CommitLog
from headrace.shards.testing import Fault, Killed, LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import verify

ITEMS = 24
SETTINGS = {"tide": settings_of("tide")}


class Writer:
    """One process: it claims, prepares entries, appends them; it may be paused anywhere between."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = MemoryStore(self._fault, world.files)
        self.log = CommitLog(self.store)
        self.lane = LaneDouble(self.store, self.log, "tide", length=3)
        self.entry: Entry | None = None
        self.dead = False

    def _fault(self, name: str) -> Fault:
        return self.world.fault(self)

    def act(self) -> None:
        """The next step of this process; what it prepared before a pause is used after it."""
        try:
            if self.log.epoch is None:
                self.log.claim({}, SETTINGS)
            elif self.entry is None:
                place = self.lane.place
                left = ITEMS - (place.position if place else 0)
                if left:
                    rows = self.world.random.randint(0, min(left, 5))
                    bad = self.world.random.randint(0, min(left - rows, 2)) if rows else 1
                    self.entry = self.lane.cut(rows, bad)
            else:
                self.log.append(self.entry)
                self.entry = None
        except StorageError:
            if self.log.epoch is None:
                self.dead = True  # a claim of unknown outcome: the command ends with an error
        except Fenced:
            self.dead = True
        except LogError:  # the entry was in after all, or others moved the lane: start again from the log
            self.entry = None
        except Killed:
            self.dead = True


class World:
    """All processes, and the dice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.files: dict[str, bytes] = {}
        self.writers: list[Writer] = []
        self.calm = False
        self._depth = 0

    def fault(self, writer: Writer) -> Fault:
        if self.calm:
            return "none"
        dice = self.random.random()
        if dice < 0.10 and self._depth < 3:
            self._depth += 1
            self._one_of(writer).act()
            self._depth -= 1
            return "none"
        faults: list[tuple[float, Fault]] = [(0.15, "refused"), (0.22, "lost reply"), (0.25, "killed before")]
        return next((f for limit, f in [*faults, (0.28, "killed after")] if dice < limit), "none")

    def _one_of(self, busy: Writer | None) -> Writer:
        free = [w for w in self.writers if not w.dead and w is not busy and w.log is not None]
        if not free or (len(self.writers) < 6 and self.random.random() < 0.15):
            self.writers.append(Writer(self))
            return self.writers[-1]
        return self.random.choice(free)

    def run(self) -> None:
        """Some stormy steps, then one writer finishes in calm weather; the zombies wake once more."""
        for _ in range(30):
            self._one_of(None).act()
        self.calm = True
        last = Writer(self)
        for _ in range(60):
            last.act()
        for writer in self.writers:
            for _ in range(2):
                if not writer.dead and writer.log.epoch is not None:
                    writer.act()


def check(world: World) -> None:
    """Every item once, in order, in samples or quarantine; the dataset verifies."""
    store = MemoryStore(files=world.files)
    report = verify(store)
    assert report.ok, report.problems
    assert report.samples + report.quarantined == ITEMS
    numbers: list[int] = []
    dataset = Dataset(store)
    for batch in dataset.batches("tide", ["position"]):
        numbers += [int(p) for p in batch.column(0).to_pylist()]
    assert numbers == sorted(numbers)
    spoiled = [int(p) for _, batch in dataset.quarantine() for p in batch.column("position").to_pylist()]
    assert sorted(numbers + spoiled) == list(range(1, ITEMS + 1))


def failures(seeds: range) -> Iterator[int]:
    """The seeds whose history ends badly."""
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
            check(world)
        except (AssertionError, LogError):
            yield seed


def test_no_history_loses_or_doubles_an_item() -> None:
    bad = list(failures(range(30)))
    assert not bad, f"seeds {bad}"


@contextmanager
def planted(target: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


def _append_without_reading_back(self: CommitLog, entry: Entry) -> bool:
    """The planted bug: a writer overwrites whatever stands in its slot."""
    data, digest = log_module.seal(entry)
    self.store.files[log_module.entry_name(entry.v)] = data  # type: ignore[attr-defined]
    self.state.apply(entry, digest)
    return True


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (CommitLog, "_put", _append_without_reading_back),
        (state_module.State, "_check_places", lambda self, entry: None),
    ],
)
def test_planted_bugs_are_caught(target: Any, name: str, value: Any) -> None:
    with planted(target, name, value):
        assert next(failures(range(40, 140)), None) is not None

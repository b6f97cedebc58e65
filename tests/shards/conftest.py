"""A small dataset on a real file system, and what the tests of shards do to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.shards import checkpoint, log, verify
from headrace.shards.catalogue import update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of

SETTINGS = {"tide": settings_of("tide"), "bulletins": settings_of("bulletins", None)}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty dataset folder."""
    return LocalStore(str(tmp_path / "dataset"), create=True)


@pytest.fixture
def memory() -> MemoryStore:
    """An empty store in memory."""
    return MemoryStore()


@pytest.fixture
def claimed() -> Callable[..., CommitLog]:
    """claimed(store) → a log claimed for the streams `tide` (tokens) and `bulletins` (raw text)."""

    def claim(store: MemoryStore | LocalStore) -> CommitLog:
        made = CommitLog(store)
        made.claim({"pyarrow": "1"}, SETTINGS)
        return made

    return claim


@pytest.fixture
def filled(claimed: Callable[..., CommitLog]) -> Callable[..., CommitLog]:
    """filled(store) → a log with 3 lanes, quarantine and an up-to-date catalogue."""

    def fill(store: MemoryStore | LocalStore, rounds: int = 3) -> CommitLog:
        made = claimed(store)
        lanes = [
            LaneDouble(store, made, "tide", lane=0, split="north"),
            LaneDouble(store, made, "tide", lane=2, split="south"),
            LaneDouble(store, made, "bulletins", lane=0, split="letters"),
        ]
        for turn in range(rounds):
            for n, lane in enumerate(lanes):
                made.append(lane.cut(10 + turn, bad=n))
        update_catalogue(Dataset(store))
        return made

    return fill


@pytest.fixture
def every_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every 4 entries instead of every 1,000."""
    for module in (checkpoint, log, verify):
        monkeypatch.setattr(module, "EVERY", 4)

"""Quarantined bytes go when they are old by the log's times; digest, reason and place stay, and the books with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from headrace.schemas.errors import ConfigError, LogError
from headrace.shards.dataset import Dataset
from headrace.shards.entry import entry_name
from headrace.shards.forget import Selection, forget
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.quarantine_expiry import EXPIRED, due, expire, keep_seconds, run
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import Killed, LaneDouble, MemoryStore
from headrace.shards.verify import verify

Fill = Callable[..., CommitLog]
DAY = 86_400.0


class Days:
    """A store's clock that a test sets: every entry is of the day on which it was first seen here."""

    def __init__(self, log: CommitLog) -> None:
        self.log, self.times, self.today = log, {}, 0.0
        self.note()

    def note(self) -> None:
        for v in range(1, self.log.state.v + 1):
            self.times.setdefault(entry_name(v), self.today)

    def go(self, day: float) -> None:
        self.note()
        self.today = day * DAY

    def modified(self, name: str) -> float | None:
        return self.times.get(name, self.today)

    def expire(self, keep: str = "30d") -> Any:
        self.note()
        done = expire(self.log, keep_seconds(keep), now_s=self.today, modified=self.modified)
        self.note()
        return done


def raw(store: Any) -> list[str]:
    """Positions of the rows that still have their bytes."""
    rows = [row for _, batch in Dataset(store).quarantine() for row in batch.to_pylist()]
    return sorted((row["position"] for row in rows if row["raw"] is not None), key=int)


@pytest.fixture
def aging(memory: MemoryStore, claimed: Fill) -> tuple[CommitLog, Days]:
    """One bad item a day, on the days 1 to 10: positions 2, 4, 6 …"""
    log = claimed(memory)
    days, lane = Days(log), LaneDouble(memory, log, "tide")
    for day in range(1, 11):
        days.go(day)
        log.append(lane.cut(1, bad=1))
    days.note()
    return log, days


def test_only_what_is_older_than_the_keep_loses_its_bytes(memory: MemoryStore, aging: tuple[CommitLog, Days]) -> None:
    log, days = aging
    digest = verify(memory).content_digest
    assert days.expire().rows == 0 and log.state.ext == {}
    days.go(30.5)
    assert days.expire().rows == 0
    days.go(33)
    before = {row["position"]: row for _, b in Dataset(memory).quarantine() for row in b.to_pylist()}
    done = days.expire()
    assert (done.files, done.rows) == (3, 3) and raw(memory) == [str(n) for n in range(8, 21, 2)]
    for _, batch in Dataset(memory).quarantine():
        for row in batch.to_pylist():
            old = before[row["position"]]
            kept = {k: v for k, v in old.items() if k not in ("raw", "message")}
            assert kept == {k: v for k, v in row.items() if k not in ("raw", "message")}
            assert (row["raw"], row["message"]) in ((old["raw"], old["message"]), (None, "(removed)"))
    assert not any(b"bad 5" in data for data in memory.files.values())
    report = verify(memory)
    assert report.ok and report.quarantined == 10 and report.content_digest == digest
    assert collect(memory, log.state).garbage == []


def test_nothing_is_read_twice_and_nothing_is_forgotten(
    memory: MemoryStore, aging: tuple[CommitLog, Days], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.shards import quarantine_expiry

    log, days = aging
    read: list[str] = []
    real = quarantine_expiry.redacted
    monkeypatch.setattr(quarantine_expiry, "redacted", lambda s, info, *a: read.append(info.path) or real(s, info, *a))
    lane = LaneDouble(memory, log, "tide")
    for day in range(31, 103, 3):
        days.go(day)
        if day % 2 == 0:
            log.append(lane.cut(0, bad=1))
        days.expire()
        young = {p for p, v in added(log).items() if days.times[entry_name(v)] > (day - 30) * DAY}
        assert set(raw(memory)) == young
    assert len(read) <= 2 * len(added(log)) and len(set(read)) == len(read)
    assert verify(memory).ok


def added(log: CommitLog) -> dict[str, int]:
    """The entry that quarantined each position first."""
    out: dict[str, int] = {}
    for entry, _ in log.entries():
        for line in entry.books.splits if entry.quarantine else ():
            out[str(line.upto)] = entry.v
    return out


def test_an_erasure_does_not_make_old_bytes_young_again(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    days = Days(log)
    north, south = LaneDouble(memory, log, "tide", split="north"), LaneDouble(memory, log, "tide", split="south")
    for lane, bad in ((north, 3), (south, 2)):
        days.go(1)
        log.append(lane.cut(1, bad=bad))
    days.go(25)
    forget(log, Selection(where="uri = 'north.txt' and position = '2'"), erase=True)
    assert len(raw(memory)) == 4
    days.go(32)
    done = days.expire()
    assert done.rows == 4 and raw(memory) == []  # found by what a redaction keeps: 3 rows
    assert verify(memory).ok


def test_files_that_cannot_be_told_apart_wait_until_they_are_old_themselves(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    days, lane = Days(log), LaneDouble(memory, log, "tide")
    days.go(1)
    log.append(lane.cut(1, bad=2))
    days.go(25)
    forget(log, Selection(where="uri = 'a.txt' and position = '2'"), erase=True)
    log.append(lane.cut(1, bad=2))  # of the same stream, rows and reasons
    days.go(32)
    assert days.expire().rows == 0 and len(raw(memory)) == 3
    days.go(56)
    assert days.expire().rows == 3 and raw(memory) == []


def test_keeping_for_ever_keeps_and_a_wrong_setting_is_refused(aging: tuple[CommitLog, Days]) -> None:
    log, days = aging
    v = log.state.v
    days.go(10_000)
    assert days.expire("forever").rows == 0 and log.state.v == v
    assert keep_seconds("2d") == 2 * DAY
    with pytest.raises(ConfigError, match="days such as 30d, or forever"):
        keep_seconds("30 days")
    with pytest.raises(LogError, match="claim the dataset"):
        expire(CommitLog(log.store), 1.0)


def test_a_store_without_times_expires_nothing(memory: MemoryStore, aging: tuple[CommitLog, Days]) -> None:
    log, _ = aging
    assert expire(log, 0.0).rows == 0 and len(raw(memory)) == 10


@pytest.mark.parametrize("step", range(7))
@pytest.mark.parametrize("fault", ["killed before", "killed after"])
def test_an_expiry_killed_anywhere_is_finished_by_the_next(
    memory: MemoryStore,
    aging: tuple[CommitLog, Days],
    claimed: Fill,
    step: int,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from headrace.shards import quarantine_expiry

    monkeypatch.setattr(quarantine_expiry, "STEP_FILES", 2)
    log, days = aging
    days.go(34)
    left = [step]

    def die(name: str) -> str:
        left[0] -= 1
        return fault if left[0] == -1 else "none"

    memory.fault = die  # type: ignore[assignment]
    try:
        days.expire()
    except Killed:
        memory.fault = lambda name: "none"
        days.log = log = claimed(memory)
        days.expire()
    collect(memory, log.state, delete=True)
    assert verify(memory).ok and raw(memory) == [str(n) for n in range(10, 21, 2)]
    assert not any(b"bad 5" in data for data in memory.files.values())
    assert set(memory.list("quarantine/")) == set(log.state.quarantine)


def test_a_service_expires_in_steps_and_a_race_is_refused(memory: MemoryStore, aging: tuple[CommitLog, Days]) -> None:
    log, days = aging
    days.go(50)
    found = due(memory, log.state, 30 * DAY, now_s=days.today, modified=days.modified)
    assert len(found.files) == 10
    rows, entry = run(memory, found.files[:3], log.epoch or 0, {})
    assert rows == 3 and entry is not None
    forget(log, Selection(where="uri = 'a.txt' and position = '2'"), erase=True)
    with pytest.raises(LogError, match="does not stand for the same rows"):
        log.append(entry)
    assert days.expire().rows == 9 and raw(memory) == []


def test_a_damaged_file_is_told_and_the_others_expire(memory: MemoryStore, aging: tuple[CommitLog, Days]) -> None:
    log, days = aging
    bad = next(iter(log.state.quarantine))
    memory.files[bad] = memory.files[bad][:-1] + b"?"
    days.go(60)
    done = days.expire()
    assert list(done.damaged) == [bad] and done.rows == 9 and EXPIRED not in log.state.ext
    assert {p.file for p in verify(memory).problems} == {bad}


def test_the_times_are_those_of_the_entries_on_a_disk(store: LocalStore, claimed: Fill) -> None:
    log = claimed(store)
    lane = LaneDouble(store, log, "tide")
    for _ in range(4):
        log.append(lane.cut(1, bad=1))
    now = os.stat(store.local_path(entry_name(log.state.v))).st_mtime
    for v in range(1, 4):
        os.utime(store.local_path(entry_name(v)), (now - 40 * DAY, now - 40 * DAY))
    assert expire(log, 30 * DAY, now_s=now).rows == 2
    assert raw(store) == ["6", "8"] and verify(store).ok
    assert expire(log, 30 * DAY, now_s=now).files == 0
    again = CommitLog(store)
    assert again.replay().ext[EXPIRED] == 3

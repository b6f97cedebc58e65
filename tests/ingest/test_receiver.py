"""The receiver: items reach the disk before their senders are answered; failures are waited out and told."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import BytesBlob, Connector, ConnectorConfig, Gap, Idle, Item, Position, Read, Split
from headrace.ingest import backoff
from headrace.ingest.backoff import pause_s
from headrace.ingest.receiver import Receiver
from headrace.ingest.spool import SpoolSettings
from headrace.ingest.spool_memory import MemoryDisk
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.errors import ConfigError, RateLimited, SourceError

FAST = SpoolSettings(segment_bytes=4096, max_bytes=1 << 16, sync_ms=1)


class Sender(Connector):
    """A source in memory. What is not acknowledged when a read begins is sent again, as a broker does."""

    bounded = False
    replay = "none"
    acknowledges = True

    def __init__(self, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__(ConnectorConfig())
        self.names = names
        self.waiting: dict[str, deque[Any]] = {name: deque() for name in names}
        self.unanswered: dict[str, dict[int, Any]] = {name: {} for name in names}
        self.acked: list[tuple[str, int]] = []
        self.reads = 0
        self.number = 0
        self.before_ack: Callable[[Split, Position], None] = lambda split, upto: None
        self._lock = threading.Lock()

    def send(self, *reads: Any, to: str = "a") -> None:
        self.waiting[to].extend(reads)

    def splits(self) -> list[Split]:
        return [Split(name) for name in self.names]

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        assert after is None
        with self._lock:
            self.reads += 1
            again = self.unanswered[split.id]
            self.waiting[split.id].extendleft(reversed(list(again.values())))
            again.clear()
        while True:
            try:
                read = self.waiting[split.id].popleft()
            except IndexError:
                time.sleep(0.002)
                yield Idle()
                continue
            if isinstance(read, Exception):
                raise read
            if isinstance(read, bytes):
                with self._lock:
                    self.number += 1
                    again[self.number] = read
                    read = Item(read, self.number, key=read[:10].decode())
            yield read

    def ack(self, split: Split, upto: Position) -> None:
        self.before_ack(split, upto)
        with self._lock:
            self.acked.append((split.id, upto))
            for number in [n for n in self.unanswered[split.id] if n <= upto]:
                del self.unanswered[split.id][number]


class Deaf(Sender):
    """A sender that learns of nothing, and sends nothing again."""

    acknowledges = False

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        self.unanswered[split.id].clear()
        return super().read(split, after)


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.003)


def stored(folder: Path | str, disk: Any = None) -> list[Any]:
    reader = SpoolReader(str(folder), FAST, disk=disk, poll_s=0.001, idle_s=0.001)
    found: list[Any] = []
    for split in reader.runs():
        found += takewhile(lambda read: not isinstance(read, Idle), reader.read(split, None))
    return found


def data(reads: list[Any]) -> list[Any]:
    return [read.data if isinstance(read, Item) else (read.reason, getattr(read, "lost", None)) for read in reads]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    begun: list[Receiver] = []

    def make(connector: Connector, settings: SpoolSettings = FAST, **more: Any) -> Receiver:
        receiver = Receiver(connector, str(tmp_path), settings, dice=random.Random(1), discover_s=0.02, **more)
        begun.append(receiver)
        receiver.start()
        return receiver

    yield make
    for receiver in begun:
        assert receiver.stop()


def test_items_of_all_splits_are_stored_in_order_and_answered(tmp_path: Path, begin: Any) -> None:
    sender = Sender(("a", "b", "c"))
    receiver = begin(sender, FAST.model_copy(update={"max_bytes": 1 << 20}))
    for i in range(300):
        for name in sender.names:
            sender.send(f"{name}{i}".encode(), to=name)
    sender.send(Gap("reconnected", None, 4), to="b")
    until(lambda: receiver.snapshot()["items"] == 900 and receiver.snapshot()["gaps"] == 1)
    until(lambda: not any(sender.unanswered.values()))
    got = data(stored(tmp_path))
    for name in sender.names:
        assert [d for d in got if d[:1] == name.encode()] == [f"{name}{i}".encode() for i in range(300)]
    assert ("reconnected", 4) in got
    said = receiver.snapshot()
    json.dumps(said)
    assert (said["state"], said["acknowledged"], said["shed"]) == ("running", 900, 0)
    assert said["bytes"] == sum(len(d) for d in got if isinstance(d, bytes))
    assert said["splits"]["b"]["items"] == 300 and said["splits"]["b"]["state"] == "reading"
    assert receiver.stop() and receiver.snapshot()["state"] == "stopped"
    assert list(SpoolReader(str(tmp_path)).read(said["run"], None))[-1] is not None  # ends: the run is sealed


def test_nothing_is_answered_before_it_is_on_disk(begin: Any) -> None:
    disk = MemoryDisk()
    sender = Sender()
    seen: list[bool] = []

    def look(split: Split, upto: Position) -> None:
        for node in _files(disk._root):
            seen.append(node.synced == len(node.data))

    sender.before_ack = look
    receiver = begin(sender, writer=lambda: SpoolWriter("/s", FAST, disk=disk))
    sender.send(*[b"%d" % i for i in range(50)])
    until(lambda: receiver.snapshot()["acknowledged"] == 50)
    assert seen and all(seen)


def _files(folder: Any) -> list[Any]:
    out = []
    for name, node in folder.names.items():
        out += _files(node) if hasattr(node, "names") else [node] if name.endswith(".seg") else []
    return out


def test_a_source_that_fails_is_read_again_and_nothing_is_lost(tmp_path: Path, begin: Any) -> None:
    sender = Sender()
    receiver = begin(sender)
    for i in range(20):
        sender.send(b"%d" % i, SourceError("the broker went away"))
    sender.send(b"end")
    until(lambda: b"end" in data(stored(tmp_path)))
    until(lambda: not sender.unanswered["a"])
    got = data(stored(tmp_path))
    assert {*got} == {*(b"%d" % i for i in range(20)), b"end"}
    assert receiver.snapshot()["last_error"] == "a: the broker went away"
    assert receiver.snapshot()["splits"]["a"]["attempts"] == 0


def test_what_may_have_been_missed_while_a_deaf_sender_was_not_read_is_a_gap(tmp_path: Path, begin: Any) -> None:
    sender = Deaf()
    receiver = begin(sender)
    sender.send(b"1", SourceError("cut"), b"2", SourceError("cut"), Gap("rtsp_reconnect", None), b"3")
    until(lambda: receiver.snapshot()["items"] == 3)
    expected = [b"1", ("disconnected", None), b"2", ("rtsp_reconnect", None), b"3"]
    assert data(stored(tmp_path)) == expected
    assert receiver.stop()
    later = begin(sender)
    sender.send(b"4")
    until(lambda: later.snapshot()["items"] == 1)
    assert data(stored(tmp_path)) == [*expected, ("receiver_restarted", None), b"4"]


def test_a_rate_limit_is_waited_for_and_a_wrong_setting_parks_until_somebody_acts(begin: Any) -> None:
    sender = Sender()
    receiver = begin(sender)
    sender.send(b"1", RateLimited("slowly", retry_after=0.3), b"2", ConfigError("wrong password"), b"3")
    until(lambda: receiver.snapshot()["splits"].get("a", {}).get("state") == "waiting")
    began = time.monotonic()
    until(lambda: receiver.snapshot()["items"] >= 2)
    assert time.monotonic() - began > 0.15
    until(lambda: receiver.snapshot()["splits"]["a"]["state"] == "parked")
    assert receiver.snapshot()["splits"]["a"]["message"] == "wrong password"
    time.sleep(0.1)
    assert receiver.snapshot()["splits"]["a"]["state"] == "parked"
    receiver.retry()
    until(lambda: not sender.unanswered["a"] and not sender.waiting["a"])
    assert receiver.snapshot()["splits"]["a"]["state"] == "reading"


def test_a_source_that_fails_for_longer_than_the_budget_is_parked_and_tried_on(begin: Any) -> None:
    sender = Sender()
    receiver = begin(sender, budget_s=0.05)
    sender.send(*[SourceError("down") for _ in range(9)], b"up")
    until(lambda: receiver.snapshot()["splits"].get("a", {}).get("state") == "parked")
    until(lambda: receiver.snapshot()["items"] == 1, 30)
    assert receiver.snapshot()["splits"]["a"]["state"] == "reading"


def test_a_connector_with_a_bug_ends_no_thread(tmp_path: Path, begin: Any) -> None:
    sender = Sender()
    receiver = begin(sender)
    sender.send(b"1", ZeroDivisionError("a bug"), b"2", Item([BytesBlob("x", b"")], 99))
    until(lambda: receiver.snapshot()["splits"].get("a", {}).get("state") == "parked")
    assert "not list" in receiver.snapshot()["splits"]["a"]["message"]
    until(lambda: {*data(stored(tmp_path))} == {b"1", b"2"})


def test_an_ack_that_fails_is_told_and_reading_goes_on(begin: Any) -> None:
    sender = Sender()
    refuse = [True]

    def fail(split: Split, upto: Position) -> None:
        if refuse and refuse.pop():
            raise SourceError("the connection is gone")

    sender.before_ack = fail
    receiver = begin(sender)
    sender.send(b"1")
    until(lambda: receiver.snapshot()["last_error"])
    sender.send(b"2")
    until(lambda: not sender.unanswered["a"])
    assert receiver.snapshot()["last_error"] == "a: the connection is gone"


def test_a_newer_receiver_takes_over_and_the_older_one_answers_nobody_more(tmp_path: Path, begin: Any) -> None:
    old, new = Sender(), Sender()
    first = begin(old)
    old.send(b"1")
    until(lambda: old.acked)
    second = begin(new)
    old.send(b"2")
    until(lambda: first.fenced)
    new.send(b"3")
    until(lambda: new.acked)
    assert len(old.acked) == 1 and list(old.unanswered["a"].values()) == [b"2"]
    assert not second.fenced
    assert b"1" in data(stored(tmp_path)) and b"3" in data(stored(tmp_path))


def test_a_full_spool_holds_the_sender_back_until_there_is_room(tmp_path: Path, begin: Any) -> None:
    sender = Sender()
    receiver = begin(sender, buffer_bytes=8000)
    sender.send(*[b"%04d" % i + bytes(996) for i in range(150)])
    until(lambda: receiver.snapshot()["state"] == "full")
    time.sleep(0.1)
    assert receiver.snapshot()["queued_bytes"] <= 8000 + 1300
    assert len(sender.waiting["a"]) > 60
    reader = SpoolReader(str(tmp_path), FAST, poll_s=0.001, idle_s=0.001)
    got: list[bytes] = []
    after = None
    (split,) = reader.runs()
    while len(got) < 150:
        for read in takewhile(lambda read: not isinstance(read, Idle), reader.read(split, after)):
            assert isinstance(read, Item) and isinstance(read.data, bytes)
            got.append(read.data)
            after = read.position
        reader.release(split, after)
    assert [int(d[:4]) for d in got] == list(range(150))
    until(lambda: not sender.unanswered["a"] and receiver.snapshot()["state"] == "running")


@pytest.mark.parametrize("kind", [Deaf, Sender])
def test_shedding_drops_and_counts_and_never_answers(tmp_path: Path, begin: Any, kind: type[Sender]) -> None:
    sender = kind()
    shed = FAST.model_copy(update={"policy": "shed"})
    receiver = begin(sender, shed)
    sender.send(*[b"%04d" % i + bytes(996) for i in range(150)])
    until(lambda: receiver.snapshot()["shed"] > 0)
    if kind is Deaf:
        until(lambda: receiver.snapshot()["shed"] + receiver.snapshot()["items"] == 150)
    reader = SpoolReader(str(tmp_path), FAST, poll_s=0.001, idle_s=0.001)
    (split,) = reader.runs()
    end = time.monotonic() + 20
    got: list[Any] = []
    after = None
    while time.monotonic() < end:
        for read in takewhile(lambda read: not isinstance(read, Idle), reader.read(split, after)):
            assert not isinstance(read, Idle)
            got.append(read)
            after = read.position
        reader.release(split, after)
        if kind is Deaf and len(got) > 150 - receiver.snapshot()["shed"]:
            break
        if kind is Sender and not sender.unanswered["a"] and not sender.waiting["a"]:
            break
        time.sleep(0.01)
    sender.send(b"last")
    until(lambda: sender.waiting["a"] == deque() and receiver.snapshot()["state"] == "running")
    receiver.stop()
    got += reader.read(split, after)
    names = [int(read.data[:4]) for read in got if isinstance(read, Item) and read.data != b"last"]
    gaps = [read for read in got if isinstance(read, Gap)]
    assert gaps and {gap.reason for gap in gaps} == {"spool_full"}
    if kind is Deaf:
        assert sum(gap.lost or 0 for gap in gaps) == receiver.snapshot()["shed"] == 150 - len(names)
    else:
        assert {gap.lost for gap in gaps} == {None}
        assert {*names} == {*range(150)}  # each was sent again until it was answered


def test_a_disk_that_fails_is_tried_again_with_each_item_stored_once(begin: Any) -> None:
    dice = random.Random(3)

    def before(call: str, path: str) -> None:
        if call in ("write", "sync", "create", "mark") and path.startswith("/s/r") and dice.random() < 0.1:
            code = dice.choice([errno.EIO, errno.ENOSPC])
            raise OSError(code, os.strerror(code), path)

    disk = MemoryDisk(before=before)
    sender = Sender()
    few = FAST.model_copy(update={"sync_items": 7})
    receiver = begin(sender, few, writer=lambda: SpoolWriter("/s", FAST, disk=disk))
    sender.send(*[b"%d" % i for i in range(300)])
    until(lambda: receiver.snapshot()["items"] == 300, 60)
    assert receiver.stop()
    dice.random = lambda: 1.0  # type: ignore[method-assign]
    assert data(stored("/s", disk)) == [b"%d" % i for i in range(300)]
    assert receiver.snapshot()["last_error"]


def test_a_split_that_appears_later_is_read_and_one_that_ends_is_done(tmp_path: Path, begin: Any) -> None:
    class Ending(Sender):
        def read(self, split: Split, after: Position) -> Iterator[Read]:
            yield Item(split.id.encode(), 1)

    sender = Ending(("a",))
    receiver = begin(sender)
    until(lambda: receiver.snapshot()["splits"].get("a", {}).get("state") == "done")
    sender.names = ("a", "b")
    until(lambda: receiver.snapshot()["splits"].get("b", {}).get("state") == "done")
    until(lambda: data(stored(tmp_path)) == [b"a", b"b"])


def test_pauses_grow_to_a_minute_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.5)
    dice = random.Random(1)
    for attempt, most in [(0, 0.5), (1, 1.0), (4, 8.0), (7, 60.0), (5000, 60.0)]:
        drawn = [pause_s(attempt, dice) for _ in range(400)]
        assert 0 <= min(drawn) < most * 0.1 and most * 0.9 < max(drawn) <= most

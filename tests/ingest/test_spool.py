"""The spool on a real disk: what is written is read, by one receiver at a time, and as a connector."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import (
    Broken,
    BytesBlob,
    Connector,
    ConnectorConfig,
    Gap,
    Idle,
    Item,
    Lag,
    Position,
    Read,
    Split,
)
from headrace.connectors.testing import ConnectorKit
from headrace.ingest.spool import SpoolFull, SpoolSettings
from headrace.ingest.spool_connector import SpooledConnector
from headrace.ingest.spool_disk import LocalDisk
from headrace.ingest.spool_memory import MemoryDisk
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.canonical import position_json
from headrace.schemas.errors import Fenced, SourceChanged
from headrace.schemas.pipeline import run_field

SMALL = SpoolSettings(segment_bytes=4096, max_bytes=1 << 16)
DAY_US = 86_400_000_000


class Time:
    """A clock that stands until it is moved; sleeping moves it."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.us

    def sleep(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


def items(count: int, start: int = 0, size: int = 20) -> list[Item]:
    return [Item(f"{i}:".encode().ljust(size, b"x"), i, key=str(i), event_time=i) for i in range(start, start + count)]


def now(reader: SpoolReader, run: str | Split, after: Position = None) -> list[Any]:
    """What there is to read without waiting."""
    return list(takewhile(lambda read: not isinstance(read, Idle), reader.read(run, after)))


def plain(reads: list[Any]) -> list[bytes]:
    return [read.data for read in reads]


def quick(folder: str | Path, settings: SpoolSettings = SMALL, **more: Any) -> SpoolReader:
    time = Time()
    return SpoolReader(str(folder), settings, clock=more.pop("clock", time), sleep=time.sleep, **more)


def filled(folder: Path, count: int = 300, batch: int = 3, *, close: bool = True) -> tuple[str, list[Any]]:
    """A spool of several segments: (run, all reads)."""
    writer = SpoolWriter(str(folder), SMALL, clock=Time())
    for start in range(0, count, batch):
        writer.append(items(batch, start))
    if close:
        writer.close()
    return writer.run, now(quick(folder), writer.run)


# -- what is written is read ------------------------------------------------------------------------------------------

texts = st.text(st.characters(), max_size=20) | st.text(st.characters(categories=["Cs"]), max_size=3)
times = st.none() | st.integers(-(2**80), 2**80)
stored_items = st.builds(
    Item, st.binary(max_size=3000), st.none(), st.none() | texts, times, st.dictionaries(texts, texts, max_size=4)
)
stored_gaps = st.builds(Gap, texts, st.none(), st.none() | st.integers(0, 2**70))
stored_broken = st.builds(Broken, texts, texts, st.none(), texts, st.none() | st.binary(max_size=100))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(stored_items | stored_gaps | stored_broken, max_size=8), max_size=10), st.randoms())
def test_what_is_written_is_read_to_the_letter_from_every_position(batches: list[list[Any]], dice: Any) -> None:
    time, disk = Time(), MemoryDisk()
    writer = SpoolWriter("/s", SMALL, disk=disk, clock=time)
    sent: list[tuple[Any, int]] = []
    for batch in batches:
        time.us += dice.randrange(10**6)
        try:
            writer.append(batch)
        except SpoolFull:
            continue
        sent += [(read, time.us) for read in batch]
    reader = SpoolReader("/s", SMALL, disk=disk, clock=time, sleep=time.sleep)
    got = now(reader, writer.run)
    assert len(got) == len(sent)
    for read, (was, arrived) in zip(got, sent):
        if not isinstance(was, Item):
            assert read == type(was)(**{**_fields(was), "position": read.position})
            continue
        headers = dict(was.headers)
        if "arrived" in headers:
            headers["sender.arrived"] = headers["arrived"]
        headers["arrived"] = str(arrived)
        if was.event_time is None:
            headers["time_source"] = "arrival"
        time_of = arrived if was.event_time is None else was.event_time
        assert read == Item(was.data, read.position, was.key, time_of, headers)
    writer.close()
    for k in range(len(got)):
        assert now(reader, writer.run, got[k].position) == got[k + 1 :]
    assert len({position_json(read.position) for read in got}) == len(got)


def _fields(read: Any) -> dict[str, Any]:
    return {name: getattr(read, name) for name in read.__slots__}


def test_a_blob_is_stored_as_its_bytes_and_other_data_refused(tmp_path: Path) -> None:
    with SpoolWriter(str(tmp_path), SMALL) as writer:
        writer.append([Item(BytesBlob("a/b", b"bytes of a blob"), 1)])
        with pytest.raises(TypeError, match="bytes or a blob, not list"):
            writer.append([Item([BytesBlob("a", b"")], 2)])
        writer.append([Item(b"after", 3)])
    assert plain(now(quick(tmp_path), writer.run)) == [b"bytes of a blob", b"after"]


def test_the_split_is_idle_while_nothing_comes_and_ends_with_its_run(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), SMALL)
    time = Time()
    reader = SpoolReader(str(tmp_path), SMALL, sleep=time.sleep)
    reads = reader.read(reader.runs()[0], None)
    began = time.us
    assert isinstance(next(reads), Idle)
    assert 400_000 <= time.us - began <= 600_000
    writer.append(items(2))
    assert plain([next(reads), next(reads)]) == plain(items(2))
    assert isinstance(next(reads), Idle)
    writer.append(items(1, 2))
    writer.close()
    assert plain(list(reads)) == plain(items(1, 2))
    assert [split.bounded for split in reader.runs()] == [False]


def test_each_start_is_a_new_run_and_numbers_grow(tmp_path: Path) -> None:
    names = []
    for _ in range(4):
        with SpoolWriter(str(tmp_path), SMALL) as writer:
            names.append(writer.run)
            writer.append(items(1))
        reader = quick(tmp_path)
        reader.release(writer.run, now(reader, writer.run)[-1].position)
        assert reader.runs() == []
    assert [name.split("-")[0] for name in names] == ["r000001", "r000002", "r000003", "r000004"]
    assert len({name.split("-")[1] for name in names}) == 4


def test_lag_and_end_tell_what_stands_behind_a_position(tmp_path: Path) -> None:
    time = Time()
    tmp_path /= "s"
    reader = quick(tmp_path, clock=time)
    assert reader.runs() == [] and reader.size() == 0 and not reader.exists()
    writer = SpoolWriter(str(tmp_path), SMALL, clock=time)
    run = writer.run
    assert reader.lag(run, None) == Lag(0, 0, 0.0) and reader.end_of(run) is None
    for start in range(0, 200, 2):
        writer.append(items(2, start))
    for sealed in (False, True):
        if sealed:
            writer.close()
        reads = now(reader, run)
        assert reader.end_of(run) == reads[-1].position
        time.us += 3_000_000
        age = 6.0 if sealed else 3.0
        for k in range(0, 200, 7):
            lag = reader.lag(run, reads[k].position)
            assert lag.records == 199 - k
            assert (lag.bytes or 0) > 0 or k == 199
            assert lag.seconds == age
        assert reader.lag(run, reads[-1].position) == Lag(0, 0, 0.0)
        assert (reader.lag(run, None).bytes or 0) <= reader.size()


def test_a_position_of_something_else_is_refused(tmp_path: Path) -> None:
    run, _ = filled(tmp_path)
    for wrong in (7, "x", [1, 2], [0, 1.5, 0], [0, -1, 0], [True, 0, 0]):
        with pytest.raises(SourceChanged, match="is no position of a spool"):
            now(quick(tmp_path), run, wrong)


# -- who may write ----------------------------------------------------------------------------------------------------


def test_a_newer_receiver_ends_the_older_one(tmp_path: Path) -> None:
    old = SpoolWriter(str(tmp_path), SMALL)
    old.append(items(2))
    new = SpoolWriter(str(tmp_path), SMALL)
    for _ in range(2):
        with pytest.raises(Fenced, match="sealed by a newer one"):
            old.append(items(1, 2))
    new.append(items(1, 3))
    new.close()
    with pytest.raises(Fenced, match="closed"):
        new.append(items(1, 4))
    reader = quick(tmp_path)
    assert [plain(now(reader, run)) for run in reader.runs()] == [plain(items(2)), plain(items(1, 3))]


def test_a_run_that_was_deleted_fences_its_writer(tmp_path: Path) -> None:
    old = SpoolWriter(str(tmp_path), SMALL)
    old.append(items(2))
    SpoolWriter(str(tmp_path), SMALL).close()
    reader = quick(tmp_path)
    reader.release(old.run, now(reader, old.run)[-1].position)
    reader.sweep()
    assert reader.runs() == []
    with pytest.raises(Fenced):
        old.append(items(1, 2))


# -- as a connector ---------------------------------------------------------------------------------------------------


class Push(Connector):
    bounded = False
    replay = "none"

    def splits(self) -> list[Split]:
        return [Split("push")]

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        raise AssertionError("the lane side never reads the source itself")


class SpooledPush(SpooledConnector):
    """The kit makes connectors from settings alone."""

    class Config(ConnectorConfig):
        folder: str = run_field(description="the spool")

    def __init__(self, config: Config) -> None:
        super().__init__(Push, config, SMALL, config.folder)
        self.reader = SpoolReader(config.folder, SMALL, poll_s=0.002, idle_s=0.004)


class TestSpooledConnector(ConnectorKit):
    @pytest.fixture(autouse=True)
    def _spool(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path / "spool"
        filled(self.folder, 60)
        writer = SpoolWriter(str(self.folder), SMALL, clock=Time())
        writer.append([*items(30, 60), Gap("reconnected", None, 3), Broken("corrupt", "m", None, "{}", b"raw")])
        self.writer = writer
        yield
        writer.close()

    def make(self) -> SpooledPush:
        return SpooledPush(SpooledPush.Config(folder=str(self.folder)))


def test_the_connector_reads_measures_and_releases(tmp_path: Path) -> None:
    reads = filled(tmp_path)[1]
    connector = SpooledPush(SpooledPush.Config(folder=str(tmp_path)))
    connector.probe()
    (split,) = connector.splits()
    assert not type(connector).bounded and type(connector).replay == "exact"
    assert list(connector.read(split, None)) == reads
    assert connector.end_of(split) == reads[-1].position
    lag = connector.lag(split, reads[9].position)
    assert lag is not None and lag.records == 290
    connector.ack(split, reads[-1].position)
    assert list(connector.splits()) == []
    with pytest.raises(Exception, match="there is no spool"):
        SpooledPush(SpooledPush.Config(folder=str(tmp_path / "none"))).probe()


def test_the_real_disk_and_the_simulated_one_agree(tmp_path: Path) -> None:
    for disk, root in ((LocalDisk(), str(tmp_path)), (MemoryDisk(), "/x")):
        disk.make_folders(root + "/a/b")
        with pytest.raises(FileExistsError):
            disk.make_new_folder(root + "/a/b")
        file = disk.create(root + "/a/b/f")
        file.write(b"hello")
        file.sync()
        file.close()
        with pytest.raises(FileExistsError):
            disk.create(root + "/a/b/f")
        assert disk.put_new(root + "/a/b/s", b"1") and not disk.put_new(root + "/a/b/s", b"2")
        mark = disk.open_mark(root + "/a/b/m")
        mark.write(b"abc")
        mark.write(b"xyz")
        mark.close()
        disk.replace(root + "/a/b/s", b"3")
        assert (disk.read(root + "/a/b/s"), disk.read(root + "/a/b/m"), disk.size(root + "/a/b/f")) == (b"3", b"xyz", 5)
        opened = disk.open(root + "/a/b/f")
        disk.rename_folder(root + "/a/b", root + "/a/c")
        assert (opened.size(), opened.read(1, 3), opened.read(3, 9)) == (5, b"ell", b"lo")
        opened.close()
        assert sorted(disk.names(root + "/a/c")) == ["f", "m", "s"] and not disk.exists(root + "/a/b")
        for name in "fms":
            disk.remove(root + "/a/c/" + name)
        disk.remove_folder(root + "/a/c")
        with pytest.raises(FileNotFoundError):
            disk.names(root + "/a/c")
        with pytest.raises(FileNotFoundError):
            disk.open(root + "/a/c/f")

"""Disks that fail or are full, the size of a spool, and what of it is kept for how long."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from headrace.connectors.contract import Gap, Item, Position
from headrace.ingest.spool import SpoolFull, SpoolSettings, keep_us, place_of
from headrace.ingest.spool_fence import seal
from headrace.ingest.spool_memory import MemoryDisk
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.errors import Fenced, StorageError
from headrace.schemas.pipeline import Spool

from .test_spool import DAY_US, SMALL, Time, filled, items, now, plain, quick


class Faulty:
    """Fails the n-th call of one kind."""

    def __init__(self, call: str, number: int, code: int) -> None:
        self.call, self.left, self.code = call, number, code

    def __call__(self, call: str, path: str) -> None:
        if call == self.call and path.endswith(".seg"):
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code), path)


@pytest.mark.parametrize("capacity", range(60, 3000, 37))
def test_a_full_disk_fails_the_append_and_the_same_items_may_be_tried_again(capacity: int) -> None:
    disk, time = MemoryDisk(capacity=capacity), Time()
    writer = SpoolWriter("/s", SMALL, disk=disk, clock=time)
    sent = 0
    for start in range(0, 60, 4):
        try:
            writer.append(items(4, start))
        except SpoolFull as exc:
            assert "no space left" in str(exc)
            with pytest.raises(SpoolFull):
                writer.append(items(4, start))
            disk.capacity = None
            writer.append(items(4, start))
        sent += 4
    reader = SpoolReader("/s", SMALL, disk=disk, sleep=time.sleep)
    for close in (False, True):
        if close:
            writer.close()
        assert plain(now(reader, writer.run)) == plain(items(sent))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_failed_fsync_ends_the_run_and_the_items_count_once(number: int) -> None:
    disk, time = MemoryDisk(before=Faulty("sync", number, errno.EIO)), Time()
    writer = SpoolWriter("/s", SMALL, disk=disk, clock=time)
    runs = [writer.run]
    for start in range(0, 12, 2):
        try:
            writer.append(items(2, start))
        except StorageError as exc:
            assert "input/output error" in str(exc) and not isinstance(exc, SpoolFull)
            writer.append(items(2, start))
            runs.append(writer.run)
    writer.close()
    reader = SpoolReader("/s", SMALL, disk=disk, sleep=time.sleep)
    assert len(runs) == 2
    assert plain([read for run in runs for read in now(reader, run)]) == plain(items(12))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a tmpfs needs root")
def test_on_a_real_disk_that_is_full_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        ballast = small / "ballast"
        ballast.write_bytes(bytes(220 << 10))
        writer = SpoolWriter(str(small / "s"), SpoolSettings(segment_bytes=16 << 10))
        sent = full = 0
        while sent < 200:
            try:
                writer.append(items(5, sent, size=400))
                sent += 5
            except SpoolFull:
                full += 1
                ballast.unlink(missing_ok=True)
        writer.close()
        assert full
        assert plain(now(quick(small / "s"), writer.run)) == plain(items(200, size=400))
    finally:
        subprocess.run(["umount", str(small)], check=True)


# -- size and keeping -------------------------------------------------------------------------------------------------


def test_a_full_spool_takes_nothing_until_a_dataset_has_committed(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), SMALL)
    sent = 0
    with pytest.raises(SpoolFull, match="has no room for"):
        while True:
            writer.append(items(10, sent))
            sent += 10
    reader = quick(tmp_path)
    assert reader.size() <= SMALL.max_bytes
    writer.gap("spool_full", 10)  # that it is full may always be said
    reads = now(reader, writer.run)
    assert plain(reads[:-1]) == plain(items(sent)) and reads[-1].lost == 10
    reader.release(writer.run, reads[-1].position)
    assert reader.size() <= 4096 + 2000  # the last segment stays
    writer.append(items(10, sent))
    assert plain(now(reader, writer.run, reads[-1].position)) == plain(items(10, sent))


def test_items_of_any_size_find_room_in_an_empty_spool(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(str(tmp_path), SMALL), quick(tmp_path)
    after: Position = None
    for size in [1, 16_000, 16_000, 10, 16_000, 16_000, 16_000, 1] * 3:
        writer.append([Item(bytes(size), 0)])
        reads = now(reader, writer.run, after)
        assert [len(read.data) for read in reads] == [size]
        after = reads[-1].position
        reader.release(writer.run, after)


def test_an_item_that_could_never_fit_is_stored_as_broken(tmp_path: Path) -> None:
    with SpoolWriter(str(tmp_path), SMALL) as writer:
        writer.append([Item(bytes(20_000), 0, key="big"), *items(1)])
    broken, item = now(quick(tmp_path), writer.run)
    assert broken.reason == "too_large" and "big" in broken.locator and broken.data is None
    assert item.data == items(1)[0].data


def test_reading_goes_on_after_any_release(tmp_path: Path) -> None:
    for k in range(0, 300, 37):
        folder = tmp_path / str(k)
        run, reads = filled(folder, batch=6, close=k % 2 == 0)
        reader = quick(folder)
        reader.release(run, reads[k].position)
        assert now(reader, run, reads[k].position) == reads[k + 1 :]
        kept = sorted(int(name[:6]) for name in os.listdir(folder / run) if name.endswith(".seg"))
        assert kept[0] == reads[k].position[0]
        if kept[0]:
            again = now(reader, run)
            assert again[0].reason == "spool_released" and again[0].lost == len(reads) - len(again) + 1


def test_committed_bytes_are_kept_as_long_as_asked(tmp_path: Path) -> None:
    keep = SpoolSettings(segment_bytes=4096, max_bytes=1 << 16, keep="2d")
    time = Time()
    writer = SpoolWriter(str(tmp_path), keep, clock=time)
    for day in range(4):
        for i in range(20):
            writer.append(items(2, day * 40 + i * 2, size=100))
        time.us += DAY_US
    reader = quick(tmp_path, keep, clock=time)
    reads = now(reader, writer.run)
    reader.release(writer.run, reads[-1].position, time.us - 1)
    held = now(reader, writer.run)
    assert isinstance(held[0], Gap) and held[0].reason == "spool_released"
    assert plain(held[1:]) == plain(reads)[held[0].lost :]
    assert 40 < held[0].lost <= 80  # what came on the first two days, but for the segment that reaches over
    writer.close()
    reader.sweep(time.us + DAY_US)
    assert reader.runs() != []
    reader.sweep(time.us + 2 * DAY_US)
    assert reader.runs() == []


def test_forever_deletes_nothing(tmp_path: Path) -> None:
    run, reads = filled(tmp_path)
    reader = quick(tmp_path, SpoolSettings(keep="forever"))
    reader.release(run, reads[-1].position, Time().us + 10_000 * DAY_US)
    reader.sweep(Time().us + 10_000 * DAY_US)
    assert now(reader, run) == reads


def test_nothing_is_deleted_that_was_not_released(tmp_path: Path) -> None:
    run, reads = filled(tmp_path)
    reader = quick(tmp_path)
    reader.sweep()
    assert now(reader, run) == reads
    (tmp_path / run / "committed").write_bytes(b"0" * 16 + b' {"upto":[99,99,99]}')
    quick(tmp_path).sweep()
    assert now(reader, run) == reads


def test_an_empty_run_that_ended_is_cleared_away(tmp_path: Path) -> None:
    SpoolWriter(str(tmp_path), SMALL).close()
    reader = quick(tmp_path)
    assert reader.runs() == []
    reader.sweep()
    assert [name[:5] for name in os.listdir(tmp_path)] == ["gone-"]
    assert SpoolWriter(str(tmp_path), SMALL).number == 2


def test_keep_says_what_it_takes() -> None:
    assert [keep_us(k) for k in ("committed", "forever", "2h", "7d")] == [0, None, 7_200_000_000, 7 * DAY_US]
    with pytest.raises(ValueError, match="<N>d"):
        keep_us("7 days")
    with pytest.raises(ValueError, match="keep"):
        SpoolSettings(keep="soon")
    assert place_of(None) == (0, 0, 0)
    assert SpoolSettings.of(Spool(max_mib=1, policy="shed", keep="1d")).max_bytes == 1 << 20




def test_a_run_that_is_deleted_in_the_middle_of_an_append_fences_its_writer() -> None:
    for call in ("create", "write", "sync", "sync_folder", "open_mark", "mark"):
        disk = MemoryDisk()
        writer = SpoolWriter("/s", SMALL, disk=disk, clock=Time())
        run = writer.run

        def delete(name: str, path: str, call: str = call, run: str = run, disk: MemoryDisk = disk) -> None:
            if name == call and path.startswith(f"/s/{run}"):
                disk.before = lambda name, path: None
                seal(disk, "/s", run, {"at": 0})
                disk.rename_folder(f"/s/{run}", f"/s/gone-{run}")

        disk.before = delete
        with pytest.raises(Fenced):
            for start in range(2):
                try:
                    writer.append(items(1, start))
                except StorageError:
                    assert call in ("open_mark", "mark")
                else:
                    assert call == "mark"  # the last look was before it: these items were acknowledged in time
        assert disk.exists(f"/s/gone-{run}")

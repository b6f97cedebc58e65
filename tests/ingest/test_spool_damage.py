"""A spool that was cut, flipped, or had parts deleted: nothing whole is lost, nothing damaged goes unsaid."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headrace.connectors.contract import Broken, Gap, Item
from headrace.ingest.spool_disk import LocalDisk
from headrace.ingest.spool_fence import seal
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.errors import SourceChanged

from .test_spool import SMALL, filled, items, now, plain, quick


def test_a_spool_cut_anywhere_gives_every_whole_entry_before_the_cut(tmp_path: Path) -> None:
    """As a crash leaves it: what is torn was never acknowledged, so it is passed over without a word."""
    writer = SpoolWriter(str(tmp_path / "whole"), SMALL)
    for i in range(4):
        writer.append(items(2, 2 * i))
    path = tmp_path / "whole" / writer.run / "000000.seg"
    ends = [read.position[1] for read in now(quick(tmp_path / "whole"), writer.run)]
    data = path.read_bytes()
    assert ends[-1] == len(data)
    seal(LocalDisk(), str(tmp_path / "whole"), writer.run, {"at": 0})  # as the next receiver does
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        got = now(quick(tmp_path / "whole"), writer.run)
        assert plain(got) == plain(items(sum(end <= cut for end in ends)))


def test_a_cleanly_closed_spool_that_was_cut_says_how_much_is_missing(tmp_path: Path) -> None:
    run, reads = filled(tmp_path, 8, 2)
    path = tmp_path / run / "000000.seg"
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        got = now(quick(tmp_path), run)
        whole = [read for read in got if isinstance(read, Item)]
        gap = got[-1]
        assert whole == reads[: len(whole)] and len(got) == len(whole) + 1
        assert isinstance(gap, Gap) and gap.lost == 8 - len(whole)
        assert now(quick(tmp_path), run, gap.position) == []


def test_every_flipped_byte_is_noticed_and_costs_one_entry(tmp_path: Path) -> None:
    run, reads = filled(tmp_path, 6, 3)
    for name in ("000000.seg", "sealed"):
        path = tmp_path / run / name
        data = bytearray(path.read_bytes())
        for at in range(len(data)):
            for bit in (0x01, 0x80):
                data[at] ^= bit
                path.write_bytes(data)
                data[at] ^= bit
                got = now(quick(tmp_path), run)
                broken = [read for read in got if isinstance(read, Broken)]
                kept = [read for read in got if isinstance(read, Item)]
                assert len(broken) == 1 and broken[0].reason == "checksum", (name, at)
                assert [read for read in got if isinstance(read, Gap) and read.lost != 1] == []
                assert all(read in reads for read in kept)
                in_entry = name == "000000.seg" and at >= 48
                assert len(kept) == len(reads) - in_entry, (name, at)
                for k in range(len(got) if bit == 1 else 0):
                    assert now(quick(tmp_path), run, got[k].position) == got[k + 1 :], (name, at, k)
        path.write_bytes(data)
    assert now(quick(tmp_path), run) == reads


def test_damage_in_a_growing_run_is_told_once_something_follows(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path), SMALL)
    writer.append(items(3))
    path = tmp_path / writer.run / "000000.seg"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    reader = quick(tmp_path)
    first = now(reader, writer.run)
    assert plain(first) == plain(items(2))
    writer.append(items(1, 3))
    broken, after = now(reader, writer.run, first[-1].position)
    assert isinstance(broken, Broken) and broken.data is not None and len(broken.data) > 40
    assert after.data == items(1, 3)[0].data


def test_a_payload_that_imitates_an_entry_is_not_taken_for_one(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path / "a"), SMALL)
    writer.append(items(1))
    forged = (tmp_path / "a" / writer.run / "000000.seg").read_bytes()[48:]
    with SpoolWriter(str(tmp_path / "b"), SMALL) as other:
        other.append([Item(forged * 3, 0), *items(1, 5)])
    path = tmp_path / "b" / other.run / "000000.seg"
    data = bytearray(path.read_bytes())
    data[50] ^= 1  # the head of the first entry
    path.write_bytes(data)
    got = now(quick(tmp_path / "b"), other.run)
    assert isinstance(got[0], Broken) and plain(got[1:]) == plain(items(1, 5))


def test_a_segment_deleted_by_hand_is_a_gap_with_its_count(tmp_path: Path) -> None:
    run, reads = filled(tmp_path)
    gone = [read for read in reads if read.position[0] == 2]
    (tmp_path / run / "000002.seg").unlink()
    got = now(quick(tmp_path), run)
    gaps = [read for read in got if isinstance(read, Gap)]
    assert [(gap.reason, gap.lost) for gap in gaps] == [("spool_damaged", len(gone))]
    assert [read for read in got if isinstance(read, Item)] == [read for read in reads if read not in gone]


def test_a_run_deleted_by_hand_is_an_error_and_a_released_one_is_over(tmp_path: Path) -> None:
    run, reads = filled(tmp_path)
    other = filled(tmp_path)[0]
    shutil.rmtree(tmp_path / other)
    with pytest.raises(SourceChanged, match="was not released"):
        now(quick(tmp_path), other)
    quick(tmp_path).release(run, reads[-1].position)
    assert now(quick(tmp_path), run, reads[-1].position) == []


def test_a_spool_of_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.ingest.spool_format.VERSION", 2)
    with SpoolWriter(str(tmp_path), SMALL) as writer:
        writer.append(items(1))
    with pytest.raises(SourceChanged, match="version 2"):
        now(quick(tmp_path), writer.run)



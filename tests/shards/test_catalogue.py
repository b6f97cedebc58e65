"""The catalogue says of every sample what its shard says, to DuckDB too, and is made again when it must be."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.shards import catalogue
from headrace.shards.catalogue import CatalogueFile, catalogue_files, read_catalogue, update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Delete, Entry, Span
from headrace.shards.log import CommitLog
from headrace.shards.sealing import ROOM, check_sealed, seal_bytes
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, MemoryStore
from headrace.shards.verify import verify
from headrace.shards.wkb import bounds

Fill = Callable[..., CommitLog]


def test_duckdb_reads_the_catalogue_and_finds_what_the_shards_hold(store: LocalStore, filled: Fill) -> None:
    filled(store)
    data = Dataset(store)
    rows = duckdb.sql(
        f"select stream, lane, seq, record_id, length, license, flags, epoch_us(event_time),"
        f" error, position, fold, group_id from '{store.root}/catalogue/*.parquet' order by stream, lane, seq"
    ).fetchall()
    assert len(rows) == 99
    for stream, lane, seq, record_id, length, license, flags, stamp, error, position, fold, group in rows:
        sample = data.sample(stream, lane, seq).to_pylist()[0]
        assert sample["record_id"] == bytes(record_id) and sample["license"] == license
        assert length == (len(sample["tokens"]) if "tokens" in sample else None)
        assert flags == sample["flags"] and sample["position"] == position and sample["error"] == error
        assert data.sample(stream, lane, seq).column("event_time").cast("int64").to_pylist() == [stamp]
        assert (fold, group) == (sample["fold"], sample["group_id"])
    total = duckdb.sql(f"select sum(length) from '{store.root}/catalogue/*.parquet' where stream = 'tide'").fetchall()
    assert total == [(data.streams()["tide"].tokens,)]


def test_files_are_disjoint_leave_no_entry_out_and_are_cut_at_entry_borders(
    memory: MemoryStore, filled: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FILE_ROWS", 25)
    log = filled(memory)
    files = catalogue_files(memory)
    assert files[0].start == 1 and files[-1].stop == log.state.v
    assert all(a.stop + 1 == b.start for a, b in pairwise(files)) and len(files) == 3
    rows = [read_catalogue(memory, f).num_rows for f in files]
    assert sum(rows) == 99 and all(r >= 25 for r in rows[:-1])
    assert verify(memory).ok


def test_an_update_adds_only_what_is_new(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    before = {f.name: memory.files[f.name] for f in catalogue_files(memory)}
    assert update_catalogue(Dataset(memory)) == []
    log.append(LaneDouble(memory, log, "tide", lane=0, split="north").cut(5))
    log.append(Entry(kind="commit"))
    assert update_catalogue(Dataset(memory)) == [CatalogueFile(11, 12)]
    assert before.items() <= memory.files.items()
    log.append(Entry(kind="commit"))
    assert update_catalogue(Dataset(memory)) == []  # nothing to list


def test_a_deletion_rewrites_only_the_files_it_concerns(
    memory: MemoryStore, filled: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FILE_ROWS", 10)
    log = filled(memory)
    files = catalogue_files(memory)
    log.append(Entry(kind="forget", delete=[Delete("bulletins", 0, [Span(0, 1)], [], 0)]))
    written = update_catalogue(Dataset(memory))
    concerned = [f for f in files if "bulletins" in read_catalogue(memory, f).column("stream").to_pylist()]
    assert written == concerned and 0 < len(written) < len(files)
    assert sum(read_catalogue(memory, f).num_rows for f in catalogue_files(memory)) == 98
    assert update_catalogue(Dataset(memory)) == []


@pytest.mark.parametrize("damage", ["flip", "torn", "gone", "overlap", "future"])
def test_a_damaged_catalogue_is_made_again(memory: MemoryStore, filled: Fill, damage: str) -> None:
    filled(memory)
    name = catalogue_files(memory)[0].name
    good = memory.files[name]
    if damage == "flip":
        memory.files[name] = good[:50] + bytes([good[50] ^ 1]) + good[51:]
    elif damage == "torn":
        memory.files[name] = good[:-20]
    elif damage == "gone":
        del memory.files[name]
    elif damage == "overlap":
        memory.files[CatalogueFile(5, 9).name] = good
    else:
        memory.files[CatalogueFile(11, 99).name] = good
    update_catalogue(Dataset(memory), check=True)
    report = verify(memory)
    assert report.ok and report.catalogue == 99
    assert memory.files[name] == good


def test_a_seal_covers_every_bit_and_needs_room() -> None:
    data = seal_bytes(f"head {ROOM} middle {ROOM} tail".encode())
    assert check_sealed(data)
    for bit in range(len(data) * 8):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"hash to|different digests"):
            check_sealed(bytes(spoiled))
    with pytest.raises(ValueError, match="no room"):
        seal_bytes(b"nothing")


# ---- boxes ----


def wkb(kind: int, points: list[tuple[float, ...]], order: str = "<", flags: int = 0) -> bytes:
    head = struct.pack(order + "BI", order == "<", kind | flags)
    body = b"".join(struct.pack(f"{order}{len(p)}d", *p) for p in points)
    if kind % 1000 == 1:
        return head + body
    if kind % 1000 == 2:
        return head + struct.pack(order + "I", len(points)) + body
    half = len(points) // 2
    rings = [points[:half], points[half:]]
    return (
        head
        + struct.pack(order + "I", 2)
        + b"".join(
            struct.pack(order + "I", len(r)) + b"".join(struct.pack(f"{order}{len(p)}d", *p) for p in r) for r in rings
        )
    )


NUMBERS = st.floats(-180, 180)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=6),
    st.sampled_from([(0, 0, 2), (1000, 0, 3), (2000, 0, 3), (3000, 0, 4), (0, 0x80000000, 3), (0, 0xC0000000, 4)]),
    st.sampled_from("<>"),
    st.sampled_from([1, 2, 3]),
)
def test_a_box_is_the_smallest_and_largest_of_all_points(
    points: list[tuple[float, ...]], flavour: tuple[int, int, int], order: str, kind: int
) -> None:
    thousand, flags, dimensions = flavour
    points = [p[:dimensions] for p in points][: 1 if kind == 1 else None]
    data = wkb(kind + thousand, points, order, flags)
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    assert bounds(data) == (min(xs), min(ys), max(xs), max(ys))
    collection = struct.pack("<BII", 1, 7, 2) + data + wkb(1, [(500.0, -500.0)])
    assert bounds(collection) == (min([*xs, 500.0]), min([*ys, -500.0]), max([*xs, 500.0]), max([*ys, -500.0]))


def test_an_empty_point_has_no_box_and_an_srid_is_skipped() -> None:
    assert bounds(wkb(1, [(float("nan"), float("nan"))])) is None
    assert bounds(struct.pack("<BII2d", 1, 1 | 0x20000000, 4326, 3.0, 4.0)) == (3.0, 4.0, 3.0, 4.0)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 40))
def test_bytes_that_are_no_geometry_are_a_value_error(data: bytes, cut: int) -> None:
    for hostile in (data, wkb(3, [(1.0, 2.0)] * 4)[:cut], struct.pack("<BII", 1, 3, 2**31)):
        try:
            bounds(hostile)
        except ValueError:
            continue
    nested = b"".join(struct.pack("<BII", 1, 7, 1) for _ in range(5000))
    with pytest.raises(ValueError, match="nested too deep"):
        bounds(nested)


def test_boxes_stand_in_the_catalogue_and_a_broken_geometry_has_none(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    shapes: list[Any] = [wkb(2, [(24.5, 60.0), (25.0, 60.5)]), b"nonsense", None]
    log.append(LaneDouble(memory, log, "tide", geometry=lambda n: shapes[n]).cut(3))
    update_catalogue(Dataset(memory))
    table = read_catalogue(memory, catalogue_files(memory)[0], ["west", "south", "east", "north"])
    assert table.to_pylist()[0] == {"west": 24.5, "south": 60.0, "east": 25.0, "north": 60.5}
    assert table.slice(1).to_pylist() == [dict.fromkeys(("west", "south", "east", "north"))] * 2
    assert np.all([verify(memory).ok])

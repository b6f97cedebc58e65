"""Shards: bytes are a function of the rows, blocks have their size, other readers agree, every flipped bit is told."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import ShardError, StorageError
from headrace.schemas.sample import sample_schema
from headrace.shards.entry import Range, ShardInfo, StreamSettings
from headrace.shards.ipc import ALIGNMENT
from headrace.shards.reader import ShardReader
from headrace.shards.store import Store
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import MemoryStore, sample_batch, schema_of, settings_of
from headrace.shards.writer import ShardWriter, shard_metadata

TIDE = settings_of("tide")
SCHEMA = schema_of("tide", TIDE)


def write(store: Store, batches: list[pa.RecordBatch], target: int = 4 << 20, schema: pa.Schema = SCHEMA) -> ShardInfo:
    with ShardWriter(store, "tide", 7, 3, schema, number=42, target_block_bytes=target) as writer:
        for batch in batches:
            writer.append(batch)
        return writer.close([Range("ab", None, 0, 9, 0, sum(b.num_rows for b in batches))])


def test_a_shard_reads_back_as_it_was_written(store: LocalStore) -> None:
    batch = sample_batch(SCHEMA, "a", range(200))
    info = write(store, [batch], target=8192)
    reader = ShardReader(store, info)
    assert pa.Table.from_batches(list(reader.batches())).equals(pa.Table.from_batches([batch]), check_metadata=True)
    assert reader.schema.equals(SCHEMA, check_metadata=True)
    assert reader.row(137).equals(batch.slice(137, 1))
    assert info.rows == 200 and info.tokens == len(batch.column("tokens").flatten())
    assert info.bytes == store.size(info.path) and len(info.blocks) > 2
    assert next(reader.batches(["tokens", "uri"])).schema.names == ["tokens", "uri"]
    with pytest.raises(IndexError):
        reader.row(200)
    reader.check_whole()


def test_the_name_tells_stream_lane_epoch_and_number_and_is_never_the_same(memory: MemoryStore) -> None:
    batch = sample_batch(SCHEMA, "a", range(3))
    one, two = write(memory, [batch]), write(memory, [batch])
    assert one.path != two.path and one.path.startswith("data/tide/L0007/e3-000042-")
    assert one.sha256 == two.sha256 and memory.files[one.path] == memory.files[two.path]


def test_the_schema_metadata_says_what_the_stream_is(memory: MemoryStore) -> None:
    info = write(memory, [sample_batch(SCHEMA, "a", range(3))])
    metadata = ShardReader(memory, info).schema.metadata
    assert metadata[b"headrace.stream"] == b"tide" and metadata[b"headrace.stream_digest"] == TIDE.digest.encode()
    assert metadata[b"headrace.modality"] == b"text" and metadata[b"headrace.schema"] == b"1"
    assert metadata[b"headrace.tokenizer"] == str(TIDE.tokenizer).encode()


def test_other_arrow_readers_read_the_file(store: LocalStore) -> None:
    batch = sample_batch(SCHEMA, "a", range(300))
    info = write(store, [batch], target=8192)
    path = store.local_path(info.path)
    with pa.OSFile(path) as file:
        table = pa.ipc.open_file(file).read_all()
    table.validate(full=True)
    assert table.equals(pa.Table.from_batches([batch])) and table.schema.metadata == SCHEMA.metadata
    frame = pl.read_ipc(str(path))
    assert frame["tokens"].list.len().sum() == info.tokens and frame["position"].to_list()[-1] == "300"


def test_every_buffer_of_a_mapped_shard_is_aligned_to_64_bytes(store: LocalStore) -> None:
    info = write(store, [sample_batch(SCHEMA, "a", range(300))], target=8192)
    assert info.head_bytes % ALIGNMENT == 0
    for block in ShardReader(store, info).batches():
        addresses = [b.address for column in block.columns for b in column.buffers() if b is not None and b.size]
        assert addresses and all(a % ALIGNMENT == 0 for a in addresses)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.booleans(), st.integers(0, 3))
def test_bytes_do_not_depend_on_how_rows_were_batched(cuts: list[int], raw: bool, seed: int) -> None:
    memory = MemoryStore()
    schema = sample_schema("text", None if raw else "uint32", shard_metadata("tide", "d", None))
    whole = sample_batch(schema, f"s{seed}", range(61))
    borders = sorted({0, 61, *cuts})
    parts = [whole.slice(a, b - a) for a, b in pairwise(borders)]
    copied = [pa.RecordBatch.from_pylist(p.to_pylist(), schema=schema) for p in parts]
    infos = [write(memory, batches, 4096, schema) for batches in ([whole], parts, copied)]
    assert len({i.sha256 for i in infos}) == 1
    assert len({str(i.blocks) for i in infos}) == 1


def test_blocks_hold_up_to_the_target_and_a_larger_row_stands_alone(memory: MemoryStore) -> None:
    small = sample_batch(SCHEMA, "a", range(3000), length=800)
    large = sample_batch(SCHEMA, "b", range(1), tokens=list(range(50_000)) * 60)
    info = write(memory, [small, large, small])
    sizes = [b.length for b in info.blocks]
    big = max(range(len(sizes)), key=sizes.__getitem__)
    assert info.blocks[big].rows == 1 and sizes[big] > 6_000_000
    usual = [s for i, s in enumerate(sizes) if i != big and i != big - 1 and i != len(sizes) - 1]
    assert usual and all(4_000_000 < s < 4_200_000 for s in usual)
    assert all(s < 4_200_000 for i, s in enumerate(sizes) if i != big)
    ends = [b.offset + b.length for b in info.blocks]
    assert [b.offset for b in info.blocks] == [info.head_bytes, *ends[:-1]] and ends[-1] < info.bytes


def test_block_borders_depend_on_the_rows_alone_and_splits_may_share_one(memory: MemoryStore) -> None:
    parts = [sample_batch(SCHEMA, f"s{i}", range(5)) for i in range(20)]
    with ShardWriter(memory, "tide", 0, 1, SCHEMA) as writer:
        for part in parts:
            writer.append(part)
        assert writer.rows == 100 and writer.data_bytes > 0
        ranges = [Range(f"s{i}", None, 0, 5, 0, 5) for i in range(20)]
        info = writer.close(ranges)
    assert len(info.blocks) == 1 and info.ranges == ranges


def test_a_shard_without_rows_or_with_other_ranges_is_refused_and_leaves_nothing(memory: MemoryStore) -> None:
    writer = ShardWriter(memory, "tide", 0, 1, SCHEMA)
    with pytest.raises(ValueError, match="0 rows were appended"):
        writer.close([])
    writer = ShardWriter(memory, "tide", 0, 1, SCHEMA)
    writer.append(sample_batch(SCHEMA, "a", range(3)))
    with pytest.raises(ValueError, match="3 rows were appended, the ranges say 4"):
        writer.close([Range("ab", None, 0, 4, 0, 4)])
    assert memory.files == {}


def test_a_batch_of_another_schema_or_with_nulls_where_none_may_be_is_refused(memory: MemoryStore) -> None:
    writer = ShardWriter(memory, "tide", 0, 1, SCHEMA)
    with pytest.raises(ValueError, match="the batch has the columns"):
        writer.append(sample_batch(schema_of("tide", settings_of("tide", "uint32")), "a", range(3)))
    batch = sample_batch(SCHEMA, "a", range(3))
    holed = batch.set_column(
        batch.schema.get_field_index("uri"), SCHEMA.field("uri").with_nullable(True), pa.array(["a", None, "b"])
    )
    with pytest.raises(ValueError, match="column `uri` may not be null"):
        writer.append(holed)
    writer.abort()


def test_a_name_that_exists_is_an_error_not_an_overwrite(memory: MemoryStore) -> None:
    writer = ShardWriter(memory, "tide", 0, 1, SCHEMA)
    memory.files[writer.path] = b"another"
    writer.append(sample_batch(SCHEMA, "a", range(3)))
    with pytest.raises(StorageError, match="exists already"):
        writer.close([Range("ab", None, 0, 3, 0, 3)])


def test_a_flipped_bit_in_any_byte_is_told_with_shard_block_and_offset(memory: MemoryStore) -> None:
    info = write(memory, [sample_batch(SCHEMA, "a", range(24))], target=3000)
    assert len(info.blocks) > 2
    good, rng = memory.files[info.path], random.Random(1)
    places = set()
    for at in range(0, len(good), 7):
        spoiled = bytearray(good)
        spoiled[at] ^= 1 << rng.randrange(8)
        memory.files[info.path] = bytes(spoiled)
        with pytest.raises(ShardError, match=r"(head|block \d+|tail) \(bytes \d+ to \d+\) was altered") as told:
            list(ShardReader(memory, info).batches())
        assert info.path in str(told.value)
        low, high = (int(w.rstrip(")")) for w in str(told.value).split("(bytes ")[1].split(" was")[0].split(" to "))
        assert low <= at < high
        places.add(str(told.value).split(": ")[1].split(" (")[0])
        with pytest.raises(ShardError, match="its bytes hash to"):
            ShardReader(memory, info).check_whole()
    assert {"head", "tail", "block 0", "block 1"} <= places


def test_a_local_shard_can_be_read_without_mapping_it(store: LocalStore) -> None:
    batch = sample_batch(SCHEMA, "a", range(100))
    reader = ShardReader(store, write(store, [batch], target=8192), mapped=False)
    assert pa.Table.from_batches(list(reader.batches())).equals(pa.Table.from_batches([batch]))
    reader.check_whole()


@pytest.mark.parametrize("mapped", [True, False])
def test_a_truncated_or_missing_shard_is_told_before_anything_is_read(
    store: LocalStore, memory: MemoryStore, mapped: bool
) -> None:
    some: Store = store if mapped else memory
    info = write(some, [sample_batch(SCHEMA, "a", range(24))])
    data = some.get(info.path)
    some.delete(info.path)
    some.put_new(info.path, data[:-100])
    with pytest.raises(ShardError, match=rf"{len(data) - 100} bytes, the log says {len(data)}"):
        ShardReader(some, info)
    some.delete(info.path)
    with pytest.raises(StorageError, match="does not exist"):
        ShardReader(some, info)


def test_a_killed_writer_leaves_only_a_temporary_file(store: LocalStore) -> None:
    writer = ShardWriter(store, "tide", 0, 5, SCHEMA)
    writer.append(sample_batch(SCHEMA, "a", range(3)))
    assert list(store.list()) == []
    assert [name for name, _ in store.leftovers()] == [writer.path]
    writer.abort()
    assert list(store.leftovers()) == []


def test_a_shard_of_raw_rows_needs_no_tokens(memory: MemoryStore) -> None:
    plain: StreamSettings = settings_of("bulletins", None)
    schema = schema_of("bulletins", plain)
    batch = sample_batch(schema, "a", range(10))
    info = write(memory, [batch], schema=schema)
    assert info.tokens == 0 and info.blocks[0].tokens == 0
    assert next(ShardReader(memory, info).batches()).equals(batch)


def test_writing_does_not_hold_more_than_a_block(store: LocalStore, tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    batch = sample_batch(SCHEMA, "a", range(100), length=4000)
    own = pa.total_allocated_bytes() - before
    with ShardWriter(store, "tide", 0, 1, SCHEMA) as writer:
        for _ in range(60):
            writer.append(batch)
        assert pa.total_allocated_bytes() - before - own < 9 << 20
        info = writer.close([Range("a", None, 0, 1, 0, 6000)])
    assert info.bytes > 45 << 20 and os.path.getsize(str(store.local_path(info.path))) == info.bytes
    assert np.isclose(info.bytes, sum(b.length for b in info.blocks), rtol=0.01)

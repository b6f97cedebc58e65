"""Reading a dataset: versions, addresses, deletions, selections."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from headrace.schemas.errors import ShardError
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Delete, Entry, Span
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of

Fill = Callable[..., CommitLog]


def positions(data: Dataset, stream: str) -> list[int]:
    return [int(p) for b in data.batches(stream, ["position"]) for p in b.column(0).to_pylist()]


def test_streams_are_told_with_their_numbers(store: LocalStore, filled: Fill) -> None:
    log = filled(store)
    data = Dataset.open(store.root)
    tide = data.streams()["tide"]
    assert (tide.rows, tide.lanes, tide.shards, tide.deleted) == (66, 2, 6, 0)
    assert tide.tokens == log.state.streams["tide"].tokens and tide.settings.tokens == "uint16"
    assert tide.bytes == sum(s.bytes for s in log.state.live_shards("tide"))
    assert data.schema("tide").metadata[b"headrace.stream"] == b"tide"
    assert data.name == f"dataset@{log.state.digest}" and data.version == log.state.v


def test_batches_come_in_address_order_and_in_full(store: LocalStore, filled: Fill) -> None:
    filled(store)
    data = Dataset(store)
    assert positions(data, "tide") == [*range(1, 34), *range(1, 11), *range(12, 23), *range(24, 36)]
    located = list(data.located("tide", lane=2, start=5, stop=12))
    assert [found.seqs.tolist() for found in located] == [list(range(10)), list(range(10, 21))]
    assert sum(b.num_rows for b in data.batches("tide", lane=0)) == 33
    assert next(data.batches("tide", ["tokens", "uri"])).schema.names == ["tokens", "uri"]


def test_a_sample_is_found_by_its_address(memory: MemoryStore, filled: Fill) -> None:
    filled(memory)
    data = Dataset(memory)
    assert data.sample("tide", 2, 20).column("position").to_pylist() == ["22"]
    with pytest.raises(KeyError, match="does not exist: the lane holds 0 to 32"):
        data.sample("tide", 2, 33)
    with pytest.raises(KeyError, match="the lane holds 0 to -1"):
        data.sample("tide", 9, 0)


def test_deleted_samples_are_skipped_but_keep_the_others_addresses(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    log.append(Entry(kind="forget", delete=[Delete("tide", 0, [Span(2, 4), Span(9, 10), Span(30, 33)], [], 0)]))
    data = Dataset(memory)
    assert positions(data, "tide")[:27] == [n for n in range(1, 31) if n not in (3, 4, 10)]
    assert data.streams()["tide"].rows == 60 and data.streams()["tide"].deleted == 6
    with pytest.raises(KeyError, match="was deleted"):
        data.sample("tide", 0, 3)
    assert data.sample("tide", 0, 4).column("position").to_pylist() == ["5"]


def test_a_reader_keeps_its_version_while_the_dataset_grows(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    data = Dataset(memory)
    before = positions(data, "tide")
    assert data.newer() is None
    log.append(LaneDouble(memory, log, "tide", lane=0, split="north").cut(5))
    assert positions(data, "tide") == before
    newer = data.newer()
    assert newer is not None and newer.version == data.version + 1 and len(positions(newer, "tide")) == len(before) + 5
    assert positions(Dataset.open(memory, version=data.version), "tide") == before
    assert positions(Dataset.open(memory, version=data.state.digest[:16]), "tide") == before


def test_all_versions_of_a_stream_can_be_selected(memory: MemoryStore) -> None:
    log = CommitLog(memory)
    names = ["quay", "quay@2", "quay@10", "quay.audio", "quays"]
    log.claim({}, {name: settings_of(name) for name in names})
    for name in names:
        log.append(LaneDouble(memory, log, name, split=name).cut(2))
    data = Dataset(memory)
    assert data.select("quay@*") == ["quay", "quay@2", "quay@10"]
    assert data.select("quay") == ["quay"]
    assert sum(b.num_rows for b in data.batches("quay@*")) == 6
    with pytest.raises(KeyError, match="no stream 'key'; there are"):
        data.select("key")


def test_a_shard_that_is_gone_is_named(memory: MemoryStore, filled: Fill) -> None:
    filled(memory)
    data = Dataset(memory)
    path = data.state.live_shards("tide")[0].path
    del memory.files[path]
    with pytest.raises(ShardError, match=f"{path} is missing"):
        list(data.batches("tide"))


def test_quarantined_rows_can_be_read_by_stream(memory: MemoryStore, filled: Fill) -> None:
    filled(memory)
    rows = [row for _, batch in Dataset(memory).quarantine("tide") for row in batch.to_pylist()]
    assert [row["position"] for row in rows] == ["11", "23", "36"]
    assert rows[0]["raw"] == b"bad 10" * 9 and rows[0]["whole"] and rows[0]["reason"] == "corrupt"
    assert sum(batch.num_rows for _, batch in Dataset(memory).quarantine()) == 9


def test_batches_of_a_mapped_shard_outlive_the_dataset(store: LocalStore, filled: Fill) -> None:
    filled(store)
    batches = list(Dataset(store).batches("tide"))
    assert pa.Table.from_batches(batches).num_rows == 66

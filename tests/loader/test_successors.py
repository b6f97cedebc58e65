"""A loader that pinned a version goes on, token for token, while the dataset is compacted and old files are removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.errors import ShardError
from headrace.shards.dataset import Dataset
from headrace.shards.gc import collect
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source

from .worlds import World, compacted, forget_some, is_padding, rows_of, through_json, tide, whole

ORDER: dict[str, Any] = {"length": 64, "batch_size": 2, "seed": 3, "window_bytes": 9_000}


def swept(made: World) -> None:
    """Remove what a compaction replaced, as `headrace gc` does when the grace is over."""
    report = collect(made.log.store, made.log.state, delete=True, superseded=True)
    assert any(g.name.startswith("data/") for g in report.garbage)


def pinned(made: World, version: int, **more: Any) -> ShardDataset:
    return ShardDataset(Source(made.path, version=version), **{**ORDER, **more})


@pytest.mark.parametrize("blocks", ["verbatim", "merge"])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_pinned_reader_goes_on_through_a_compaction_and_gc(tmp_path: Path, blocks: str, mapped: bool) -> None:
    made = tide(tmp_path / "a")
    version = made.log.state.v
    reference = whole(pinned(made, version))
    data = pinned(made, version, mapped=mapped)
    running = iter(data)
    rows = rows_of(next(running)) + rows_of(next(running))
    compacted(made, blocks=blocks)
    swept(made)
    for batch in running:
        rows += rows_of(batch)
    assert [r for r in rows if not is_padding(r)] == reference
    assert whole(pinned(made, version, mapped=mapped)) == reference, "a new reader of the old version"
    again = pinned(made, version)
    again.load_state_dict(through_json(batch_state(data, 3)))
    assert whole(again) == reference[6:]


def batch_state(data: ShardDataset, batches: int) -> dict[str, Any]:
    running = iter(data)
    for _ in range(batches):
        state: dict[str, Any] = next(running)["state"]
    return state


def test_compacted_again_and_again_while_one_reads(tmp_path: Path) -> None:
    made = tide(tmp_path / "a")
    version = made.log.state.v
    reference = whole(pinned(made, version, window_bytes=1))
    rows = []
    for n, batch in enumerate(pinned(made, version, window_bytes=1)):
        rows += rows_of(batch)
        if n % 10 == 3:
            made.grow(3, 3, 3)
            compacted(made, blocks="merge" if n % 20 == 3 else "verbatim")
            swept(made)
    assert made.log.state.v > version + 8
    assert [r for r in rows if not is_padding(r)] == reference


def test_deleted_samples_stay_in_the_versions_before_and_erased_ones_are_told(tmp_path: Path) -> None:
    made = tide(tmp_path / "a")
    version = made.log.state.v
    reference = whole(pinned(made, version))
    forget_some(made, "stream = 'tide' and lane = 2 and seq < 3")
    compacted(made)
    swept(made)
    assert whole(pinned(made, version)) == reference
    hidden = made.log.state.v
    without = whole(pinned(made, hidden))
    assert without != reference
    forget_some(made, "stream = 'tide' and lane = 2 and seq < 4", erase=True)
    with pytest.raises(ShardError, match=r"tide/L0002/.* is missing, and \d+ of its samples \(tide/L0002/0 the first"):
        whole(pinned(made, version))
    with pytest.raises(ShardError, match=r"1 of its samples \(tide/L0002/3 the first\) were erased after this version"):
        whole(pinned(made, hidden))


def test_erased_rows_that_the_version_hid_already_are_not_missed(tmp_path: Path) -> None:
    made = tide(tmp_path / "a")
    forget_some(made, "lane = 0 and seq < 30 and license = 'CC-BY-4.0'")
    forget_some(made, "stream = 'quay' and seq < 3")  # a whole block
    version = made.log.state.v
    reference = {packing: whole(pinned(made, version, packing=packing)) for packing in ("cut", "whole")}
    folded = whole(ShardDataset(Source(made.path, version=version, fold="train"), **ORDER))
    forget_some(made, "lane = 0 and seq < 30 and license = 'CC-BY-4.0' or stream = 'quay' and seq < 3", erase=True)
    for packing, rows in reference.items():
        assert whole(pinned(made, version, packing=packing)) == rows
    assert whole(ShardDataset(Source(made.path, version=version, fold="train"), **ORDER)) == folded


def test_a_block_with_erased_samples_is_skipped_by_policy_and_noted_in_the_state(tmp_path: Path) -> None:
    made = tide(tmp_path / "a")
    version = made.log.state.v
    forget_some(made, "stream = 'quay' and seq = 0", erase=True)
    data = pinned(made, version, on_bad="skip")
    batches = list(data)
    seen = {tuple(s)[1:4] for b in batches for s in b["samples"].tolist() if s[3] >= 0}
    assert (0, 1, 0) not in seen and (0, 1, 1) not in seen and (1, 0, 0) in seen
    assert any(b["state"]["at"]["spots"][0][3:] for b in batches)


def test_a_file_that_is_simply_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    made = tide(tmp_path / "a")
    shard = Dataset.open(made.path).state.live_shards("tide")[1]
    os.unlink(os.path.join(made.path, shard.path))
    for mapped in (True, False):
        with pytest.raises(ShardError, match=f"the shard {shard.path} is not there"):
            whole(pinned(made, made.log.state.v, mapped=mapped))


def test_why_answers_for_samples_whose_shard_was_replaced(tmp_path: Path) -> None:
    made = tide(tmp_path / "a")
    data = pinned(made, made.log.state.v)
    batches = list(data)
    samples = [s for b in batches for s in b["samples"] if s["seq"] >= 0][::9]
    before = [data.why(s) for s in samples]
    made.grow(5, 5, 5)
    compacted(made)
    swept(made)
    moved = ("shard", "row", "dataset")
    for sample, told in zip(samples, before):
        found = data.why(sample)
        assert {k: v for k, v in found.items() if k not in moved} == {k: v for k, v in told.items() if k not in moved}
        assert found["shard"] != told["shard"]

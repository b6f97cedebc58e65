"""The log read for its blocks gives what the folded state gives, at every version, with and without checkpoints."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from headrace.shards import checkpoint, log
from headrace.shards.compact import compact, everything
from headrace.shards.forget import Selection, forget
from headrace.shards.loader.manifest import Manifest
from headrace.shards.loader.table import BlockTable, Columns, block_table
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, settings_of

STREAMS = ["quay", "tide"]


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A dataset with appended, merged, deleted and erased rows, and a checkpoint after every fourth entry."""
    for module in (checkpoint, log):
        monkeypatch.setattr(module, "EVERY", 4)
    store = LocalStore(str(tmp_path / "busy"), create=True)
    writer = CommitLog(store)
    writer.claim({}, {name: settings_of(name) for name in STREAMS})
    lanes = [
        LaneDouble(store, writer, "tide", lane=0, split="north"),
        LaneDouble(store, writer, "tide", lane=3, split="south"),
        LaneDouble(store, writer, "quay", lane=1, split="west"),
    ]

    def grow(rounds: int) -> None:
        for turn in range(rounds):
            for lane in lanes:
                writer.append(lane.cut(5 + turn))

    grow(3)
    forget(writer, Selection(where="uri = 'south.txt' and event_time < '2023-11-14T22:13:20.000004'"), erase=True)
    grow(1)
    compact(writer, everything())
    grow(2)
    forget(writer, Selection(where="uri = 'west.txt' and event_time < '2023-11-14T22:13:20.000009'"))
    return store


def same(a: BlockTable, b: BlockTable) -> None:
    """The same blocks in the same files."""
    for field in fields(Columns):
        if field.name != "shard":
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name
    assert [a.shards[i] for i in a.shard.tolist()] == [b.shards[i] for i in b.shard.tolist()]
    assert (a.streams, list(a.tokens_as), a.version) == (b.streams, list(b.tokens_as), b.version)
    assert {k: v for k, v in a.hidden.items() if v} == {k: v for k, v in b.hidden.items() if v}


def test_every_version_has_the_blocks_that_the_folded_state_has(busy: LocalStore) -> None:
    whole = CommitLog(busy).replay()
    last = whole.v
    assert last > 20 and whole.deleted and any(s.missing for s in whole.live_shards())
    for v in range(1, last + 1):
        manifest = Manifest(busy)
        state = manifest.replay(v)
        whole = CommitLog(busy).replay(v)
        assert state.digest == whole.digest
        same(manifest.table(STREAMS), block_table(whole, STREAMS))
        if v > 6:
            since = CommitLog(busy).replay(v - 5).next_seq
            same(manifest.table(["tide"], since), block_table(whole, ["tide"], since))


def test_a_manifest_that_follows_has_what_a_new_one_has(busy: LocalStore) -> None:
    last = CommitLog(busy).replay().v
    for v in (1, 5, 9, last - 1):
        manifest = Manifest(busy)
        manifest.replay(v)
        manifest.refresh()
        same(manifest.table(STREAMS), block_table(CommitLog(busy).replay(), STREAMS))

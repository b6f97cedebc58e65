"""Compaction among commits, deletions, erasures, takeovers and collections in any order, against a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from headrace.schemas.errors import LogError
from headrace.shards.catalogue import update_catalogue
from headrace.shards.compact import compact, everything
from headrace.shards.compact_plan import Policy
from headrace.shards.dataset import Dataset
from headrace.shards.entry import ShardInfo
from headrace.shards.forget import Selection, forget
from headrace.shards.gc import collect, drop_erased_copies
from headrace.shards.ipc import BlockEncoder
from headrace.shards.log import CommitLog
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import verify

Fill = Callable[..., CommitLog]
SETTINGS = {"tide": settings_of("tide"), "bulletins": settings_of("bulletins", None)}


def addresses(store: Any) -> dict[tuple[str, int, int], bytes]:
    """Every row by its address, hidden ones too, as the one plain form of its bytes."""
    data, rows = Dataset(store), {}
    for stream in data.streams():
        for found in data.located(stream):
            known = _ROWS.setdefault(found.shard.blocks[found.block].xxh3, [])
            encoder = None if known else BlockEncoder(found.batch.schema)
            for i, seq in enumerate(found.seqs.tolist()):
                if encoder is not None:
                    known.append(b"".join(encoder.encode(found.batch.slice(i, 1).columns)[1]))
                rows[stream, found.shard.lane, seq] = known[i]
    return rows


_ROWS: dict[str, list[bytes]] = {}  # of blocks by their digest: most are met again and again


def histories(store_of: Callable[[], Any], seeds: range, steps: int = 14) -> None:
    """Random histories of commits, deletions, erasures, compactions, takeovers and collections, against a model."""
    for seed in seeds:
        dice, store, model = random.Random(seed), store_of(), {}
        log = CommitLog(store)
        log.claim({}, SETTINGS)
        erased: set[bytes] = set()
        for _ in range(steps):
            what = dice.choice(["add", "add", "add", "compact", "tiers", "merge", "delete", "erase", "claim", "gc"])
            if what == "add":
                lane = dice.randint(0, 1)
                split = dice.choice("ab") + str(lane)
                double = LaneDouble(store, log, dice.choice(sorted(SETTINGS)), lane=lane, split=split, length=6)
                for _ in range(dice.randint(1, 6)):
                    log.append(double.cut(dice.randint(1, 4), bad=dice.randint(0, 1)))
                model = {**addresses(store), **model}
            elif what in ("compact", "tiers", "merge"):
                target = dice.choice([5000, 20_000, 1 << 20])
                policy = {
                    "compact": everything(target),
                    "tiers": Policy(target_bytes=target, min_shards=2, step_bytes=1),
                    "merge": everything(target, blocks="merge"),
                }[what]
                compact(log, policy)
            elif what in ("delete", "erase") and model:
                stream, lane, seq = dice.choice(sorted(model))
                where = f"stream = '{stream}' and lane = {lane} and seq >= {seq} and seq < {seq + dice.randint(1, 3)}"
                ids = set(log.state.forgotten)
                forget(log, Selection(where=where), erase=what == "erase")
                if what == "erase":
                    drop_erased_copies(store, log.state)
                    erased |= {bytes.fromhex(i) for i in log.state.forgotten}
                    model = {k: row for k, row in model.items() if k in addresses(store)}
                    assert ids <= log.state.forgotten
            elif what == "claim":
                log = CommitLog(store)
                log.claim({}, SETTINGS)
            elif what == "gc":
                report = collect(store, log.state, delete=True, superseded=dice.random() < 0.5)
                assert not {g.name for g in report.garbage} & log.state.referenced()
            assert addresses(store) == model, f"seed {seed} after {what}"
        update_catalogue(Dataset(store))
        report = verify(store)
        assert report.ok, (seed, report.problems)
        batches = [b for stream in SETTINGS for b in Dataset(store).batches(stream)]
        live = {i for b in batches for i in b.column("record_id").to_pylist()}
        lost = [n for n in store.list("data/") if any(i in store.get(n) for i in erased - live)]
        assert not lost, f"seed {seed}: erased bytes are left in {lost}"
        log.end()
        collect(store, log.state, delete=True, superseded=True)
        files = {n for n in store.list() if n.startswith(("data/", "quarantine/"))}
        assert files == {n for n in log.state.referenced() if n.startswith(("data/", "quarantine/"))}, f"seed {seed}"
        digest = verify(store).content_digest
        assert digest == report.content_digest and verify(store).ok
        plain = {s.path for s in log.state.live_shards()}
        again = CommitLog(store)
        again.replay()
        assert {s.path for s in again.state.live_shards()} == plain


def test_random_histories_keep_every_address_its_bytes_and_erase_what_they_should() -> None:
    histories(MemoryStore, range(8))


@pytest.mark.parametrize("planted", ["lose a block", "swap blocks", "forget a hole"])
def test_planted_bugs_are_caught(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.shards import compact_copy

    real = compact_copy._Copy.close
    content = compact_copy._Content.blocks

    def blocks(self: Any) -> Iterator[Any]:
        found = list(content(self))
        yield from found[::-1] if planted == "swap blocks" else found[1:] if planted == "lose a block" else found

    def close(self: Any, shards: Any) -> ShardInfo:
        info = real(self, shards)
        return replace(info, missing=[]) if planted == "forget a hole" else info

    monkeypatch.setattr(compact_copy._Content, "blocks", blocks)
    monkeypatch.setattr(compact_copy._Copy, "close", close)
    with pytest.raises((AssertionError, LogError, IndexError)):
        histories(MemoryStore, range(40))

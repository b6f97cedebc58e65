"""Garbage is what can never be committed; quarantine keeps what is needed to look again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import pytest

from headrace.schemas.errors import ShardError
from headrace.shards.entry import Entry, Replace
from headrace.shards.gc import collect, unknown_files
from headrace.shards.log import CommitLog
from headrace.shards.names import epoch_of, lane_file_name, plan_name, quarantine_name, shard_name
from headrace.shards.quarantine import QuarantineWriter, read_quarantine
from headrace.shards.reader import ShardReader
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, MemoryStore
from headrace.shards.verify import verify
from headrace.shards.writer import ShardWriter

Fill = Callable[..., CommitLog]


def leave(store: LocalStore, name: str) -> None:
    """What a writer killed before its link leaves."""
    writer = store.writer(name)
    writer.write(b"half")
    os.close(writer._fd)


def test_every_name_tells_its_epoch_also_while_it_is_temporary() -> None:
    for name in (
        shard_name("tide", 7, 12, 3),
        quarantine_name("tide", 12),
        plan_name("tide", 12, 0),
        lane_file_name("carry", "tide", 7, 12),
    ):
        assert epoch_of(name) == 12
    assert epoch_of("tokenizers/abc/artefact.json") is None and epoch_of("data/e3/x.arrow") is None


def test_leavings_of_an_older_epoch_go_and_those_of_the_live_one_stay(
    store: LocalStore, filled: Fill, claimed: Fill
) -> None:
    log = filled(store)
    LaneDouble(store, log, "tide", lane=9).cut(3, 1)  # written, never committed
    leave(store, shard_name("tide", 0, 1))
    leave(store, "log/00000000000000000003.json")
    leave(store, "log/00000000000000000099.json")
    leave(store, "tokenizers/f/artefact.json")
    store.put_new("tokenizers/g/artefact.json", b"{}")
    live = collect(store, log.state, delete=True)
    assert [g.name for g in live.garbage] == ["log/00000000000000000003.json"] and len(live.kept) == 6
    log = claimed(store)
    LaneDouble(store, log, "tide", lane=8).cut(3)
    dry = collect(store, log.state)
    assert len(dry.garbage) == 3 and not dry.deleted and dry.bytes > 0
    assert sorted({g.reason for g in dry.garbage}) == ["never committed", "never finished"]
    assert collect(store, log.state, delete=True).garbage == dry.garbage
    assert collect(store, log.state).garbage == [] and verify(store).ok
    log.end()
    over = collect(store, log.state, delete=True)
    assert len(over.garbage) == 4 and over.kept == []
    files = {n for n in store.list() if n.startswith(("data/", "quarantine/", "tokenizers/"))}
    assert files == log.state.referenced() and list(store.leftovers()) == []
    assert verify(store).ok and unknown_files(store) == []


def test_a_stranger_s_file_is_told_and_never_deleted(store: LocalStore, filled: Fill) -> None:
    log = filled(store)
    store.put_new("notes.txt", b"mine")
    store.put_new("catalogue/readme.txt", b"mine")
    log.end()
    assert collect(store, log.state, delete=True).garbage == []
    assert unknown_files(store) == ["catalogue/readme.txt", "notes.txt"]


def test_shards_that_a_compaction_replaced_stay_for_older_readers_until_told_otherwise(
    memory: MemoryStore, filled: Fill
) -> None:
    log = filled(memory)
    from dataclasses import replace

    old = log.state.live_shards("tide")[:2]
    with ShardWriter(memory, "tide", 0, 1, ShardReader(memory, old[0]).schema) as writer:
        for shard in old:
            for batch in ShardReader(memory, shard).batches():
                writer.append(batch)
        new = replace(writer.close([*old[0].ranges, *old[1].ranges]), first_seq=0)
    log.append(Entry(kind="compact", replace=[Replace([s.path for s in old], [new])]))
    before = verify(memory)
    assert before.ok and before.samples == 99 and before.catalogue == 99
    assert collect(memory, log.state, delete=True).garbage == []
    assert [g.name for g in collect(memory, log.state, delete=True, superseded=True).garbage] == sorted(
        s.path for s in old
    )
    assert verify(memory).content_digest == before.content_digest


def test_a_quarantine_row_keeps_bytes_up_to_the_cap_and_digest_and_length_always(memory: MemoryStore) -> None:
    with QuarantineWriter(memory, "tide", 1, keep_bytes=100) as writer:
        common = {"stage": "normalize", "source": "files", "split": "a", "position": {"offset": 3}}
        writer.add(reason="corrupt", message="x", uri="a", raw=bytes(1000), **common)  # type: ignore[arg-type]
        writer.add(reason="crash:SIGSEGV", message="y\udcff", uri="b\udc80", locator="{}", **common)  # type: ignore[arg-type]
        writer.add(
            reason="too_large", message="z", uri="c", whole=True, raw=b"start", raw_bytes=1 << 40,
            raw_sha256=b"s" * 32, **common,  # type: ignore[arg-type]
        )  # fmt: skip
        info = writer.close()
    assert (info.rows, info.items, info.reasons) == (3, 1, {"corrupt": 1, "crash:SIGSEGV": 1, "too_large": 1})
    rows = [row for batch in read_quarantine(memory, info) for row in batch.to_pylist()]
    assert rows[0]["raw"] == bytes(100) and rows[0]["raw_bytes"] == 1000
    assert rows[0]["raw_sha256"] == hashlib.sha256(bytes(1000)).digest() and rows[0]["position"] == '{"offset":3}'
    assert rows[1]["uri"] == "b\\udc80" and rows[1]["raw"] is None and rows[1]["raw_sha256"] is None
    assert rows[2]["raw_bytes"] == 1 << 40 and rows[2]["raw"] == b"start" and rows[2]["whole"]


def test_an_unknown_reason_or_an_empty_quarantine_file_is_refused(memory: MemoryStore) -> None:
    writer = QuarantineWriter(memory, "tide", 1)
    with pytest.raises(ValueError, match="unknown reason code 'odd'"):
        writer.add(reason="odd", message="", stage="", source="", uri="", split="", position=None)
    with pytest.raises(ValueError, match="without rows"):
        writer.close()
    assert memory.files == {}


def test_quarantine_bytes_are_a_function_of_the_rows_and_large_ones_do_not_pile_up(memory: MemoryStore) -> None:
    infos = []
    for _ in range(2):
        with QuarantineWriter(memory, "tide", 1) as writer:
            for n in range(3000):
                writer.add(
                    reason="corrupt", message=str(n), stage="read", source="s", uri="u", split="a", position=n,
                    raw=b"r" * (3 << 20) if n % 1000 == 0 else None,
                )  # fmt: skip
                assert writer._pending_bytes < 5 << 20 and len(writer._pending) < 1025
            infos.append(writer.close())
    assert infos[0].sha256 == infos[1].sha256
    assert sum(b.num_rows for b in read_quarantine(memory, infos[0])) == 3000


def test_a_quarantine_file_with_fewer_rows_than_the_log_says_is_told(memory: MemoryStore) -> None:
    from dataclasses import replace

    with QuarantineWriter(memory, "tide", 1) as writer:
        writer.add(reason="corrupt", message="", stage="", source="", uri="", split="", position=None)
        info = writer.close()
    with pytest.raises(ShardError, match="1 rows, the log says 2"):
        list(read_quarantine(memory, replace(info, rows=2)))

"""Compaction: fewer files, and the same rows at the same addresses, whatever else happens to the dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from headrace.schemas.errors import BrokenLog, Fenced, LogError
from headrace.shards.catalogue import update_catalogue
from headrace.shards.checkpoint import decode, encode
from headrace.shards.compact import Compactor, compact, everything
from headrace.shards.compact_copy import joined_ranges
from headrace.shards.compact_plan import Policy
from headrace.shards.compact_times import modified_in, version_at
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Range, entry_name
from headrace.shards.forget import Selection, forget
from headrace.shards.gc import READER_GRACE_S, collect, drop_erased_copies
from headrace.shards.ipc import BlockEncoder
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.store_s3 import S3Store
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import verify

Fill = Callable[..., CommitLog]
SETTINGS = {"tide": settings_of("tide"), "bulletins": settings_of("bulletins", None)}
SMALL = Policy(min_shards=4, keep_newest=1)


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


def many(store: Any, claimed: Fill, commits: int = 12) -> CommitLog:
    """A log of `commits` small commits in three lanes, two splits taking turns in one of them."""
    log = claimed(store)
    lanes = [
        LaneDouble(store, log, "tide", lane=0, split="north"),
        LaneDouble(store, log, "tide", lane=0, split="east"),
        LaneDouble(store, log, "tide", lane=2, split="south"),
        LaneDouble(store, log, "bulletins", lane=0, split="letters"),
    ]
    for turn in range(commits):
        for n, lane in enumerate(lanes):
            if n != 1 or turn % 3 == 0:
                log.append(lane.cut(2 + turn % 3, bad=int(n == 2 and turn == 4)))
    return log


def test_blocks_are_copied_byte_for_byte_and_ranges_are_joined(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    before, rows, old = verify(memory), addresses(memory), log.state.live_shards("tide")
    bodies = [memory.files[s.path][b.offset : b.offset + b.length] for s in old for b in s.blocks]
    done = compact(log, everything())
    new = log.state.live_shards("tide")
    assert done.merges == 3 and done.after == 3 and len(new) == 2 and done.before == len(old) + 12
    assert [memory.files[s.path][b.offset : b.offset + b.length] for s in new for b in s.blocks] == bodies
    assert [(b.rows, b.tokens, b.xxh3) for s in new for b in s.blocks] == [
        (b.rows, b.tokens, b.xxh3) for s in old for b in s.blocks
    ]
    assert [len(s.ranges) for s in new] == [9, 1]  # two splits taking turns; one split
    assert new[1].ranges[0].after is None and new[1].ranges[0].upto == 37 and new[1].ranges[0].rows == new[1].rows
    update_catalogue(Dataset(memory))
    after = verify(memory)
    assert after.ok and after.content_digest == before.content_digest and addresses(memory) == rows
    assert decode(encode(log.state), log.state.v) == log.state
    table = pa.ipc.open_file(pa.py_buffer(memory.files[new[0].path])).read_all()  # any Arrow reader
    assert table.num_rows == new[0].rows and all(b.offset % 64 == 0 for b in new[0].blocks)


def test_small_blocks_are_joined_only_when_told_and_then_once(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    digest, rows = verify(memory).content_digest, addresses(memory)
    compact(log, everything())
    verbatim = [len(s.blocks) for s in log.state.live_shards()]
    done = compact(log, everything(blocks="merge"))
    assert verbatim == [12, 16, 12] and [len(s.blocks) for s in log.state.live_shards()] == [1, 1, 1]
    assert done.before == done.after == 3 and compact(log, everything(blocks="merge")).merges == 0
    report = verify(memory)
    assert report.ok and report.content_digest == digest and addresses(memory) == rows


def test_blocks_are_joined_up_to_the_size_that_the_stream_s_settings_say(memory: MemoryStore) -> None:
    log = CommitLog(memory)
    log.claim({}, {"tide": settings_of("tide", shards={"block_mib": 0.02})})
    lane = LaneDouble(memory, log, "tide", length=100)
    for _ in range(12):
        log.append(lane.cut(10))
    digest = verify(memory).content_digest
    compact(log, everything(blocks="merge"))
    (shard,) = log.state.live_shards()
    assert 2 < len(shard.blocks) < 12 and all(b.length < 25_000 for b in shard.blocks)
    assert verify(memory).ok and verify(memory).content_digest == digest


def test_erased_and_deleted_rows_keep_their_places(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    update_catalogue(Dataset(memory))
    forget(log, Selection(where="stream = 'tide' and lane = 2 and seq in (1, 2, 3, 4, 9)"), erase=True)
    forget(log, Selection(where="stream = 'tide' and lane = 2 and seq in (0, 20)"))
    assert log.state.live_shards("tide")[-10].first_seq == 5  # the second shard is gone whole
    digest, rows = verify(memory).content_digest, addresses(memory)
    compact(log, everything())
    shard = log.state.live_shards("tide")[-1]
    assert [(m.start, m.stop) for m in shard.missing] == [(1, 5), (9, 10)] and shard.span == 36
    report = verify(memory)
    assert report.ok and report.content_digest == digest and addresses(memory) == rows
    with pytest.raises(KeyError, match="was deleted"):
        Dataset(memory).sample("tide", 2, 20)
    forget(log, Selection(where="stream = 'tide' and lane = 2 and seq = 5"), erase=True)
    assert verify(memory).ok and [(m.start, m.stop) for m in log.state.live_shards("tide")[-1].missing] == [
        (0, 6), (9, 10), (20, 21)
    ]  # fmt: skip


def test_an_erasure_after_a_compaction_leaves_no_copy_in_replaced_files(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    row = Dataset(memory).sample("tide", 2, 7).column("record_id")[0].as_py()
    compact(log, everything())
    forget(log, Selection(ids=(row.hex(),)), erase=True)
    waiting = len(collect(memory, log.state).waiting)
    assert drop_erased_copies(memory, log.state) == [], "the erasure left copies"
    assert not any(row in data for name, data in memory.files.items() if not name.startswith("log/"))
    assert verify(memory).ok and len(collect(memory, log.state).waiting) == waiting
    memory.put_new(log.state.live_shards()[0].path + "x", b"?")  # not one of ours
    assert collect(memory, log.state).garbage == []


def test_a_service_merges_in_tiers_and_never_the_newest(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    lane, compactor = LaneDouble(memory, log, "tide", length=4), Compactor(memory, SMALL)
    written = rewritten = most = 0
    for _ in range(80):
        log.append(lane.cut(1))
        newest = log.state.live_shards()[-1]
        written += newest.bytes
        entry = compactor.run(compactor.plan(log.state), log.epoch or 0)
        if entry is not None:
            log.append(entry)
            rewritten += sum(s.bytes for change in entry.replace for s in change.add)
        assert log.state.live_shards()[-1] == newest
        most = max(most, len(log.state.live_shards()))
    assert most <= 12 and rewritten < 4 * written
    assert verify(memory).ok and verify(memory).samples == 80


def test_ranges_are_joined_only_where_nothing_lies_between() -> None:
    a, b = Range("s", None, 0, 5, 0, 3), Range("s", 5, 0, 9, 1, 2)
    assert joined_ranges([a, b]) == [Range("s", None, 0, 9, 1, 5)]
    assert joined_ranges([a, replace(b, after=6)]) == [a, replace(b, after=6)]
    assert joined_ranges([a, replace(b, after_k=1)]) == [a, replace(b, after_k=1)]
    other = replace(b, split="t")
    assert joined_ranges([a, other, b]) == [a, other, b]


def test_a_race_with_an_erasure_is_refused_and_leaves_no_bytes(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    update_catalogue(Dataset(memory))
    compactor = Compactor(memory, everything())
    merges = compactor.plan(log.state)
    entry = compactor.run(merges, log.epoch or 0)
    assert entry is not None
    row = Dataset(memory).sample("tide", 2, 7).column("record_id")[0].as_py()
    forget(log, Selection(ids=(row.hex(),)), erase=True)
    with pytest.raises(LogError, match="is not a live shard"):
        log.append(entry)
    compactor.discard(entry, log.state)
    assert not any(row in data for name, data in memory.files.items() if not name.startswith("log/"))
    again = compactor.run(merges, log.epoch or 0)  # the merge of lane 2 has lost a file: the others go on
    assert again is not None and len(again.replace) == 2
    log.append(again)
    with pytest.raises(LogError, match="is not a live shard"):
        log.append(again)  # as after an unknown outcome: it is in, and stays
    compactor.discard(again, log.state)
    assert verify(memory).ok


def test_a_damaged_shard_is_told_left_out_and_never_copied(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    bad = log.state.live_shards("tide")[4]
    data = bytearray(memory.files[bad.path])
    data[bad.blocks[0].offset + 900] ^= 1
    memory.files[bad.path] = bytes(data)
    done = compact(log, everything())
    assert list(done.damaged) == [bad.path] and "was altered" in done.damaged[bad.path]
    live = log.state.live_shards("tide")
    assert bad in live and len(live) == 4
    assert {p.file for p in verify(memory).problems} == {bad.path}


def test_a_step_reads_a_bounded_amount(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    compactor = Compactor(memory, replace(everything(), step_bytes=1))
    merges = compactor.plan(log.state)
    entry = compactor.run(merges, log.epoch or 0)
    assert len(merges) == 3 and entry is not None and len(entry.replace) == 1
    assert compactor.run([], 1) is None


def test_readers_of_the_version_before_go_on_until_the_grace_is_over(store: LocalStore, claimed: Fill) -> None:
    log = many(store, claimed)
    old, rows = Dataset(store), addresses(store)
    hour = 3600.0
    for v in range(1, log.state.v + 1):
        os.utime(store.local_path(entry_name(v)), (hour * v, hour * v))
    done = compact(log, everything())
    at = hour * (log.state.v + 10)
    os.utime(store.local_path(entry_name(log.state.v)), (at, at))
    for since in (0.0, READER_GRACE_S - 1):
        early = collect(store, log.state, delete=True, now_s=at + since)
        assert early.garbage == [] and len(early.waiting) == done.before
    assert sum(b.num_rows for b in old.batches("tide")) == sum(1 for k in rows if k[0] == "tide")
    late = collect(store, log.state, delete=True, now_s=at + READER_GRACE_S)
    assert len(late.garbage) == done.before and late.waiting == []
    assert {g.reason[:8] for g in late.garbage} == {"replaced"}
    assert set(store.list("data/")) == {s.path for s in log.state.live_shards()}
    assert verify(store).ok and addresses(store) == rows
    assert Dataset.open(store, old.version).state.v == old.version  # its log stays; its files are gone


def test_the_version_of_a_moment_is_found_by_the_times_of_entries() -> None:
    times = {entry_name(v): float(10 * v) for v in range(1, 100)}
    for moment in (0, 9, 10, 11, 555, 990, 5000):
        assert version_at(99, moment, times.__getitem__) == min(moment // 10, 99)
    assert version_at(99, 5000, lambda name: None) == 0
    with pytest.raises(BrokenLog):
        memory = MemoryStore()
        memory.put_new(entry_name(1), b"torn")
        CommitLog(memory).replay(version_at(1, 50, times.__getitem__))


def test_the_content_digest_does_not_depend_on_compaction(claimed: Fill) -> None:
    digests = set()
    for policy in (None, everything(), everything(3000), everything(blocks="merge"), replace(SMALL, min_shards=2)):
        store = MemoryStore()
        log = many(store, claimed)
        if policy is not None:
            compact(log, policy)
        digests.add(verify(store).content_digest)
    assert len(digests) == 1


def test_a_zombie_compactor_is_fenced_and_its_files_are_garbage(memory: MemoryStore, claimed: Fill) -> None:
    log = many(memory, claimed)
    compactor = Compactor(memory, everything())
    entry = compactor.run(compactor.plan(log.state), log.epoch or 0)
    assert entry is not None
    newer = claimed(memory)
    with pytest.raises(Fenced):
        log.append(entry)
    with pytest.raises(LogError, match="of its own epoch only"):
        newer.append(entry)
    assert {g.name for g in collect(memory, newer.state, delete=True).garbage} == {
        s.path for change in entry.replace for s in change.add
    }
    compact(newer, everything())
    assert verify(memory).ok


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Store]:
    """A store on a real S3 server process."""
    import logging
    import urllib.request

    from moto.server import ThreadedMotoServer

    from headrace.shards.store import open_store

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/compaction", method="PUT")).close()
    keys = {"key": "test", "secret": "test", "region": "us-east-1", "endpoint_url": url}
    store = open_store("s3://compaction/harbour", keys)
    assert isinstance(store, S3Store)
    yield store
    server.stop()


@pytest.mark.server
def test_a_dataset_on_s3_is_compacted_and_collected_by_the_server_s_times(
    s3: S3Store, claimed: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = many(s3, claimed, 5)
    digest, rows = verify(s3).content_digest, addresses(s3)
    monkeypatch.setattr("headrace.shards.compact_copy._FETCH_BYTES", 4000)  # some whole, some block by block
    done = compact(log, everything())
    assert done.merges == 3 and verify(s3).content_digest == digest and addresses(s3) == rows
    head = modified_in(s3)(entry_name(log.state.v))
    assert head is not None
    assert collect(s3, log.state, delete=True, now_s=head + 5).garbage == []
    assert len(collect(s3, log.state, delete=True, now_s=head + READER_GRACE_S + 1).garbage) == done.before
    assert verify(s3).ok and set(s3.list("data/")) == {s.path for s in log.state.live_shards()}


def test_the_command_plans_compacts_and_refuses_a_live_writer(store: LocalStore, claimed: Fill) -> None:
    import typer
    from typer.testing import CliRunner

    from headrace.commands import compact as command

    app = typer.Typer()
    command.register(app)
    app.command("other")(lambda: None)
    run = CliRunner()
    log = many(store, claimed, 4)
    digest = verify(store).content_digest
    refused = run.invoke(app, ["compact", store.url])
    assert refused.exit_code == 1 and "may be live" in str(refused.exception)
    log.end()
    dry = run.invoke(app, ["compact", store.url, "--dry-run", "--stream", "tide"])
    assert dry.exit_code == 0 and "10 shards would become 2" in dry.output
    young = run.invoke(app, ["compact", store.url, "--dry-run", "--min-age", "1d", "--json"])
    assert json.loads(young.output) == {"merges": []}
    done = json.loads(run.invoke(app, ["compact", store.url, "--json"]).output)
    assert done["before"] == 14 and done["after"] == 3 and done["damaged"] == {}
    assert verify(store).ok and verify(store).content_digest == digest and not Dataset(store).state.maybe_live
    assert "0 shards became 0" in run.invoke(app, ["compact", store.url]).output
    for wrong in (["--blocks", "some"], ["--target-mib", "0"], ["--min-age", "soon"], ["--stream", "x"]):
        assert run.invoke(app, ["compact", store.url, *wrong]).exit_code == 1

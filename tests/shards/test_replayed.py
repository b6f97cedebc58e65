"""Marks of replayed rows: set once, kept by checkpoints, carried along when a quarantine file is written again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import LogError, StorageError
from headrace.shards.books import Books, StreamCounts
from headrace.shards.checkpoint import decode, encode
from headrace.shards.compact import compact
from headrace.shards.compact_plan import everything
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry, Range, Redact, Replayed, Span, joined, parse, seal, split_digest
from headrace.shards.forget import Selection, forget
from headrace.shards.log import CommitLog
from headrace.shards.quarantine_expiry import run
from headrace.shards.state import StalePlace, StaleReplay
from headrace.shards.testing import LaneDouble, MemoryStore, sample_batch, schema_of
from headrace.shards.verify import verify
from headrace.shards.writer import ShardWriter

from .conftest import SETTINGS

Claim = Callable[..., CommitLog]


def bad_rows(memory: MemoryStore, claimed: Claim, bad: int = 4) -> tuple[CommitLog, LaneDouble, str]:
    """A log with 5 samples and a quarantine file of `bad` rows (items 6, 7 …), and that file's path."""
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    log.append(lane.cut(5, bad))
    return log, lane, next(iter(log.state.quarantine))


def replayed(memory: MemoryStore, log: CommitLog, path: str, *rows: int) -> Entry:
    """What a replay of rows of `bad_rows` commits: a sample for each, with the place that its item has."""
    schema = schema_of("tide", log.state.settings["tide"])
    digest = split_digest("a")
    with ShardWriter(memory, "tide", 0, log.state.epoch, schema) as writer:
        for row in rows:
            writer.append(sample_batch(schema, "a", range(5 + row, 6 + row)))
        shard = writer.close([Range(digest, None, 0, 6 + row, 0, 1) for row in rows])
    counts = StreamCounts(len(rows), len(rows), tokens=shard.tokens)
    marks = [Replayed(path, [Span(row, row + 1)]) for row in rows]
    return Entry(kind="commit", add=[shard], replayed=marks, books=Books([], {"tide": counts}))


def test_a_row_is_replayed_once(memory: MemoryStore, claimed: Claim) -> None:
    log, lane, path = bad_rows(memory, claimed)
    entry = replayed(memory, log, path, 1, 2)
    log.append(entry)
    assert log.state.replayed == {path: [Span(1, 3)]} and log.state.replayed_rows("tide") == 2
    assert log.state.replayed_rows("bulletins") == 0
    with pytest.raises(StaleReplay, match=f"{path}: row 2 was replayed before"):
        log.append(replayed(memory, log, path, 0, 2))
    assert issubclass(StaleReplay, StalePlace), "whoever takes a stale place for a ghost commit must take this for one"
    log.append(lane.cut(3))
    log.append(replayed(memory, log, path, 0, 3))
    assert log.state.replayed == {path: [Span(0, 4)]}
    report = verify(memory)
    assert report.ok and report.samples == 12 and report.quarantined == 4, report.problems
    assert log.state.streams["tide"].records == 12


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "sorted, disjoint"),
        ([Span(2, 3), Span(0, 1)], "sorted, disjoint"),
        ([Span(0, 2), Span(1, 3)], "sorted, disjoint"),
        ([Span(-1, 1)], "sorted, disjoint"),
        ([Span(2, 5)], "has 4 rows, the entry marks row 4"),
    ],
)
def test_marks_that_make_no_sense_are_refused(
    memory: MemoryStore, claimed: Claim, rows: list[Span], said: str
) -> None:
    log, _, path = bad_rows(memory, claimed)
    with pytest.raises(LogError, match=said):
        log.append(Entry(kind="commit", replayed=[Replayed(path, rows)]))


def test_a_file_that_was_written_again_meanwhile_is_stale(memory: MemoryStore, claimed: Claim) -> None:
    log, _, path = bad_rows(memory, claimed)
    _, redaction = run(memory, list(log.state.quarantine.values()), 1, {})
    assert redaction is not None
    entry = replayed(memory, log, path, 0)
    with pytest.raises(StaleReplay, match="no live quarantine file"):
        log.append(dataclasses.replace(entry, redact=redaction.redact))
    log.append(redaction)
    with pytest.raises(StaleReplay, match="no live quarantine file"):
        log.append(entry)


@given(history=st.lists(st.integers(-1, 7), max_size=12))
@settings(max_examples=40, deadline=None)
def test_marks_follow_their_rows_through_any_history_of_rewriting(history: list[int]) -> None:
    memory = MemoryStore()
    log = CommitLog(memory)
    log.claim({}, SETTINGS)
    log.append(LaneDouble(memory, log, "tide").cut(5, 8))
    done: set[int] = set()
    for row in history:
        (info,) = log.state.quarantine.values()
        if row < 0:
            spare = run(memory, [info], 1, {})[1] or Entry(kind="forget")
            redact = [Redact(info.path, dataclasses.replace(r.add)) for r in spare.redact]
            log.append(Entry(kind="forget", redact=redact))
        elif row in done:
            with pytest.raises(StaleReplay):
                log.append(replayed(memory, log, info.path, row))
        else:
            log.append(replayed(memory, log, info.path, row))
            done.add(row)
    marked = {n for spans in log.state.replayed.values() for s in spans for n in range(s.start, s.stop)}
    assert marked == done and log.state.replayed.keys() <= log.state.quarantine.keys()
    assert decode(encode(log.state), log.state.v) == log.state == CommitLog(memory).replay()
    assert verify(memory).ok


def test_entries_and_checkpoints_without_replays_have_the_bytes_they_had(memory: MemoryStore, claimed: Claim) -> None:
    log, _, path = bad_rows(memory, claimed)
    assert b"replayed" not in encode(log.state)
    assert not any(b"replayed" in data for name, data in memory.files.items() if name.startswith("log/"))
    entry = dataclasses.replace(replayed(memory, log, path, 0), v=3, prev="x", id="y", epoch=1)
    assert parse(seal(entry)[0], "e")[0] == entry


def test_cuts_that_are_committed_together_keep_their_marks(memory: MemoryStore, claimed: Claim) -> None:
    log, lane, path = bad_rows(memory, claimed)
    log.append(joined([lane.cut(2), replayed(memory, log, path, 0), replayed(memory, log, path, 3)]))
    assert log.state.replayed == {path: [Span(0, 1), Span(3, 4)]}
    log.append(lane.cut(2))
    assert verify(memory).ok


def test_a_lost_reply_of_the_commit_adds_nothing_twice(memory: MemoryStore, claimed: Claim) -> None:
    log, _, path = bad_rows(memory, claimed)
    entry = replayed(memory, log, path, 0)
    memory.fault = lambda name: "lost reply" if name.startswith("log/") else "none"
    with pytest.raises(StorageError):
        log.append(entry)
    memory.fault = lambda name: "none"
    with pytest.raises(StaleReplay):
        log.append(entry)
    assert verify(memory).samples == 6


def test_erasing_a_replayed_sample_takes_its_bytes_out_of_quarantine(memory: MemoryStore, claimed: Claim) -> None:
    log, _, path = bad_rows(memory, claimed)
    log.append(replayed(memory, log, path, 0, 2))
    chosen = next(
        row for b in Dataset(memory).batches("tide", ["record_id", "position"]) for row in b.to_pylist()
        if row["position"] == "8"
    )  # fmt: skip
    forget(log, Selection(ids=(chosen["record_id"].hex(),)))
    assert raws(memory) == ["6", "7", "8", "9"]
    done = forget(log, Selection(ids=(chosen["record_id"].hex(),)), erase=True)
    assert done.quarantined == 1 and raws(memory) == ["6", "7", "9"]
    assert not any(b"bad 7" in data for data in memory.files.values())
    assert list(log.state.replayed.values()) == [[Span(0, 1), Span(2, 3)]]
    assert path not in log.state.replayed and verify(memory).ok


def raws(memory: MemoryStore) -> list[str]:
    rows: list[dict[str, Any]] = [row for _, b in Dataset(memory).quarantine() for row in b.to_pylist()]
    return [row["position"] for row in rows if row["raw"] is not None]


@pytest.mark.parametrize("selection", [Selection(where="uri = 'a.txt' and seq < 3"), None])
def test_an_erasure_leaves_no_copy_that_a_compaction_had_made(
    memory: MemoryStore, claimed: Claim, selection: Selection | None
) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(4):
        log.append(lane.cut(3))
    compact(log, everything(1 << 20))
    assert sum(name.startswith("data/") for name in memory.files) == 5, "the old files wait for their readers"
    ids = [i for b in Dataset(memory).batches("tide", ["record_id"]) for i in b.column(0).to_pylist()]
    chosen = selection or Selection(ids=(ids[0].hex(), ids[1].hex(), ids[2].hex()))  # of one file and its copy
    forget(log, chosen, erase=True)
    assert not any(ids[0] in data for name, data in memory.files.items() if name.startswith("data/"))
    assert sum(name.startswith("data/") for name in memory.files) == 4, "what holds nothing forgotten still waits"
    assert verify(memory).ok

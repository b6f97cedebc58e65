"""`verify` finds what is wrong, says where, and gives one digest that does not depend on how a build was cut."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from headrace.schemas.sample import ContentDigest
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.books import Books
from headrace.shards.catalogue import update_catalogue
from headrace.shards.chains import Chains
from headrace.shards.dataset import Dataset
from headrace.shards.entry import (
    Delete,
    Entry,
    FileInfo,
    PlanSegment,
    Span,
    TokenizerInfo,
    entry_name,
    parse,
    seal,
)
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import QuarantineWriter
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import Report, verify

Fill = Callable[..., CommitLog]


def messages(report: Report) -> str:
    return "\n".join(f"{p.file} | {p.place} | {p.message}" for p in report.problems)


def test_a_sound_dataset_is_reported_with_its_numbers(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    seen: list[tuple[str, int, int]] = []
    report = verify(memory, progress=lambda *a: seen.append(a))
    assert report.ok and report.samples == 99 and report.quarantined == 9 and report.catalogue == 99
    assert report.tokens == log.state.streams["tide"].tokens > 0
    assert report.version == report.entries == log.state.v and report.shards == 9
    told = json.loads(json.dumps(report.to_json()))
    assert told["ok"] is True and told["content_digest"] == report.content_digest
    assert told["books"]["streams"]["tide"]["samples"] == 66 and told["books"]["sources"]["tide"]["quarantined"] == 3
    assert ("tide", 6, 6) in seen and any(what == "log" for what, _, _ in seen)


def test_the_content_digest_is_that_of_the_samples_and_no_cut_or_lane_or_epoch_changes_it(
    memory: MemoryStore, claimed: Fill
) -> None:
    digests = set()
    for cuts, lane, epochs in (([30], 0, 1), ([1, 9, 20], 0, 1), ([10, 10, 10], 4, 3)):
        other = MemoryStore()
        for _ in range(epochs):
            log = claimed(other)
        double = LaneDouble(other, log, "tide", lane=lane)
        for rows in cuts:
            log.append(double.cut(rows))
        report = verify(other)
        assert report.ok
        digests.add(report.content_digest)
        whole = ContentDigest()
        for batch in Dataset(other).batches("tide"):
            whole.add("tide", batch)
        assert whole.hexdigest() == report.content_digest
    assert len(digests) == 1


def test_shallow_verification_reads_no_data_and_still_sees_sizes(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    report = verify(memory, deep=False)
    assert report.ok and report.content_digest is None and report.samples == 99
    path = log.state.live_shards()[0].path
    memory.files[path] = memory.files[path][:-1]
    assert "bytes, the log says" in messages(verify(memory, deep=False))


@pytest.mark.parametrize("folder", ["data/", "quarantine/"])
def test_a_missing_file_is_named(memory: MemoryStore, filled: Fill, folder: str) -> None:
    filled(memory)
    name = next(n for n in memory.list(folder))
    del memory.files[name]
    report = verify(memory)
    assert any(p.file == name and "does not exist" in p.message for p in report.problems)


def test_files_that_the_log_names_by_digest_are_read(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # sha256 of "test"
    vocabulary = Vocabulary().append("f", "x", 4)
    files = {
        "tokenizers/f/artefact.json": b"test",
        "plan/tide/e1-0.parquet": b"test",
        f"vocab/{vocabulary.digest}.json": vocabulary.to_bytes(),
    }
    for name, data in files.items():
        memory.put_new(name, data)
    log.append(
        Entry(
            kind="commit",
            tokenizers=[TokenizerInfo("f", "x", [FileInfo("tokenizers/f/artefact.json", digest, 4)])],
            plan=[PlanSegment("tide", 0, "plan/tide/e1-0.parquet", digest, 4, 1)],
            vocab=vocabulary.digest,
        )
    )
    assert verify(memory).ok
    for name, data in files.items():
        memory.files[name] = b"tost"
        assert [p.file for p in verify(memory, deep=False).problems] == [name]
        memory.files[name] = data


def test_a_hole_at_the_end_of_the_log_is_seen_in_the_listing(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    memory.files[entry_name(log.state.v + 3000)] = b"far beyond what replay looks ahead"
    assert f"{entry_name(log.state.v + 1)} |  | missing" in messages(verify(memory))


def rewrite(memory: MemoryStore, v: int, change: Callable[[Entry], Entry]) -> None:
    """Forge entry v, and make the chain of the later ones fit."""
    digest, n = "", v
    while memory.exists(entry_name(n)):
        entry, _ = parse(memory.files[entry_name(n)], "x")
        entry = change(entry) if n == v else dataclasses.replace(entry, prev=digest)
        memory.files[entry_name(n)], digest = seal(entry)
        n += 1


def test_a_forged_entry_with_a_fitting_chain_still_has_to_agree_with_the_files(
    memory: MemoryStore, filled: Fill
) -> None:
    filled(memory)

    def fewer_tokens(entry: Entry) -> Entry:
        shard = entry.add[0]
        block = dataclasses.replace(shard.blocks[0], tokens=shard.blocks[0].tokens - 1)
        counts = entry.books.streams["tide"]
        return dataclasses.replace(
            entry,
            add=[dataclasses.replace(shard, tokens=shard.tokens - 1, blocks=[block])],
            books=Books(entry.books.splits, {"tide": dataclasses.replace(counts, tokens=counts.tokens - 1)}),
        )

    rewrite(memory, 2, fewer_tokens)
    assert "tokens, the log says" in messages(verify(memory))


def test_rows_of_another_split_than_the_log_says_are_found(memory: MemoryStore, filled: Fill) -> None:
    filled(memory)

    def other_split(entry: Entry) -> Entry:
        shard, line = entry.add[0], entry.books.splits[0]
        ranges = [dataclasses.replace(shard.ranges[0], split="0" * 32)]
        return dataclasses.replace(
            entry,
            add=[dataclasses.replace(shard, ranges=ranges)],
            books=Books([dataclasses.replace(line, split="0" * 32)], entry.books.streams),
        )

    rewrite(memory, 2, other_split)
    assert "row 0 is of split" in messages(verify(memory))


def test_an_entry_that_no_writer_could_have_appended_is_found(memory: MemoryStore, filled: Fill) -> None:
    filled(memory)
    rewrite(memory, 3, lambda e: dataclasses.replace(e, books=Books(e.books.splits, {})))
    assert "the books say 0 samples, its files hold 10" in messages(verify(memory))


def test_places_that_leave_a_hole_are_found() -> None:
    memory = MemoryStore()
    log = CommitLog(memory)
    log.claim({}, {"tide": settings_of("tide")})
    lane = LaneDouble(memory, log, "tide")
    one = lane.cut(3)
    log.append(one)
    two = lane.cut(4)
    chains = Chains()
    assert list(chains.follow(one)) == [] and list(chains.follow(two)) == []
    skipped = dataclasses.replace(two.books.splits[0], after=4)
    chains = Chains()
    assert list(chains.follow(one)) == []
    found = list(chains.follow(dataclasses.replace(two, books=Books([skipped], two.books.streams))))
    assert "go on after [4,0], the line before ended at [3,0]" in found[0]
    shard = dataclasses.replace(two.add[0], ranges=[dataclasses.replace(two.add[0].ranges[0], after=5)])
    chains = Chains()
    assert list(chains.follow(one)) == []
    assert "rows of split" in next(iter(chains.follow(dataclasses.replace(two, add=[shard]))))
    chains = Chains()
    assert "no line of this entry's books" in next(iter(chains.follow(dataclasses.replace(one, books=Books()))))


def test_a_quarantine_file_that_holds_other_rows_than_its_reasons_is_found(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    entry = lane.cut(2, 2)
    log.append(dataclasses.replace(entry, quarantine=[dataclasses.replace(entry.quarantine[0], reasons={"bomb": 2})]))
    assert "whole items; the log says {'bomb': 2}" in messages(verify(memory))


def test_a_catalogue_that_lags_behind_a_deletion_or_lost_a_row_is_found(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    data = Dataset(memory)
    tokens = sum(len(data.sample("tide", 0, seq).column("tokens").flatten()) for seq in (3, 4))
    log.append(Entry(kind="forget", delete=[Delete("tide", 0, [Span(3, 5)], [], tokens)]))
    report = verify(memory)
    assert [p.file.partition("/")[0] for p in report.problems] == ["catalogue"]
    assert "update the catalogue again" in messages(report)
    assert len(update_catalogue(Dataset(memory))) == 1
    assert verify(memory).ok and verify(memory).samples == 97


def test_an_older_version_can_be_verified_while_the_catalogue_is_of_the_head(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    old = Dataset.open(memory, version=5)
    report = verify(old)
    assert report.ok and report.version == 5 and report.samples < 99
    with QuarantineWriter(memory, "tide", log.state.epoch):
        pass


def test_a_pinned_dataset_whose_log_was_replaced_is_found(memory: MemoryStore, filled: Fill) -> None:
    filled(memory)
    dataset = Dataset(memory)
    rewrite(memory, 4, lambda e: dataclasses.replace(e, ext={"forged": 1}))
    assert "the log is not the one that was opened as" in messages(verify(dataset))


def test_a_record_that_stands_twice_is_a_note(memory: MemoryStore, claimed: Fill) -> None:
    log = claimed(memory)
    log.append(LaneDouble(memory, log, "tide", record_id=b"x" * 16).cut(3))
    report = verify(memory)
    assert report.ok and report.notes == ["tide: 2 record ids stand more than once"]


def test_a_place_without_a_log_or_with_a_broken_first_entry_is_reported_not_raised(
    memory: MemoryStore, filled: Fill
) -> None:
    assert messages(verify(memory)) == "log |  | there is no log"
    filled(memory)
    memory.files[entry_name(1)] = b"{}"
    assert "torn or altered" in messages(verify(memory))

"""The commit log: one writer at a time, nothing twice, nothing unbalanced, no hole unnoticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from headrace.schemas.errors import (
    BrokenLog,
    Fenced,
    FormatTooNew,
    LogError,
    SettingsDiffer,
    StorageError,
    Unbalanced,
)
from headrace.shards.books import Books, SplitCounts, StreamCounts
from headrace.shards.checkpoint import checkpoint_name, encode, read_checkpoint
from headrace.shards.entry import (
    Conviction,
    Entry,
    GapInfo,
    LaneFile,
    Place,
    PlaceMove,
    PlanSegment,
    Replayed,
    ShardInfo,
    Span,
    SplitPin,
    TokenizerInfo,
    Watermark,
    entry_name,
    parse,
    seal,
    split_digest,
)
from headrace.shards.log import CommitLog
from headrace.shards.state import StalePlace, State
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of

Claim = Callable[..., CommitLog]


def test_a_claim_makes_the_first_entry_and_each_further_one_raises_the_epoch(memory: MemoryStore) -> None:
    log = CommitLog(memory)
    assert log.claim({"pyarrow": "1"}, {}, api="http://127.0.0.1:1") == 1
    assert (log.state.v, log.state.epoch, log.state.api) == (1, 1, "http://127.0.0.1:1")
    assert log.state.maybe_live and log.state.env == {"pyarrow": "1"}
    assert CommitLog(memory).claim({}, {}) == 2


def test_samples_get_addresses_at_commit_that_go_on_and_are_never_reused(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    north, south = LaneDouble(memory, log, "tide", split="n"), LaneDouble(memory, log, "tide", lane=5, split="s")
    for rows in (3, 4):
        log.append(north.cut(rows))
        log.append(south.cut(rows + 1))
    shards = log.state.live_shards("tide")
    assert [(s.lane, s.first_seq, s.rows) for s in shards] == [(0, 0, 3), (0, 3, 4), (5, 0, 4), (5, 4, 5)]
    assert log.state.next_seq == {("tide", 0): 7, ("tide", 5): 9}
    found = log.state.locate("tide", 5, 6)
    assert found is not None and (found[0].path, found[1]) == (shards[3].path, 2)
    assert log.state.locate("tide", 5, 9) is None and log.state.locate("tide", 1, 0) is None


def test_a_reader_sees_what_the_writer_wrote_and_follows_it(memory: MemoryStore, claimed: Claim) -> None:
    log, reader = claimed(memory), CommitLog(memory)
    lane = LaneDouble(memory, log, "tide")
    log.append(lane.cut(3, 1))
    assert reader.replay() == log.state
    assert reader.refresh() == []
    entry = lane.cut(2)
    log.append(entry)
    assert [e.v for e in reader.refresh()] == [3] and reader.state == log.state
    assert [e.kind for e, _ in reader.entries()] == ["claim", "commit", "commit"]


def test_a_version_can_be_pinned_by_number_and_by_digest(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    digests = [log.state.digest]
    for _ in range(5):
        log.append(lane.cut(1))
        digests.append(log.state.digest)
    assert CommitLog(memory).replay(3).digest == digests[2]
    assert CommitLog(memory).replay(digests[3]).v == 4
    assert CommitLog(memory).replay(digests[5][:12]).v == 6
    for wrong in (7, "0" * 64):
        with pytest.raises(LogError, match="has 6 versions, none of them is"):
            CommitLog(memory).replay(wrong)
    with pytest.raises(LogError, match="too short"):
        CommitLog(memory).replay(digests[3][:4])


# ---- fencing ----


def test_a_writer_that_lost_the_dataset_is_fenced_and_changes_nothing(memory: MemoryStore, claimed: Claim) -> None:
    old = claimed(memory)
    lane = LaneDouble(memory, old, "tide")
    old.append(lane.cut(2))
    entry = lane.cut(3)
    new = claimed(memory)
    before = dict(memory.files)
    for _ in range(2):
        with pytest.raises(Fenced, match="epoch 1, but entry 3 is of epoch 2"):
            old.append(entry)
    assert memory.files == before
    new.append(LaneDouble(memory, new, "tide").cut(3))


def test_of_two_writers_that_claim_at_once_the_later_one_stays(memory: MemoryStore, claimed: Claim) -> None:
    claimed(memory)
    other: list[CommitLog] = []

    def intrude(name: str) -> str:
        if name == entry_name(2) and not other:
            other.append(CommitLog(MemoryStore(files=memory.files)))
            other[0].claim({}, {})
        return "none"

    late = CommitLog(MemoryStore(intrude, memory.files))  # type: ignore[arg-type]
    assert late.claim({}, {}) == 3 and other[0].epoch == 2
    with pytest.raises(Fenced):
        other[0].append(Entry(kind="commit"))
    assert late.append(Entry(kind="commit")) == 4


def test_after_end_nobody_is_live_and_only_a_claim_goes_on(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    assert log.end() == 2
    assert not log.state.maybe_live
    with pytest.raises(LogError, match="claim the dataset before"):
        log.append(Entry(kind="commit"))
    log.epoch = 1
    with pytest.raises(LogError, match="has ended"):
        log.append(Entry(kind="commit"))
    assert claimed(memory).state.maybe_live


# ---- ghosts and lost replies ----


def test_the_same_commit_twice_is_refused(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    entry = LaneDouble(memory, log, "tide").cut(3)
    log.append(entry)
    with pytest.raises(LogError, match="committed before"):
        log.append(entry)
    again = dataclasses.replace(entry, add=[], books=Books())
    with pytest.raises(StalePlace, match=r'stands at \{"position":3\}, the entry expects its start'):
        log.append(again)
    assert log.state.v == 2


def test_a_commit_from_a_place_that_is_not_the_last_one_is_refused(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    log.append(lane.cut(3))
    ghost = lane.cut(3, after=Place(position=1))
    with pytest.raises(StalePlace):
        log.append(ghost)


@pytest.mark.parametrize("answer", ["lost reply", "refused"])
def test_a_writer_whose_reply_was_lost_tries_again_and_commits_once(claimed: Claim, answer: str) -> None:
    answers = ["none", "none", answer]
    memory = MemoryStore(lambda name: answers.pop(0) if answers else "none")  # type: ignore[return-value, arg-type]
    log = claimed(memory)
    entry = LaneDouble(memory, log, "tide").cut(3)
    with pytest.raises(StorageError):
        log.append(entry)
    if answer == "refused":
        assert log.append(entry) == 2
    else:
        with pytest.raises(LogError, match="committed before"):
            log.append(entry)
    assert log.state.streams["tide"].samples == 3 and CommitLog(memory).replay() == log.state


def test_a_slot_that_holds_our_own_entry_is_ours(memory: MemoryStore, claimed: Claim) -> None:
    """A store that tells a lost reply as `exists`, as S3 clients do after their own retry."""
    log = claimed(memory)
    real = memory.put_new

    def put_new(name: str, data: bytes) -> bool:
        real(name, data)
        return False

    memory.put_new = put_new  # type: ignore[method-assign]
    assert log.append(LaneDouble(MemoryStore(files=memory.files), log, "tide").cut(3)) == 2
    assert log.state == CommitLog(memory).replay()


# ---- what is refused ----


def unbalanced(entry: Entry) -> list[tuple[Entry, type[LogError], str]]:
    """Entries that are wrong in one thing each."""
    line, counts = entry.books.splits[0], entry.books.streams["tide"]
    shard, file = entry.add[0], entry.quarantine[0]

    def books(splits: SplitCounts, streams: StreamCounts) -> Entry:
        return dataclasses.replace(entry, books=Books([splits], {"tide": streams}))

    def adding(**changes: object) -> Entry:
        return dataclasses.replace(entry, add=[dataclasses.replace(shard, **changes)])

    replaced = dataclasses.replace
    return [
        (books(replaced(line, read=line.read + 1), counts), Unbalanced, "items read"),
        (books(line, replaced(counts, records=9)), Unbalanced, "9 records"),
        (books(line, replaced(counts, records=4, samples=4)), Unbalanced, "say 4 samples, its files hold 3"),
        (books(line, replaced(counts, tokens=counts.tokens + 1)), Unbalanced, "tokens, its files hold"),
        (books(line, replaced(counts, records=4, quarantined=1)), Unbalanced, "say 1 quarantined records"),
        (books(replaced(line, quarantined=1, closed=4), counts), Unbalanced, "1 items quarantined whole"),
        (replaced(entry, books=Books()), Unbalanced, "say 0 samples"),
        (replaced(entry, quarantine=[replaced(file, reasons={"corrupt": 1})]), Unbalanced, "add up to 1"),
        (replaced(entry, quarantine=[replaced(file, path="quarantine/tide/e9-x")]), LogError, "of its own epoch only"),
        (adding(path="data/tide/L0000/e9-000000-0.arrow"), LogError, "named e1-"),
        (adding(path="data/tide/L0001/e1-000000-0.arrow"), LogError, r"not in data/tide/L0000"),
        (adding(stream="other"), LogError, "no settings were claimed"),
        (adding(rows=4), Unbalanced, "."),
        (adding(ranges=[]), Unbalanced, "3 rows, its ranges hold 0"),
        (adding(ranges=[replaced(shard.ranges[0], rows=2)]), Unbalanced, "its ranges hold 2"),
        (adding(blocks=shard.blocks * 2), LogError, "block 1 begins at byte"),
        (adding(tokens=0), Unbalanced, "."),
        (replaced(entry, settings={"tide": settings_of("tide", vocab=5)}), SettingsDiffer, "vocab was None, now 5"),
        (
            replaced(entry, plan=[PlanSegment("tide", 1, "plan/x", "", 0, 0)]),
            LogError,
            "the next segment is number 0, not 1",
        ),
        (replaced(entry, carry=[LaneFile("tide", 0, "carry/tide/L0000/e7-x")]), LogError, "of its own epoch only"),
        (
            replaced(entry, places=[PlaceMove("tide", 0, Place(position=1.5), None, "x")]),
            ValueError,  # type: ignore[list-item]
            "may not hold a float",
        ),
    ]


@pytest.mark.parametrize("number", range(21))
def test_an_entry_that_contradicts_itself_or_its_files_is_refused(
    memory: MemoryStore, claimed: Claim, number: int
) -> None:
    log = claimed(memory)
    entry = LaneDouble(memory, log, "tide").cut(3, 2)
    wrong, error, message = unbalanced(entry)[number]
    before = log.state.digest
    with pytest.raises(error, match=message):
        log.append(wrong)
    assert log.state.digest == before and CommitLog(memory).replay().digest == before
    log.append(entry)


def test_an_output_that_belongs_to_other_settings_is_refused_before_the_claim(
    memory: MemoryStore, claimed: Claim
) -> None:
    claimed(memory)
    before = dict(memory.files)
    with pytest.raises(SettingsDiffer, match=r"streams\.tide: .*fps was None, now 3.*tide@2"):
        CommitLog(memory).claim({}, {"tide": settings_of("tide", fps=3)})
    assert memory.files == before


# ---- damage ----


@pytest.mark.parametrize("gone", [1, 2, 4, 5])
def test_a_missing_middle_entry_is_an_error_that_names_it(memory: MemoryStore, claimed: Claim, gone: int) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(5):
        log.append(lane.cut(1))
    del memory.files[entry_name(gone)]
    with pytest.raises(BrokenLog, match=f"{entry_name(gone)} is missing"):
        CommitLog(memory).replay()
    with pytest.raises(BrokenLog):
        claimed(memory)


def test_a_torn_middle_entry_is_an_error_that_names_it(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(4):
        log.append(lane.cut(1))
    memory.files[entry_name(3)] = memory.files[entry_name(3)][:50]
    with pytest.raises(BrokenLog, match=rf"{entry_name(3)}: .*torn or altered"):
        CommitLog(memory).replay()


def test_an_entry_that_was_replaced_by_a_well_formed_one_breaks_the_chain(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(4):
        log.append(lane.cut(1))
    entry, _ = parse(memory.files[entry_name(3)], "x")
    memory.files[entry_name(3)] = seal(dataclasses.replace(entry, ext={"forged": True}))[0]
    with pytest.raises(BrokenLog, match=f"{entry_name(4)} follows an entry of digest"):
        CommitLog(memory).replay()
    memory.files[entry_name(3)] = memory.files[entry_name(4)]
    with pytest.raises(BrokenLog, match=f"{entry_name(3)} holds entry 4"):
        CommitLog(memory).replay()


def test_a_log_of_a_newer_format_is_refused(memory: MemoryStore, claimed: Claim) -> None:
    claimed(memory)
    data, _ = seal(Entry(kind="commit", v=2, format=2))
    memory.files[entry_name(2)] = data
    with pytest.raises(FormatTooNew):
        CommitLog(memory).replay()


# ---- checkpoints ----


def everything(log: CommitLog, lane: LaneDouble) -> None:
    """Append entries with every part that the state keeps."""
    digest = split_digest("a")
    log.append(lane.cut(3, 1))
    log.append(
        Entry(
            kind="commit",
            plan=[PlanSegment("tide", 0, "plan/tide/e1-0.parquet", "s", 1, 1)],
            splits=[SplitPin("tide", digest, 0, "pin")],
            carry=[LaneFile("tide", 0, "carry/tide/L0000/e1-x.arrow", "s", 3)],
            dedup=[LaneFile("tide", 1, "dedup/tide/L0001/e1-x.arrow", "s", 3)],
            replayed=[Replayed(next(iter(log.state.quarantine)), [Span(0, 1)])],
            convictions=[Conviction("tide", digest, {"offset": 3}, 0, "crash:SIGSEGV")],
            gaps=[GapInfo("tide", digest, 3, "trimmed", None)],
            watermarks=[Watermark("tide", 0, 17)],
            tokenizers=[TokenizerInfo("f", "mu-law", [])],
            vocab="v" * 64,
            places=[PlaceMove("bulletins", 3, Place(0, 7, None, 2))],
            ext={"note": [1, {"a": None}]},
        )
    )


def test_a_checkpoint_holds_the_whole_state(memory: MemoryStore, claimed: Claim, every_4: None) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    everything(log, lane)
    log.append(lane.cut(2))
    assert log.state.v == 4 and memory.exists(checkpoint_name(4))
    assert read_checkpoint(memory, 4) == log.state
    blank = State()
    empty = [f.name for f in dataclasses.fields(State) if getattr(log.state, f.name) == getattr(blank, f.name)]
    merged = {"retired", "blurred", "engines"}  # see test_bounded_state.py and test_engines.py
    assert set(empty) <= {"ended", "api", "deleted", "deleted_tokens", "forgotten", "changed", "doomed"} | merged


def test_replay_starts_from_the_newest_checkpoint_and_reads_no_older_entry(
    memory: MemoryStore, claimed: Claim, every_4: None
) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(20):
        log.append(lane.cut(1))
    read: list[str] = []
    reader = MemoryStore(files=memory.files)
    real = reader.get
    reader.get = lambda name: (read.append(name), real(name))[1]  # type: ignore[method-assign]
    assert CommitLog(reader).replay() == log.state
    assert read == [checkpoint_name(20), entry_name(21), entry_name(22)]
    read.clear()
    assert CommitLog(reader).replay(18).v == 18
    assert read == [checkpoint_name(16), entry_name(17), entry_name(18)]


def test_a_broken_checkpoint_is_passed_over_and_made_again_by_the_next_writer(
    memory: MemoryStore, claimed: Claim, every_4: None
) -> None:
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(12):
        log.append(lane.cut(1))
    good = memory.files[checkpoint_name(12)]
    memory.files[checkpoint_name(12)] = good[:100] + bytes([good[100] ^ 1]) + good[101:]
    assert CommitLog(memory).replay() == log.state
    assert claimed(memory).epoch == 2
    assert memory.files[checkpoint_name(12)] == good


def test_a_store_that_is_full_at_a_checkpoint_does_not_undo_the_entry(claimed: Claim, every_4: None) -> None:
    memory = MemoryStore(lambda name: "refused" if "ckpt" in name else "none")
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide")
    for _ in range(4):
        log.append(lane.cut(1))
    assert log.state.v == 5 and not memory.exists(checkpoint_name(4))
    assert CommitLog(memory).replay() == log.state


def test_the_bytes_of_a_checkpoint_are_a_function_of_the_state(memory: MemoryStore, claimed: Claim) -> None:
    log = claimed(memory)
    everything(log, LaneDouble(memory, log, "tide"))
    assert encode(log.state) == encode(CommitLog(memory).replay())


def test_a_lane_that_lists_its_shards_without_a_range_still_counts(memory: MemoryStore) -> None:
    assert ShardInfo("s", 0, "p", "", 1, 5, 0, 0, "", "", [], first_seq=3).stop_seq == 8

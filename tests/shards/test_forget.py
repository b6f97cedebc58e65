"""Forgetting: readers no longer see it, replays do not bring it back, and an erasure leaves no byte of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.schemas.errors import ConfigError, LogError, ShardError
from headrace.shards.catalogue import update_catalogue
from headrace.shards.checkpoint import decode, encode
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Delete, Entry, Replace, Span
from headrace.shards.forget import Selection, find, forget
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import Killed, LaneDouble, MemoryStore
from headrace.shards.verify import verify

Fill = Callable[..., CommitLog]


def ids(store: MemoryStore | LocalStore, stream: str) -> list[bytes]:
    return [i for b in Dataset(store).batches(stream, ["record_id"]) for i in b.column(0).to_pylist()]


@pytest.mark.parametrize("erase", [False, True])
def test_samples_chosen_by_id_are_gone_and_the_rest_is_as_it_was(
    memory: MemoryStore, filled: Fill, erase: bool
) -> None:
    log = filled(memory)
    before = ids(memory, "tide")
    kept = Dataset(memory).sample("tide", 2, 30)
    doomed = [before[i] for i in (0, 5, 6, 40, 65)]
    done = forget(log, Selection(ids=tuple(i.hex() for i in doomed)), erase=erase)
    assert done.samples == 5 and done.tokens > 0 and done.shards == (3 if erase else 0)
    assert ids(memory, "tide") == [i for i in before if i not in doomed]
    assert Dataset(memory).sample("tide", 2, 30).equals(kept)
    assert log.state.forgotten == {i.hex() for i in doomed}
    report = verify(memory)
    assert report.ok and report.samples == 94 and report.catalogue == 94
    blob = b"".join(data for name, data in memory.files.items() if not name.startswith("log/"))
    assert all((i in blob) is (not erase) for i in doomed) or not erase
    assert all(i in blob for i in before if i not in doomed)
    assert decode(encode(log.state), log.state.v) == log.state


@pytest.mark.parametrize(
    ("selection", "stays"),
    [
        (Selection(license="CC-BY-4.0"), lambda row: row["license"] != "CC-BY-4.0"),
        (Selection(source="files"), lambda row: False),
        (Selection(source="elsewhere"), lambda row: True),
        (Selection(where="uri = 'north.txt'"), lambda row: row["uri"] != "north.txt"),
        (
            Selection(license="CC-BY-4.0", where="stream = 'bulletins'"),
            lambda row: row["license"] != "CC-BY-4.0" or row["uri"] != "letters.txt",
        ),
    ],
)
def test_samples_are_chosen_by_source_license_and_condition(
    memory: MemoryStore, filled: Fill, selection: Selection, stays: Callable[[dict[str, object]], bool]
) -> None:
    log = filled(memory)

    def rows() -> list[dict[str, object]]:
        data = Dataset(memory)
        columns = ["record_id", "license", "source", "uri"]
        return [row for s in data.streams() for b in data.batches(s, columns) for row in b.to_pylist()]

    expected = [row for row in rows() if stays(row)]
    forget(log, selection, erase=True)
    report = verify(memory)
    assert report.ok and rows() == expected and report.samples == report.catalogue == len(expected)
    assert collect(memory, log.state).garbage == []
    assert find(Dataset(memory), selection).num_rows == 0


def test_forgetting_twice_changes_nothing_and_an_erasure_may_follow_later(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    chosen = Selection(where="stream = 'tide' and seq < 4")
    assert forget(log, chosen).samples == 8
    v = log.state.v
    assert forget(log, chosen).samples == 0 and log.state.v == v
    done = forget(log, chosen, erase=True)
    assert done.samples == 0 and done.shards == 2
    assert verify(memory).ok and verify(memory).samples == 91


def test_a_lane_goes_on_after_an_erasure_with_the_next_address(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    forget(log, Selection(where="stream = 'tide' and lane = 0"), erase=True)
    log.append(LaneDouble(memory, log, "tide", lane=0, split="north").cut(4))
    update_catalogue(Dataset(memory))
    assert log.state.live_shards("tide")[0].first_seq == 33
    assert Dataset(memory).sample("tide", 0, 33).column("position").to_pylist() == ["34"]
    assert verify(memory).ok


def test_quarantined_bytes_of_a_forgotten_source_are_erased_and_digests_stay(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    done = forget(log, Selection(source="files"), erase=True)
    assert done.quarantined == 9
    for _, batch in Dataset(memory).quarantine():
        for row in batch.to_pylist():
            assert row["raw"] is None and row["message"] == "(removed)"
            assert row["reason"] == "corrupt" and row["raw_sha256"] and row["raw_bytes"] > 0
    assert not any(b"bad 1" in data for data in memory.files.values())
    assert verify(memory).ok and verify(memory).quarantined == 9
    assert forget(log, Selection(source="files"), erase=True).quarantined == 0


def test_a_condition_on_columns_that_the_quarantine_lacks_says_so(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    assert "was not searched" in forget(log, Selection(where="length > 5"), erase=True).notes[0]
    assert forget(log, Selection(where="uri = 'south.txt'"), erase=True).quarantined == 3


@pytest.mark.parametrize("step", range(14))
def test_an_erasure_killed_anywhere_is_finished_by_the_next(filled: Fill, claimed: Fill, step: int) -> None:
    memory = MemoryStore()
    log = filled(memory)
    chosen = Selection(where="stream = 'tide' and seq in (1, 12, 25)")
    expected = {i for n, i in enumerate(ids(memory, "tide")) if n % 33 not in (1, 12, 25)}
    left = [step]

    def die(name: str) -> str:
        left[0] -= 1
        return "killed after" if left[0] == -1 else "none"

    memory.fault = die  # type: ignore[assignment]
    try:
        forget(log, chosen, erase=True)
    except Killed:
        memory.fault = lambda name: "none"
        log = claimed(memory)
        forget(log, chosen, erase=True)
    collect(memory, log.state, delete=True)
    report = verify(memory)
    assert report.ok and report.samples == 93 and set(ids(memory, "tide")) == expected
    referenced = log.state.referenced()
    assert all(n in referenced for n in memory.files if n.startswith(("data/", "quarantine/")))


def test_a_reader_of_an_older_version_is_told_that_the_data_were_erased(store: LocalStore, filled: Fill) -> None:
    log = filled(store)
    old = Dataset(store)
    forget(log, Selection(where="stream = 'tide' and lane = 0 and seq = 0"), erase=True)
    with pytest.raises(ShardError, match="is missing"):
        list(old.batches("tide"))


def test_a_replacement_may_not_lose_or_invent_rows(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    shard = log.state.live_shards("tide")[0]
    with pytest.raises(LogError, match="samples 0 to 10 would be lost undeleted"):
        log.append(Entry(kind="forget", replace=[Replace([shard.path])]))
    with pytest.raises(LogError, match="is not a live shard"):
        log.append(Entry(kind="forget", replace=[Replace(["data/tide/L0000/e1-nothing"])]))
    with pytest.raises(LogError, match="hold rows that the old ones did not"):
        other = log.state.live_shards("tide")[1]
        log.append(Entry(kind="compact", replace=[Replace([shard.path], [shard, other])]))
    with pytest.raises(LogError, match=r"delete of tide/L0000 \[5, 99\): it holds \[0, 33\)"):
        log.append(Entry(kind="forget", delete=[Delete("tide", 0, [Span(5, 99)])]))


def test_a_selection_of_nothing_or_a_wrong_id_is_refused(memory: MemoryStore, filled: Fill) -> None:
    log = filled(memory)
    with pytest.raises(ConfigError, match="say what to forget"):
        forget(log, Selection())
    with pytest.raises(ConfigError, match="is not a record id"):
        forget(log, Selection(ids=("zz",)))
    with pytest.raises(ConfigError, match="no column 'sice'"):
        forget(log, Selection(where="sice > 3"))
    with pytest.raises(LogError, match="claim the dataset"):
        forget(CommitLog(memory), Selection(source="x"))

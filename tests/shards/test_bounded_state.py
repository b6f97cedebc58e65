"""What a state holds is bounded by what is live: merged shards leave one origin, replaced names go with their files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas.errors import LogError
from headrace.shards import checkpoint
from headrace.shards.additions import Additions
from headrace.shards.catalogue import catalogue_files, read_catalogue, update_catalogue
from headrace.shards.checkpoint import decode, encode
from headrace.shards.compact import compact
from headrace.shards.compact_plan import Policy
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.retired import Retired
from headrace.shards.state import COLLECTED, State
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import verify


@given(st.dictionaries(st.text(max_size=9), st.integers(1, 40), max_size=60), st.integers(0, 41))
def test_retired_names_are_what_a_dictionary_of_them_would_be(names: dict[str, int], upto: int) -> None:
    made = Retired()
    for name, v in names.items():
        made.add(name, v)
    assert len(made) == len(names)
    assert all(made.version_of(name) == v for name, v in names.items())
    assert made.version_of("none of them, for it is longer") is None
    shuffled = Retired()
    for name, v in reversed(names.items()):
        shuffled.add(name, v)
    assert shuffled.to_json() == made.to_json() and shuffled == made == Retired.from_json(made.to_json())
    made.drop(upto)
    assert {name for name in names if name in made} == {name for name, v in names.items() if v > upto}


def serving(store: MemoryStore, commits: int = 40) -> tuple[CommitLog, list[tuple[int, int]]]:
    """A log of one lane as a service writes it, compacted now and then; and (first_seq, version) of every shard."""
    log = CommitLog(store)
    log.claim({}, {"tide": settings_of("tide")})
    lane, origins = LaneDouble(store, log, "tide"), []
    for turn in range(commits):
        first = log.state.next_seq.get(("tide", 0), 0)
        origins.append((first, log.append(lane.cut(2 + turn % 3))))
        if turn % 8 == 7:
            compact(log, Policy(min_shards=4, max_wait_s=None))
    return log, origins


def test_origins_are_as_many_as_live_shards_and_the_log_has_the_others(memory: MemoryStore) -> None:
    log, origins = serving(memory)
    state, known = log.state, Additions(memory, log.state)
    live = state.live_shards()
    assert len(live) < len(origins) / 2
    assert [first for first, _ in state.origins["tide", 0]] == [s.first_seq for s in live]
    end = state.next_seq["tide", 0]
    borders = [*(first for first, _ in origins), end]
    for (first, v), stop in zip(origins, borders[1:]):
        assert {known.version(("tide", 0), seq) for seq in range(first, stop)} == {v}
    for start in range(0, end, 5):
        for stop in range(start + 1, end + 1, 7):
            expected = [o for o, upper in zip(origins, borders[1:]) if upper > start and o[0] < stop]
            assert known.of_lane(("tide", 0), start, stop) == expected
    for v in range(state.v + 1):
        assert known.added_after(("tide", 0), v) == next((first for first, at in origins if at > v), end)
        for upto in range(v, state.v + 1):
            added = any(v <= at <= upto for _, at in origins)
            assert known.may_hold(("tide", 0), v, upto) or not added


def test_a_catalogue_written_after_merges_tells_the_exact_versions(memory: MemoryStore) -> None:
    log, origins = serving(memory)
    update_catalogue(Dataset(memory))
    (file,) = catalogue_files(memory)
    rows = read_catalogue(memory, file, ["seq", "version"]).to_pylist()
    assert [(r["seq"], r["version"]) for r in rows] == [
        (seq, next(v for first, v in reversed(origins) if first <= seq)) for seq in range(len(rows))
    ]
    assert len(rows) == log.state.next_seq["tide", 0] and verify(memory).ok


def test_replaced_names_are_forgotten_when_a_gc_says_that_their_files_are_gone(memory: MemoryStore) -> None:
    log, origins = serving(memory)
    replaced = [name for name in memory.files if name.startswith("data/") and name not in log.state.referenced()]
    assert len(replaced) == len(log.state.retired) > 20 and all(name in log.state.retired for name in replaced)
    waiting = collect(memory, log.state, delete=True, modified=lambda name: 0.0, now_s=1.0)
    assert sorted(waiting.waiting) == sorted(replaced) and waiting.collected == 0
    middle = log.state.v // 2
    times = {f"log/{v:020d}.json": float(v) for v in range(1, log.state.v + 1)}
    grace = log.state.v - middle
    told = collect(memory, log.state, delete=True, modified=times.get, now_s=float(log.state.v), reader_grace_s=grace)
    assert told.collected == middle and 0 < len(told.garbage) < len(replaced)
    log.append(Entry(kind="commit", ext={COLLECTED: told.collected}))
    left = [name for name in replaced if name in memory.files]
    assert len(log.state.retired) == len(left) and all(name in log.state.retired for name in left)
    fresh = CommitLog(memory)
    assert fresh.replay() == log.state == decode(encode(log.state), log.state.v)
    assert [v for _, v in origins if v > middle]
    with pytest.raises(LogError, match="not an earlier version"):
        log.append(Entry(kind="commit", ext={COLLECTED: log.state.v + 1}))


def test_a_name_that_was_replaced_is_not_committed_again(memory: MemoryStore) -> None:
    log, _ = serving(memory)
    shard = log.state.live_shards()[-1]
    gone = next(name for name in memory.files if name in log.state.retired)
    with pytest.raises(LogError, match="was committed before"):
        log.append(Entry(kind="commit", add=[replace(shard, path=gone)]))
    with pytest.raises(LogError, match="was committed before"):
        log.append(Entry(kind="commit", add=[shard]))


def test_a_checkpoint_from_before_is_read_and_agrees(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a one lists every name that was live, and every origin."""
    log, origins = serving(memory)
    state = log.state
    names = sorted(name for name in memory.files if name in state.retired)
    older = replace(state, origins={("tide", 0): origins}, blurred={}, retired=Retired())
    rest = checkpoint._rest

    def as_before(found: State) -> dict[str, Any]:
        return {**rest(found), "paths": names}

    monkeypatch.setattr(checkpoint, "_rest", as_before)
    data = checkpoint.encode(older)
    monkeypatch.undo()
    read = decode(data, state.v)
    assert all(read.retired.version_of(name) == state.v for name in names) and len(read.retired) == len(names)
    assert read.origins == {("tide", 0): origins} and checkpoint.agrees(data, state)
    known = Additions(memory, read)
    assert [known.version(("tide", 0), first) for first, _ in origins] == [v for _, v in origins]
    other = replace(state, next_seq={("tide", 0): 7})
    assert not checkpoint.agrees(data, other) and checkpoint.agrees(encode(state), state)
    for less in ({"retired": Retired()}, {"origins": {}}):
        assert not checkpoint.agrees(encode(replace(state, **less)), state)

"""A live lane: each item once whatever crashes, windows that stay open over commits, duplicates, watermarks."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from headrace.connectors.contract import Gap, Item
from headrace.ingest import live_lane
from headrace.ingest.bad_fraction import BadFraction
from headrace.shards.books import SourceCounts
from headrace.shards.verify import verify

from .live_world import World


def texts(name: str, count: int, *, key: bool = False) -> list[Item]:
    return [Item(f"{name} {i}".encode(), i, key=f"k{i}" if key else None) for i in range(count)]


def readings(count: int, *, channels: int = 2, step: int = 10, seed: int = 0) -> list[Item]:
    rng = random.Random(seed)
    rows = [{"t": 1_700_000_000 + i * step, **{f"c{j}": rng.random() for j in range(channels)}} for i in range(count)]
    return [Item(json.dumps(row).encode(), i) for i, row in enumerate(rows)]


def shake(world: World, rng: random.Random) -> None:
    """Turns, cuts and crashes in any order until nothing is left."""
    idle = 0
    while idle < 3:
        deed = rng.random()
        if deed < 0.6:
            idle = 0 if world.lane.turn(0.0) else idle + 1
        elif deed < 0.85:
            world.commit()
        else:
            world.start()
    world.run()


def sound(world: World) -> None:
    assert verify(world.dataset()).problems == []


@pytest.mark.parametrize("seed", range(20))
def test_each_item_is_there_once_whatever_crashes(seed: int) -> None:
    world = World({"a": texts("a", 700), "b": texts("b", 3), "c": []})
    shake(world, random.Random(seed))
    assert sorted(world.column("uri")) == sorted(f"{s}@{i}" for s, n in (("a", 700), ("b", 3)) for i in range(n))
    assert world.acked == {"a": 699, "b": 2}
    assert world.log.state.sources["tide"] == SourceCounts(703, 703, 0, 0)
    sound(world)


def test_the_content_does_not_depend_on_where_it_was_cut() -> None:
    digests = set()
    for seed in range(5):
        world = World({"a": texts("a", 300), "b": texts("b", 299)})
        shake(world, random.Random(seed))
        digests.add(verify(world.dataset()).content_digest)
    assert len(digests) == 1


def test_ranges_follow_the_rows_when_splits_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lane, "TURN_S", 60.0)  # turns end by number alone, however slow this machine is now
    world = World({"a": texts("a", 600), "b": texts("b", 600)})
    world.run()
    shard = world.log.state.live_shards()[0]
    assert [r.rows for r in shard.ranges] == [256, 256, 256, 256, 88, 88]
    for split in {r.split for r in shard.ranges}:
        own = [r for r in shard.ranges if r.split == split]
        assert [(r.after, r.after_k) for r in own[1:]] == [(r.upto, r.upto_k) for r in own[:-1]]
        assert own[-1].upto == 599
    sound(world)


def test_a_bad_item_costs_one_item() -> None:
    items = texts("a", 5)
    items[2] = Item(b"\xff\xfe\x00\xd8", 2, headers={"format": "json"})
    world = World({"a": items})
    world.run()
    assert world.log.state.sources["tide"] == SourceCounts(5, 4, 1, 0)
    assert sorted(world.column("uri")) == ["a@0", "a@1", "a@3", "a@4"]
    sound(world)


def test_a_gap_is_logged_with_its_count() -> None:
    items: list[Any] = texts("a", 4)
    items[2] = Gap("trimmed", 2, 17)
    world = World({"a": items})
    world.run()
    assert [(g.reason, g.lost) for g in world.log.state.gaps] == [("trimmed", 17)]
    assert world.log.state.sources["tide"].read == 3
    world.start()
    world.run()
    assert len(world.log.state.gaps) == 1, "a gap that was committed came again"


@pytest.mark.parametrize("seed", range(10))
def test_repeated_keys_are_dropped_and_counted_over_crashes(seed: int) -> None:
    rng = random.Random(seed)
    items = [Item(f"m{n}".encode(), i, key=f"k{n}") for i, n in enumerate(rng.randrange(60) for _ in range(300))]
    world = World({"a": items}, dedup={"window": 1000})
    shake(world, rng)
    assert len(world.column("uri")) == len({item.key for item in items})
    counts = world.log.state.streams["tide"]
    assert (counts.records, counts.duplicates) == (300, 300 - len({item.key for item in items}))
    sound(world)


def test_a_key_is_forgotten_beyond_the_window() -> None:
    items = [Item(b"x", i, key=k) for i, k in enumerate("abcab")]
    for window, duplicates in ((2, 0), (3, 2)):
        world = World({"a": items}, dedup={"window": window})
        world.run()
        assert world.log.state.streams["tide"].duplicates == duplicates


def test_items_without_a_key_are_kept_and_equal_content_can_be_dropped() -> None:
    items = [Item(b"same", i) for i in range(3)]
    for by, samples in (("key", 3), ("content", 1)):
        world = World({"a": items}, dedup={"by": by})
        world.run()
        assert len(world.column("uri")) == samples


SENSOR = {"record": {"type": "sensor", "time": "t"}, "tokenizer": {"sensor": {"type": "raw"}}}


@pytest.mark.parametrize("seed", range(10))
def test_windows_hold_the_same_readings_wherever_commits_and_crashes_fall(seed: int) -> None:
    world = World({"a": readings(230, seed=1), "b": readings(64, seed=2)}, windows={"samples": 32}, **SENSOR)
    shake(world, random.Random(seed))
    rows = list(zip(world.column("channel"), world.column("uri"), world.column("locator"), world.column("t")))
    assert len(rows) == 2 * (230 // 32) + 2 * (64 // 32)
    assert {len(t) for *_, t in rows} == {32}
    assert world.log.state.sources["tide"] == SourceCounts(294, 288, 0, 6)
    fresh = World({"a": readings(230, seed=1), "b": readings(64, seed=2)}, windows={"samples": 32}, **SENSOR)
    fresh.run()
    assert verify(world.dataset()).content_digest == verify(fresh.dataset()).content_digest
    sound(world)


def test_windows_by_event_time_close_on_a_later_reading() -> None:
    world = World({"a": readings(31, channels=1)}, windows={"seconds": 100}, **SENSOR)
    world.run()
    spans = [[stamp.timestamp() for stamp in t] for t in world.column("t")]
    assert [len(s) for s in spans] == [10, 10, 10]
    assert all(s[0] % 100 == 0 and s[-1] - s[0] == 90 for s in spans)
    assert world.log.state.sources["tide"].open == 1


def test_a_late_reading_is_a_record_of_its_own_with_a_flag() -> None:
    items = readings(30, channels=1)
    late = Item(json.dumps({"t": 1_700_000_005, "c0": 9.5}).encode(), 30)
    world = World({"a": [*items, late]}, windows={"seconds": 100}, **SENSOR)
    world.run()
    assert [(len(t), flags) for t, flags in zip(world.column("t"), world.column("flags"))][-1] == (1, ["late"])


def test_a_split_that_is_over_closes_its_windows() -> None:
    world = World({"a": readings(40)}, ends=True, windows={"samples": 32}, **SENSOR)
    world.run()
    world.run()
    assert sorted(len(t) for t in world.column("t")) == [8, 8, 32, 32]
    assert world.log.state.sources["tide"] == SourceCounts(40, 40, 0, 0)
    assert world.lane.splits() == []
    sound(world)


def test_the_watermark_is_that_of_the_slowest_split_that_is_not_idle() -> None:
    def stamped(times: list[int]) -> list[Item]:
        return [Item(b"x", i, event_time=t * 1_000_000) for i, t in enumerate(times)]

    world = World({"a": stamped([10, 30]), "b": stamped([20])}, live={"idle_after_s": 5, "lateness_s": 2})
    world.run(now=0.0)
    assert world.log.state.watermarks[("tide", 0)] == 18_000_000
    world.splits = {"a": stamped([10, 30, 40]), "b": stamped([20])}
    world.start()
    world.lane.turn(100.0)
    world.commit(101.0)
    assert world.log.state.watermarks[("tide", 0)] == 38_000_000, "the idle split holds it back"


def test_a_lane_tells_the_newest_event_that_is_committed() -> None:
    world = World({"a": [Item(b"x", i, event_time=i * 1_000_000) for i in range(1, 4)]})
    world.lane.turn(0.0)
    assert world.lane.snapshot()["event_time_us"] is None, "nothing is committed yet"
    world.commit()
    assert world.lane.snapshot()["event_time_us"] == 3_000_000


def test_a_lane_of_garbage_stops_after_its_window() -> None:
    bad = BadFraction(0.1, 100)
    for _ in range(99):
        bad.add(bad=1)
    assert not bad.exceeded, "the window is not full"
    bad.add(bad=1)
    assert bad.exceeded
    bad.add(good=1000)
    assert not bad.exceeded

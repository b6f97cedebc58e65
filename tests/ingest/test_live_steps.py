"""Items of a live lane that are taken together are the same rows, books and places as items taken one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import Broken, Gap, Item
from headrace.ingest import live_lane
from headrace.ingest.dedup import Seen
from headrace.schemas.pipeline import Dedup
from headrace.shards.books import SourceCounts
from headrace.shards.verify import verify

from .live_world import ListFeed, World

TEXT: dict[str, Any] = {"record": {"type": "text", "max_chars": 40}}
SENSOR: dict[str, Any] = {
    "record": {"type": "sensor", "time": "t"},
    "tokenizer": {"sensor": {"type": "raw"}, "text": {"type": "bytes"}},
}
STREAMS: list[dict[str, Any]] = [
    TEXT,
    {**TEXT, "dedup": {"window": 4}},
    {**TEXT, "dedup": {"window": 1000, "by": "content"}},
    SENSOR,
    {**SENSOR, "windows": {"samples": 5}},
    {**SENSOR, "windows": {"seconds": 60}, "dedup": {"window": 1000}},
]
BAD = (b"{", b"", b"\xff\xfe\x00\xd8", b'{"text":1,"text":2}', b'{"t":"never","a":1}')


class Dealt(ListFeed):
    """Gives its items in hands of the sizes that the world has."""

    hands: list[int] = [1]

    def take(self, most: int, most_bytes: int) -> list[Any]:
        self._turn = getattr(self, "_turn", -1) + 1
        return super().take(min(most, self.hands[self._turn % len(self.hands)]), most_bytes)


def payload(kind: int, number: int) -> bytes:
    """A message: text or readings, some of several records, some bad."""
    t = 1_700_000_000 + 7 * number
    if kind < 5:
        return json.dumps({"t": t, "a": number, "text": f"message {number}"}).encode()
    if kind == 5:
        return json.dumps({"t": t, "b": 0.5, "text": f"{number} is long. " * 9}).encode()  # a text in parts
    if kind == 6:
        return json.dumps([{"t": t + i, "a": i, "text": f"{number}.{i}"} for i in range(3)]).encode()
    if kind == 7:
        return json.dumps({"t": t - 600, "a": -1, "text": "late"}).encode()
    return BAD[number % len(BAD)]


def made(kinds: list[int]) -> list[Any]:
    """Items with keys (some twice), event times, gaps and parts that could not be read."""
    out: list[Any] = []
    for number, kind in enumerate(kinds):
        if kind == 9:
            out.append(Gap("trimmed", number, 3))
        elif kind == 10:
            out.append(Broken("corrupt", "torn", number, f'{{"n":{number}}}', b"torn"))
        else:
            key = f"k{number if kind % 2 else number // 3}" if kind else None
            time = (1_700_000_000 + 7 * number) * 1_000_000 if kind != 4 else None
            out.append(Item(payload(kind, number), number, key, time))
    return out


def told(world: World) -> dict[str, Any]:
    """All that a reader, an operator or the next process can see of what was committed."""
    dataset, state = world.dataset(), world.log.state
    rows = {}
    for stream in sorted(state.settings):
        batches = [batch.to_pylist() for batch in dataset.batches(stream)]
        rows[stream] = sorted((row for batch in batches for row in batch), key=lambda row: row["split"])
    report = verify(dataset)
    assert report.problems == []
    quarantine = sorted(str(row) for file in state.quarantine.values() for row in _quarantined(world, file))
    dedup = state.dedup.get(("tide", 0))
    carry = state.carry.get(("tide", 0))
    return {
        "rows": rows,
        "digest": report.content_digest,
        "quarantine": quarantine,
        "books": (state.sources, state.streams),
        "places": sorted(map(str, state.places.items())),
        "gaps": [(gap.split, gap.position, gap.reason, gap.lost) for gap in state.gaps],
        "seen": world.store.get(dedup.path) if dedup and dedup.path else None,
        "open": world.store.get(carry.path) if carry and carry.path else None,
        "acknowledged": world.acked,
        "late": world.lane.late,
    }


def _quarantined(world: World, file: Any) -> list[dict[str, Any]]:
    from headrace.shards.quarantine import read_quarantine

    return [row for batch in read_quarantine(world.store, file) for row in batch.to_pylist()]


def played(monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[Any]], stream: dict[str, Any], hands: list[int],
           deeds: list[int], turn: int = 256) -> dict[str, Any]:  # fmt: skip
    """Everything taken in hands of these sizes; between turns of so many items a cut (1) or a death (2)."""
    monkeypatch.setattr(live_lane, "TURN_ITEMS", turn)
    monkeypatch.setattr("tests.ingest.live_world.ListFeed", type("Hands", (Dealt,), {"hands": hands}))
    world = World(splits, **stream)
    for deed in deeds:
        world.lane.turn(0.0)
        if deed == 1:
            world.commit()
        elif deed == 2:
            world.start()
    world.run()
    return told(world)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10), max_size=40),
    st.lists(st.integers(0, 6), max_size=12),
    st.sampled_from(STREAMS),
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), max_size=12),
    st.sampled_from([1, 2, 256]),
)
def test_any_grouping_gives_what_groups_of_one_give(
    kinds: list[int], others: list[int], stream: dict[str, Any], hands: list[int], deeds: list[int], turn: int
) -> None:
    splits = {"a": made(kinds), "b": made(others)}
    with pytest.MonkeyPatch.context() as patch:
        # Turns decide in which order windows were opened, and so how they lie in the carry file.
        alone = played(patch, splits, stream, [1], [], turn)
        together = played(patch, splits, stream, hands, deeds, turn)
    if deeds:  # what is late depends on when a watermark was committed; the carry file on what was open at the last cut
        for told_ in (alone, together):
            del told_["late"], told_["open"]
    assert together == alone


def test_an_item_that_is_left_for_later_is_not_remembered_by_a_cut_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item(b'{"text":"good"}', 0, key="a"), Item(BAD[3], 1, key="b"), Item(b'{"text":"too"}', 2, key="c")]
    shown = played(monkeypatch, {"a": items}, {**TEXT, "dedup": {"window": 9}}, [3], [1, 2], turn=1)
    assert shown["books"][0]["tide"] == SourceCounts(3, 2, 1, 0)
    assert shown["books"][1]["tide"].duplicates == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 9) | st.none(), max_size=40),
    st.lists(st.integers(0, 9) | st.none(), max_size=20),
    st.integers(1, 6),
    st.integers(0, 20),
)
def test_what_is_taken_back_was_never_remembered(
    before: list[int | None], step: list[int | None], window: int, back: int
) -> None:
    seen = Seen(Dedup(window=window))
    for key in before:
        seen("a", keyed(key))
    states = [seen.to_bytes()]
    for key in step:
        if seen("a", keyed(key)):
            break  # a step ends before an item that came already
        states.append(seen.to_bytes())
    back = min(back, len(states) - 1)
    seen.take_back(back)
    assert seen.to_bytes() == states[-1 - back]
    again = Seen.from_bytes(Dedup(window=window), states[-1 - back], "file")
    assert [seen("a", keyed(key)) for key in range(10)] == [again("a", keyed(key)) for key in range(10)]


def keyed(key: int | None) -> Item:
    return Item(b"x", 0, key=None if key is None else str(key))

"""A live lane without threads, network or disk: items are a list, commits go to a log in memory, a crash is a word.

The lane, its windows, its dedup and the log are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headrace.connectors.contract import Connector, ConnectorConfig, Gap, Item, Split
from headrace.ingest.feed import Trouble
from headrace.ingest.ledger import Ledger
from headrace.ingest.live_lane import LiveLane
from headrace.ingest.live_task import LiveLaneTask, LiveSplit
from headrace.ingest.pipeline_file import make_pipeline
from headrace.ingest.resolve import Runtime
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry, split_digest
from headrace.shards.log import CommitLog
from headrace.shards.testing import MemoryStore

Made = Item | Gap


class Ticker(Connector):
    """What pipelines of these tests name; its items come from a `ListFeed`."""

    Config = ConnectorConfig
    bounded = False

    def splits(self) -> list[Split]:
        return []

    def read(self, split: Split, after: Any) -> Iterator[Any]:
        return iter(())


class ListFeed:
    """Items of a list after a position; `open` says how many may be taken by now."""

    trouble: Trouble | None = None

    def __init__(self, items: Sequence[Made], after: Any, *, ends: bool = False) -> None:
        positions = [item.position for item in items]
        self._items = items
        self._at = 0 if after is None else positions.index(after) + 1
        self._ends = ends
        self.open = len(items)

    def take(self, most: int, most_bytes: int) -> list[Made]:
        taken = list(self._items[self._at : max(self._at, min(self.open, self._at + most))])
        self._at += len(taken)
        return taken

    @property
    def ended(self) -> bool:
        return self._ends and self._at >= len(self._items)

    def stop(self) -> None:
        self.open = 0


class _NoSlot:
    def enter(self, stage: str, suspects: Sequence[Any], stream: str = "") -> None: ...

    def at(self, number: int | None) -> None: ...

    def leave(self) -> None: ...

    def out_of_memory(self) -> None: ...


class World:
    """One stream over some splits; `start` begins a lane from what the log says, as a fresh process would."""

    def __init__(self, splits: dict[str, Sequence[Made]], *, ends: bool = False, **stream: Any) -> None:
        section = {
            "source": {"type": "./live_world.py:Ticker"},
            "record": {"type": "text"},
            "tokenizer": {"type": "bytes"},
            **stream,
        }
        here = Path(__file__).parent
        self.runtime = Runtime.of(make_pipeline({"streams": {"tide": section}}, base=here), "memory", here)
        self.stream = self.runtime.resolve("tide")
        self.store = MemoryStore()
        self.log = CommitLog(self.store)
        self.epoch = self.log.claim({}, {})
        self.tokenizers = Ledger(self.log, {"tide": self.stream}).claim_settings(self.stream, {})
        self.splits = splits
        self._ends = ends
        self.lane: LiveLane
        self.acked: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """Begin the lane anew: what was not committed is forgotten."""
        state = self.log.state
        live = []
        for name in self.splits:
            at = state.place("tide", 0, split_digest(name))
            place = (None, 0, False) if at is None else (at.position, at.k, True)
            live.append(LiveSplit(Split(name, bounded=False), *place))
        key = ("tide", 0)
        task = LiveLaneTask(
            "tide", 0, live, {}, tokenizers=self.tokenizers, dedup=state.dedup.get(key), carry=state.carry.get(key)
        )
        task = LiveLaneTask.from_json(json.loads(json.dumps(task.to_json())))
        self.lane = LiveLane(
            task, self.stream, self.runtime, self.store, _NoSlot(), epoch=self.epoch, source="ticker",
            feed=lambda split: ListFeed(self.splits[split.split.id], split.position, ends=self._ends), now=0.0,
        )  # fmt: skip

    def commit(self, now: float = 0.0) -> bool:
        """Cut and append; whether there was anything."""
        manifest = self.lane.cut(now)
        if manifest is None:
            return False
        self.log.append(Entry.from_json(json.loads(json.dumps(manifest))))
        self.acked.update({split.id: position for split, position in self.lane.committed()})
        self.lane.finished()
        return True

    def run(self, now: float = 0.0) -> None:
        """Take everything there is, and commit it."""
        while self.lane.turn(now):
            pass
        self.commit(now)

    def dataset(self) -> Dataset:
        """What readers see."""
        return Dataset(self.store)

    def column(self, name: str, stream: str = "tide") -> list[Any]:
        """A column of all samples, in address order."""
        return [v for batch in self.dataset().batches(stream) for v in batch.column(name).to_pylist()]

"""A lane of a few lines, for most of the many histories: log, spool, stores, dedup, gc and files are the real ones.

It is writer and lane in one process: it claims, reads a split from its place on, cuts, appends, acknowledges. What it
leaves out: services, workers and their messages, walks (so an item is taken whole or not at all), windows, watermarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headrace.connectors.contract import Gap, Idle, Item, Split
from headrace.ingest.dedup import Seen
from headrace.schemas.errors import Fenced, LogError, SourceError, StorageError
from headrace.shards.books import Books, SplitCounts, StreamCounts
from headrace.shards.entry import (
    Entry,
    GapInfo,
    LaneFile,
    Place,
    PlaceMove,
    Range,
    StreamSettings,
    lane_file,
    split_digest,
)
from headrace.shards.log import CommitLog
from headrace.shards.names import lane_file_name
from headrace.shards.state import StalePlace

from .paper import PaperBatch, PaperQuarantineWriter, PaperShardWriter
from .scheduler import Process
from .sources import FATES

if TYPE_CHECKING:
    from .world import World

SETTINGS = {name: StreamSettings(name, "text") for name in ("push", "quay")}


class ThinLane:
    """Reads, cuts and commits one split at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._log = CommitLog(world.store)
        self._connectors = {name: world.runtime.streams[name].make_connector() for name in world.stream_names}

    def claim(self) -> None:
        self._log.claim({}, SETTINGS)
        self._world.counts["claims"] += 1

    def end(self) -> None:
        self._log.end()

    def splits(self) -> list[tuple[str, Split]]:
        return [
            (name, split)
            for name, connector in self._connectors.items()
            for split in connector.splits()
            if self._world.dice.random() < 0.8 or not self._world.scheduler.storm
        ]

    def commit(self, source: str, split: Split, most: int) -> bool:
        """One cut of a split: whether there was anything. Raises: StalePlace, Fenced, StorageError, SourceError."""
        log, store = self._log, self._world.store
        digest = split_digest(split.id)
        begin = log.state.place(source, 0, digest)
        after = begin.position if begin else None
        seen = self._seen(source)
        upto, taken, gaps, duplicates = after, [], [], 0
        for read in self._some(source, split, after, most):
            if isinstance(read, Gap):
                gaps.append(GapInfo(source, digest, read.position, read.reason, read.lost))
            elif seen is not None and seen(split.id, read):
                duplicates += 1
            else:
                taken.append(read)
            upto = read.position
        if upto == after:
            return False
        add, quarantine, whole, parts, bad = self._files(source, split, taken, Range(digest, after, 0, upto, 0, 0))
        dedup = [] if seen is None or not seen.changed else [self._lane_file(source, seen, store)]
        items = len(taken) + duplicates
        log.append(
            Entry(
                kind="commit",
                add=add,
                quarantine=quarantine,
                gaps=gaps,
                dedup=dedup,
                places=[PlaceMove(source, 0, Place(position=upto), begin, digest)],
                books=Books(
                    [SplitCounts(source, digest, after, 0, upto, 0, items, items - whole, whole)],
                    {source: StreamCounts(parts + bad + duplicates, parts, bad, duplicates=duplicates)},
                ),
            )
        )
        self._world.counts["lane commits"] += 1
        self._connectors[source].ack(split, upto)
        return True

    def _some(self, source: str, split: Split, after: Any, most: int) -> Iterator[Item | Gap]:
        reads = self._connectors[source].read(split, after)
        for _ in range(most):
            read = next(reads, None)
            if read is None or isinstance(read, Idle):
                return
            yield read

    def _files(
        self, source: str, split: Split, taken: list[Item], whence: Range
    ) -> tuple[list[Any], list[Any], int, int, int]:
        """(shards, quarantine files, items refused as a whole, samples, records refused)."""
        store, epoch = self._world.store, self._log.epoch or 0
        rows, refused = [], []
        for item in taken:
            assert isinstance(item.data, bytes)
            payload = item.data.decode()
            name = payload.partition(":")[2]
            for number, fate in FATES[payload[0]]:
                if fate == "data":
                    rows.append([split.id, item.position, f"{name}#{number}"])
                else:
                    refused.append((item.position, payload, f'{{"row":"{name}#{number}"}}', number is None))
        add, quarantine = [], []
        if rows:
            shard = PaperShardWriter(store, source, 0, epoch, None)
            shard.append(PaperBatch(rows))
            span = Range(whence.split, whence.after, 0, whence.upto, 0, len(rows))
            add.append(shard.close([span]))
        if refused:
            file = PaperQuarantineWriter(store, source, epoch)
            for position, payload, locator, whole in refused:
                raw = payload.encode()
                file.add(
                    reason="corrupt", split=split.id, position=position, raw=raw, locator=locator, whole=whole
                )  # fmt: skip
            quarantine.append(file.close())
        whole = sum(r[3] for r in refused)
        return add, quarantine, whole, len(rows), len(refused) - whole

    def _seen(self, source: str) -> Seen | None:
        settings = self._world.runtime.streams[source].dedup
        if settings is None:
            return None
        file = self._log.state.dedup.get((source, 0))
        if file is None or file.path is None:
            return Seen(settings)
        return Seen.from_bytes(settings, self._world.store.get(file.path), file.path)

    def _lane_file(self, source: str, seen: Seen, store: Any) -> LaneFile:
        data, name = seen.to_bytes(), lane_file_name("dedup", source, 0, self._log.epoch or 0)
        store.put_new(name, data)
        made = lane_file(source, 0, name, data)
        if "expect" not in LaneFile.__dataclass_fields__:
            return made
        before = self._log.state.dedup.get((source, 0))
        return replace(made, expect=before.path if before else None)


def thin_writer(world: World) -> Callable[[Process], None]:
    """Claims and commits until it is fenced, or has had enough."""

    def body(process: Process) -> None:
        lane = ThinLane(world)
        try:
            lane.claim()
            process.service = lane
            for _ in range(world.dice.randint(2, 5)):
                for source, split in lane.splits():
                    try:
                        lane.commit(source, split, world.dice.randint(1, 7))
                    except StalePlace:
                        world.counts["commits refused"] += 1
                world.clock.sleep(0.5)
        except Fenced:
            world.counts["writers fenced"] += 1
        except (StorageError, SourceError, LogError):
            return  # another one begins

    return body


def finish_thinly(world: World) -> None:
    """What is left, by one writer in calm weather."""
    lane = ThinLane(world)
    lane.claim()
    for source, split in lane.splits():
        while lane.commit(source, split, 1000):
            pass
    lane.end()

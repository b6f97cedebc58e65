"""A lane of unbounded splits: takes items in turns, and cuts when its service says that it is time.

Each split has a walk of its own over its feed, so a place means what it means in a build: the position of the last item
fully taken, and how many outputs of the next. Nothing here knows threads, clocks or the network: feeds are given, time
is passed in. So the same code runs in a child process and under the simulator.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from headrace.connectors.contract import Split
from headrace.ingest.bad_fraction import BadFraction
from headrace.ingest.dedup import Seen
from headrace.ingest.events import Batch, Duplicate, Event, GapSeen, ItemDone, Nothing, Refused, SplitDone
from headrace.ingest.feed import Feed
from headrace.ingest.lane_books import SplitBooks
from headrace.ingest.lane_output import LaneOutput
from headrace.ingest.live_task import LiveLaneTask, LiveSplit
from headrace.ingest.messages import Queued
from headrace.ingest.meter import of_lane
from headrace.ingest.open_windows import OpenWindows
from headrace.ingest.origin import Origin
from headrace.ingest.place import Place, PlanRow
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.walk import InFlight, Walk
from headrace.shards import entry as log
from headrace.shards.names import lane_file_name
from headrace.shards.store import Store

TURN_ITEMS = 256  #: of one split before the next has its turn
TURN_S = 0.25  #: after which it has it too; who has the turn never enters the rows
MAX_BAD_FRACTION = 0.1


class _Reading:
    """One split of the lane."""

    def __init__(self, live: LiveSplit, feed: Feed, walk: Walk, now: float) -> None:
        self.row = PlanRow(0, 0, live.split)
        self.digest = log.split_digest(live.split.id)
        self.feed = feed
        self.walk = walk
        self.events: Iterator[Event] = iter(walk)
        self.position, self.k, self.begun = live.position, live.k, live.begun  # as committed
        self.last_data = now
        self.latest_us: int | None = None  #: newest event time taken
        self.committed_us: int | None = None  #: newest event time committed
        self.over = False
        self.at = Place(0, 0, live.position, live.k)  #: where the walk stands
        self.flushed = False  #: its open windows were closed because it is over
        self.last_origin: Origin | None = None

    @property
    def moved(self) -> bool:
        """Whether anything was taken since the last commit."""
        return self.flushed or (self.at.position, self.at.k) != (self.position, self.k)


class LiveLane:
    """One lane. `turn` takes items, `cut` closes them into a manifest, `committed` says that the log has it."""

    def __init__(
        self,
        task: LiveLaneTask,
        stream: ResolvedStream,
        runtime: Runtime,
        store: Store,
        slot: InFlight,
        *,
        epoch: int,
        source: str,
        feed: Callable[[LiveSplit], Feed],
        now: float,
    ) -> None:
        self.task = task
        self.stream = stream
        self.stopped: str | None = None  #: why the lane takes nothing any more
        self._store = store
        self._slot = slot
        self._epoch = epoch
        self._make_feed = feed
        self._readings: dict[str, _Reading] = {}
        self._turns: deque[str] = deque()
        self._seen = self._remembered()
        self._books = SplitBooks(stream.name, self._begin)
        self._output = LaneOutput(
            stream,
            runtime,
            store,
            slot,
            lane=task.lane,
            epoch=epoch,
            tokenizers=task.tokenizers,
            convictions=task.convictions,
            books=self._books,
            source=source,
            retired=task.retired,
        )
        self._windows = self._open_windows()
        self._bad = BadFraction(stream.spec.max_bad_fraction or MAX_BAD_FRACTION)
        self._pending_since: float | None = None
        self.proved = False  #: something of it was committed since it began here
        self._files: tuple[list[log.LaneFile], list[log.LaneFile]] = ([], [])  #: of the cut under way
        self._watermark_us = task.watermark_us
        self.busy_s = self.waited_s = 0.0  #: seconds that its loop spent on it, and how many of them for commits
        self._walked: dict[str, float] = {"read": 0.0, "wait": 0.0, "normalize": 0.0}  #: seconds of all its walks
        self.late = 0
        for live in task.splits:
            self.add(live, now)

    # -- splits -------------------------------------------------------------------------------------------------------

    def add(self, live: LiveSplit, now: float) -> None:
        """Begin to read a split; one that is read already is left alone."""
        if live.split.id in self._readings:
            return
        feed = self._make_feed(live)
        walk = Walk(
            Queued(feed),
            self.stream.make_normalizer(),
            [PlanRow(0, 0, live.split)],
            Place(0, 0, live.position, live.k),
            self.task.convictions,
            self._slot,
            seen=self._seen,
        )
        walk.seconds = self._walked
        self._readings[live.split.id] = _Reading(live, feed, walk, now)
        self._turns.append(live.split.id)

    def resumed(self, task: LiveLaneTask) -> LiveLaneTask:
        """The task with the places and files that this lane has committed by now."""
        at = {id_: (r.position, r.k, r.begun) for id_, r in self._readings.items()}
        splits = [LiveSplit(s.split, *at[s.split.id]) if s.split.id in at else s for s in task.splits]
        mine = self.task
        return dataclasses.replace(
            task, splits=splits, dedup=mine.dedup, carry=mine.carry, watermark_us=self._watermark_us
        )

    def splits(self) -> list[str]:
        """The ids of the splits that are read."""
        return list(self._readings)

    def stop(self) -> None:
        """Take nothing any more."""
        for reading in self._readings.values():
            reading.feed.stop()

    def abort(self) -> None:
        """Leave nothing of what was not committed."""
        self.stop()
        self._output.abort()

    # -- taking -------------------------------------------------------------------------------------------------------

    def turn(self, now: float) -> bool:
        """Give the next split its turn; whether anything was taken."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            reading = self._readings[self._turns[-1]]
            if not reading.over and self.stopped is None and self._take(reading, now):
                return True
        return False

    def _take(self, reading: _Reading, now: float) -> bool:
        items, began = 0, time.monotonic()
        took = False
        for event in reading.events:
            if isinstance(event, Nothing):
                break
            took = True
            whole = False
            if isinstance(event, SplitDone):
                self._split_done(reading)
                break
            if isinstance(event, Batch):
                self._taken(reading, event)
                reading.last_origin = event.origin
                items += len(event.origins) - 1
            elif isinstance(event, Refused):
                self._output.refuse(event)
                self._bad.add(bad=1)
                whole = event.whole_item and event.stage != "read"
            elif isinstance(event, ItemDone):
                self._done(event, reading)
                items += 1
            elif isinstance(event, Duplicate):
                self._output.duplicate(event)
                items += 1
            elif isinstance(event, GapSeen):
                self._output.gap(event)
            reading.at = reading.walk.place
            self._books.reach(reading.row.split.id, reading.at)
            if whole:
                continue  # its item is done with the next event: the two belong into one commit
            if items >= TURN_ITEMS or self.full or time.monotonic() - began > TURN_S:
                break
        if took:
            reading.last_data = now
            if self._pending_since is None:
                self._pending_since = now
            if self._bad.exceeded and self.stopped is None:
                self.stopped = self._bad.message()
        return took

    def _taken(self, reading: _Reading, event: Batch) -> None:
        self._bad.add(good=event.draft.num_rows)
        self._look_at_times(reading, event)
        ended = len(event.origins) - 1  # the last item's end is an event of its own
        if self._windows is None or event.modality != "sensor":
            self._output.take(event)
            still_open = 0
        else:
            windows, still_open = self._windows.add(event)
            for window in windows:
                self._output.take(window)
            self._close_later(reading)  # at once: a cut may follow, and what left belongs to its books
        if ended:
            self._output.items_done(reading.row, ended, closed=ended - still_open)

    def _look_at_times(self, reading: _Reading, event: Batch) -> None:
        """Note the newest event time, and the records of items that came behind the watermark."""
        for origin, latest in zip(event.origins, event.latest_us()):
            if latest is None:
                continue
            if self._watermark_us is not None and latest < self._watermark_us:
                self.late += origin.rows
            if reading.latest_us is None or latest > reading.latest_us:
                reading.latest_us = latest

    def _done(self, event: ItemDone, reading: _Reading) -> None:
        still_open = self._windows is not None and not event.whole and self._windows.end_item(reading.digest)
        self._output.item_done(event, still_open=still_open)

    def _split_done(self, reading: _Reading) -> None:
        reading.over = True
        if self._windows is not None:
            for closed in self._windows.end_split(reading.digest, reading.last_origin):
                self._books.reach(reading.row.split.id, reading.at)
                self._output.take(closed)
                reading.flushed = True
            self._close_later(reading)
        if self._seen is not None:
            self._seen.forget(reading.row.split.id)

    def _close_later(self, reading: _Reading) -> None:
        """Items of the split that had ended before and whose last reading has left now."""
        if self._windows is not None and (count := self._windows.take_closed().pop(reading.digest, 0)):
            self._books.line(reading.row.split.id).closed += count

    @property
    def full(self) -> bool:
        """Whether a shard has reached its size, so that the lane should cut now."""
        shards = self.stream.spec.shards
        return self._output.payload >= shards.payload_mib * (1 << 20) or self._output.written >= shards.target_mib * (
            1 << 20
        )

    def waits_since(self) -> float | None:
        """When the first item came that is not committed."""
        return self._pending_since

    # -- committing ---------------------------------------------------------------------------------------------------

    def cut(self, now: float) -> dict[str, Any] | None:
        """Close everything that is open: one part of a log entry, or None if nothing was taken."""
        self._output.flush()
        moved = [r for r in self._readings.values() if r.moved]
        if not moved:
            self._pending_since = None
            return None
        closed = self._output.close()
        places = [
            log.PlaceMove(
                self.stream.name,
                self.task.lane,
                log.Place(position=r.at.position, k=r.at.k),
                log.Place(position=r.position, k=r.k) if r.begun else None,
                r.digest,
            )
            for r in moved
        ]
        watermark = self._next_watermark(now)
        entry = log.Entry(
            kind="commit",
            add=closed.add,
            quarantine=closed.quarantine,
            places=places,
            gaps=closed.gaps,
            books=closed.books,
            watermarks=[log.Watermark(self.stream.name, self.task.lane, watermark)] if watermark is not None else [],
            dedup=self._lane_files("dedup", self._seen),
            carry=self._lane_files("carry", self._windows),
            ext=closed.ext,
        )
        self._files = (entry.dedup, entry.carry)
        return entry.to_json()

    def committed(self) -> list[tuple[Split, Any]]:
        """The log has the last cut: (split, position) pairs that may now be acknowledged."""
        out = []
        for reading in self._readings.values():
            if reading.moved:
                if reading.at.position != reading.position:
                    out.append((reading.row.split, reading.at.position))
                reading.position, reading.k, reading.begun = reading.at.position, reading.at.k, True
                reading.flushed = False
                reading.committed_us = reading.latest_us
        self._books.restart()
        self._pending_since, self.proved = None, True
        dedup, carry = self._files
        self.task = dataclasses.replace(
            self.task, dedup=dedup[0] if dedup else self.task.dedup, carry=carry[0] if carry else self.task.carry
        )
        return out

    def finished(self) -> list[str]:
        """Splits that are over and committed to their end; they are dropped."""
        done = [id_ for id_, r in self._readings.items() if r.over and not r.moved]
        for id_ in done:
            del self._readings[id_]
            self._turns.remove(id_)
        return done

    def _lane_files(self, kind: str, state: Seen | OpenWindows | None) -> list[log.LaneFile]:
        if state is None or not state.changed:
            return []
        data = state.to_bytes()
        name = lane_file_name(kind, self.stream.name, self.task.lane, self._epoch)
        self._store.put_new(name, data)
        before = self.task.dedup if kind == "dedup" else self.task.carry
        return [log.lane_file(self.stream.name, self.task.lane, name, data, before)]

    def _remembered(self) -> Seen | None:
        settings, file = self.stream.dedup, self.task.dedup
        if settings is None:
            return None
        if file is None or file.path is None:
            return Seen(settings)
        return Seen.from_bytes(settings, self._store.get(file.path), file.path)

    def _open_windows(self) -> OpenWindows | None:
        settings, file = self.stream.spec.windows, self.task.carry
        if settings is None:
            return None
        if file is None or file.path is None:
            return OpenWindows(settings)
        return OpenWindows.from_bytes(settings, self._store.get(file.path), file.path)

    def _begin(self, split_id: str) -> tuple[Any, int]:
        reading = self._readings[split_id]
        return reading.position, reading.k

    # -- event time ---------------------------------------------------------------------------------------------------

    def _next_watermark(self, now: float) -> int | None:
        """Event time up to which nothing more is expected: the slowest split's newest event, idle splits aside."""
        live = self.stream.spec.live
        active = [r for r in self._readings.values() if now - r.last_data < live.idle_after_s]
        times = [r.latest_us for r in active]
        if not times or any(t is None for t in times):
            return self._watermark_us
        reached = min(t for t in times if t is not None) - int(live.lateness_s * 1e6)
        if self._watermark_us is None or reached > self._watermark_us:
            self._watermark_us = reached
        return self._watermark_us

    def seconds(self) -> dict[str, float]:
        """Where its time went (see meter.py)."""
        return of_lane(self.busy_s, self.waited_s, self._walked, self._output.seconds)

    def snapshot(self) -> dict[str, Any]:
        """Counters and troubles, for the status page."""
        troubles = []
        for reading in self._readings.values():
            trouble = reading.feed.trouble
            if trouble is not None:
                troubles.append(
                    {
                        "split": reading.row.split.id,
                        "message": trouble.message,
                        "since": trouble.since,
                        "parked": trouble.parked,
                        "next_try": trouble.next_try,
                    }
                )
        latest = [r.committed_us for r in self._readings.values() if r.committed_us is not None]
        return {
            "stream": self.stream.name,
            "lane": self.task.lane,
            "splits": len(self._readings),
            "total": self._output.total,
            "seconds": self.seconds(),
            "event_time_us": max(latest, default=None),
            "watermark_us": self._watermark_us,
            "late": self.late,
            "open_items": self._windows.open_items if self._windows else 0,
            "stopped": self.stopped,
            "troubles": troubles,
        }

"""Encodes a bounded lane: walks it and commits at places that data alone decides.

What becomes of the walk's events is in lane_output.py. The manifest that a cut hands over is one part of a log entry.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from headrace.connectors.contract import Connector
from headrace.ingest.events import Batch, Duplicate, GapSeen, ItemDone, Nothing, Refused, SplitDone
from headrace.ingest.lane_books import SplitBooks
from headrace.ingest.lane_output import LaneOutput
from headrace.ingest.meter import of_lane
from headrace.ingest.place import Place
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import InFlight, Walk
from headrace.schemas.errors import EngineMismatch
from headrace.shards import entry as log
from headrace.shards.store import Store

_PROGRESS_S = 0.5


class CommitChannel(Protocol):
    """How a lane commits and tells of its progress."""

    def commit(self, manifest: dict[str, Any]) -> None:
        """Returns when the manifest is committed."""

    def progress(self, counters: dict[str, Any]) -> None:
        """Counters since the start of the task."""


def encode_lane(
    task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight, channel: CommitChannel
) -> dict[str, Any]:
    """Encode what is left of a lane, committing through `channel`. Gives back the counters of this run."""
    connector = stream.make_connector()
    try:
        lane = _Lane(task, stream, runtime, store, slot, channel, connector)
        try:
            return lane.run()
        except EngineMismatch:
            lane.abort()
            raise
    finally:
        connector.close()


class _Lane:
    def __init__(
        self,
        task: Task,
        stream: ResolvedStream,
        runtime: Runtime,
        store: Store,
        slot: InFlight,
        channel: CommitChannel,
        connector: Connector,
    ) -> None:
        self._task = task
        self._stream = stream
        self._channel = channel
        self._walk = Walk(connector, stream.make_normalizer(), task.rows, task.place, task.convictions, slot)
        self._committed = task.place
        self._books = SplitBooks(stream.name, self._begin)
        self._cut_split = self._split_at(task.place)
        self._output = LaneOutput(
            stream,
            runtime,
            store,
            slot,
            lane=task.lane,
            epoch=task.epoch,
            tokenizers=task.tokenizers,
            convictions=task.convictions,
            books=self._books,
            source=connector.describe(),
            retired=task.retired,
        )
        self._waited = 0.0  #: seconds for commits
        self._told = self._began = self._cut_at = time.perf_counter()

    def run(self) -> dict[str, Any]:
        shards, output = self._stream.spec.shards, self._output
        for event in self._walk:
            if isinstance(event, Batch):
                output.take(event)
            elif isinstance(event, Refused):
                output.refuse(event)
            elif isinstance(event, ItemDone):
                output.item_done(event)
            elif isinstance(event, GapSeen):
                output.gap(event)
            elif isinstance(event, SplitDone):
                output.total["splits"] += 1
            elif isinstance(event, (Nothing, Duplicate)):
                continue  # a bounded source is never idle, and a build looks for no duplicates
            if not isinstance(event, SplitDone):
                row = event.origin.row if isinstance(event, Batch) else event.row
                self._books.reach(row.split.id, self._walk.place)
            self._tell()
            if isinstance(event, Refused) and event.whole_item and event.stage != "read":
                continue  # its item is done with the next event: the two belong into one commit
            full = output.payload >= shards.payload_mib * (1 << 20) or output.written >= shards.target_mib * (1 << 20)
            if full or self._is_late():
                self._cut(self._walk.place)
        self._cut(self._task.end)
        self._tell(force=True)
        return self.counters()

    def _is_late(self) -> bool:
        """Whether a service wants a commit by now, however little there is; a build cuts by data alone."""
        delay = self._task.max_commit_delay_s
        return delay is not None and time.perf_counter() - self._cut_at >= delay

    def _begin(self, split_id: str) -> tuple[Any, int]:
        """Where a split's line begins that was not touched since the last cut."""
        begun = not self._books.lines and split_id == self._cut_split
        return (self._committed.position, self._committed.k) if begun else (None, 0)

    def _split_at(self, place: Place) -> str | None:
        here = (place.segment, place.row)
        return next((row.split.id for row in self._task.rows if (row.segment, row.row) == here), None)

    def _cut(self, place: Place) -> None:
        """Close everything that is open and commit it; returns when it is durable."""
        self._output.flush()
        self._cut_at = time.perf_counter()
        if place == self._committed:
            return
        cut = self._output.close()
        expect = None if self._committed == Place() else _log_place(self._committed)
        manifest = log.Entry(
            kind="commit",
            add=cut.add,
            quarantine=cut.quarantine,
            places=[log.PlaceMove(self._stream.name, self._task.lane, _log_place(place), expect)],
            gaps=cut.gaps,
            books=cut.books,
            ext=cut.ext,
        )
        handed_over = time.perf_counter()
        self._channel.commit(manifest.to_json())
        self._waited += time.perf_counter() - handed_over
        self._committed = place
        self._cut_split = self._split_at(place)
        self._books.restart()

    def abort(self) -> None:
        """Leave nothing of what was not committed."""
        self._output.abort()

    def counters(self) -> dict[str, Any]:
        """What this run did so far."""
        elapsed = time.perf_counter() - self._began
        seconds = of_lane(elapsed, self._waited, self._walk.seconds, self._output.seconds)
        return {**self._output.total, "seconds": seconds}

    def _tell(self, force: bool = False) -> None:
        now = time.perf_counter()
        if force or now - self._told >= _PROGRESS_S:
            self._told = now
            self._channel.progress(self.counters())


def _log_place(place: Place) -> log.Place:
    return log.Place(place.segment, place.row, place.position, place.k)

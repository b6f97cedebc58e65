"""What a child process does for live streams: reads many lanes at once and commits them together.

Readers run in threads and wait for the network; one thread decodes, because a crash must tell what was in flight. All
lanes that have waited long enough cut together, so that one log entry covers them. Twice a second the service is asked
what has changed: it answers with the lanes that this process should have now.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

from headrace.connectors.contract import Connector, Split
from headrace.ingest.feed import ThreadFeed
from headrace.ingest.live_lane import LiveLane
from headrace.ingest.live_task import LiveLaneTask, LiveSplit
from headrace.ingest.meter import added
from headrace.ingest.origin import Suspects
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import InFlight
from headrace.schemas.errors import HeadraceError
from headrace.shards.store import Store

_logger = logging.getLogger(__name__)

_POLL_S = 0.5
_IDLE_S = 0.05
_CLOSE_S = 10.0  #: how long a reader may take to end
_FIRST_S = 1.0  #: before the first commit after a start: what was lost by a kill is there again soon, and seen to be


class LiveChannel(Protocol):
    """How the loop speaks to its service."""

    def commit_lanes(self, manifests: list[dict[str, Any]]) -> None:
        """Returns when all are committed."""

    def poll(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """Tell how things stand. {}: go on; {"lanes": […]}: have these lanes from now on; {"drain": true}: end."""


class _LaneSlot:
    """Says in the slot which stream the step in flight belongs to, since one process serves several."""

    def __init__(self, slot: InFlight, stream: str) -> None:
        self._slot = slot
        self._stream = stream

    def enter(self, stage: str, suspects: Sequence[Suspects], stream: str = "") -> None:
        self._slot.enter(stage, suspects, stream or self._stream)

    def at(self, number: int | None) -> None:
        self._slot.at(number)

    def leave(self) -> None:
        self._slot.leave()

    def out_of_memory(self) -> None:
        self._slot.out_of_memory()


class LiveLoop:
    """Runs the lanes of one task until told to end."""

    def __init__(self, task: Task, runtime: Runtime, store: Store, slot: InFlight) -> None:
        self._epoch = task.epoch
        self._streams: dict[str, tuple[int, ResolvedStream]] = {}  #: with the version of its section
        self._runtime = runtime
        self._store = store
        self._slot = slot
        self._ready = threading.Event()
        self._connectors: dict[str, Connector] = {}
        self._feeds: dict[tuple[str, str], ThreadFeed] = {}
        self._lanes: dict[str, LiveLane] = {}
        self._began = time.perf_counter()
        self._idle_s = 0.0  #: seconds in which no lane had anything
        self._left: list[dict[str, float]] = []  #: one sum: the seconds of lanes that are gone
        self._left_busy_s = 0.0
        self._finished: list[list[Any]] = []  # [stream, lane, split id] of splits that are over
        for value in task.lanes:
            self._open(LiveLaneTask.from_json(value))

    def run(self, channel: LiveChannel) -> dict[str, Any]:
        """Serve until the service says to drain; what was taken is committed then."""
        polled = 0.0
        try:
            while True:
                now = time.monotonic()
                if now - polled >= _POLL_S:
                    polled = now
                    asked = time.perf_counter()
                    answer = channel.poll(self.snapshot())
                    self._idle_s += time.perf_counter() - asked
                    if answer.get("drain"):
                        self._cut(list(self._lanes.values()), channel)
                        channel.poll(self.snapshot())
                        return {}
                    if "lanes" in answer:
                        self._change([LiveLaneTask.from_json(value) for value in answer["lanes"]], channel)
                self._ready.clear()
                took = False
                for lane in list(self._lanes.values()):
                    began = time.perf_counter()
                    took = lane.turn(time.monotonic()) or took
                    lane.busy_s += time.perf_counter() - began
                    if lane.full:
                        self._cut([lane], channel)
                due = self._due(time.monotonic())
                if due:
                    self._cut(due, channel)
                if not took:
                    began = time.perf_counter()
                    self._ready.wait(_IDLE_S)
                    self._idle_s += time.perf_counter() - began
        finally:
            self._close()

    def snapshot(self) -> dict[str, Any]:
        """How the lanes stand, for the service."""
        finished, self._finished = self._finished, []
        return {
            "lanes": [lane.snapshot() for lane in self._lanes.values()],
            "finished": finished,
            "node": os.uname().nodename,
            "pid": os.getpid(),
            "rss_bytes": _resident_bytes(),
            "seconds": self._seconds(),
        }

    def _seconds(self) -> dict[str, float]:
        """Where the time of this process went (see meter.py)."""
        out = added([*self._left, *(lane.seconds() for lane in self._lanes.values()), {"wait": self._idle_s}])
        busy = self._left_busy_s + sum(lane.busy_s for lane in self._lanes.values())
        out["total"] = time.perf_counter() - self._began + out.get("total", 0.0) - busy
        return out

    # -- lanes --------------------------------------------------------------------------------------------------------

    def _open(self, task: LiveLaneTask) -> None:
        version, _ = self._streams.get(task.stream, (0, None))
        if version != task.version:
            self._streams[task.stream] = (
                task.version,
                self._runtime.with_stream(task.stream, task.spec).resolve(task.stream),
            )
        stream = self._streams[task.stream][1]
        if task.stream not in self._connectors:
            self._connectors[task.stream] = stream.make_connector()
        connector = self._connectors[task.stream]
        self._lanes[task.key] = LiveLane(
            task,
            stream,
            self._runtime,
            self._store,
            _LaneSlot(self._slot, task.stream),
            epoch=self._epoch,
            source=connector.describe(),
            feed=lambda live: self._feed(task.stream, live),
            now=time.monotonic(),
        )
        for live in task.splits:
            if live.begun and live.position is not None:  # a process before us may have died before it said so
                _acknowledge(connector, live.split, live.position)

    def _feed(self, stream: str, live: LiveSplit) -> ThreadFeed:
        feed = ThreadFeed(
            self._connectors[stream],
            live.split,
            live.position,
            credit_bytes=int(self._streams[stream][1].spec.live.buffer_mib * (1 << 20)),
            ready=self._ready.set,
            seed=zlib.crc32(f"{stream}/{live.split.id}".encode()),
        )
        self._feeds[stream, live.split.id] = feed
        return feed

    def _change(self, tasks: list[LiveLaneTask], channel: LiveChannel) -> None:
        """Have exactly these lanes from now on; those that stay go on undisturbed."""
        wanted = {task.key: task for task in tasks}
        leaving = []
        for key, lane in self._lanes.items():
            task = wanted.get(key)
            taken = set(lane.splits()) - {live.split.id for live in task.splits} if task else set()
            if task is None or taken or lane.task.version != task.version:
                leaving.append(lane)
        if leaving:
            self._cut(leaving, channel)
            for lane in leaving:
                self._leave(lane)
                task = wanted.pop(lane.task.key, None)
                if task is not None:  # a split was taken away, or the stream changed: anew from the commit just made
                    self._open(lane.resumed(task))
        for key, task in wanted.items():
            if key not in self._lanes:
                self._open(task)
            else:
                for live in task.splits:
                    self._lanes[key].add(live, time.monotonic())

    def _leave(self, lane: LiveLane) -> None:
        lane.abort()
        self._left = [added([*self._left, lane.seconds()])]
        self._left_busy_s += lane.busy_s
        del self._lanes[lane.task.key]
        for id_ in lane.splits():
            feed = self._feeds.pop((lane.task.stream, id_), None)
            if feed is not None:
                feed.join(_CLOSE_S)
        if all(other.task.stream != lane.task.stream for other in self._lanes.values()):
            connector = self._connectors.pop(lane.task.stream, None)
            if connector is not None:
                connector.close()

    # -- commits ------------------------------------------------------------------------------------------------------

    def _due(self, now: float) -> list[LiveLane]:
        """The lanes that cut now: when one has waited its time, those that have waited half of theirs come along."""
        waiting = []
        for lane in self._lanes.values():
            since = lane.waits_since()
            if since is not None:
                every = lane.stream.spec.live.commit_every_s
                waiting.append((lane, (now - since) / (every if lane.proved else min(every, _FIRST_S))))
        if not any(share >= 1 or lane.stopped for lane, share in waiting):
            return []
        return [lane for lane, share in waiting if share >= 0.5 or lane.stopped]

    def _cut(self, lanes: list[LiveLane], channel: LiveChannel) -> None:
        now = time.monotonic()
        closed = []
        for lane in lanes:
            began = time.perf_counter()
            if (manifest := lane.cut(now)) is not None:
                closed.append((lane, manifest))
            lane.busy_s += time.perf_counter() - began
        if not closed:
            return
        began = time.perf_counter()
        channel.commit_lanes([manifest for _, manifest in closed])
        waited = (time.perf_counter() - began) / len(closed)
        for lane, _ in closed:
            lane.busy_s += waited
            lane.waited_s += waited
            connector = self._connectors[lane.task.stream]
            for split, position in lane.committed():
                _acknowledge(connector, split, position)
            for id_ in lane.finished():
                self._finished.append([lane.task.stream, lane.task.lane, id_])
                self._feeds.pop((lane.task.stream, id_), None)

    def _close(self) -> None:
        for lane in self._lanes.values():
            lane.abort()
        for feed in self._feeds.values():
            feed.join(_CLOSE_S)
        for connector in self._connectors.values():
            connector.close()


def _acknowledge(connector: Connector, split: Split, position: Any) -> None:
    """Tell the source; one that does not hear it is told again with the next commit."""
    try:
        connector.ack(split, position)
    except (HeadraceError, OSError) as exc:
        _logger.warning("%s: not acknowledged: %s", split.id, exc)


def _resident_bytes() -> int | None:
    """Resident memory of this process. Source: proc(5), /proc/PID/statm."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None

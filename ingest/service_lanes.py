"""Which worker has which live lanes.

A lane has one owner. It moves only after its owner has left it or is gone; even then a commit of two owners could not
both stand, since the log expects the place before. Lanes are spread evenly and stay where they are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.ingest.live_task import LiveLaneTask, LiveSplit
from headrace.ingest.task import Task

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_GONE_S = 5.0  #: a worker not heard of this long is gone; a living one polls or beats every second
_PAUSE_S = 2.0  #: after a task that failed

LaneKey = tuple[str, int]  #: (stream, lane)


@dataclass
class _Worker:
    heard: float
    busy: bool = False  #: it has a task, and polls
    told: dict[LaneKey, tuple[int, frozenset[str]]] = field(default_factory=dict)  #: lane → (version, split ids)
    has: set[LaneKey] = field(default_factory=set)  #: lanes it had at its last poll
    snapshot: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    failed_at: float = float("-inf")


class LiveLanes:
    """The live lanes of a service and their owners. Its service's lock guards it."""

    def __init__(self) -> None:
        self.workers: dict[str, _Worker] = {}
        self._owner: dict[LaneKey, str] = {}
        self._looked = 0.0  #: for workers that are gone

    def task(self, worker: str, service: Service) -> Task | None:
        """A live task with the lanes of this worker; None while there are none."""
        known = self.workers.setdefault(worker, _Worker(time.monotonic()))
        known.heard = time.monotonic()
        self._spread(service)
        lanes = self._lanes_of(worker, service)
        if not lanes or known.heard - known.failed_at < _PAUSE_S:
            return None
        known.busy = True
        self._told(known, lanes)
        told, retired = [lane.to_json() for lane in lanes], service.log.state.engines.pairs()
        return Task("live", f"live:{worker}", epoch=service.log.epoch or 0, lanes=told, retired=retired)

    def polls(self, worker: str, snapshot: dict[str, Any], service: Service) -> dict[str, Any]:
        """What a busy worker should change."""
        known = self.workers.setdefault(worker, _Worker(time.monotonic()))
        known.heard, known.busy, known.snapshot = time.monotonic(), True, snapshot
        known.has = {(lane["stream"], lane["lane"]) for lane in snapshot["lanes"]}
        for name, lane, split in snapshot["finished"]:
            made = service.streams.get(name)
            if made is not None:
                made.over.add(split)
                made.splits.pop(split, None)
                known.told.pop((name, lane), None)
        for told in snapshot["lanes"]:
            made = service.streams.get(told["stream"])
            if made is not None:
                made.report(f"{told['stream']}/L{told['lane']:04d}", told)
        for key in [k for k, owner in self._owner.items() if owner == worker]:
            if key not in known.has and key not in known.told:
                self._leave(key, service)
        self._spread(service)
        lanes = self._lanes_of(worker, service)
        wanted = {(lane.stream, lane.lane): _shape(lane) for lane in lanes}
        if wanted == known.told:
            return {}
        self._told(known, lanes)
        return {"lanes": [lane.to_json() for lane in lanes]}

    def lost(self, worker: str, service: Service, error: str | None = None) -> None:
        """A worker has no lanes any more: it died, drained or failed."""
        known = self.workers.get(worker)
        if known is not None:
            known.busy, known.told, known.has, known.snapshot, known.error = False, {}, set(), {}, error
            known.failed_at = time.monotonic() if error else known.failed_at
        for key in [k for k, owner in self._owner.items() if owner == worker]:
            self._leave(key, service)

    def beat(self, worker: str) -> None:
        """A worker is alive."""
        if worker in self.workers:
            self.workers[worker].heard = time.monotonic()

    def owns(self, worker: str, lanes: set[LaneKey]) -> bool:
        """Whether all these lanes are the worker's."""
        return all(self._owner.get(key) == worker for key in lanes)

    def lanes_of(self, worker: str) -> list[str]:
        """`<stream>/L0007` of every lane of a worker."""
        return sorted(f"{name}/L{lane:04d}" for (name, lane), owner in self._owner.items() if owner == worker)

    def works_on(self, name: str) -> bool:
        """Whether a worker has a lane of a stream."""
        return any(key[0] == name for known in self.workers.values() if known.busy for key in known.has)

    # -- spreading ----------------------------------------------------------------------------------------------------

    def _wanted(self, service: Service) -> dict[LaneKey, list[Any]]:
        out: dict[LaneKey, list[Any]] = {}
        for made in service.streams.values():
            if made.stream.live and made.runs:
                for lane, splits in made.by_lane().items():
                    out[made.name, lane] = splits
        return out

    def _spread(self, service: Service) -> None:
        """Give lanes without an owner to the workers that have the fewest."""
        now = time.monotonic()
        unseen = now - self._looked - _GONE_S / 2
        if unseen > 0:  # stopped, or holding its lock, this process could hear nobody: that is no silence of theirs
            for known in self.workers.values():
                known.heard = min(now, known.heard + unseen)
        self._looked = now
        for name, known in self.workers.items():
            if now - known.heard > _GONE_S:
                self.lost(name, service)
        alive = [name for name, known in self.workers.items() if now - known.heard <= _GONE_S]
        load = dict.fromkeys(alive, 0)
        for owner in self._owner.values():
            if owner in load:
                load[owner] += 1
        for key in sorted(self._wanted(service)):
            if key not in self._owner and load:
                worker = min(load, key=lambda name: (load[name], name))
                self._owner[key] = worker
                load[worker] += 1

    def _leave(self, key: LaneKey, service: Service) -> None:
        del self._owner[key]
        made = service.streams.get(key[0])
        if made is not None:
            made.gave_up(f"{key[0]}/L{key[1]:04d}")

    def _lanes_of(self, worker: str, service: Service) -> list[LiveLaneTask]:
        state, out = service.log.state, []
        wanted = self._wanted(service)
        for (name, lane), owner in sorted(self._owner.items()):
            if owner != worker or (name, lane) not in wanted:
                continue
            made = service.streams[name]
            splits = [
                LiveSplit(split, *service.place_of(name, lane, split.id))
                for split in sorted(wanted[name, lane], key=lambda s: s.id)
            ]
            out.append(
                LiveLaneTask(
                    name,
                    lane,
                    splits,
                    made.spec,
                    made.version,
                    made.tokenizers,
                    service.ledger.convictions(name),
                    state.dedup.get((name, lane)),
                    state.carry.get((name, lane)),
                    state.watermarks.get((name, lane)),
                    state.engines.pairs(),
                )
            )
        return out

    def _told(self, known: _Worker, lanes: list[LiveLaneTask]) -> None:
        known.told = {(lane.stream, lane.lane): _shape(lane) for lane in lanes}


def _shape(lane: LiveLaneTask) -> tuple[int, frozenset[str]]:
    return (lane.version, frozenset(live.split.id for live in lane.splits))

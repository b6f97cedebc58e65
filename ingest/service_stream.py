"""What a service knows of one stream: its state, its splits and lanes, and how fast it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.connectors.contract import Split
from headrace.ingest.meter import added
from headrace.ingest.resolve import ResolvedStream
from headrace.shards.entry import split_digest

StreamState = Literal["starting", "running", "paused", "parked", "stopped", "removed"]

_RATE_S = 20.0  #: over which a rate is taken


class Rate:
    """Events a second over the last while."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []

    def add(self, now: float, total: float) -> None:
        """Tell a running total."""
        if self._points and total < self._points[-1][1]:
            self._points = []  # it began anew
        self._points.append((now, total))
        while len(self._points) > 2 and now - self._points[1][0] >= _RATE_S:
            self._points.pop(0)

    @property
    def value(self) -> float | None:
        """Events a second; None before two points."""
        if len(self._points) < 2 or self._points[-1][0] == self._points[0][0]:
            return None
        (t0, v0), (t1, v1) = self._points[0], self._points[-1]
        return (v1 - v0) / (t1 - t0)


@dataclass
class ServiceStream:
    """One entry of `streams:` in a running service. Its owner's lock guards it."""

    stream: ResolvedStream
    spec: dict[str, Any]  #: its section as JSON, for workers
    version: int = 1  #: another after it was changed
    tokenizers: dict[str, str] = field(default_factory=dict)
    lanes: int = 1  #: of its unbounded splits
    state: StreamState = "starting"
    message: str = ""
    splits: dict[str, Split] = field(default_factory=dict)  #: unbounded ones that are read now
    over: set[str] = field(default_factory=set)  #: ids of splits that have ended
    parked: dict[str, dict[str, Any]] = field(default_factory=dict)  #: split id → trouble found by the service
    known: int = 0  #: bounded splits planned
    planned: set[str] = field(default_factory=set)  #: ids of bounded splits in the plan
    objects: set[str] = field(default_factory=set)  #: what they are, or are parts of
    noted: int = 0  #: rows of the plan that these two have
    discovered: float = 0.0
    reported: dict[str, dict[str, Any]] = field(default_factory=dict)  #: lane key → what its worker told last
    base: dict[str, int] = field(default_factory=dict)  #: totals of lanes that were given up
    base_seconds: dict[str, float] = field(default_factory=dict)  #: and where their time went
    records: Rate = field(default_factory=Rate)
    bytes: Rate = field(default_factory=Rate)
    last_commit_us: int | None = None
    event_time_us: int | None = None  #: newest committed
    lag: dict[str, Any] | None = None  #: records, bytes, seconds

    @property
    def name(self) -> str:
        """As in the pipeline."""
        return self.stream.name

    @property
    def runs(self) -> bool:
        """Whether its lanes are to be worked on."""
        return self.state in ("running", "parked")

    def lane_of(self, split_id: str) -> int:
        """The lane of an unbounded split: a hash of its id."""
        return int(split_digest(split_id)[:8], 16) % self.lanes

    def by_lane(self) -> dict[int, list[Split]]:
        """The unbounded splits that are read, by lane."""
        out: dict[int, list[Split]] = {}
        for split in self.splits.values():
            if split.id not in self.parked:
                out.setdefault(self.lane_of(split.id), []).append(split)
        return out

    def report(self, key: str, told: dict[str, Any]) -> None:
        """What the worker of a lane told: counters since it took the lane."""
        before = self.reported.get(key)
        if before is not None and told["total"]["items"] < before["total"]["items"]:
            self._keep(before)
        self.reported[key] = told
        if told.get("stopped") and self.state == "running":
            self.state, self.message = "stopped", told["stopped"]
        now = time.monotonic()
        self.records.add(now, self.total("records"))
        self.bytes.add(now, self.total("payload_bytes"))

    def committed(self) -> None:
        """Something of it was committed just now."""
        self.last_commit_us = time.time_ns() // 1000

    def gave_up(self, key: str) -> None:
        """A worker has left a lane; what it did still counts."""
        before = self.reported.pop(key, None)
        if before is not None:
            self._keep(before)

    def _keep(self, told: dict[str, Any]) -> None:
        for name, value in told["total"].items():
            self.base[name] = self.base.get(name, 0) + value
        self.base_seconds = added([self.base_seconds, told.get("seconds", {})])

    def seconds(self) -> dict[str, float]:
        """Where the time of its lanes went since the service began (see meter.py)."""
        return added([self.base_seconds, *(lane.get("seconds", {}) for lane in self.reported.values())])

    def total(self, name: str) -> int:
        """A counter since the service began, over all lanes."""
        told: int = self.base.get(name, 0) + sum(lane["total"].get(name, 0) for lane in self.reported.values())
        return told

    def troubles(self) -> list[dict[str, Any]]:
        """Why splits are not being read."""
        return [*self.parked.values(), *(t for lane in self.reported.values() for t in lane.get("troubles", []))]

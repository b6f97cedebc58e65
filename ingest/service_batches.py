"""The bounded lanes of a service: what discovery added to the plans, given out until it is read."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.ingest.service_stream import ServiceStream
from headrace.ingest.task import Task

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_RETRY_S = 30.0  #: after which a lane that could not be read is tried again


@dataclass
class _Batch:
    task: Task
    worker: str | None = None
    again_at: float = 0.0
    trouble: str | None = None


class Batches:
    """Lanes of bounded sources that have something to read. Its service's lock guards it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._batches: dict[str, _Batch] = {}
        self._ready: deque[str] = deque()

    def lay_out(self, made: ServiceStream) -> None:
        """Make work of every lane whose plan goes on beyond its place."""
        ledger = self._service.ledger
        plan = ledger.plans[made.name]
        made.known = len(plan.rows)
        for lane in plan.lanes():
            key = f"{made.name}/L{lane:04d}"
            if key in self._batches or ledger.place(made.name, lane) == plan.end(lane):
                continue
            self._batches[key] = _Batch(self._task(made, lane))
            self._ready.append(key)

    def task(self, worker: str) -> Task | None:
        """The next lane for a worker."""
        now = time.monotonic()
        for _ in range(len(self._ready)):
            key = self._ready.popleft()
            batch = self._batches.get(key)
            made = self._service.streams.get(batch.task.stream) if batch else None
            if batch is None or made is None:
                self._batches.pop(key, None)
            elif not made.runs or batch.again_at > now:
                self._ready.append(key)
            else:
                batch.task = self._task(made, batch.task.lane)
                batch.worker, batch.trouble = worker, None
                return batch.task
        return None

    def again(self, worker: str, key: str) -> Task | None:
        """The same lane from its last commit on; None if the worker has it no longer."""
        batch = self._batches.get(key)
        made = self._service.streams.get(batch.task.stream) if batch else None
        if batch is None or made is None or batch.worker != worker or not made.runs:
            return None
        batch.task = self._task(made, batch.task.lane)
        return batch.task

    def stream_of(self, worker: str, key: str) -> str | None:
        """The stream of a lane that a worker has; None if it has it no longer."""
        batch = self._batches.get(key)
        return batch.task.stream if batch is not None and batch.worker == worker else None

    def done(self, worker: str, key: str) -> None:
        """A lane has come to the end of what was planned for it; it may have grown meanwhile."""
        if self.stream_of(worker, key) is None:
            return
        task = self._batches.pop(key).task
        made = self._service.streams.get(task.stream)
        if made is not None:
            made.gave_up(key)
            self.lay_out(made)

    def failed(self, worker: str, key: str, message: str) -> None:
        """A lane cannot be read now; it is tried again after a while."""
        if self.stream_of(worker, key) is not None:
            batch = self._batches[key]
            batch.trouble, batch.again_at = message, time.monotonic() + _RETRY_S
            self.free(key)

    def free(self, key: str) -> None:
        """Nobody works on a lane any more."""
        self._batches[key].worker = None
        self._ready.append(key)

    def lost(self, worker: str) -> None:
        """A worker is gone."""
        for key, batch in self._batches.items():
            if batch.worker == worker:
                self.free(key)

    def resume(self, name: str) -> None:
        """Try a stream's lanes now."""
        for batch in self._batches.values():
            if batch.task.stream == name:
                batch.again_at = 0.0

    def troubles(self, name: str) -> list[dict[str, Any]]:
        """Why lanes of a stream are not being read."""
        return [
            {"split": key, "message": b.trouble, "since": None, "parked": False, "next_try": None}
            for key, b in self._batches.items()
            if b.task.stream == name and b.trouble
        ]

    def of_worker(self, worker: str) -> str | None:
        """The key of the lane that a worker has."""
        return next((key for key, batch in self._batches.items() if batch.worker == worker), None)

    def works_on(self, name: str) -> bool:
        """Whether a worker has a lane of a stream."""
        return any(b.task.stream == name and b.worker is not None for b in self._batches.values())

    def left(self, name: str) -> int:
        """How many lanes of a stream have something to read."""
        return sum(batch.task.stream == name for batch in self._batches.values())

    def _task(self, made: ServiceStream, lane: int) -> Task:
        task = self._service.ledger.lane_task(made.name, lane, made.tokenizers)
        task.max_commit_delay_s = made.stream.spec.live.commit_every_s
        task.spec = made.spec
        return task

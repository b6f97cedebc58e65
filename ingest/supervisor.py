"""Runs tasks in a child process, watches it, and finds the one record to blame when it dies.

A supervisor takes a task from the coordinator, hands it to its child, passes the child's commits on, and ends a child
whose current record takes too long. When a child dies, every record it had in flight is a suspect; each is tried alone
in a fresh probe child, and only the probe's own end convicts. Then the lane goes on from its last commit.

A plain class without Ray: the inline engine runs it in threads, the Ray engine in actors.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from headrace.ingest.child_process import Child, ChildPool, Death

if TYPE_CHECKING:  # what is needed only after a death is imported then: an actor starts with this file
    from headrace.ingest.task import Conviction

PARTS = ("live", "batch", "receive")  #: what one worker of a service runs; a part without work keeps no process

_OUTSIDE_KILLS = 20  # a task whose child is killed from outside more often than this, without progress, is given up
_FIRST_WAIT_S = 0.005  # before work is asked for again; twice as long each time, up to what the coordinator says
_PROBES = 5  # tries of a probe that something outside keeps killing


class Coordinator(Protocol):
    """What a supervisor asks of the coordinator; all values are JSON."""

    def lease(self, worker: str) -> dict[str, Any] | None:
        """The next task, {"kind": "wait", "seconds": …}, or None when all is done."""

    def renew(self, worker: str, key: str) -> dict[str, Any] | None:
        """The same task from its last commit on, or None if it was taken away."""

    def commit(self, worker: str, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """{"ok": true}, or {"stop": why}."""

    def commit_lanes(self, worker: str, key: str, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """As `commit`, for live lanes."""

    def poll(self, worker: str, key: str, snapshot: dict[str, Any]) -> dict[str, Any]:
        """What should change for live lanes, or {"stop": why}."""

    def beat(self, worker: str) -> None:
        """The worker is alive, though it says nothing: it works on a long record."""

    def convict(self, worker: str, key: str, conviction: dict[str, Any], stream: str) -> None:
        """Log a conviction of a record of `stream`."""

    def done(self, worker: str, key: str, result: dict[str, Any]) -> None:
        """The task is finished."""

    def fail(self, worker: str, key: str, error: dict[str, Any]) -> None:
        """The task cannot be finished."""

    def report(self, worker: str, key: str, counters: dict[str, Any]) -> None:
        """Counters since the start of the task, for progress only."""


class Supervisor:
    """One worker: at most one child process at a time, taken from `children` (its own, if none are given)."""

    def __init__(
        self, worker: str, coordinator: Coordinator, runtime: dict[str, Any], children: ChildPool | None = None
    ) -> None:
        self.worker = worker
        self._coordinator = coordinator
        self._runtime = runtime
        streams = runtime["pipeline"]["streams"]
        self._time_s = {name: float(stream["limits"]["time_s"]) for name, stream in streams.items()}
        self._children = children or ChildPool()
        self._shared = children is not None
        self._child: Child | None = None  #: that has the task at hand
        self._stopping = threading.Event()

    def run(self) -> None:
        """Take and do tasks until there are none left. Blocks."""
        waits = 0
        try:
            while not self._stopping.is_set():
                task = self._coordinator.lease(self.worker)
                if task is None:
                    return
                if task["kind"] == "wait":
                    time.sleep(min(task["seconds"], _FIRST_WAIT_S * 2**waits))
                    waits = min(waits + 1, 16)
                    continue
                waits = 0
                self._do(task)
        finally:
            self.close()

    def stop(self) -> None:
        """Make `run` return soon; the task at hand is left at its last commit."""
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End the child, and the idle ones if nobody else may take them."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        if not self._shared:
            self._children.close()

    def _do(self, task: dict[str, Any] | None) -> None:
        deaths = 0
        survived: dict[str, int] = {}
        while task is not None and not self._stopping.is_set():
            key = task["key"]
            place = task["place"]
            death = self._attempt(task)
            if death is None or self._stopping.is_set():
                return
            convicted = self._judge(task, death, survived)
            task = self._coordinator.renew(self.worker, key)
            deaths = 0 if convicted or (task and task["place"] != place) else deaths + 1
            if deaths > _OUTSIDE_KILLS:
                message = (
                    f"its process ended {deaths} times without progress (last: {death.cause}); {death.stderr[-2000:]}"
                )
                self._coordinator.fail(self.worker, key, {"type": "HeadraceError", "message": message})
                return

    def _attempt(self, task: dict[str, Any]) -> Death | None:
        """Run one task in the child; None when it was finished, failed or taken away."""
        self._child = child = self._children.take(self._runtime, self.worker)
        key = task["key"]
        child.send({"task": task})
        while True:
            message = child.receive(self._limit(task), self._beat)
            if isinstance(message, Death):
                self._child = None
                return message
            kind = message["type"]
            if kind == "cut":
                reply = self._coordinator.commit(self.worker, key, message["manifest"])
                child.send(reply)
                if "stop" in reply:
                    child.kill()
                    self._child = None
                    return None
            elif kind in ("cuts", "poll"):
                ask = self._coordinator.commit_lanes if kind == "cuts" else self._coordinator.poll
                reply = ask(self.worker, key, message["manifests" if kind == "cuts" else "snapshot"])
                child.send(reply)
                if "stop" in reply:
                    child.kill()
                    self._child = None
                    return None
            elif kind == "progress":
                self._coordinator.report(self.worker, key, message["counters"])
            elif kind == "done":
                self._rest()
                self._coordinator.done(self.worker, key, message["result"])
                return None
            elif kind == "failed":
                self._rest()
                self._coordinator.fail(self.worker, key, message["error"])
                return None

    def _judge(self, task: dict[str, Any], death: Death, survived: dict[str, int]) -> bool:
        """Probe the suspects of a death; True if one was convicted."""
        if not death.in_flight:
            return False
        from headrace.ingest.task import Conviction
        from headrace.shards.entry import split_digest

        suspects = death.in_flight["suspects"]
        verdict = self._probe(task, suspects)
        if verdict is None and not death.cause.startswith("outside"):
            # All pass alone and yet the process ended by itself: after three times the first is convicted all the same,
            # or the lane would never end.
            seen = json.dumps([death.in_flight["stage"], suspects[0]])
            survived[seen] = survived.get(seen, 0) + 1
            if survived[seen] >= 3:
                first = suspects[0]
                digest = split_digest(first["split"])
                verdict = Conviction(digest, first["after"], first["k"], death.in_flight["stage"], _reason(death.cause))
        if verdict is None:
            return False
        stream = suspects[0].get("stream") or task["stream"]
        self._coordinator.convict(self.worker, task["key"], verdict.to_json(), stream)
        return True

    def _probe(self, task: dict[str, Any], suspects: list[dict[str, Any]]) -> Conviction | None:
        """Try the suspects, one record at a time, in a fresh child. Repeated when it is killed from outside."""
        from headrace.ingest.task import Conviction
        from headrace.shards.entry import split_digest

        for _ in range(_PROBES):
            child = self._children.take(self._runtime, f"{self.worker}-probe", fresh=True)
            try:
                child.send({"task": _probe_task(task, suspects)})
                end = child.receive(self._limit(task))
            finally:
                child.kill()
            if not isinstance(end, Death):
                return None
            if end.cause.startswith("outside"):
                continue
            if not end.in_flight:
                return None
            guilty = end.in_flight["suspects"][0]
            return Conviction(
                split_digest(guilty["split"]), guilty["after"], guilty["k"], end.in_flight["stage"], _reason(end.cause)
            )
        return None

    def _beat(self) -> None:
        self._coordinator.beat(self.worker)

    def _limit(self, task: dict[str, Any]) -> float:
        if task["kind"] == "live":
            return max((float(lane["spec"]["limits"]["time_s"]) for lane in task["lanes"]), default=float("inf"))
        return self._time_s.get(task["stream"], float("inf"))

    def _rest(self) -> None:
        """The child has no task any more."""
        child, self._child = self._child, None
        if child is not None:
            self._children.give_back(child)


def _probe_task(task: dict[str, Any], suspects: list[dict[str, Any]]) -> dict[str, Any]:
    """A probe of suspects, which all belong to one stream; a live task serves several."""
    stream = suspects[0].get("stream") or task["stream"]
    lane: dict[str, Any] = next((lane for lane in task["lanes"] if lane["stream"] == stream), {})
    tokenizers = lane.get("tokenizers", task["tokenizers"])
    convictions = lane.get("convictions", task["convictions"])
    return {
        **task,
        "kind": "probe",
        "stream": stream,
        "tokenizers": tokenizers,
        "convictions": convictions,
        "suspects": suspects,
        "spec": lane.get("spec", task["spec"]),
        "lanes": [],
    }


def _reason(cause: str) -> str:
    kind, _, detail = cause.partition(":")
    if kind in ("oom", "hang"):
        return kind
    return f"crash:{detail}" if detail else "crash"

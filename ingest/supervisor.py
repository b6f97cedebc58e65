"""Runs tasks in a child process, watches it, and finds the one record to blame when it dies.

A supervisor takes a task from the coordinator, hands it to its child, passes the child's commits on, and ends a child
whose current record takes too long. When a child dies, every record it had in flight is a suspect; each is tried alone
in a fresh probe child, and only the probe's own end convicts. Then the lane goes on from its last commit.

A plain class without Ray: the inline engine runs it in threads, the Ray engine in actors.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.ingest.child_environment import child_environment
from headrace.ingest.slot import EXIT_OOM, SlotReader, cpu_seconds
from headrace.ingest.task import Conviction
from headrace.shards.entry import split_digest

#: Signals that a process brings on itself; SIGKILL and SIGTERM come from outside.
FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGXCPU,
}

PARTS = ("live", "batch", "receive")  #: what one worker of a service runs; a part without work keeps no process

_OUTSIDE_KILLS = 20  # a task whose child is killed from outside more often than this, without progress, is given up
_PROBES = 5  # tries of a probe that something outside keeps killing
_BEAT_S = 1.0
_WALL_FACTOR = 4  # a record may wait (for a disk, a core) this many times its CPU limit


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


@dataclass(frozen=True)
class Death:
    """How a child ended before its task was done."""

    cause: str  #: "fault:SIGSEGV", "oom", "hang", "outside:SIGKILL", "exit:3"
    in_flight: dict[str, Any] | None
    stderr: str


class Supervisor:
    """One worker: at most one child process at a time."""

    def __init__(self, worker: str, coordinator: Coordinator, runtime: dict[str, Any]) -> None:
        self.worker = worker
        self._coordinator = coordinator
        self._runtime = runtime
        streams = runtime["pipeline"]["streams"]
        self._time_s = {name: float(stream["limits"]["time_s"]) for name, stream in streams.items()}
        self._scratch = Path(tempfile.mkdtemp(prefix=f"headrace-{os.getpid()}-"))
        self._child: _Child | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Take and do tasks until there are none left. Blocks."""
        try:
            while not self._stopping.is_set():
                task = self._coordinator.lease(self.worker)
                if task is None:
                    return
                if task["kind"] == "wait":
                    time.sleep(task["seconds"])
                    continue
                self._do(task)
        finally:
            self.close()

    def stop(self) -> None:
        """Make `run` return soon; the task at hand is left at its last commit."""
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End the child and remove its temporary files."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        for path in sorted(self._scratch.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        if self._scratch.exists():
            self._scratch.rmdir()

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
        child = self._ready_child()
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
                self._coordinator.done(self.worker, key, message["result"])
                return None
            elif kind == "failed":
                self._coordinator.fail(self.worker, key, message["error"])
                return None

    def _judge(self, task: dict[str, Any], death: Death, survived: dict[str, int]) -> bool:
        """Probe the suspects of a death; True if one was convicted."""
        if not death.in_flight:
            return False
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
        for _ in range(_PROBES):
            child = _Child(self._runtime, self._scratch, f"{self.worker}-probe")
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

    def _ready_child(self) -> _Child:
        if self._child is None:
            self._child = _Child(self._runtime, self._scratch, self.worker)
        return self._child


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


class _Child:
    """A spawned process that speaks JSON lines over two pipes of its own (stdout is left to libraries that print)."""

    def __init__(self, runtime: dict[str, Any], scratch: Path, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="child-", dir=scratch))
        self._slot = SlotReader(self._folder / "slot")
        to_child, self._to_child = os.pipe()
        self._from_child, from_child = os.pipe()
        self._stderr_path = self._folder / "stderr"
        with open(self._stderr_path, "wb") as stderr:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "headrace.ingest.child",
                    str(to_child),
                    str(from_child),
                    str(self._folder / "slot"),
                ],
                pass_fds=(to_child, from_child),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=child_environment(self._folder),
                start_new_session=True,
            )
        os.close(to_child)
        os.close(from_child)
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from_child, selectors.EVENT_READ)
        self._killed_as: str | None = None
        self.send({"runtime": runtime, "name": name})

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; a dead child is noticed by the next `receive`."""
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._to_child, data) :]
        except BrokenPipeError:
            return

    def receive(self, time_s: float, beat: Callable[[], None] | None = None) -> dict[str, Any] | Death:
        """The next message, or how the child ended. It is ended when its record takes over `time_s` CPU seconds.

        `beat` is called now and then while the child is busy and alive.
        """
        beaten = time.monotonic()
        while True:
            if beat is not None and time.monotonic() - beaten > _BEAT_S:
                beaten = time.monotonic()
                beat()
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                message: dict[str, Any] = json.loads(line)
                return message
            if self._selector.select(timeout=0.25):
                data = os.read(self._from_child, 1 << 20)
                if not data:
                    return self._death()
                self._buffer += data
                continue
            if self._killed_as is None and self._over_time(time_s):
                self._killed_as = "hang"
                self._process.kill()

    def _over_time(self, time_s: float) -> bool:
        times = self._slot.times()
        if times is None:
            return False
        wall, cpu = times
        used = cpu_seconds(self._process.pid)
        if used is not None and used - cpu > time_s:
            return True
        return time.monotonic() - wall > _WALL_FACTOR * time_s

    def _death(self) -> Death:
        code = self._process.wait()
        in_flight = self._slot.in_flight()
        stderr = self._stderr_path.read_text(errors="replace") if self._stderr_path.exists() else ""
        if self._killed_as:
            cause = self._killed_as
        elif code == EXIT_OOM:
            cause = "oom"
        elif code < 0 and signal.Signals(-code) in FAULTS:
            cause = f"fault:{signal.Signals(-code).name}"
        elif code < 0:
            cause = f"outside:{signal.Signals(-code).name}"
        else:
            cause = f"exit:{code}"
        self._clean()
        return Death(cause, in_flight, stderr)

    def kill(self) -> None:
        """End it now, with everything in its session."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._clean()

    def _clean(self) -> None:
        for fd in (self._to_child, self._from_child):
            if fd >= 0:
                os.close(fd)
        self._to_child = self._from_child = -1
        self._selector.close()
        for path in sorted(self._folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if self._folder.exists():
            self._folder.rmdir()

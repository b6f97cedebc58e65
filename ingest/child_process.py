"""A decoding process, seen from its supervisor: started, spoken to over two pipes, timed, and asked how it ended.

Idle children wait in a pool: whoever has a task takes one, so that a small run starts only one process. A command that
will need a child warms one while it is still reading its own settings, because a child imports for most of a second.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headrace.ingest.child_environment import child_environment
from headrace.ingest.slot import EXIT_OOM, SlotReader, cpu_seconds

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

_BEAT_S = 1.0
_WALL_FACTOR = 4  # a record may wait (for a disk, a core) this many times its CPU limit


@dataclass(frozen=True)
class Death:
    """How a child ended before its task was done."""

    cause: str  #: "fault:SIGSEGV", "oom", "hang", "outside:SIGKILL", "exit:3"
    in_flight: dict[str, Any] | None
    stderr: str


class Child:
    """A spawned process that speaks JSON lines over two pipes of its own (stdout is left to libraries that print)."""

    def __init__(self, scratch: Path) -> None:
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
        self._greeted = False

    def greet(self, runtime: dict[str, Any], name: str) -> None:
        """Say what all tasks are about; once, before the first."""
        if not self._greeted:
            self._greeted = True
            self.send({"runtime": runtime, "name": name})

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

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
        shutil.rmtree(self._folder, ignore_errors=True)


class ChildPool:
    """The idle children of one run. Safe for several threads.

    The kernel ends a child when the thread that started it ends, so whoever takes from a pool lives until all are done.
    """

    def __init__(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix=f"headrace-{os.getpid()}-"))
        self._lock = threading.Lock()
        self._idle: list[Child] = []

    def warm(self) -> None:
        """Start a child that will be wanted soon."""
        child = self._start()
        with self._lock:
            self._idle.append(child)

    def take(self, runtime: dict[str, Any], name: str, *, fresh: bool = False) -> Child:
        """An idle child, or a new one; always a new one if it must be `fresh`."""
        while not fresh:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                break
            if child.alive:
                child.greet(runtime, name)
                return child
            child.kill()
        child = self._start()
        child.greet(runtime, name)
        return child

    def _start(self) -> Child:
        self._scratch.mkdir(mode=0o700, exist_ok=True)  # a pool that was closed may be used again
        return Child(self._scratch)

    def give_back(self, child: Child) -> None:
        """It has done its task and may have another."""
        with self._lock:
            self._idle.append(child)

    def close(self) -> None:
        """End the idle children and remove all temporary files."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

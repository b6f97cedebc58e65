"""The in-flight slot: what a decoding process is doing right now, readable after it died.

One mmapped file per child process, written before every step that foreign code could kill or hang:

    [f64 wall start][f64 cpu start][u32 length][length bytes of JSON {"stage", "suspects": [...]}]

Times are of CLOCK_MONOTONIC and of the child's own CPU clock; a wall start of 0 means that nothing is in flight.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

SIZE = 1 << 18

#: A child that ran out of memory ends with this code.
EXIT_OOM = 86

_HEAD = struct.Struct("<ddI")


class Slot:
    """Written by the child before each step."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), SIZE)

    def enter(self, stage: str, suspects: list[dict[str, Any]]) -> None:
        """Begin a step: `suspects` name the items (and the output number k) it works on."""
        body = json.dumps({"stage": stage, "suspects": suspects}).encode()
        if len(body) > SIZE - _HEAD.size:
            body = json.dumps({"stage": stage, "suspects": suspects[:1]}).encode()[: SIZE - _HEAD.size]
        self._map[_HEAD.size : _HEAD.size + len(body)] = body
        self._map[: _HEAD.size] = _HEAD.pack(time.monotonic(), time.process_time(), len(body))

    def leave(self) -> None:
        """Nothing of anybody's data is in flight."""
        self._map[: _HEAD.size] = _HEAD.pack(0.0, 0.0, 0)

    def out_of_memory(self) -> None:
        """End the process with the step still in flight, so that its suspects are tried alone."""
        os._exit(EXIT_OOM)


class SlotReader:
    """Read by the supervisor: for the watchdog while the child lives, for suspects after it died."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(SIZE))
        with open(path, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), SIZE)

    def times(self) -> tuple[float, float] | None:
        """(wall start, CPU start) of the step in flight, or None."""
        wall, cpu, _ = _HEAD.unpack(self._map[: _HEAD.size])
        return (wall, cpu) if wall else None

    def in_flight(self) -> dict[str, Any] | None:
        """{"stage", "suspects"} of the step in flight, or None."""
        wall, _, length = _HEAD.unpack(self._map[: _HEAD.size])
        if not wall or not length:
            return None
        found: dict[str, Any] = json.loads(self._map[_HEAD.size : _HEAD.size + length])
        return found

    def clear(self) -> None:
        """Forget what was in flight, before a new child takes the slot."""
        self._map[: _HEAD.size] = _HEAD.pack(0.0, 0.0, 0)


def cpu_seconds(pid: int) -> float | None:
    """CPU time a process has used so far, or None if it is gone. Source: proc(5), fields 14, 15 of /proc/PID/stat."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

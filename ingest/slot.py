"""The in-flight slot: what a decoding process is doing right now, readable after it died.

One mmapped file per child process, written before every step that foreign code could kill or hang:

    [f64 wall start][f64 cpu start][u32 length][u32 number][length bytes of JSON]

Times are of CLOCK_MONOTONIC and of the child's own CPU clock; a wall start of 0 means that nothing is in flight. The
JSON names the suspects, those of a split together:

    {"stage": "normalize", "stream": "tide", "suspects": [["split id", "pin", [["after", k], …]], …]}

A step over many items says with `number` which of them it has come to; before that all are suspects.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.ingest.origin import Suspects

SIZE = 1 << 18

#: A child that ran out of memory ends with this code.
EXIT_OOM = 86

_HEAD = struct.Struct("<ddII")
_TIMES = struct.Struct("<dd")
_NUMBER = struct.Struct("<I")
_NUMBER_AT = 20
_ALL = (1 << 32) - 1


class Slot:
    """Written by the child before each step."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), SIZE)

    def enter(self, stage: str, suspects: Sequence[Suspects], stream: str = "") -> None:
        """Begin a step: `suspects` name the items (and the output number k) it works on."""
        body = _body(stage, suspects, stream)
        if len(body) > SIZE - _HEAD.size:
            first = suspects[0]
            body = _body(stage, [first._replace(items=first.items[:1])], stream)[: SIZE - _HEAD.size]
        self._map[_HEAD.size : _HEAD.size + len(body)] = body
        self._map[: _HEAD.size] = _HEAD.pack(time.monotonic(), time.process_time(), len(body), _ALL)

    def at(self, number: int | None) -> None:
        """The step has come to the suspect of this number, or works on all of them (None)."""
        _NUMBER.pack_into(self._map, _NUMBER_AT, _ALL if number is None else number)

    def leave(self) -> None:
        """Nothing of anybody's data is in flight."""
        self._map[: _HEAD.size] = _HEAD.pack(0.0, 0.0, 0, _ALL)

    def out_of_memory(self) -> None:
        """End the process with the step still in flight, so that its suspects are tried alone."""
        os._exit(EXIT_OOM)


def _body(stage: str, suspects: Sequence[Suspects], stream: str) -> bytes:
    named = [(split.id, split.pin, items) for split, items in suspects]
    return json.dumps({"stage": stage, "stream": stream, "suspects": named}).encode()


class SlotReader:
    """Read by the supervisor: for the watchdog while the child lives, for suspects after it died."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(SIZE))
        with open(path, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), SIZE)

    def times(self) -> tuple[float, float] | None:
        """(wall start, CPU start) of the step in flight, or None."""
        wall, cpu = _TIMES.unpack_from(self._map)
        return (wall, cpu) if wall else None

    def in_flight(self) -> dict[str, Any] | None:
        """{"stage", "suspects": [{"split", "pin", "after", "k", "stream"}]} of the step in flight, or None."""
        wall, _, length, number = _HEAD.unpack(self._map[: _HEAD.size])
        if not wall or not length:
            return None
        told = json.loads(self._map[_HEAD.size : _HEAD.size + length])
        suspects = [
            {"split": split, "pin": pin, "after": after, "k": k, "stream": told["stream"]}
            for split, pin, items in told["suspects"]
            for after, k in items
        ]
        return {"stage": told["stage"], "suspects": suspects[number : number + 1] or suspects}

    def clear(self) -> None:
        """Forget what was in flight, before a new child takes the slot."""
        self._map[: _HEAD.size] = _HEAD.pack(0.0, 0.0, 0, _ALL)


def cpu_seconds(pid: int) -> float | None:
    """CPU time a process has used so far, or None if it is gone. Source: proc(5), fields 14, 15 of /proc/PID/stat."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

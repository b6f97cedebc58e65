"""Runs a command and watches the memory of its whole process tree. Linux: it reads /proc.

Every 20 ms the anonymous memory (RssAnon) of all its processes is summed: what they took for themselves. Mapped files
are page cache, which the kernel takes back when it likes; `resident` counts them too, in each process that maps them.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

EVERY_S = 0.02


@dataclass
class Peak:
    """What a command took."""

    seconds: float = 0.0
    cpu: float = 0.0  #: of the tree
    tree: int = 0  #: bytes, the largest sum of anonymous memory at one moment
    resident: int = 0  #: bytes, the same with mapped files and libraries
    own: int = 0  #: bytes, the most that the command's own process had
    child: int = 0  #: bytes, the most that any process below it had
    processes: int = 0  #: most at one time
    over_time: list[tuple[float, int]] = field(default_factory=list)  #: (seconds, bytes of the tree), about 200 of them
    output: str = ""


def peak_of(command: Sequence[str], cwd: Path | None = None) -> Peak:
    """Run a command to its end. Raises: SystemExit with its errors if it fails."""
    found = Peak()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=output, stderr=errors, cwd=cwd) as process,
    ):
        while process.poll() is None:
            anonymous, resident = _tree(process.pid)
            own, *below = anonymous or [0]
            found.tree, found.resident = max(found.tree, sum(anonymous)), max(found.resident, resident)
            found.own, found.child = max(found.own, own), max(found.child, *below, 0)
            found.processes = max(found.processes, len(anonymous))
            found.over_time.append((time.monotonic() - began, sum(anonymous)))
            if len(found.over_time) > 400:
                found.over_time = found.over_time[::2]
            time.sleep(EVERY_S)
        found.seconds = time.monotonic() - began
        output.seek(0)
        errors.seek(0)
        found.output, said = output.read(), errors.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said}")
    return found


def _tree(root: int) -> tuple[list[int], int]:
    """(anonymous bytes of a process and of all below it, itself first; resident bytes of all together)."""
    anonymous, resident = [], 0
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            continue  # it has just gone
        anonymous.append(_kib(status, "RssAnon:") << 10)
        resident += _kib(status, "VmRSS:") << 10
    return anonymous, resident


def _kib(status: str, name: str) -> int:
    found = status.partition(name)[2].split(maxsplit=1)
    return int(found[0]) if found else 0  # a process that has ended and was not waited for has none


def main() -> None:
    """`python benchmarks/peak.py COMMAND …` prints what the command took."""
    found = peak_of(sys.argv[1:])
    sys.stdout.write(found.output)
    print(
        f"{found.seconds:.2f} s, {found.cpu:.2f} CPU s, {found.processes} processes,"
        f" peak {found.tree / 2**20:,.0f} MiB of their own ({found.own / 2**20:,.0f} in the command,"
        f" {found.child / 2**20:,.0f} in the largest below it; {found.resident / 2**20:,.0f} MiB with mapped files)"
    )


if __name__ == "__main__":
    main()

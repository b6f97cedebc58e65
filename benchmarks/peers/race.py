"""Starts a contender, and measures its whole tree of processes from outside: seconds, CPU seconds, peak memory.

CPU seconds are those of every process of the tree, ended ones included, between the two ends of `run`. Memory is the
largest sum of resident bytes seen at one time (ten looks a second), shared pages counted in each process that maps them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job import Job, Sums

HERE = Path(__file__).resolve().parent
READERS = HERE.parents[1] / "tests/exports/readers"  # has the stand-in for torchvision that one of the peers needs
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_S = 0.1


class Absent(Exception):
    """A contender that cannot take part; the message says why."""


@dataclass(frozen=True)
class Run:
    """One measurement. `whole_s` is all of `run`; `seconds` is less only where the tool tells its start-up apart."""

    startup_s: float
    seconds: float
    whole_s: float
    cpu: float
    peak_mb: float
    sums: Sums | None  #: of what it wrote, where that was asked for


def run(module: str, job: Job, python: str, log: Path, limit_s: float, *, check: bool = True) -> Run:
    """A fresh process for one job; `check`: read back what it wrote. Raises: Absent with what it said, or a time-out."""
    process = _Process(module, job, python, log, time.monotonic() + limit_s)
    try:
        ready = process.answer()
        before = process.cpu()
        told = process.ask("go")
        cpu, peak = process.cpu() - before, process.peak
        told_sums = process.ask("sums") if check else None
        process.say("end")
    finally:
        process.close()
    seen = Sums(told_sums["count"], told_sums["total"]) if told_sums else None
    return Run(ready["startup_s"], told["seconds"], told["whole_s"], cpu, peak / 1e6, seen)


class _Process:
    def __init__(self, module: str, job: Job, python: str, log: Path, until: float) -> None:
        self._until, self._log = until, log
        ask, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        path = os.pathsep.join(map(str, (HERE, HERE.parent, READERS)))
        quiet = {
            "PYTHONPATH": path,
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(job.out / "hf"),
            "HF_DATASETS_CACHE": str(job.out / "hf"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "DO_NOT_TRACK": "1",
        }
        with open(log, "wb") as told:
            self._process = subprocess.Popen(
                [
                    python, str(HERE / "measure.py"), str(ask), str(answer), module, json.dumps(job.to_json()),
                    str(time.monotonic()),
                ],
                pass_fds=(ask, answer),
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                cwd=job.out,
                env={**os.environ, **quiet},
                start_new_session=True,
            )  # fmt: skip
        os.close(ask)
        os.close(answer)
        self._buffer = b""
        self.peak = 0
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def say(self, word: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            os.write(self._ask, word.encode() + b"\n")

    def ask(self, word: str) -> dict[str, Any]:
        self.say(word)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = self._until - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise Absent("it took too long")
            data = os.read(self._answers, 1 << 16)
            if not data:
                said = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
                raise Absent(said[-1].strip()[:300] if said else "it ended without a word")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def cpu(self) -> float:
        """CPU seconds of the tree so far."""
        return sum(cpu for _, cpu, _ in tree(self._process.pid))

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.peak = max(self.peak, sum(resident for _, _, resident in tree(self._process.pid)))

    def close(self) -> None:
        """End it and all that it started."""
        self._over.set()
        self._looking.join()
        os.close(self._ask)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        left = [pid for pid, _, _ in tree(self._process.pid)] if self._process.poll() is None else []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # what it started in its own session
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._answers)


def tree(root: int) -> list[tuple[int, float, int]]:
    """(pid, CPU seconds with those of ended children, resident bytes) of a process and all below it.

    Source: proc(5), /proc/PID/stat.
    """
    found: dict[int, tuple[int, float, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        found[int(name)] = (int(fields[1]), sum(map(int, fields[11:15])) / _TICK, int(fields[21]) * _PAGE)
    below, grown = {root}, True
    while grown:
        more = {pid for pid, (parent, _, _) in found.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return [(pid, found[pid][1], found[pid][2]) for pid in below if pid in found]

"""Histories for as long as one likes: HEADRACE_SIMULATION_SEEDS says how many (a million and more), on all cores.

Without it, as many as take about three minutes. HEADRACE_SIMULATION_START is the first seed, so that every night can
have new ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from .replay import quiet, story

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 180.0
CHUNK = 2000


@pytest.mark.chaos
def test_as_many_histories_as_there_is_time_for(capfd: pytest.CaptureFixture[str]) -> None:
    quiet()
    most = os.environ.get("HEADRACE_SIMULATION_SEEDS")
    start = int(os.environ.get("HEADRACE_SIMULATION_START", "1000000"))
    began = time.monotonic()
    seed, done, cpu_s = start, 0, 0.0
    counts: Counter[str] = Counter()
    running: list[tuple[int, int, subprocess.Popen[str]]] = []
    cores = os.cpu_count() or 1
    while True:
        left = CHUNK if most is None else min(CHUNK, start + int(most) - seed)
        more = left > 0 and (most is not None or time.monotonic() - began < SECONDS)
        if more and len(running) < cores:
            command = [sys.executable, "-m", "tests.simulation.replay", "--run", str(seed), str(left)]
            child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
            running.append((seed, left, child))
            seed += left
            continue
        if not running:
            break
        _, size, child = running.pop(0)
        said = json.loads(child.communicate()[0])
        assert not said["broken"], story(int(min(said["broken"], key=int)))
        counts.update(said["counts"])
        done, cpu_s = done + size, cpu_s + said["cpu_s"]
    wall_s = time.monotonic() - began
    with capfd.disabled():
        print(f"\n{done:,} histories from seed {start:,}: {done / wall_s:.0f} a second on {cores} cores,", end=" ")
        print(f"{done / cpu_s:.0f} on one, none ended badly")
        for name, count in sorted(counts.items()):
            print(f"{count:12,} {name}")

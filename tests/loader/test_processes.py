"""Ctrl-C and kill -9 leave no process, no name in shared memory and no lock behind, and the next run just goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source

from .jobs import Job
from .worlds import World, tide, whole

pytest.importorskip("torch", reason="torch is not installed (headrace[torch])")
pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")

ORDER: dict[str, Any] = {"length": 64, "seed": 3, "window_bytes": 9_000}


def children(parent: int) -> list[int]:
    out = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as f:
                    told = f.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(told[1]) == parent and told[0] != "Z":
                out.append(int(name))
    return out


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def names_of(pids: list[int]) -> Iterator[str]:
    """Names in shared memory that these processes made."""
    for name in os.listdir("/dev/shm"):
        if any(part.isdigit() and int(part) in pids for part in name.replace("-", "_").split("_")):
            yield name


@pytest.mark.parametrize(
    "end,waiting",
    [
        (signal.SIGINT, False),
        (signal.SIGKILL, True),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.chaos),
        pytest.param(signal.SIGKILL, False, marks=pytest.mark.chaos),
    ],
)
def test_nothing_is_left_and_the_next_run_goes_on(tmp_path: Path, end: signal.Signals, waiting: bool) -> None:
    """`waiting`: in a worker that follows a dataset in which nothing happens; else in the middle of an epoch."""
    made: World = tide(tmp_path / "a", 2)
    more: dict[str, Any] = {"epochs": None}
    if waiting:
        more = {"follow": True, "run": str(tmp_path / "run")}
    with Job(made.path, tmp_path / "job", cache=str(tmp_path / "cache"), **ORDER, **more) as job:
        job.start(1, 2, workers=2)
        job.wait(lambda: len(job.lines()[0]) >= 5)
        process = job.processes[0]
        workers = children(process.pid)
        assert len(workers) >= 2
        if waiting:
            time.sleep(1)
        process.send_signal(end)
        process.wait(20)
        limit = time.monotonic() + 25
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < limit, "a worker process outlived its trainer"
            time.sleep(0.1)
        assert not list(names_of([process.pid, *workers]))
        job.collect()
        state = job.state
    assert state is not None
    if waiting:
        made.log.end()
    again = ShardDataset(Source(made.path), cache=str(tmp_path / "cache"), batch_size=2, **ORDER, **more)
    again.load_state_dict(state)
    if waiting:
        told = whole(ShardDataset(Source(made.path), **ORDER, follow=True))
        assert whole(again) == told[state["g"] :]
    else:
        assert next(iter(again))["g"] == state["g"]

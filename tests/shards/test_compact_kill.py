"""Compactions that are killed, refused, or lose a reply, at any step; the next one ends with the same content.

As a script (`test_compact_kill.py ROOT`) it kills a compaction before each of its system calls in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.shards.compact import compact, everything
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import Killed, LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import verify

Fill = Callable[..., CommitLog]
SETTINGS = {"tide": settings_of("tide"), "bulletins": settings_of("bulletins", None)}


@pytest.mark.parametrize("step", range(0, 16, 3))
@pytest.mark.parametrize("fault", ["killed before", "killed after", "refused", "lost reply"])
def test_a_compaction_that_fails_at_any_publication_is_finished_by_the_next(
    claimed: Fill, step: int, fault: str
) -> None:
    from headrace.schemas.errors import StorageError

    memory = MemoryStore()
    log = claimed(memory)
    lanes = [LaneDouble(memory, log, stream, length=4) for stream in SETTINGS]
    for _ in range(6):
        for lane in lanes:
            log.append(lane.cut(2))
    digest, left = verify(memory).content_digest, [step]

    def fail(name: str) -> str:
        left[0] -= 1
        return fault if left[0] == -1 else "none"

    memory.fault = fail  # type: ignore[assignment]
    try:
        compact(log, replace(everything(4000), step_bytes=1))
    except (Killed, StorageError):
        memory.fault = lambda name: "none"
        log = claimed(memory)
        compact(log, replace(everything(4000), step_bytes=1))
    report = verify(memory)
    assert report.ok and report.content_digest == digest
    collect(memory, log.state, delete=True, superseded=True)
    assert verify(memory).ok


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on which fsync costs nothing, where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_compaction_killed_before_any_system_call_leaves_a_sound_dataset(memory_disk: Path) -> None:
    command = [sys.executable, __file__, str(memory_disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) > 25 and all(r == results[-1] and r["problems"] == [] for r in results), results
    assert results[-1]["live"] == 1 and results[-1]["files"] == 1


def steps(root: str) -> list[dict[str, Any]]:
    """Kill a compaction before each of its system calls; then let another finish, collect, and tell what is there."""
    from killing import Doomed, fork

    from headrace.shards import store_local

    def prepare() -> None:
        log = CommitLog(LocalStore(f"{root}/seed", create=True))
        log.claim({}, SETTINGS)
        lane = LaneDouble(log.store, log, "tide", length=4)
        for _ in range(4):
            log.append(lane.cut(2))

    def work(place: str) -> CommitLog:
        log = CommitLog(LocalStore(place))
        log.claim({}, {})
        compact(log, everything())
        return log

    def doomed(place: str, step: int) -> None:
        store_local.os = Doomed(step)  # type: ignore[assignment]
        work(place)

    def finish(place: str, pipe: int) -> None:
        log = work(place)
        log.end()
        collect(log.store, log.state, delete=True, superseded=True)
        report = verify(log.store)
        found = {
            "problems": [str(p) for p in report.problems], "digest": report.content_digest,
            "live": len(log.state.live_shards()), "files": len(list(log.store.list("data/"))),
            "left": len(list(log.store.leftovers())),
        }  # fmt: skip
        os.write(pipe, json.dumps(found).encode())

    os.waitpid(fork(prepare), 0)
    results = []
    for step in range(10_000):
        place = f"{root}/{step}"
        shutil.copytree(f"{root}/seed", place)
        _, status = os.waitpid(fork(lambda place=place, step=step: doomed(place, step)), 0)
        reader, writer = os.pipe()
        os.waitpid(fork(lambda place=place, writer=writer: finish(place, writer)), 0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            results.append(json.loads(pipe.read() or b"{}"))
        shutil.rmtree(place)
        if not os.WIFSIGNALED(status):
            return results
    raise RuntimeError("a compaction never finished")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(steps(sys.argv[1])) + "\n")

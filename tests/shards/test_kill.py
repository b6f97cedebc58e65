"""SIGKILL at every system call of a commit, and at random moments: the next writer ends with the same content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.shards.log import CommitLog
from headrace.shards.testing import LaneDouble, MemoryStore
from headrace.shards.verify import verify

SCRIPT = Path(__file__).parent / "killing.py"


@pytest.fixture
def unfailed(claimed: Callable[..., CommitLog]) -> str:
    """The content digest of a run that nobody killed."""
    memory = MemoryStore()
    log = claimed(memory)
    lane = LaneDouble(memory, log, "tide", length=4)
    for rows, bad in ((4, 0), (4, 1)):
        log.append(lane.cut(rows, bad))
    digest = verify(memory).content_digest
    assert digest is not None
    return digest


def outcomes(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def good(unfailed: str) -> dict[str, Any]:
    return {"code": 0, "problems": [], "digest": unfailed, "items": 9}


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on which fsync costs nothing, where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_writer_killed_before_any_system_call_leaves_a_dataset_that_the_next_completes(
    memory_disk: Path, unfailed: str
) -> None:
    results = outcomes(str(memory_disk), "steps")
    assert len(results) > 50
    assert all(r == good(unfailed) for r in results), [n for n, r in enumerate(results) if r != good(unfailed)]


def test_writers_killed_at_random_moments_leave_a_dataset_that_the_next_completes(
    tmp_path: Path, unfailed: str
) -> None:
    assert outcomes(str(tmp_path / "d"), "random", "7") == [good(unfailed)]


def test_a_writer_that_slept_while_another_finished_wakes_up_fenced(tmp_path: Path, unfailed: str) -> None:
    first, second = outcomes(str(tmp_path / "d"), "zombie")
    assert first == good(unfailed) and second == {**first, "zombie": 3}

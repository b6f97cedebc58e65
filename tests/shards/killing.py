"""Run by test_kill.py as its own process: writers that are killed at a chosen or a random moment.

    killing.py ROOT steps          kill a writer before each of its system calls in turn, then let one finish
    killing.py ROOT random SEED    kill writers after random times, then let one finish
    killing.py ROOT zombie         stop a writer between data and commit, let another finish, wake the first

Each writer is a forked process that commits items until there are ITEMS. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from typing import Any

from headrace.schemas.errors import Fenced
from headrace.shards import store_local
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, MemoryStore, settings_of
from headrace.shards.verify import verify

ITEMS = 8
CALLS = ("open", "write", "fsync", "link", "unlink", "close")
SETTINGS = {"tide": settings_of("tide")}


def work(root: str, *, stop_before_commit: bool = False) -> None:
    """Claim and commit until all items are in."""
    store = LocalStore(root, create=True)
    log = CommitLog(store)
    log.claim({}, SETTINGS)
    lane = LaneDouble(store, log, "tide", length=4)
    while (done := lane.place.position if lane.place else 0) < ITEMS:
        entry = lane.cut(min(4, ITEMS - done), 1 if done == 4 else 0)
        if stop_before_commit:
            os.kill(os.getpid(), signal.SIGSTOP)
        log.append(entry)


def fork(run: Any) -> int:
    """A child process that runs this and exits with 0, or 3 when it was fenced."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run()
        code = 0
    except Fenced:
        code = 3
    finally:
        os._exit(code)
    return 0


class Doomed:
    """Stands for the `os` module in store_local: counts its calls and kills the process before the n-th."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            return real(*arguments)

        return call


def die_at(root: str, step: int) -> bool:
    """Whether a writer that should die before its call number `step` did die."""

    def run() -> None:
        store_local.os = Doomed(step)  # type: ignore[assignment]
        work(root)

    _, status = os.waitpid(fork(run), 0)
    return os.WIFSIGNALED(status)


def outcome(root: str) -> dict[str, Any]:
    """Let a writer finish, and say what the dataset is then."""
    reader, writer = os.pipe()

    def finish() -> None:  # verify in the same process: this one must not start Arrow's threads, for it forks
        work(root)
        report = verify(LocalStore(root))
        found = {
            "problems": [str(p) for p in report.problems],
            "digest": report.content_digest,
            "items": report.samples + report.quarantined,
        }
        os.write(writer, json.dumps(found).encode())

    _, status = os.waitpid(fork(finish), 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        return {"code": os.waitstatus_to_exitcode(status), **json.loads(pipe.read() or b"{}")}


def steps(root: str) -> Any:
    results = []
    for step in range(10_000):
        died = die_at(f"{root}/{step}", step)
        results.append(outcome(f"{root}/{step}"))
        shutil.rmtree(f"{root}/{step}")
        if not died:
            return results
    raise RuntimeError("a writer never finished")


def random_kills(root: str, seed: int) -> Any:
    dice, kills = random.Random(seed), 0
    while kills < 25:
        pid = fork(lambda: work(root))
        time.sleep(dice.uniform(0.001, 0.02))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            shutil.rmtree(root)  # it was done: begin another dataset
        kills += 1
    return [outcome(root)]


def zombie(root: str) -> Any:
    pid = fork(lambda: work(root, stop_before_commit=True))
    os.waitpid(pid, os.WUNTRACED)
    result = outcome(root)
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    return [result, {**outcome(root), "zombie": os.waitstatus_to_exitcode(status)}]


if __name__ == "__main__":
    memory = MemoryStore()
    warm = CommitLog(memory)
    warm.claim({}, SETTINGS)
    LaneDouble(memory, warm, "tide").cut(1)  # imports happen here, once, and not in every forked process
    root, mode = sys.argv[1], sys.argv[2]
    done = (
        steps(root) if mode == "steps" else zombie(root) if mode == "zombie" else random_kills(root, int(sys.argv[3]))
    )
    print(json.dumps(done))

"""Does a store create a name exactly once? Processes race on it and the winners are counted.

`headrace doctor --storage URL` runs this. It shows that a store is *not* exclusive; a store that passes may still be
wrong once in a million, or between two nodes, so run it on the real store and from the nodes that will write.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass

from headrace.schemas.errors import NotExclusive, StorageError
from headrace.shards.store import Store, open_store


@dataclass(frozen=True)
class RaceResult:
    """`names` were raced for by `processes`; each had exactly one winner whose bytes are there."""

    processes: int
    names: int


def exclusive_race(store: Store, *, processes: int = 4, names: int = 50, timeout_s: float = 120.0) -> RaceResult:
    """Race `processes` on `names` new names under `doctor/`, check the outcome, and clean up.

    Raises: NotExclusive if a name had several winners or none, or holds other bytes than its winner's; StorageError.
    """
    folder = f"doctor/{secrets.token_hex(8)}"
    job = {"url": store.url, "options": dict(store.options), "folder": folder, "names": names}
    command = [sys.executable, "-m", "headrace.shards.race"]
    children = []
    try:
        for number in range(processes):
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            children.append(child)
            assert child.stdin is not None
            child.stdin.write(json.dumps({**job, "racer": number}) + "\n")
            child.stdin.flush()
        for child in children:
            _expect(child, "ready", timeout_s)
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        wins = [json.loads(_finish(child, timeout_s)) for child in children]
        _judge(store, folder, wins, names)
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        for n in range(names):
            store.delete(f"{folder}/{n}")
    return RaceResult(processes, names)


def _judge(store: Store, folder: str, wins: list[list[int]], names: int) -> None:
    for n in range(names):
        winners = [racer for racer, won in enumerate(wins) if n in won]
        if len(winners) != 1:
            raise NotExclusive(
                f"{store.url}: {len(winners)} of {len(wins)} racing processes were told that they had created one name;"
                " exactly one should be. This store cannot hold a commit log"
            )
        if store.get(f"{folder}/{n}") != _content(winners[0], n):
            raise NotExclusive(f"{store.url}: a name holds other bytes than its winner wrote: it was overwritten")


def _expect(child: subprocess.Popen[str], word: str, timeout_s: float) -> None:
    assert child.stdout is not None
    if child.stdout.readline().strip() != word:
        raise StorageError(f"a racing process ended early with exit code {child.wait(timeout_s)}")


def _finish(child: subprocess.Popen[str], timeout_s: float) -> str:
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as exc:
        raise StorageError(f"a racing process did not finish within {timeout_s} s") from exc
    if child.returncode != 0:
        raise StorageError(f"a racing process failed with exit code {child.returncode}")
    return output


def _content(racer: int, n: int) -> bytes:
    return f"racer {racer} name {n}\n".encode() * 64


def main() -> None:
    """One racer: a job on standard input, `ready`, then at `go` the race; the names it won go to standard output."""
    job = json.loads(sys.stdin.readline())
    store = open_store(job["url"], job["options"])
    print("ready", flush=True)
    sys.stdin.readline()
    won = [n for n in range(job["names"]) if store.put_new(f"{job['folder']}/{n}", _content(job["racer"], n))]
    print(json.dumps(won))


if __name__ == "__main__":
    main()

"""What the tests of `tail` share: a reader that stops when nothing more comes, and a writer that rotates its file."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.connectors.contract import Idle, Item, Position, Read, Split
from headrace.connectors.tail import Tail

FAST = {"poll": "1ms", "linger": "0s"}


def tail(root: Path, **config: Any) -> Tail:
    return Tail(Tail.Config(root=str(root), **{**FAST, **config}))


def read_some(connector: Tail, after: Position = None, id: str = "app.log", most: int = 10**9) -> list[Read]:
    """Everything up to the point where nothing more comes for some looks."""
    out: list[Read] = []
    idle = 0
    reads = connector.read(Split(id), after)
    for read in reads:
        if isinstance(read, Idle):
            idle += 1
            if idle == 4:
                break
            continue
        idle = 0
        out.append(read)
        if len(out) == most:
            break
    reads.close()  # type: ignore[attr-defined]
    return out


def lines(reads: list[Read]) -> list[bytes]:
    return [read.data for read in reads if isinstance(read, Item) and isinstance(read.data, bytes)]


def only_lines(reads: list[Read]) -> list[bytes]:
    assert all(isinstance(read, Item) for read in reads), [read for read in reads if not isinstance(read, Item)]
    return lines(reads)


class Log:
    """A writer of a log file, whose changes bear times that always grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tick = 10**18
        path.touch()
        self._stamp(path)

    def _stamp(self, path: Path) -> None:
        self.tick += 10**9
        os.utime(path, ns=(self.tick, self.tick))

    def sibling(self, number: int, suffix: str = "") -> Path:
        return self.path.with_name(f"{self.path.name}.{number}{suffix}")

    def write(self, data: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(data)
        self._stamp(self.path)

    def shift(self) -> None:
        """app.log.1 becomes app.log.2, and so on, compressed or not."""
        for number in range(30, 0, -1):
            for suffix in ("", ".gz"):
                if self.sibling(number, suffix).exists():
                    self.sibling(number, suffix).rename(self.sibling(number + 1, suffix))

    def rename(self, create: bool = True) -> None:
        self.shift()
        self.path.rename(self.sibling(1))
        if create:
            self.create()

    def create(self) -> None:
        self.path.touch()
        self._stamp(self.path)

    def copytruncate(self) -> None:
        self.shift()
        shutil.copyfile(self.path, self.sibling(1))
        self._stamp(self.sibling(1))
        self.truncate()

    def truncate(self, size: int = 0) -> None:
        os.truncate(self.path, size)
        self._stamp(self.path)

    def compress(self, number: int = 1) -> None:
        plain, packed = self.sibling(number), self.sibling(number, ".gz")
        found = plain.stat()
        packed.write_bytes(gzip.compress(plain.read_bytes(), 1, mtime=0))
        os.utime(packed, ns=(found.st_mtime_ns, found.st_mtime_ns))
        plain.unlink()


ROTATIONS: dict[str, Callable[[Log], None]] = {
    "rename and create": lambda log: log.rename(),
    "copytruncate": lambda log: log.copytruncate(),
    "rename, create and compress": lambda log: (log.rename(), log.compress())[0],
    "copytruncate and compress": lambda log: (log.copytruncate(), log.compress())[0],
}

"""A receiver as the engine uses it, in this process or in one that can be killed; parts of the kit for receivers.

    here = Reception(connector)      a read has begun
    here.take(3); here.ack()         three items, and the word that they are on disk

    with Child(Doorbell, settings) as child:
        child.take(3); child.ack(0); child.kill()
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from headrace.connectors.contract import Connector, Idle, Item, Position
from headrace.connectors.registry import connector_class
from headrace.connectors.testing import type_of as class_type

_CHILD = """
import json, sys
task = json.loads(sys.stdin.readline())
sys.path[:0] = [p for p in task["path"] if p not in sys.path]
from headrace.connectors.testing_reception import child_receives
child_receives(task)
"""

class Sender(ABC):
    """A real client that sends to the receiver under test."""

    @abstractmethod
    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Begin to send (key, payload) pairs, in order, without waiting until they are confirmed."""

    @abstractmethod
    def confirmed(self) -> int:
        """How many messages the receiver has confirmed so far."""

    @abstractmethod
    def again(self) -> None:
        """Send again what failed unconfirmed; a broker does so by itself, then there is nothing to do."""

    def close(self) -> None:  # noqa: B027 - a default, not a duty
        """Free sockets and threads."""


class Reception:
    """A receiver as the engine uses it: one read at a time, and `ack` for what is said to be on disk."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        (self.split,) = list(connector.splits())
        self.items: list[Item] = []  #: of the current read
        self.begin()

    def begin(self) -> None:
        """A new read, begun: whatever listens does so now."""
        self.items = []
        self._given = 0
        self._reads = iter(self.connector.read(self.split, None))
        self.pull()

    def end_read(self) -> None:
        """Close the read, as the engine does when it gives up on it."""
        self._reads.close()  # type: ignore[attr-defined]

    def take(self, count: int, timeout_s: float = 20, sender: Sender | None = None) -> list[Item]:
        """The next items, pulled as needed; `sender` sends again meanwhile. Fewer when the time is up."""
        wanted = self._given + count
        deadline = time.monotonic() + timeout_s
        while len(self.items) < wanted and time.monotonic() < deadline:
            if not self.pull() and sender is not None:
                sender.again()
        return self._give(wanted)

    def take_until_idle(self) -> list[Item]:
        """All items up to the next idle tick."""
        while self.pull():
            pass
        return self._give(len(self.items))

    def ack(self, position: Position | None = None) -> None:
        """Say that everything taken (or up to a position) is on disk."""
        at = self.items[-1].position if position is None else position
        self.connector.ack(self.split, at)

    def close(self) -> None:
        """End the read and the connector."""
        self.end_read()
        self.connector.close()

    def _give(self, upto: int) -> list[Item]:
        items = self.items[self._given : upto]
        self._given += len(items)
        return items

    def pull(self) -> bool:
        """One read; whether it was more than an idle tick."""
        read = next(self._reads)
        if isinstance(read, Item):
            self.items.append(read)
        return not isinstance(read, Idle)


class Child:
    """A receiver in a process of its own, which can be killed and whose memory is its own."""

    def __init__(self, connector: type[Connector], settings: dict[str, Any]) -> None:
        task = {"path": [os.path.abspath(p) for p in sys.path], "type": class_type(connector), "settings": settings}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._ask(task) == "ready", "the receiving process did not start"

    def take(self, count: int, *, timeout_s: float = 20, digests: bool = False) -> list[tuple[str, Any]]:
        """(key, payload) of the next items, at most so many; or the payloads' sha256."""
        said = self._ask({"do": "take", "count": count, "timeout_s": timeout_s, "digests": digests})
        return [(key, payload if digests else bytes.fromhex(payload)) for key, payload in said]

    def ack(self, index: int = -1) -> None:
        """Acknowledge up to an item, by its number among all that were taken."""
        self._ask({"do": "ack", "index": index})

    def resident_bytes(self) -> int:
        """Resident memory; 0 where /proc does not tell."""
        path = f"/proc/{self._process.pid}/statm"
        if not os.path.exists(path):
            return 0
        with open(path, encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _ask(self, what: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the receiving process has ended"
        return json.loads(answer)


def child_receives(task: dict[str, Any]) -> None:
    """The child's side: obeys one JSON line after another, and pulls only when it is told to."""
    cls = connector_class(task["type"])
    here = Reception(cls(cls.Config.model_validate(task["settings"])))
    print('"ready"', flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        answer: Any = None
        if what["do"] == "take":
            taken = here.take(what["count"], what["timeout_s"])
            answer = [(i.key, _data(i) if not what["digests"] else _digest(i)) for i in taken]
        elif here.items:
            here.ack(here.items[what["index"]].position)
        print(json.dumps(answer), flush=True)


def said(item: Item) -> tuple[str, bytes]:
    """(key, payload) of an item."""
    assert isinstance(item.data, bytes)
    return item.key or "", item.data


def _data(item: Item) -> str:
    return said(item)[1].hex()


def _digest(item: Item) -> str:
    return hashlib.sha256(said(item)[1]).hexdigest()

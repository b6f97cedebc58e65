"""Remembers which items came before, within a window counted in items, so that a repeated one can be told.

The memory of a lane is a file that its commits name: what a lane has committed and what it remembers are never two
truths. It holds 16 bytes an item, of a hash of the key (or payload) and, unless the scope is the stream, of the split.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque

import pyarrow as pa

from headrace.connectors.contract import Item
from headrace.ingest.walk import STEP_ITEMS
from headrace.schemas.errors import BrokenLog
from headrace.schemas.pipeline import Dedup
from headrace.shards.entry import split_digest

_MAGIC = b"headrace-seen-1\n"
_SIZE = 16
_WHOLE_STREAM = "*"


class Seen:
    """The windows of one lane."""

    def __init__(self, settings: Dedup) -> None:
        self._settings = settings
        self._order: dict[str, deque[bytes]] = {}
        self._known: dict[str, set[bytes]] = {}
        #: Of the newest items: the scope, and the digests that left its window for it; None without a key.
        self._latest: deque[tuple[str, list[bytes]] | None] = deque(maxlen=STEP_ITEMS)
        self.changed = False  #: since `to_bytes`

    def __call__(self, split_id: str, item: Item) -> bool:
        """Whether the item came before; if not, it has now."""
        digest = self._digest(item)
        if digest is None:
            self._latest.append(None)
            return False
        scope = _WHOLE_STREAM if self._settings.scope == "stream" else split_digest(split_id)
        known = self._known.setdefault(scope, set())
        if digest in known:
            return True
        order = self._order.setdefault(scope, deque())
        order.append(digest)
        known.add(digest)
        dropped = [order.popleft() for _ in range(len(order) - self._settings.window)]
        known.difference_update(dropped)
        self._latest.append((scope, dropped))
        self.changed = True
        return False

    def take_back(self, count: int) -> None:
        """The last `count` items that were new did not come yet: they will be asked for again. At most STEP_ITEMS."""
        for _ in range(count):
            latest = self._latest.pop()
            if latest is not None:
                scope, dropped = latest
                order, known = self._order[scope], self._known[scope]
                known.discard(order.pop())
                order.extendleft(reversed(dropped))
                known.update(dropped)

    def forget(self, split_id: str) -> None:
        """The split is over: its window is dropped."""
        if self._order.pop(split_digest(split_id), None) is not None:
            self._known.pop(split_digest(split_id), None)
            self.changed = True

    def _digest(self, item: Item) -> bytes | None:
        if self._settings.by == "key":
            data = None if item.key is None else item.key.encode()
        elif isinstance(item.data, (bytes, bytearray, memoryview)):
            data = bytes(item.data)
        elif isinstance(item.data, pa.RecordBatch):
            data = item.data.serialize().to_pybytes()
        else:
            data = None
        return None if data is None else hashlib.sha256(data).digest()[:_SIZE]

    def to_bytes(self) -> bytes:
        """The lane's file: a line of JSON with the number of items of each scope, then their digests, oldest first."""
        self.changed = False
        counts = {scope: len(order) for scope, order in sorted(self._order.items()) if order}
        body = b"".join(b"".join(self._order[scope]) for scope in counts)
        return _MAGIC + json.dumps(counts, sort_keys=True).encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, settings: Dedup, data: bytes, name: str) -> Seen:
        """What a lane remembered. Raises: BrokenLog if the file is not one."""
        made = cls(settings)
        line, newline, body = data.removeprefix(_MAGIC).partition(b"\n")
        if not data.startswith(_MAGIC) or not newline:
            raise BrokenLog(f"{name} is no file of remembered items")
        at = 0
        for scope, count in json.loads(line).items():
            digests = [body[at + i * _SIZE : at + (i + 1) * _SIZE] for i in range(count)]
            at += count * _SIZE
            made._order[scope], made._known[scope] = deque(digests), set(digests)
        if at != len(body):
            raise BrokenLog(f"{name}: {len(body)} bytes of digests, {at} were announced")
        return made

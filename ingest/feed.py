"""Reads one split in a thread of its own, ahead of the decoder by a bounded number of bytes.

An error of the source is met here: it is tried again after a pause, from the last position that was read, until it
yields. Whatever was read stays in order, and a consumer that does not take makes the reader wait.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from headrace.connectors.contract import Blob, Broken, Connector, Gap, Idle, Item, Position, Split
from headrace.ingest.backoff import BUDGET_S, LONGEST_PAUSE_S, pause_s
from headrace.schemas.errors import ConfigError, HeadraceError, RateLimited, SourceChanged

UNKNOWN_TRIES = 3  #: of an error that no connector should raise, at one position
_ITEM_BYTES = 512  # what an item costs besides its payload

Datum = Item | Gap | Broken


@dataclass
class Trouble:
    """Why a split is not being read."""

    message: str
    since: float  #: seconds since 1970
    parked: bool  #: nobody tries any more, or only now and then
    next_try: float | None  #: seconds since 1970; None: not by itself


class Feed(Protocol):
    """What a lane takes items from."""

    def take(self, most: int, most_bytes: int) -> list[Datum]:
        """The next ones that are there, within these bounds (one may be larger); none if there are none now."""

    @property
    def ended(self) -> bool:
        """Whether the split is over and all of it was taken."""

    @property
    def trouble(self) -> Trouble | None:
        """Why nothing comes, if it is not for want of data."""

    def stop(self) -> None:
        """Read no more; does not wait."""


class ThreadFeed:
    """A feed whose split is read in a thread."""

    def __init__(
        self,
        connector: Connector,
        split: Split,
        after: Position,
        *,
        credit_bytes: int,
        ready: Callable[[], None],
        seed: int = 0,
    ) -> None:
        self.trouble: Trouble | None = None
        self._connector = connector
        self._split = split
        self._after = after
        self._credit = credit_bytes
        self._ready = ready  #: called when there is something to take
        self._queue: deque[tuple[Datum, int]] = deque()
        self._bytes = 0
        self._change = threading.Condition()
        self._stopping = False
        self._over = False
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=self._run, name=f"read {split.id}", daemon=True)
        self._thread.start()

    def take(self, most: int, most_bytes: int) -> list[Datum]:
        taken: list[Datum] = []
        if not self._queue:  # a look without the lock: whoever adds to it calls `ready` afterwards
            return taken
        with self._change:
            left = most_bytes
            while self._queue and len(taken) < most and (not taken or self._queue[0][1] <= left):
                datum, size = self._queue.popleft()
                self._bytes -= size
                left -= size
                taken.append(datum)
            self._change.notify_all()
        return taken

    @property
    def ended(self) -> bool:
        with self._change:
            return self._over and not self._queue

    def stop(self) -> None:
        with self._change:
            self._stopping = True
            self._change.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; whether it is gone."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the reader's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        tries = unknown = 0
        unknown_at: Any = ...
        failing_since: float | None = None
        while not self._stopping:
            try:
                for read in self._reads():
                    if self._stopping:
                        return
                    failing_since, tries, self.trouble = None, 0, None
                    if not isinstance(read, Idle):
                        self._put(read)
                with self._change:
                    self._over = not self._stopping
                self._ready()
                return
            except (ConfigError, SourceChanged) as exc:
                self.trouble = Trouble(str(exc), time.time(), parked=True, next_try=None)
                self._ready()
                return
            except RateLimited as exc:
                pause, message = exc.retry_after, str(exc)
            except (HeadraceError, OSError) as exc:
                pause, message = pause_s(tries, self._random), str(exc)
                tries += 1
            except Exception as exc:  # a bug of the connector: it must not end the service, nor be tried for ever
                unknown = unknown + 1 if unknown_at == self._after else 1
                unknown_at = self._after
                pause, message = pause_s(tries, self._random), f"{type(exc).__name__}: {exc}"
                tries += 1
                if unknown >= UNKNOWN_TRIES:
                    self.trouble = Trouble(f"{message} ({unknown} times here)", time.time(), parked=True, next_try=None)
                    self._ready()
                    return
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            parked = now - failing_since > BUDGET_S
            pause = LONGEST_PAUSE_S if parked else pause
            began = self.trouble.since if self.trouble else time.time()
            self.trouble = Trouble(message, began, parked, time.time() + pause)
            with self._change:
                self._change.wait_for(lambda: self._stopping, timeout=pause)

    def _reads(self) -> Iterator[Any]:
        reads = self._connector.read(self._split, self._after)
        try:
            yield from reads
        finally:
            close = getattr(reads, "close", None)
            if close is not None:
                close()

    def _put(self, read: Datum) -> None:
        size = _ITEM_BYTES + _size(read)
        with self._change:
            while self._queue and self._bytes + size > self._credit and not self._stopping:
                self._change.wait()
            if self._stopping:
                return
            first = not self._queue
            self._queue.append((read, size))
            self._bytes += size
            self._after = read.position
        if first:
            self._ready()


def _size(read: Datum) -> int:
    if isinstance(read, Gap):
        return 0
    data = read.data
    if data is None or isinstance(data, list):
        return 0
    if isinstance(data, Blob):
        return 0  # opened when it is decoded
    return data.nbytes if isinstance(data, pa.RecordBatch) else len(data)

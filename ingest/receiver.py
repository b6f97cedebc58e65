"""Reads a source that cannot be replayed into a spool, and answers its senders once their items are on disk.

A thread reads each split of the connector; one thread writes what they all bring, many items to an fsync, and then
calls `connector.ack`. A failed read is begun again after a pause. What is between a read and the disk is bounded in
bytes, so a slow disk or a full spool holds the source back.

Not answered are items of a read that has ended since: their positions mean nothing to the next one, and their sender
sends them again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.connectors.contract import Broken, Connector, Gap, Idle, Item, Position, Split
from headrace.ingest.backoff import BUDGET_S, pause_s
from headrace.ingest.spool import Clock, SpoolFull, SpoolSettings, now_us
from headrace.ingest.spool_queue import ITEM_COST, Taken, TakenQueue, taken
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.errors import ConfigError, Fenced, HeadraceError, RateLimited, SourceChanged, StorageError

_GROUP_BYTES = 4 << 20

log = logging.getLogger(__name__)


@dataclass
class _Source:
    """One split of the connector and how reading it goes."""

    split: Split
    state: Literal["reading", "waiting", "parked", "done"] = "reading"
    message: str = ""
    since_us: int = 0
    next_try_us: int | None = None
    attempt: int = 0
    failing_since: float | None = None  # monotonic; None while it works
    was_out: bool = False  # a read ended, and items may have been missed since
    retry: bool = False  # somebody asked to try now
    generation: int = 0  # counts its reads
    refused: int = -1  # the read whose items are not taken any more
    items: int = 0
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while acknowledging and while a read begins
    thread: threading.Thread | None = None


class Receiver:
    """Fills one spool from one connector, in threads of its own, from `start` until `stop` or a newer receiver."""

    def __init__(
        self,
        connector: Connector,
        folder: str,
        settings: SpoolSettings | None = None,
        *,
        writer: Callable[[], SpoolWriter] | None = None,
        clock: Clock = now_us,
        dice: random.Random | None = None,
        buffer_bytes: int = 32 << 20,
        discover_s: float = 5.0,
        budget_s: float = BUDGET_S,
    ) -> None:
        """`budget_s`: a split that fails for longer is reported as parked; it is tried on all the same."""
        self.connector = connector
        self.settings = settings or SpoolSettings()
        self._make_writer = writer or (lambda: SpoolWriter(folder, self.settings, clock=clock))
        self._clock = clock
        self._dice = dice or random.Random()
        self._discover_s = discover_s
        self._budget_s = budget_s
        self._queue: TakenQueue[_Source] = TakenQueue(
            limit_bytes=buffer_bytes,
            group_bytes=min(_GROUP_BYTES, self.settings.max_bytes // 8),
            group_items=self.settings.sync_items,
            wait_s=self.settings.sync_ms / 1000,
        )
        self._asked = threading.Condition()  # told when somebody wants waiting splits to go on, or to stop
        self._stopping = threading.Event()
        self._sources: dict[str, _Source] = {}
        self._threads: list[threading.Thread] = []
        self._writer: SpoolWriter | None = None
        self._state = "starting"
        self._since_us = clock()
        self._last_error = ""
        self._last_error_us: int | None = None
        self._counts = dict.fromkeys(("items", "bytes", "gaps", "broken", "acknowledged", "shed"), 0)
        self._shed_unsaid = 0
        self._next_shed_gap = 0.0  # monotonic

    # -- for its owner ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins a run, which ends an older receiver of this spool, and reads. Raises: StorageError, Fenced."""
        self._writer = self._make_writer()
        if not self.connector.acknowledges and self._writer.number > 1:
            self._writer.gap("receiver_restarted", None)
        self._set("running")
        for name, run in (("spool-discover", self._discover), ("spool-append", self._append_all)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop reading, write what was taken, seal the run; whether all threads ended in time."""
        self._end()
        deadline = time.monotonic() + timeout_s
        threads = [*(s.thread for s in list(self._sources.values()) if s.thread is not None), *self._threads]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        ended = not any(thread.is_alive() for thread in threads)
        if ended and self._writer is not None:
            try:
                self._writer.close()
            except StorageError as exc:
                self._note(str(exc))  # the next receiver seals it
        if self._state != "fenced":
            self._set("stopped")
        return ended

    @property
    def fenced(self) -> bool:
        """A newer receiver has taken the spool over; this one has ended."""
        return self._state == "fenced"

    def retry(self) -> None:
        """Try parked and waiting splits again now."""
        for source in list(self._sources.values()):
            source.retry = True
        with self._asked:
            self._asked.notify_all()

    def snapshot(self) -> dict[str, Any]:
        """How it stands, as JSON values. `state`: starting, running, full, failing, fenced, stopped."""
        writer = self._writer
        return {
            "state": self._state,
            "since_us": self._since_us,
            "run": writer.run if writer else None,
            **self._counts,
            "queued_bytes": self._queue.bytes,
            "spool_bytes": writer.size if writer else None,
            "max_bytes": self.settings.max_bytes,
            "last_error": self._last_error or None,
            "last_error_us": self._last_error_us,
            "splits": {
                name: {
                    "state": s.state,
                    "message": s.message or None,
                    "since_us": s.since_us,
                    "next_try_us": s.next_try_us,
                    "attempts": s.attempt,
                    "items": s.items,
                    "bytes": s.bytes,
                }
                for name, s in sorted(self._sources.items())
            },
        }

    # -- reading ------------------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        """Start a thread for each split that appears."""
        attempt = 0
        while not self._stopping.is_set():
            pause = self._discover_s
            try:
                for split in self.connector.splits():
                    if split.id not in self._sources:
                        self._begin(_Source(split, since_us=self._clock()))
                attempt = 0
            except RateLimited as exc:
                self._note(str(exc))
                pause = exc.retry_after
            except Exception as exc:  # a thread that died would stop the source without a word
                self._note(_said(exc))
                pause = max(0.05, pause_s(attempt, self._dice))
                attempt += 1
            self._stopping.wait(pause)

    def _begin(self, source: _Source) -> None:
        self._sources[source.split.id] = source
        name = f"spool-read-{source.split.id}"
        source.thread = threading.Thread(target=self._read_on, args=(source,), name=name, daemon=True)
        source.thread.start()

    def _read_on(self, source: _Source) -> None:
        """Read a split again and again."""
        while not self._stopping.is_set():
            with source.lock:
                source.generation += 1
            self._turn(source, "reading", "")
            try:
                self._read_once(source)
                if source.refused == source.generation:
                    self._pause(source, pause_s(0, self._dice), "the spool is full; what came was not taken")
                    continue
                self._turn(source, "done", "")
                return
            except RateLimited as exc:
                self._pause(source, exc.retry_after, str(exc))
            except (ConfigError, SourceChanged, TypeError) as exc:
                self._park(source, _said(exc))
            except Exception as exc:
                # SourceError, and whatever a connector of somebody else may raise: none of it may end the thread.
                if not isinstance(exc, HeadraceError):
                    log.exception("the connector failed on split %s", source.split.id)
                self._pause(source, pause_s(source.attempt, self._dice), _said(exc))

    def _read_once(self, source: _Source) -> None:
        generation = source.generation
        reads = self.connector.read(source.split, None)
        try:
            for read in reads:
                source.attempt, source.failing_since = 0, None
                if source.state != "reading":
                    self._turn(source, "reading", "")
                if not isinstance(read, Idle):
                    if source.was_out:
                        source.was_out = False
                        if not isinstance(read, Gap):  # else the connector says it itself
                            self._queue.put(taken(source, generation, Gap("disconnected", None)))
                    self._queue.put(taken(source, generation, read))
                if self._stopping.is_set() or source.refused == generation:
                    return
        finally:
            source.was_out = not self.connector.acknowledges
            close = getattr(reads, "close", None)
            if close is not None:
                close()

    def _pause(self, source: _Source, seconds: float, message: str) -> None:
        now = time.monotonic()
        source.failing_since = now if source.failing_since is None else source.failing_since
        source.attempt += 1
        spent = now - source.failing_since > self._budget_s
        self._turn(source, "parked" if spent else "waiting", message)
        self._note(f"{source.split.id}: {message}")
        source.next_try_us = self._clock() + int(seconds * 1e6)
        self._wait(source, now + seconds)

    def _park(self, source: _Source, message: str) -> None:
        """Wait for `retry`."""
        self._turn(source, "parked", message)
        self._note(f"{source.split.id}: {message}")
        self._wait(source, None)

    def _wait(self, source: _Source, until: float | None) -> None:
        with self._asked:
            while not self._stopping.is_set() and not source.retry:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._asked.wait(left)
        source.next_try_us, source.retry = None, False

    # -- writing ------------------------------------------------------------------------------------------------------

    def _append_all(self) -> None:
        """Write groups until told to stop and nothing is left."""
        attempt = 0
        group: list[Taken[_Source]] = []
        while True:
            reading = self._is_reading()  # before looking: what they put in last is not missed
            group = group or self._queue.group()
            if not group:
                if self._stopping.is_set() and not reading:
                    return
                continue
            group = [t for t in group if t.source.refused != t.generation]
            try:
                self._write(group)
            except Fenced as exc:
                self._set("fenced")
                self._note(str(exc))
                self._end()
                self._queue.clear()
                return
            except SpoolFull as exc:
                self._set("full")
                self._note(str(exc))
                if self.settings.policy == "shed":
                    self._shed(group)
                    group = []
                elif self._stopping.wait(0.1):
                    self._queue.clear()
                    return
                continue
            except Exception as exc:  # StorageError, and what an `ack` of somebody else may raise
                if not isinstance(exc, HeadraceError):
                    log.exception("the spool could not be written")
                self._set("failing")
                self._note(_said(exc))
                if self._stopping.wait(max(0.05, pause_s(attempt, self._dice))):
                    self._queue.clear()
                    return
                attempt += 1
                continue
            attempt, group = 0, []
            self._set("running")

    def _is_reading(self) -> bool:
        return any(s.thread is not None and s.thread.is_alive() for s in list(self._sources.values()))

    def _write(self, group: Sequence[Taken[_Source]]) -> None:
        writer = self._writer
        assert writer is not None
        shed = [self._shed_gap()] if self._shed_unsaid else []
        writer.append([*shed, *(one.read for one in group)])
        self._shed_unsaid = 0
        upto: dict[str, tuple[Taken[_Source], int]] = {}
        for one in group:
            kind = "gaps" if isinstance(one.read, Gap) else "broken" if isinstance(one.read, Broken) else "items"
            self._counts[kind] += 1
            if kind == "items":
                size = one.cost - ITEM_COST
                self._counts["bytes"] += size
                one.source.items += 1
                one.source.bytes += size
            if one.read.position is not None:
                before = upto.get(one.source.split.id)
                goes_on = before is not None and before[0].generation == one.generation
                upto[one.source.split.id] = (one, 1 + (before[1] if before and goes_on else 0))
        for one, count in upto.values():
            self._acknowledge(one, one.read.position, count)

    def _acknowledge(self, one: Taken[_Source], position: Position, count: int) -> None:
        source = one.source
        with source.lock:
            if source.generation != one.generation:
                return
            try:
                self.connector.ack(source.split, position)
            except Exception as exc:  # the items are on disk; their sender may send them again, and is told then
                if not isinstance(exc, HeadraceError):
                    log.exception("ack failed on split %s", source.split.id)
                self._note(f"{source.split.id}: {_said(exc)}")
                return
        self._counts["acknowledged"] += count

    def _shed(self, group: Sequence[Taken[_Source]]) -> None:
        """Drop a group. Of a sender that waits for an answer, nothing more of this read is taken: a later answer would
        mean these too."""
        for one in group:
            if self.connector.acknowledges:
                one.source.refused = one.generation
        count = sum(isinstance(one.read, Item) for one in group)
        self._counts["shed"] += count
        self._shed_unsaid += count
        if self._shed_unsaid and time.monotonic() >= self._next_shed_gap and self._writer is not None:
            self._next_shed_gap = time.monotonic() + 1
            with suppress(SpoolFull):  # the disk itself is full: then it stands before the next items that fit
                said = self._shed_gap()
                self._writer.gap(said.reason, said.lost)
                self._shed_unsaid = 0

    def _shed_gap(self) -> Gap:
        """What was dropped since the last one; a sender that waits for its answer may still send it again."""
        return Gap("spool_full", None, None if self.connector.acknowledges else self._shed_unsaid)

    def _end(self) -> None:
        """Let every thread come to its end."""
        self._stopping.set()
        self._queue.close()
        with self._asked:
            self._asked.notify_all()

    # -- saying -------------------------------------------------------------------------------------------------------

    def _set(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._since_us = self._clock()

    def _turn(self, source: _Source, state: Literal["reading", "waiting", "parked", "done"], message: str) -> None:
        if state != source.state:
            source.since_us = self._clock()
        source.state, source.message = state, message

    def _note(self, message: str) -> None:
        self._last_error = message
        self._last_error_us = self._clock()


def _said(exc: Exception) -> str:
    return str(exc) if isinstance(exc, HeadraceError) else f"{type(exc).__name__}: {exc}"

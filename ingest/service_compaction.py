"""Compacts while a service runs: its many small shards become few large ones, and gc takes what nobody needs any more.

Files are written outside of the service's lock; only the entry is appended under it. If shards were erased meanwhile
the log refuses the entry, and the files written for it are removed.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from headrace.schemas.errors import Fenced, HeadraceError, LogError, StorageError
from headrace.shards.compact import Compactor, Policy
from headrace.shards.entry import Entry
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.state import COLLECTED

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_logger = logging.getLogger(__name__)

_EVERY_S = 30.0
_GC_EVERY_S = 3600.0
_MAX_WAIT_S = 3600.0  #: small shards are merged when there are enough of them, or when they are this old


class Compaction:
    """One thread beside a service."""

    def __init__(self, service: Service, *, every_s: float = _EVERY_S, min_shards: int = 32) -> None:
        self._service = service
        self._every_s = every_s
        self._compactor = Compactor(service.log.store, Policy(min_shards=min_shards, max_wait_s=_MAX_WAIT_S))
        self._stale: list[str] = []  #: replaced before the last round
        self._over = threading.Event()
        self._gc_at = time.monotonic() + _GC_EVERY_S
        self._thread = threading.Thread(target=self._run, name="compact", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Begin nothing more; a step under way is finished or thrown away by the log."""
        self._over.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                while self.step() and not self._over.is_set():
                    pass
                if time.monotonic() > self._gc_at:
                    self._gc_at = time.monotonic() + _GC_EVERY_S
                    self._collect()
                self._drop_stale()
            except Fenced:
                return
            except HeadraceError as exc:
                _logger.warning("compaction: %s; it is tried again", exc)

    def _collect(self) -> None:
        """Delete what nobody needs, and say in the log which replaced files are gone, so that it may forget them."""
        store = self._service.log.store
        gone = collect(store, CommitLog(store).replay(), delete=True).collected
        with self._service.lock:
            state = self._service.log.state
            if len(state.retired) and gone > state.ext.get(COLLECTED, 0):
                self._service.append(Entry(kind="commit", ext={COLLECTED: gone}))

    def _drop_stale(self) -> None:
        """Lane files that a later commit replaced: only a worker of that moment read them."""
        with self._service.lock:
            stale, self._service.stale = self._service.stale, []
        for path in self._stale:
            self._service.log.store.delete(path)
        self._stale = stale

    def step(self) -> bool:
        """One merge; whether there was anything to do. Raises: Fenced, StorageError."""
        service = self._service
        with service.lock:
            if service.state != "running":
                return False
            merges = self._compactor.plan(service.log.state)
            epoch = service.log.epoch or 0
        entry = self._compactor.run(merges, epoch)
        if entry is None:
            return False
        with service.lock:
            try:
                service.append(entry)
            except StorageError:
                service.append(entry)  # only this tells whether the first one is in
            except Fenced:
                raise
            except LogError as exc:
                _logger.info("a merge was overtaken: %s", exc)
                self._compactor.discard(entry, service.log.state)
        return True

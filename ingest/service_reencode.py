"""A service and wrong engines: one is retired for all lanes, and what it had made is encoded again in the background.

Lanes of the tokenizer begin anew from their last commit, with the reference library. Nothing is lost by that, and what
another worker still commits with the engine is refused by the log. What was committed before is due to be encoded again
(`reencode_plan.py`), by batch workers, half of them at most; the streams go on meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.ingest.encoding import retirement
from headrace.ingest.reencode_plan import Chunk, Reencoding
from headrace.ingest.task import Task
from headrace.schemas.errors import Fenced, HeadraceError, StorageError
from headrace.shards import entry as log

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_logger = logging.getLogger(__name__)

_PAUSE_S = 30.0  #: after a failure


@dataclass
class _Given:
    chunk: Chunk
    worker: str


class Reencodings:
    """What retired engines have made in a service's dataset. Its service's lock guards it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._given: dict[str, _Given] = {}  #: by key
        self._not_before = 0.0
        self.trouble: dict[str, str] = {}  #: by pipeline stream: why it is not done now

    def failed(self, key: str, error: dict[str, Any]) -> str | None:
        """What to say of a task's failure; None where an engine was retired, and its work goes on at once."""
        with contextlib.suppress(Fenced, StorageError):  # what is not logged now, the next mismatch retires
            if self.retire(error):
                return None
        _logger.warning("%s: %s", key, error["message"])
        return str(error["message"])

    def retire(self, error: dict[str, Any]) -> bool:
        """Retire the engine that a task's failure names; False where that helps nobody. Raises as `Service.append`."""
        if not error.get("retired"):
            return False
        entry, service = retirement(error), self._service
        (info,) = entry.retired_engines
        known = service.log.state.engines.retired.get((info.fingerprint, info.engine))
        if known is not None:  # another lane had found it too, unless its tokenizer cannot leave the engine
            return (known.stream, known.record) != (info.stream, info.record)
        v = service.append(entry)
        _logger.warning("%s; version %d retires the engine, the reference library goes on", error["message"], v)
        for made in service.streams.values():
            if info.fingerprint in made.tokenizers.values():
                service.renewed(made)
        return True

    def task(self, worker: str) -> Task | None:
        """The next shards for a batch worker."""
        service = self._service
        most = max(1, len(service.lanes.workers) // 2)
        if not service.log.state.engines.retired or len(self._given) >= most or time.monotonic() < self._not_before:
            return None
        work = Reencoding(service.ledger)
        for made in service.streams.values():
            for chunk in work.chunks(made.stream) if made.runs else ():
                if chunk.key not in self._given:
                    self._given[chunk.key] = _Given(chunk, worker)
                    return work.task(chunk, made.stream, made.spec)
        return None

    def again(self, worker: str, key: str) -> Task | None:
        """What is left of a task; None if the worker has it no longer."""
        given = self._given.get(key)
        made = self._service.streams.get(given.chunk.source) if given else None
        if given is None or given.worker != worker or made is None:
            return None
        return Reencoding(self._service.ledger).task(given.chunk, made.stream, made.spec)

    def commit(self, worker: str, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Append what was done; a shard that was merged or erased meanwhile is done again under its new name."""
        given = self._given.get(key)
        if given is None or given.worker != worker:
            return {"stop": f"{key} is no longer given to {worker}"}
        entry = log.Entry.from_json(manifest)
        try:
            try:
                self._service.append(entry)
            except StorageError:
                self._service.append(entry)  # only this tells whether the first one is in
        except HeadraceError as exc:
            _logger.info("%s is done again: %s", key, exc)
            if not isinstance(exc, StorageError):  # of which nobody knows whether it is in: gc will
                self._discard(entry)
            del self._given[key]
            return {"stop": str(exc)}
        self.trouble.pop(given.chunk.source, None)
        return {"ok": True}

    def done(self, worker: str, key: str, error: str | None = None) -> None:
        """A task is finished, or failed with `error`."""
        given = self._given.get(key)
        if given is None or given.worker != worker:
            return
        del self._given[key]
        if error is not None:
            self._not_before, self.trouble[given.chunk.source] = time.monotonic() + _PAUSE_S, error

    def lost(self, worker: str) -> None:
        """A worker is gone."""
        self._given = {key: given for key, given in self._given.items() if given.worker != worker}

    def troubles(self, name: str) -> list[dict[str, Any]]:
        """Why samples of a stream are not encoded again now."""
        if name not in self.trouble:
            return []
        return [{"split": "encoding again", "message": self.trouble[name], "since": None, "parked": False,
                 "next_try": None}]  # fmt: skip

    def of_worker(self, worker: str) -> str | None:
        """The key of what a worker does."""
        return next((key for key, given in self._given.items() if given.worker == worker), None)

    def _discard(self, entry: log.Entry) -> None:
        state = self._service.log.state
        for shard in (s for change in entry.replace for s in change.add):
            if shard.path not in state.paths and shard.path not in state.retired:
                self._service.log.store.delete(shard.path)

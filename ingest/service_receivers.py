"""The process that receives for all spooled streams: one at a time, so that a port or a session has one holder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from headrace.ingest.task import Task

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_GONE_S = 20.0


class Receivers:
    """Who receives, and what it told. Its service's lock guards it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.worker: str | None = None
        self.told: dict[str, Any] = {}  #: stream → what its receiver told last
        self._heard = 0.0

    def task(self, worker: str) -> Task | None:
        """The task of receiving, for the first worker that asks while there is something to receive."""
        if self.worker is not None and time.monotonic() - self._heard > _GONE_S:
            self.worker = None
        if self.worker not in (None, worker) or not self._streams():
            return None
        self.worker, self._heard = worker, time.monotonic()
        return Task("receive", "receive", epoch=self._service.log.epoch or 0, lanes=self._streams())

    def polls(self, worker: str, snapshot: dict[str, Any]) -> dict[str, Any]:
        """What should be received from now on."""
        if self.worker != worker:
            return {"stop": "another process receives"}
        self._heard, self.told = time.monotonic(), snapshot
        return {"streams": self._streams()}

    def beat(self, worker: str) -> None:
        """It is alive."""
        if self.worker == worker:
            self._heard = time.monotonic()

    def lost(self, worker: str) -> None:
        """A worker is gone."""
        if self.worker == worker:
            self.worker, self.told = None, {}

    def _streams(self) -> list[dict[str, Any]]:
        return [
            {"stream": made.name, "spec": made.spec, "version": made.version}
            for made in self._service.streams.values()
            if made.stream.spooled and made.runs
        ]

"""A service on this machine alone: supervisors in threads, each with its own child process, and the service beside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from headrace.ingest.service import Service
from headrace.ingest.supervisor import PARTS, Supervisor

_LOOK_S = 0.2
_DRAIN_S = 60.0  #: after which a draining service leaves what is not committed to the next one


class InlineService:
    """Runs a service until `drain`."""

    def __init__(self, runtime: dict[str, Any], *, workers: int, api: str | None = None) -> None:
        self.service = Service(runtime)
        self.api = api  #: where commands reach it; may be set until `start`
        self._failures: list[BaseException] = []
        names = [f"w{i}/{part}" for i in range(workers) for part in PARTS if part != "receive" or i == 0]
        self._supervisors = [Supervisor(name, self.service, runtime) for name in names]
        self._threads: list[threading.Thread] = []

    def start(self, *, take_over: bool = False) -> None:
        """Claim the dataset and begin. Raises as `Service.start`."""
        self.service.start(self.api, take_over=take_over)
        for supervisor in self._supervisors:
            thread = threading.Thread(target=self._work, args=(supervisor,), name=supervisor.worker, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self, stopping: Callable[[], bool]) -> dict[str, Any]:
        """Run until `stopping` says so or another writer takes over; gives back `Service.finish`."""
        drained: float | None = None
        try:
            while any(thread.is_alive() for thread in self._threads):
                for thread in self._threads:
                    thread.join(_LOOK_S / len(self._threads))
                if stopping() and drained is None:
                    self.service.drain()
                    drained = 0.0
                if drained is not None:
                    drained += _LOOK_S
                    if drained > _DRAIN_S:
                        break
        finally:
            for supervisor in self._supervisors:
                supervisor.stop()
            for thread in self._threads:
                thread.join(5)
        told = self.service.finish()
        if self._failures:
            raise self._failures[0]
        return told

    def _work(self, supervisor: Supervisor) -> None:
        try:
            supervisor.run()
        except BaseException as exc:
            self._failures.append(exc)
            self.service.drain()

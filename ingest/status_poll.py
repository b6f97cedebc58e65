"""Asks the service how it is, in one thread, and keeps the answer for everybody who wants to see it.

However many pages are open, the service is asked once a second; and when its coordinator hangs, the page does not: it
shows the last answer and how old it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from headrace.ingest.status_contract import ServiceStatus, ServiceView
from headrace.schemas.errors import HeadraceError

_log = logging.getLogger(__name__)

#: Rates kept per stream for its sparkline.
HISTORY = 150
#: An answer older than this is shown as old, and the service is not ready.
STALE_S = 15.0


@dataclass(frozen=True)
class Snapshot:
    """The last answer of the service. `error` says why there is no newer one."""

    number: int
    status: ServiceStatus | None
    taken: float  #: time.monotonic() of the last answer
    error: str | None

    @property
    def age_s(self) -> float:
        """Seconds since the service answered."""
        return time.monotonic() - self.taken

    def not_ready(self) -> str | None:
        """Why the service is not ready, None if it is: it runs, has claimed its dataset, and answers."""
        if self.error is not None:
            return self.error
        if self.status is None:
            return "the service has not answered yet"
        if self.age_s > STALE_S:
            return f"the service has not answered for {self.age_s:.0f} s"
        if self.status["state"] != "running":
            return f"the service is {self.status['state']}"
        if not self.status["epoch"]:
            return "the service has not claimed its dataset"
        return None


class Poller:
    """Polls a service; `listeners` get every new status."""

    def __init__(self, view: ServiceView, *, every_s: float = 1.0) -> None:
        self._view = view
        self._every_s = every_s
        self._asking = threading.Lock()
        self._stop = threading.Event()
        self._snapshot = Snapshot(0, None, time.monotonic(), None)
        self._rates: dict[str, deque[float | None]] = {}
        self._thread = threading.Thread(target=self._run, name="headrace-status-poll", daemon=True)
        self.listeners: list[Callable[[ServiceStatus], None]] = []

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def stop(self) -> None:
        """End; a poll under way is not waited for long."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def snapshot(self) -> Snapshot:
        """The last answer, at once."""
        return self._snapshot

    def rates(self, stream: str) -> list[float | None]:
        """Records a second of a stream at the last polls, newest last."""
        return list(self._rates.get(stream, ()))

    def poll(self) -> Snapshot:
        """Ask now."""
        with self._asking:
            number = self._snapshot.number + 1
            try:
                status = self._view.status()
            except HeadraceError as exc:
                self._failed(number, str(exc))
            except Exception as exc:  # the service's own failure: it is logged and shown, and asked again
                _log.exception("the service could not say how it is")
                self._failed(number, f"{type(exc).__name__}: {exc}")
            else:
                self._keep_rates(status)
                for listener in self.listeners:
                    listener(status)
                self._snapshot = Snapshot(number, status, time.monotonic(), None)
            return self._snapshot

    def _failed(self, number: int, error: str) -> None:
        self._snapshot = Snapshot(number, self._snapshot.status, self._snapshot.taken, error)

    def _keep_rates(self, status: ServiceStatus) -> None:
        kept: dict[str, deque[float | None]] = {}
        for stream in status["streams"]:
            kept[stream["name"]] = rates = self._rates.get(stream["name"]) or deque(maxlen=HISTORY)
            rates.append(stream["records_per_s"])
        self._rates = kept

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.poll()
            self._stop.wait(max(0.05, self._every_s - (time.monotonic() - began)))

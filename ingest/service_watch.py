"""Looks after a running service: notices a newer writer even while nothing is committed."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from headrace.schemas.errors import BrokenLog, StorageError

if TYPE_CHECKING:
    from headrace.ingest.service import Service

_logger = logging.getLogger(__name__)

_EVERY_S = 2.0


class LogWatch:
    """Reads the log forward now and then; an entry of another epoch ends this service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch the log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                with self._service.lock:
                    self._service.look_for_others()
            except (StorageError, BrokenLog) as exc:
                _logger.warning("the log cannot be read: %s", exc)

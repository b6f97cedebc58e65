"""What a running service shows on the terminal it was started from: one table that keeps up to date."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_EVERY_S = 1.0
_SAY_EVERY_S = 60.0
_logger = logging.getLogger("headrace.serve")


class ServeDisplay:
    """Draws the status once a second; where nobody looks it says a line a minute."""

    def __init__(
        self, dataset: str, url: str | None, look: Callable[[], dict[str, Any]], *, quiet: bool = False
    ) -> None:
        self._dataset = dataset
        self._url = url
        self._look = look
        self._quiet = quiet
        self._live: Any = None
        self._at = self._said_at = 0.0
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        elif not self._quiet:
            sys.stderr.write(f"headrace: serving {self._dataset}" + (f", see {self._url}\n" if self._url else "\n"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tick(self) -> None:
        """Show the newest status, if it is time."""
        now = time.monotonic()
        if now - self._at < _EVERY_S:
            return
        self._at = now
        status = self._look()
        if self._live is not None:
            from headrace.commands.status_table import status_table

            self._live.update(status_table(status, self._url), refresh=True)
        self._say(status, now)

    def _say(self, status: dict[str, Any], now: float) -> None:
        for stream in status["streams"]:
            trouble = stream["message"] or next((e["message"] for e in stream["errors"]), "")
            if trouble != self._said.get(stream["name"], ""):
                self._said[stream["name"]] = trouble
                _logger.warning("%s: %s", stream["name"], trouble or "goes on")
        if self._quiet and now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            _logger.info(
                "version %s, %s samples",
                status["version"],
                sum(output["samples"] for stream in status["streams"] for output in stream["outputs"]),
            )

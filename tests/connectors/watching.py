"""What the tests of `watch` share: a clock that a test moves, and a connector that was told to watch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.connectors.files import Files


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watched(root: Path | str, clock: Clock | None = None, **config: Any) -> Files:
    connector = Files(Files.Config(root=str(root), **config))
    connector.watch(clock or Clock())
    return connector


def listed(connector: Files) -> list[str]:
    return [split.id for split in connector.splits()]


RENAME = {"watch": {"rename": True}}

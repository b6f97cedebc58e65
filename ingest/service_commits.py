"""The last commits of a service, for people to look at."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from headrace.shards.entry import Entry

_KEPT = 200


class Commits:
    """What was committed lately, oldest first."""

    def __init__(self) -> None:
        self.last: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def add(self, v: int, seconds: float, entry: Entry, streams: list[str]) -> None:
        """Note a commit that took `seconds` to append."""
        self.last.append(
            {
                "v": v,
                "time_us": time.time_ns() // 1000,
                "seconds": seconds,
                "shards": len(entry.add),
                "rows": sum(shard.rows for shard in entry.add),
                "tokens": sum(shard.tokens for shard in entry.add),
                "streams": streams,
            }
        )

"""A connector `http_poll` on a test's server, and a read of it that goes on from poll to poll."""

from __future__ import annotations

import json
import time
from typing import Any

from headrace.connectors.contract import Idle, Item, Read, Split
from headrace.connectors.http_poll import HttpPoll

from ..servers.http_api import HttpApi

FAST: dict[str, Any] = {"interval_s": 0.05, "items": "/data", "id": "id", "time": {"field": "at"}}


def connector(api: HttpApi, path: str = "/observations", **settings: Any) -> HttpPoll:
    given = {**FAST, **settings}
    return HttpPoll(HttpPoll.Config(url=api.url + path, **{k: v for k, v in given.items() if v is not None}))


class Reader:
    """A read in progress."""

    def __init__(self, source: HttpPoll, after: Any = None) -> None:
        self.source = source
        self._reads: Any = source.read(Split("poll"), after)

    def until_idle(self) -> list[Read]:
        """What comes until a poll has given all it had."""
        out: list[Read] = []
        while not isinstance(read := next(self._reads), Idle):
            out.append(read)
        return out

    def take(self, count: int, timeout_s: float = 10) -> list[Read]:
        """The next reads, over as many polls as it takes."""
        out: list[Read] = []
        deadline = time.monotonic() + timeout_s
        while len(out) < count and time.monotonic() < deadline:
            read = next(self._reads)
            out += [] if isinstance(read, Idle) else [read]
        return out

    def polls(self, count: int) -> list[Read]:
        """What comes while the source is polled so many times and more."""
        out: list[Read] = []
        for _ in range(3 * count):
            read = next(self._reads)
            out += [] if isinstance(read, Idle) else [read]
        return out

    def close(self) -> None:
        self._reads.close()


def all_of(source: HttpPoll, after: Any = None) -> list[Any]:
    reader = Reader(source, after)
    try:
        return reader.until_idle()
    finally:
        reader.close()


def names(reads: list[Any]) -> list[str]:
    return [json.loads(read.data)["id"] for read in reads if isinstance(read, Item)]

"""Server-sent events: the status and commits as JSON for programs, and rendered fragments for the page.

A stream of events ends when the server does; a comment every 15 s keeps proxies from closing it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from headrace.ingest.status_desk import Desk, desk_of
from headrace.ingest.status_poll import Snapshot
from headrace.ingest.status_problem import ProblemError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

#: Event streams open at once; each costs a connection and a look a second.
MAX_STREAMS = 64
_KEEP_S = 15.0
_open_streams = 0


def event(name: str, data: Any, number: int | None = None) -> bytes:
    """One event; `data` as JSON on one line."""
    import orjson

    head = f"event: {name}\n" + (f"id: {number}\n" if number is not None else "")
    return head.encode() + b"data: " + orjson.dumps(data) + b"\n\n"


def api_events(request: Request) -> Response:
    """`status` at every poll, `commit` (id: its version) for every commit, `problem` while the service is silent.

    `Last-Event-ID` resumes after that version, as far back as the status reaches.
    """
    desk = desk_of(request)
    last = request.headers.get("last-event-id", "")
    status = desk.poller.snapshot().status
    seen = int(last) if last.isdigit() and len(last) < 16 else None
    if seen is None:
        seen = status["commits"][-1]["v"] if status and status["commits"] else 0
    newest = [seen]

    def events(snapshot: Snapshot) -> list[bytes]:
        if snapshot.error is not None:
            return [event("problem", {"detail": snapshot.error})]
        if snapshot.status is None:
            return []
        fresh = [commit for commit in snapshot.status["commits"] if commit["v"] > newest[0]]
        newest[0] = max([newest[0], *(commit["v"] for commit in fresh)])
        return [event("status", snapshot.status), *(event("commit", commit, commit["v"]) for commit in fresh)]

    return stream_events(desk, events)


def stream_events(desk: Desk, events: Callable[[Snapshot], list[bytes]], every_s: float = 0.25) -> Response:
    """A response that sends what `events` makes of each new snapshot; `events` runs in the thread pool."""
    from starlette.responses import StreamingResponse

    if _open_streams >= MAX_STREAMS:
        raise ProblemError(503, "busy", f"{MAX_STREAMS} event streams are open already", {"retry-after": "10"})
    return StreamingResponse(
        _follow(desk, events, every_s), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _follow(desk: Desk, events: Callable[[Snapshot], list[bytes]], every_s: float) -> AsyncIterator[bytes]:
    from starlette.concurrency import run_in_threadpool

    global _open_streams
    _open_streams += 1
    try:
        yield b"retry: 3000\n\n"
        seen, sent = -1, time.monotonic()
        while not desk.stopping.is_set():
            snapshot = desk.poller.snapshot()
            if snapshot.number != seen:
                seen = snapshot.number
                for one in await run_in_threadpool(events, snapshot):
                    yield one
                    sent = time.monotonic()
            if time.monotonic() - sent > _KEEP_S:
                yield b": still here\n\n"
                sent = time.monotonic()
            await asyncio.sleep(every_s)
    finally:
        _open_streams -= 1

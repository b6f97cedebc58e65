"""The connector `http_push`: a small HTTP server whose answer 202 means that the body is on disk.

    POST /v1/streams/NAME   (or / without `name`)    202 {"accepted": n}, or problem details (RFC 9457)
    GET  /healthz                                    200 while requests are taken, else 503

One split, `requests`. A request waits until `ack` covers its last item; many wait at once and are answered in groups.
Positions are [read, number]: they tell items apart within one process and cannot be sought. A sender that got no 202
sends again with the same Idempotency-Key, which becomes the item's `key` and lets repeats be dropped downstream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from headrace.connectors.contract import Connector, Idle, Item, Position, Read, Split
from headrace.connectors.http_push_config import REQUEST_BYTES, HttpPushConfig
from headrace.connectors.http_push_gate import Gate
from headrace.connectors.http_push_inbox import Inbox, Request
from headrace.connectors.http_push_problem import Problem
from headrace.connectors.http_push_request import described, length_of, whole
from headrace.schemas.errors import MissingExtra

if TYPE_CHECKING:
    from headrace.connectors.http_push_server import Body, Server

HEALTH = "/healthz"
_IDLE_S = 0.5


class HttpPush(Connector):
    """Bodies that others POST to us, answered with 202 when they are on disk."""

    Config = HttpPushConfig
    bounded = False
    replay = "none"
    ordering = "none"
    acknowledges = True
    example = "{type: http_push, host: 0.0.0.0, port: 8410, name: readings, tokens: ['${env:PUSH_TOKEN}']}"

    def __init__(self, config: HttpPushConfig) -> None:
        super().__init__(config)
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._gate = Gate(config, time.monotonic)
        self._inbox = Inbox(config.queue_bytes, self._settle)
        self._answers: dict[Request, asyncio.Future[bool]] = {}  # touched in the server's thread only
        self._read = 0
        self._reading: int | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the configured one before the first read."""
        return int(self.config.port if self._server is None else self._server.port)

    def describe(self) -> str:
        return f"http_push {self.config.path}"

    def splits(self) -> Iterable[Split]:
        yield Split("requests", bounded=False)

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        """What is sent from now on. The port stays open until `close`; between two reads requests get 503."""
        with self._lock:
            self._read += 1
            read = self._read
            if self._server is None:
                server = self._new_server()
                server.start()
                self._server = server
            self._reading = read
        self._inbox.begin(read)
        number = 0
        try:
            while True:
                request = self._inbox.take(_IDLE_S)
                if request is None:
                    yield Idle()
                    continue
                self._inbox.handed(request, read, number + request.items)
                for payload, key in request.parts():
                    number += 1
                    yield Item(payload, [read, number], key, request.event_time, request.headers)
                request.body = b""
        finally:
            with self._lock:
                if self._reading == read:
                    self._reading = None

    def ack(self, split: Split, upto: Position) -> None:
        read, number = upto
        self._inbox.confirm(read, number)

    def end_of(self, split: Split) -> Position:
        """None: there is nothing but what senders are about to send."""
        return None

    def probe(self) -> None:
        """Listens for a moment, if the stream does not listen already. Raises: SourceError, ConfigError."""
        with self._lock:
            if self._server is None:
                server = self._new_server()
                server.start()
                server.stop(lambda: None)

    def close(self) -> None:
        with self._lock:
            server, self._server, self._reading = self._server, None, None
        if server is not None:
            server.stop(self._part)

    # -- in the server's thread ---------------------------------------------------------------------------------------

    def _new_server(self) -> Server:
        try:
            from headrace.connectors.http_push_server import Server
        except ModuleNotFoundError as exc:
            if exc.name != "h11":
                raise
            raise MissingExtra("h11", "http-push", need="the connector http_push") from exc
        return Server(self.config, self._handle)

    async def _handle(self, request: Any, address: str, body: Body) -> tuple[int, dict[str, str], bytes]:
        """Answer one request. Raises: Problem."""
        headers: dict[str, list[str]] = {}
        for name, value in request.headers:
            headers.setdefault(name.decode(), []).append(value.decode("utf-8", "surrogateescape"))
        method, path = request.method.decode(), request.target.decode("ascii").partition("?")[0]
        if path == HEALTH:
            return self._health(method)
        if path != self.config.path:
            raise Problem(404, f"nothing is at {path[:200]}: send to {self.config.path}")
        if method != "POST":
            raise Problem(405, f"{method} is not for this path: send with POST", {"Allow": "POST"})
        self._gate.admit(address, headers)
        said = described(headers, self.config)
        length = length_of(headers, self.config)
        if self._reading is None:
            raise self._full("nothing is being taken in at the moment")
        got, reserved = await self._receive(body, length)
        try:
            if self._reading is None:  # it ended while the body came
                raise self._full("nothing is being taken in any more")
            accepted = whole(got, said, self.config)
        except BaseException:
            self._inbox.release(reserved)
            raise
        accepted.reserved = reserved
        await self._on_disk(accepted)
        return 202, {"Content-Type": "application/json"}, json.dumps({"accepted": accepted.items}).encode() + b"\n"

    def _health(self, method: str) -> tuple[int, dict[str, str], bytes]:
        if method != "GET":
            raise Problem(405, f"{method} is not for this path: ask with GET", {"Allow": "GET"})
        if self._reading is None:
            raise self._full("nothing is being taken in at the moment")
        return 200, {"Content-Type": "application/json"}, b'{"status": "ok"}\n'

    def _full(self, said: str) -> Problem:
        return Problem(503, said, {"Retry-After": str(self.config.retry_after_s)})

    async def _receive(self, body: Body, length: int | None) -> tuple[bytes, int]:
        """(body, bytes reserved for it); it is read only as far as there is room. Raises: Problem 413, 503."""
        room, limit = "the queue is full: what came before is not on disk yet", self.config.max_body_bytes
        reserved = REQUEST_BYTES + (length or 0)
        if not self._inbox.reserve(reserved):
            raise self._full(room)
        pieces: list[bytes] = []
        size = 0
        try:
            while (piece := await body()) is not None:
                size += len(piece)
                if size > limit:
                    raise Problem(413, f"the body is larger than {limit} bytes")
                if length is None:
                    if not self._inbox.reserve(len(piece)):
                        raise self._full(room)
                    reserved += len(piece)
                pieces.append(piece)
        except BaseException:
            self._inbox.release(reserved)
            raise
        return b"".join(pieces), reserved

    async def _on_disk(self, request: Request) -> None:
        """Wait until a request is confirmed. Raises: Problem 503."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        self._inbox.put(request)
        confirmed = False
        try:
            with contextlib.suppress(TimeoutError):
                confirmed = await asyncio.wait_for(asyncio.shield(answer), self.config.confirm_timeout_s)
        finally:
            self._answers.pop(request, None)
            never = confirmed or self._inbox.withdraw(request)
        if confirmed:
            return
        if never:
            raise self._full("it could not be written in time, and was not accepted: send it again")
        raise self._full(
            "it was not confirmed in time and may have been accepted: send it again with the same Idempotency-Key"
        )

    def _settle(self, done: list[Request]) -> None:
        """Answer a group of requests. Any thread may call it."""
        with self._lock:
            server = self._server
        if server is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile, and its requests with it
                server.loop.call_soon_threadsafe(self._answer, done)

    def _answer(self, done: list[Request]) -> None:
        for request in done:
            answer = self._answers.get(request)
            if answer is not None and not answer.done():
                answer.set_result(True)

    def _part(self) -> None:
        """Tell those that wait that they were not confirmed."""
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(False)
